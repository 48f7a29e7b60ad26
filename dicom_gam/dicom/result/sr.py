"""The report: an Imaging Measurement Report (PS3.16 TID 1500) on one image's prediction and its verification."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import highdicom.sr as hd
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage

from dicom_gam import __version__
from dicom_gam.dicom.image.acceptance import OWN_MODEL_NAME
from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.attended_region import attended_fraction, attended_outline
from dicom_gam.dicom.result.result_file import Origin, new_result, reference_item
from dicom_gam.dicom.uids import device_uid, tracking_uid
from dicom_gam.records import Check, CheckName, CodedConcept, Measurement, Prediction, ResultReference, Verification

SERIES_NUMBER = 9801
SOP_CLASSES = {"comprehensive-3d": Comprehensive3DSRStorage, "comprehensive": ComprehensiveSRStorage}


def build_sr(
    origin: Origin,
    prediction: Prediction,
    verification: Verification,
    class_concepts: Mapping[str, CodedConcept],
    overlay: Dataset,
) -> Dataset:
    """Build the report, complete, unverified and final. `overlay` is the visual explanation that it points to.

    Only on PASS does the report hold the predicted class; otherwise its finding is Undetermined.
    """
    report = new_result(
        origin,
        "sr",
        SOP_CLASSES[origin.settings.sr],
        modality="SR",
        series_number=SERIES_NUMBER,
        description="AI verification report",
    )
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PreliminaryFlag = "FINAL"
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.CodingSchemeIdentificationSequence = [_coding_scheme()]
    evidence = [_placed(origin.reference.StudyInstanceUID, image) for image in (origin.reference, overlay)]
    report.CurrentRequestedProcedureEvidenceSequence = _hierarchy(evidence)
    if origin.predecessors:  # Type 1C: present only where there are some (PS3.3 C.17.2)
        report.PredecessorDocumentsSequence = _hierarchy(origin.predecessors)
    report.update(_Tree(origin, verification, overlay).root(prediction, class_concepts))
    return report


class _Tree:
    """The content tree of one report, one method per part."""

    def __init__(self, origin: Origin, verification: Verification, overlay: Dataset) -> None:
        self._origin = origin
        self._verification = verification
        self._overlay = overlay

    def root(self, prediction: Prediction, class_concepts: Mapping[str, CodedConcept]) -> Dataset:
        """TID 1500."""
        groups = [
            self._classification(prediction, class_concepts),
            self._check_group("attention", "attention verification"),
            self._attended_region(),
            self._check_group("early", "early feature verification"),
            self._authenticity(),
            self._verdict(),
        ]
        report = hd.MeasurementReport(
            observation_context=self._observer(),
            procedure_reported=_concept(codes.PLAIN_RADIOGRAPHY),
            imaging_measurements=[group for group in groups if group is not None],
        )
        root: Dataset = report[0]
        _separate(root)
        return root

    def _observer(self) -> hd.ObservationContext:
        """TID 1001, 1002 and 1004: the bundle in this software is the device that observes."""
        bundle = self._origin.bundle
        attributes = hd.DeviceObserverIdentifyingAttributes(
            uid=device_uid(bundle.digest),
            name=self._text(f"{bundle.name} {bundle.version}"),
            manufacturer_name=self._text(bundle.manufacturer) or None,
            model_name=f"{OWN_MODEL_NAME} {__version__}",
        )
        device = hd.ObserverContext(
            observer_type=hd.CodedConcept("121007", "DCM", "Device"), observer_identifying_attributes=attributes
        )
        return hd.ObservationContext(observer_device_context=device)

    def _classification(
        self, prediction: Prediction, class_concepts: Mapping[str, CodedConcept]
    ) -> hd.MeasurementsAndQualitativeEvaluations:
        """What the network said, and whether the image is one that it may speak about."""
        verdict = self._verification.verdict
        finding = codes.finding(prediction, verdict, class_concepts)
        finding = CodedConcept(finding.value, finding.scheme, self._text(finding.meaning))
        evaluations = self._result("input")
        if finding != codes.UNDETERMINED:
            evaluations.append(hd.QualitativeEvaluation(_concept(codes.PREDICTED_CLASS), _concept(finding)))
        probability = _measurement(codes.CLASS_PROBABILITY, prediction.probability)
        return self._group("classification", "input", finding, [probability, *self._scores("input")], evaluations)

    def _check_group(self, check: CheckName, name: str) -> hd.MeasurementsAndQualitativeEvaluations:
        """One comparison with the reference, with the picture that shows what was compared."""
        group = self._group(name, check, codes.CLASS_ACTIVATION, self._scores(check), self._result(check))
        group[0].ContentSequence.append(self._explanation())
        return group

    def _authenticity(self) -> hd.MeasurementsAndQualitativeEvaluations | None:
        """Whether the image looks like an exposure; None where it was not looked at."""
        if not self._checks("authenticity"):
            return None
        scores, result = self._scores("authenticity"), self._result("authenticity")
        return self._group("authenticity verification", "authenticity", codes.AUTHENTICITY_CHECK, scores, result)

    def _attended_region(self) -> hd.PlanarROIMeasurementsAndQualitativeEvaluations | None:
        """TID 1410, None where no location speaks for the class."""
        source, verification = self._origin.reference, self._verification
        if verification.attention_status == "degenerate":
            return None
        outline = attended_outline(verification.attention_map, source.Rows, source.Columns)
        if outline is None:
            return None
        image = hd.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID)
        group = hd.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking("attended region"),
            referenced_region=hd.ImageRegion(hd.GraphicTypeValues.POLYLINE, outline, image),
            finding_type=_concept(codes.CLASS_ACTIVATION),
            geometric_purpose=_concept(codes.OUTLINE),
            algorithm_id=self._algorithm("attention"),
            measurements=[_measurement(codes.ATTENDED_FRACTION, attended_fraction(verification.attention_map))],
        )
        group[0].ContentSequence.append(self._explanation())
        return group

    def _verdict(self) -> hd.MeasurementsAndQualitativeEvaluations:
        """The conclusion, in our own code and in the standard's nearest, with the reasons in words."""
        verification = self._verification
        evaluations = [
            hd.QualitativeEvaluation(_concept(codes.VERDICT), _concept(codes.VERDICTS[verification.verdict])),
            hd.QualitativeEvaluation(_concept(codes.QUALITY_ASSESSMENT), _concept(codes.QUALITY[verification.verdict])),
        ]
        combined = _measurement(codes.COMBINED_P_VALUE, verification.p_value)
        alpha = _measurement(codes.ALPHA, verification.alpha)
        group = self._group("overall verdict", None, None, [combined, alpha], evaluations)
        for words in (codes.VERDICT_WORDS[verification.verdict], *verification.reasons, *verification.notes):
            group[0].ContentSequence.append(
                hd.TextContentItem(_concept(codes.COMMENT), self._text(words), hd.RelationshipTypeValues.CONTAINS)
            )
        return group

    def _group(
        self,
        name: str,
        check: CheckName | None,
        finding: CodedConcept | None,
        measurements: Sequence[hd.Measurement],
        evaluations: Sequence[hd.QualitativeEvaluation],
    ) -> hd.MeasurementsAndQualitativeEvaluations:
        """TID 1501."""
        source = self._origin.reference
        return hd.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(name),
            finding_type=None if finding is None else _concept(finding),
            algorithm_id=self._algorithm(check),
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=[hd.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
        )

    def _tracking(self, name: str) -> hd.TrackingIdentifier:
        """TID 4108."""
        origin = self._origin
        uid = tracking_uid(origin.reference.SOPInstanceUID, origin.bundle.digest, origin.settings_digest, name)
        return hd.TrackingIdentifier(uid=uid, identifier=name)

    def _algorithm(self, check: CheckName | None) -> hd.AlgorithmIdentification:
        """TID 4019; `check` adds the operating points of that check."""
        bundle, verification = self._origin.bundle, self._verification
        parameters = [
            f"bundle digest: {bundle.digest}",
            f"settings digest: {self._origin.settings_digest}",
            f"intended use: {bundle.intended_use}",
            f"attention method: {verification.attention_method}",
            f"false-alarm rate: {verification.alpha:g}",
        ]
        for entry in self._checks(check):
            role = " (advisory)" if entry.advisory else ""
            parameters.append(f"{entry.name} check{role} score max {entry.threshold:.6g}")
            parameters.extend(f"{m.name} {m.bound} {m.threshold:.6g}" for m in entry.measurements)
        return hd.AlgorithmIdentification(
            name=self._text(bundle.name),
            version=self._text(bundle.version),
            manufacturer=self._text(bundle.manufacturer) or None,
            parameters=[self._text(parameter) for parameter in parameters],
            family=_concept(codes.ARTIFICIAL_INTELLIGENCE),
        )

    def _checks(self, name: CheckName | None) -> list[Check]:
        return [check for check in self._verification.checks if check.name == name]

    def _scores(self, name: CheckName) -> list[hd.Measurement]:
        """Every score of a check, and what they come to together."""
        scores: list[hd.Measurement] = []
        for check in self._checks(name):
            scores.extend(_score(measurement) for measurement in check.measurements)
            together = _measurement(codes.CHECK_SCORE, check.score)
            _add_property(together, _number(codes.THRESHOLD_MAXIMUM, check.threshold))
            _add_property(together, _number(codes.P_VALUE, check.p_value))
            scores.append(together)
        return scores

    def _result(self, name: CheckName) -> list[hd.QualitativeEvaluation]:
        results = []
        for check in self._checks(name):
            outcome = codes.PASSED if check.passed else codes.FAILED
            results.append(hd.QualitativeEvaluation(_concept(codes.CHECKS[name]), _concept(outcome)))
            if check.advisory:
                results.append(hd.QualitativeEvaluation(_concept(codes.RESULT), _concept(codes.ADVISORY)))
        return results

    def _explanation(self) -> hd.ImageContentItem:
        return hd.ImageContentItem(
            _concept(codes.VISUAL_EXPLANATION),
            SecondaryCaptureImageStorage,
            self._overlay.SOPInstanceUID,
            relationship_type=hd.RelationshipTypeValues.CONTAINS,
        )

    def _text(self, text: str) -> str:
        return self._origin.text(text)


def _separate(item: Dataset) -> None:
    """Containers hold independent items, not running text, which is what highdicom's templates say (PS3.3 C.18.8)."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", []):
        _separate(child)


def _concept(concept: CodedConcept) -> hd.CodedConcept:
    return hd.CodedConcept(concept.value, concept.scheme, concept.meaning)


def _measurement(name: CodedConcept, value: float) -> hd.Measurement:
    """TID 300. A value that is no finite number is encoded as absent, with the reason as its qualifier."""
    measurement = hd.Measurement(_concept(name), _finite(value), _concept(codes.NO_UNITS), qualifier=_qualifier(value))
    _strip_absent(measurement[0], value)
    return measurement


def _number(name: CodedConcept, value: float) -> hd.NumContentItem:
    item = hd.NumContentItem(
        _concept(name),
        _finite(value),
        _concept(codes.NO_UNITS),
        qualifier=_qualifier(value),
        relationship_type=hd.RelationshipTypeValues.HAS_PROPERTIES,
    )
    _strip_absent(item, value)
    return item


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 0.0


def _qualifier(value: float) -> hd.CodedConcept | None:
    """PS3.16 CID 42."""
    if math.isfinite(value):
        return None
    if math.isnan(value):
        return _concept(codes.NOT_A_NUMBER)
    return _concept(codes.POSITIVE_INFINITY if value > 0 else codes.NEGATIVE_INFINITY)


def _strip_absent(item: Dataset, value: float) -> None:
    if not math.isfinite(value):
        item.MeasuredValueSequence = []  # Type 2: empty says that there is no value (PS3.3 C.18.1)


def _score(measurement: Measurement) -> hd.Measurement:
    """A score with its threshold, its own p-value and on which side of the threshold it lies."""
    score = _measurement(codes.measurement_code(measurement.name).concept, measurement.value)
    threshold = codes.THRESHOLD_MINIMUM if measurement.bound == "min" else codes.THRESHOLD_MAXIMUM
    _add_property(score, _number(threshold, measurement.threshold))
    if measurement.p_value is not None:
        _add_property(score, _number(codes.P_VALUE, measurement.p_value))
    result = codes.PASSED if measurement.passed else codes.FAILED
    _add_property(
        score,
        hd.CodeContentItem(_concept(codes.RESULT), _concept(result), hd.RelationshipTypeValues.HAS_PROPERTIES),
    )
    return score


def _add_property(measurement: hd.Measurement, item: hd.ContentItem) -> None:
    """TID 310 lists no thresholds and p-values of ours: they join the measurement's properties (TID 300 is open)."""
    if "ContentSequence" not in measurement[0]:
        measurement[0].ContentSequence = hd.ContentSequence()
    measurement[0].ContentSequence.append(item)


def _coding_scheme() -> Dataset:
    """PS3.3 C.12.1.1.1; our scheme has no registered UID and claims none."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    item.CodingSchemeName = codes.PRIVATE_SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = "dicom_gam developers"
    return item


def _placed(study_instance_uid: str, image: Dataset) -> ResultReference:
    return ResultReference(study_instance_uid, image.SeriesInstanceUID, image.SOPClassUID, image.SOPInstanceUID)


def _hierarchy(references: Sequence[ResultReference]) -> list[Dataset]:
    """References by study and series (PS3.3 C.17.2.1, Hierarchical SOP Instance Reference Macro)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for reference in references:
        item = reference_item(reference.sop_class_uid, reference.sop_instance_uid)
        study = studies.setdefault(reference.study_instance_uid, {})
        study.setdefault(reference.series_instance_uid, []).append(item)
    return [_study_item(study_instance_uid, series) for study_instance_uid, series in studies.items()]


def _study_item(study_instance_uid: str, series: Mapping[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.ReferencedSeriesSequence = []
    for series_instance_uid, items in series.items():
        item = Dataset()
        item.ReferencedSOPSequence = items
        item.SeriesInstanceUID = series_instance_uid
        study.ReferencedSeriesSequence.append(item)
    study.StudyInstanceUID = study_instance_uid
    return study

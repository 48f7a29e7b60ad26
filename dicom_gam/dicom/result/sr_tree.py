"""The content tree of the report: PS3.16 TID 1500, one function per part, on highdicom's templates.

What a report says is parted into a `Shape`, the same for many images and without anything of a patient, and `Values`,
which are the image's own. The tree is built from a shape with sentinels for values, once, and filled in for each image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import highdicom.sr as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_gam import __version__
from dicom_gam.dicom.image.acceptance import OWN_MODEL_NAME
from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.encoded_template import EncodedTemplate, Kind, Value, compiled, kind_of, sentinels
from dicom_gam.dicom.uids import device_uid
from dicom_gam.records import BundleIdentity, Check, CheckName, CodedConcept, Verdict

Values = Mapping[str, Value]
_KEPT = 128  # shapes: one for each class, verdict and pattern of remarks of each bundle


@dataclass(frozen=True, slots=True)
class Score:
    """One measurement without its value: its threshold, on which side is good, and whether it has a p-value."""

    name: str
    bound: str
    threshold: float
    has_p_value: bool


@dataclass(frozen=True, slots=True)
class CheckShape:
    """One check without its figures."""

    name: CheckName
    advisory: bool
    threshold: float
    scores: tuple[Score, ...]

    @classmethod
    def of(cls, check: Check) -> CheckShape:
        """What stays of a check when its figures are taken away."""
        scores = (Score(m.name, m.bound, m.threshold, m.p_value is not None) for m in check.measurements)
        return cls(check.name, check.advisory, check.threshold, tuple(scores))


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a tree is built from, but for the values. The texts are such as `character_set` can hold.

    `finding` is what may leave the node as one. `absent` names the values that are no finite number, each with its
    qualifier. `regions` is the number of attended parts, `remarks` that of comments.
    """

    bundle: BundleIdentity
    settings_digest: str
    source_sop_class_uid: str
    character_set: tuple[str, ...]
    verdict: Verdict
    finding: CodedConcept
    attention_method: str
    alpha: float
    checks: tuple[CheckShape, ...]
    absent: tuple[tuple[str, CodedConcept], ...]
    regions: int
    remarks: int


def region_names(count: int) -> list[str]:
    """What the attended parts are called, the largest first."""
    return ["attended region", *(f"attended region {place}" for place in range(2, count + 1))][:count]


def group_names(regions: int, *, authenticity: bool) -> list[str]:
    """The measurement groups of a tree, in their order."""
    names = ["overall verdict", "classification", "attention verification", *region_names(regions)]
    return [*names, "early feature verification", *(["authenticity verification"] if authenticity else [])]


def encoded_tree(shape: Shape, values: Values) -> bytes:
    """The Content Sequence of the report as an element, the last one of the data set."""
    return _template(shape, tuple((name, kind_of(value)) for name, value in values.items())).filled(values)


@lru_cache(maxsize=_KEPT)
def _template(shape: Shape, kinds: tuple[tuple[str, Kind], ...]) -> EncodedTemplate:
    marks = sentinels(kinds)
    root = build_tree(shape, marks)
    content = Dataset()
    content.ContentSequence = root.ContentSequence
    return compiled(content, marks, shape.character_set)


def build_tree(shape: Shape, values: Values) -> Dataset:
    """Build the root of the tree with its children (TID 1500)."""
    tree = _Tree(shape, values)
    groups = [  # the verdict first, for who reads from the top
        tree.overall_verdict(),
        tree.classification(),
        tree.attention(),
        *(tree.attended_region(name) for name in region_names(shape.regions)),
        tree.check_group("early", "early feature verification"),
        tree.check_group("authenticity", "authenticity verification"),
    ]
    report = hd.MeasurementReport(
        observation_context=hd.ObservationContext(observer_device_context=device_observer(shape.bundle)),
        procedure_reported=concept(codes.PLAIN_RADIOGRAPHY),
        imaging_measurements=[group for group in groups if group is not None],
    )
    root: Dataset = report[0]
    _separate(root)
    return root


def device_observer(bundle: BundleIdentity) -> hd.ObserverContext:
    """TID 1002 and 1004: the bundle in this software is the device that observes."""
    attributes = hd.DeviceObserverIdentifyingAttributes(
        uid=device_uid(bundle.digest),
        name=f"{bundle.name} {bundle.version}",
        manufacturer_name=bundle.manufacturer or None,
        model_name=f"{OWN_MODEL_NAME} {__version__}",
    )
    return hd.ObserverContext(
        observer_type=hd.CodedConcept("121007", "DCM", "Device"), observer_identifying_attributes=attributes
    )


def qualifier(value: float) -> CodedConcept | None:
    """Why a value is absent; None for a finite number (PS3.16 CID 42)."""
    if math.isfinite(value):
        return None
    if math.isnan(value):
        return codes.NOT_A_NUMBER
    return codes.POSITIVE_INFINITY if value > 0 else codes.NEGATIVE_INFINITY


class _Tree:
    """The parts of one tree."""

    def __init__(self, shape: Shape, values: Values) -> None:
        self._shape = shape
        self._values = values
        self._absent = dict(shape.absent)

    def classification(self) -> hd.MeasurementsAndQualitativeEvaluations:
        """What the network said, and whether the image is one that it may speak about."""
        finding = self._shape.finding
        evaluations = self._result("input")
        if finding != codes.UNDETERMINED:
            evaluations.append(hd.QualitativeEvaluation(concept(codes.PREDICTED_CLASS), concept(finding)))
        probability = self._measurement(codes.CLASS_PROBABILITY, "probability")
        return self._group("classification", "input", finding, [probability, *self._scores("input")], evaluations)

    def attention(self) -> hd.MeasurementsAndQualitativeEvaluations:
        """The comparison of the attention map with the reference, with the picture that shows what was compared."""
        scores, result = self._scores("attention"), self._result("attention")
        group = self._group("attention verification", "attention", codes.CLASS_ACTIVATION, scores, result)
        group[0].ContentSequence.append(self._explanation())
        return group

    def check_group(self, check: CheckName, name: str) -> hd.MeasurementsAndQualitativeEvaluations | None:
        """A check that no picture shows; None for an image that it did not look at, where it is optional."""
        if check == "authenticity" and not self._checks(check):
            return None
        return self._group(name, check, codes.CHECKS[check], self._scores(check), self._result(check))

    def attended_region(self, name: str) -> hd.PlanarROIMeasurementsAndQualitativeEvaluations:
        """TID 1410, for one connected part."""
        image = hd.SourceImageForRegion(self._shape.source_sop_class_uid, self._word("source"))
        outline = np.asarray(self._values[f"{name} outline"], np.float64)
        group = hd.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(name),
            referenced_region=hd.ImageRegion(hd.GraphicTypeValues.POLYLINE, outline, image),
            finding_type=concept(codes.CLASS_ACTIVATION),
            geometric_purpose=concept(codes.OUTLINE),
            algorithm_id=self._algorithm("attention"),
            measurements=[self._measurement(codes.ATTENDED_FRACTION, f"{name} fraction")],
        )
        group[0].ContentSequence.append(self._explanation())
        return group

    def overall_verdict(self) -> hd.MeasurementsAndQualitativeEvaluations:
        """The conclusion, in our own code and in the standard's nearest, with the reasons in words."""
        shape = self._shape
        evaluations = [
            hd.QualitativeEvaluation(concept(codes.VERDICT), concept(codes.VERDICTS[shape.verdict])),
            hd.QualitativeEvaluation(concept(codes.QUALITY_ASSESSMENT), concept(codes.QUALITY[shape.verdict])),
        ]
        combined = self._measurement(codes.COMBINED_P_VALUE, "p")
        alpha = _measurement(codes.ALPHA, shape.alpha, qualifier(shape.alpha))
        group = self._group("overall verdict", None, None, [combined, alpha], evaluations)
        for place in range(shape.remarks):
            words = self._word(f"remark {place}")
            item = hd.TextContentItem(concept(codes.COMMENT), words, hd.RelationshipTypeValues.CONTAINS)
            group[0].ContentSequence.append(item)
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
        source = hd.SourceImageForMeasurementGroup(self._shape.source_sop_class_uid, self._word("source"))
        return hd.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(name),
            finding_type=None if finding is None else concept(finding),
            algorithm_id=self._algorithm(check),
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=[source],
        )

    def _tracking(self, name: str) -> hd.TrackingIdentifier:
        """TID 4108."""
        return hd.TrackingIdentifier(uid=self._word(f"tracking {name}"), identifier=name)

    def _algorithm(self, check: CheckName | None) -> hd.AlgorithmIdentification:
        """TID 4019; `check` adds the operating points of that check."""
        shape, bundle = self._shape, self._shape.bundle
        parameters = [
            f"bundle digest: {bundle.digest}",
            f"settings digest: {shape.settings_digest}",
            f"intended use: {bundle.intended_use}",
            f"attention method: {shape.attention_method}",
            f"false-alarm rate: {shape.alpha:g}",
        ]
        for entry in self._checks(check):
            role = " (advisory)" if entry.advisory else ""
            parameters.append(f"{entry.name} check{role} score max {entry.threshold:.6g}")
            parameters.extend(f"{score.name} {score.bound} {score.threshold:.6g}" for score in entry.scores)
        return hd.AlgorithmIdentification(
            name=bundle.name,
            version=bundle.version,
            manufacturer=bundle.manufacturer or None,
            parameters=parameters,
            family=concept(codes.ARTIFICIAL_INTELLIGENCE),
        )

    def _checks(self, name: CheckName | None) -> list[CheckShape]:
        return [check for check in self._shape.checks if check.name == name]

    def _scores(self, name: CheckName) -> list[hd.Measurement]:
        """Every score of a check, and what they come to together."""
        scores: list[hd.Measurement] = []
        for check in self._checks(name):
            scores.extend(self._score(score) for score in check.scores)
            together = self._measurement(codes.CHECK_SCORE, f"{name} score")
            _add_property(together, _number(codes.THRESHOLD_MAXIMUM, check.threshold, qualifier(check.threshold)))
            _add_property(together, self._number(codes.P_VALUE, f"{name} p"))
            scores.append(together)
        return scores

    def _score(self, score: Score) -> hd.Measurement:
        """A score with its threshold, its own p-value and on which side of the threshold it lies."""
        item = self._measurement(codes.measurement_code(score.name).concept, score.name)
        threshold = codes.THRESHOLD_MINIMUM if score.bound == "min" else codes.THRESHOLD_MAXIMUM
        _add_property(item, _number(threshold, score.threshold, qualifier(score.threshold)))
        if score.has_p_value:
            _add_property(item, self._number(codes.P_VALUE, f"{score.name} p"))
        outcome = concept(self._outcome(f"{score.name} result"))
        _add_property(
            item, hd.CodeContentItem(concept(codes.RESULT), outcome, hd.RelationshipTypeValues.HAS_PROPERTIES)
        )
        return item

    def _result(self, name: CheckName) -> list[hd.QualitativeEvaluation]:
        results = []
        for check in self._checks(name):
            outcome = self._outcome(f"{name} result")
            results.append(hd.QualitativeEvaluation(concept(codes.CHECKS[name]), concept(outcome)))
            if check.advisory:
                results.append(hd.QualitativeEvaluation(concept(codes.RESULT), concept(codes.ADVISORY)))
        return results

    def _outcome(self, name: str) -> CodedConcept:
        """PASS or FAIL; the codes' values are their meanings."""
        word = self._word(name)
        return CodedConcept(word, codes.PRIVATE_SCHEME, word)

    def _explanation(self) -> hd.ImageContentItem:
        return hd.ImageContentItem(
            concept(codes.VISUAL_EXPLANATION),
            SecondaryCaptureImageStorage,
            self._word("overlay"),
            relationship_type=hd.RelationshipTypeValues.CONTAINS,
        )

    def _measurement(self, code: CodedConcept, name: str) -> hd.Measurement:
        return _measurement(code, self._figure(name), self._absent.get(name))

    def _number(self, code: CodedConcept, name: str) -> hd.NumContentItem:
        return _number(code, self._figure(name), self._absent.get(name))

    def _word(self, name: str) -> str:
        return str(self._values[name])

    def _figure(self, name: str) -> float:
        """The value of that name; any number for one that is absent."""
        value = self._values.get(name, 0.0)
        return value if isinstance(value, float) else math.nan


def _separate(item: Dataset) -> None:
    """Containers hold independent items, not running text, which is what highdicom's templates say (PS3.3 C.18.8)."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence", []):
        _separate(child)


def concept(code: CodedConcept) -> hd.CodedConcept:
    """A code as highdicom wants it."""
    return hd.CodedConcept(code.value, code.scheme, code.meaning)


def _measurement(name: CodedConcept, value: float, absent: CodedConcept | None) -> hd.Measurement:
    """TID 300. A value that is no finite number is encoded as absent, with the reason as its qualifier."""
    reason = None if absent is None else concept(absent)
    number = 0.0 if absent is not None else value
    measurement = hd.Measurement(concept(name), number, concept(codes.NO_UNITS), qualifier=reason)
    _strip_absent(measurement[0], absent)
    return measurement


def _number(name: CodedConcept, value: float, absent: CodedConcept | None) -> hd.NumContentItem:
    item = hd.NumContentItem(
        concept(name),
        0.0 if absent is not None else value,
        concept(codes.NO_UNITS),
        qualifier=None if absent is None else concept(absent),
        relationship_type=hd.RelationshipTypeValues.HAS_PROPERTIES,
    )
    _strip_absent(item, absent)
    return item


def _strip_absent(item: Dataset, absent: CodedConcept | None) -> None:
    if absent is not None:
        item.MeasuredValueSequence = []  # Type 2: empty says that there is no value (PS3.3 C.18.1)


def _add_property(measurement: hd.Measurement, item: hd.ContentItem) -> None:
    """TID 310 lists no thresholds and p-values of ours: they join the measurement's properties (TID 300 is open)."""
    if "ContentSequence" not in measurement[0]:
        measurement[0].ContentSequence = hd.ContentSequence()
    measurement[0].ContentSequence.append(item)

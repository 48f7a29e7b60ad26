"""The report: an Imaging Measurement Report (PS3.16 TID 1500) on one image's prediction and its verification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.attended_region import AttendedPart, attended_parts
from dicom_gam.dicom.result.encoded_template import Value
from dicom_gam.dicom.result.result_file import Origin, code_item, hierarchy, new_result, placed
from dicom_gam.dicom.result.sr_tree import CheckShape, Shape, encoded_tree, group_names, qualifier, region_names
from dicom_gam.dicom.uids import tracking_uid
from dicom_gam.records import CodedConcept, Prediction, Verdict, Verification

SERIES_NUMBER = 9801
SOP_CLASSES = {"comprehensive-3d": Comprehensive3DSRStorage, "comprehensive": ComprehensiveSRStorage}
_ROOT = CodedConcept("126000", "DCM", "Imaging Measurement Report")


def build_sr(
    origin: Origin,
    prediction: Prediction,
    verification: Verification,
    class_concepts: Mapping[str, CodedConcept],
    overlay: Dataset,
) -> tuple[Dataset, bytes]:
    """Build the report, complete, unverified and final: its data set but for the last element, and that one encoded.

    The last element is the Content Sequence. `overlay` is the visual explanation that it points to.
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
    report.CurrentRequestedProcedureEvidenceSequence = hierarchy([placed(origin.reference), placed(overlay)])
    if origin.predecessors:  # Type 1C: present only where there are some (PS3.3 C.17.2)
        report.PredecessorDocumentsSequence = hierarchy(origin.predecessors)
    _begin_tree(report)
    shape, values = report_content(origin, prediction, verification, class_concepts, str(overlay.SOPInstanceUID))
    report.CodingSchemeIdentificationSequence = _coding_schemes(shape.finding, origin)
    return report, encoded_tree(shape, values)


def _begin_tree(report: Dataset) -> None:
    """The root content item, but for its children (PS3.3 C.17.3)."""
    report.ValueType = "CONTAINER"
    report.ConceptNameCodeSequence = [code_item(_ROOT)]
    report.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "1500"
    report.ContentTemplateSequence = [template]


def report_content(
    origin: Origin,
    prediction: Prediction,
    verification: Verification,
    class_concepts: Mapping[str, CodedConcept],
    overlay_uid: str,
) -> tuple[Shape, dict[str, Value]]:
    """Part what the report says into what it shares with others and what is this image's own."""
    remarks = _remarks(origin, verification)
    numbers = dict(_numbers(prediction, verification))
    parts = _parts(origin, verification)
    names = group_names(len(parts), authenticity=any(check.name == "authenticity" for check in verification.checks))
    values: dict[str, Value] = {
        "source": str(origin.reference.SOPInstanceUID),
        "overlay": overlay_uid,
        **{name: value for name, value in numbers.items() if math.isfinite(value)},
        **dict(_outcomes(verification)),
        **dict(_outlines(parts)),
        **{f"remark {place}": words for place, words in enumerate(remarks)},
        **{f"tracking {name}": _tracking_uid(origin, name) for name in names},
    }
    shape = Shape(
        bundle=origin.written_bundle,
        settings_digest=origin.settings_digest,
        source_sop_class_uid=str(origin.reference.SOPClassUID),
        character_set=_character_set(origin),
        verdict=verification.verdict,
        finding=_finding(origin, prediction, verification, class_concepts),
        attention_method=origin.text(verification.attention_method),
        alpha=verification.alpha,
        checks=tuple(CheckShape.of(check) for check in verification.checks),
        absent=tuple((name, why) for name, value in numbers.items() if (why := qualifier(value)) is not None),
        regions=len(parts),
        remarks=len(remarks),
    )
    return shape, values


def _remarks(origin: Origin, verification: Verification) -> list[str]:
    """The verdict and its reasons in words; without a PASS none that may name a class."""
    reasons = verification.reasons
    if verification.verdict is Verdict.REJECT:
        of_checks = {check.reason for check in verification.checks}
        reasons = tuple(reason for reason in reasons if reason in of_checks)
    notes = verification.notes if verification.verdict is Verdict.PASS else ()
    words = (codes.VERDICT_WORDS[verification.verdict], *reasons, *notes)
    return [text for text in map(origin.text, words) if text]


def _numbers(prediction: Prediction, verification: Verification) -> Iterator[tuple[str, float]]:
    """Every figure of the image's own by its name in the tree."""
    yield "probability", float(prediction.probability)
    yield "p", float(verification.p_value)
    for check in verification.checks:
        yield f"{check.name} score", float(check.score)
        yield f"{check.name} p", float(check.p_value)
        for measurement in check.measurements:
            yield measurement.name, float(measurement.value)
            if measurement.p_value is not None:
                yield f"{measurement.name} p", float(measurement.p_value)


def _outcomes(verification: Verification) -> Iterator[tuple[str, str]]:
    for check in verification.checks:
        yield f"{check.name} result", _outcome(check.passed)
        for measurement in check.measurements:
            yield f"{measurement.name} result", _outcome(measurement.passed)


def _outcome(passed: bool) -> str:
    return codes.PASSED.value if passed else codes.FAILED.value


def _parts(origin: Origin, verification: Verification) -> tuple[AttendedPart, ...]:
    """The parts of the attended region; none where no location speaks for the class."""
    if verification.attention_status == "degenerate":
        return ()
    return attended_parts(verification.attention_map, origin.reference.Rows, origin.reference.Columns)


def _outlines(parts: Sequence[AttendedPart]) -> Iterator[tuple[str, Value]]:
    for name, part in zip(region_names(len(parts)), parts, strict=True):
        yield f"{name} outline", part.outline
        yield f"{name} fraction", part.fraction


def _tracking_uid(origin: Origin, group: str) -> str:
    return tracking_uid(origin.reference.SOPInstanceUID, origin.bundle.digest, origin.settings_digest, group)


def _character_set(origin: Origin) -> tuple[str, ...]:
    terms = origin.reference.get("SpecificCharacterSet") or ()
    return (terms,) if isinstance(terms, str) else tuple(terms)


def _finding(
    origin: Origin, prediction: Prediction, verification: Verification, class_concepts: Mapping[str, CodedConcept]
) -> CodedConcept:
    finding = codes.finding(prediction, verification.verdict, class_concepts)
    return replace(finding, meaning=origin.text(finding.meaning))


def _coding_schemes(finding: CodedConcept, origin: Origin) -> list[Dataset]:
    """PS3.3 C.12.1.1.1, for private schemes: ours, and the bundle's. They have no registered UID and claim none."""
    own = Dataset()
    own.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    own.CodingSchemeName = codes.PRIVATE_SCHEME_NAME
    own.CodingSchemeResponsibleOrganization = "dicom_gam developers"
    if not finding.scheme.startswith("99") or finding.scheme == codes.PRIVATE_SCHEME:  # PS3.16 8.2
        return [own]
    of_bundle = Dataset()
    of_bundle.CodingSchemeDesignator = finding.scheme
    of_bundle.CodingSchemeName = origin.text(f"classes of bundle {origin.bundle.name}")
    if origin.bundle.manufacturer:
        of_bundle.CodingSchemeResponsibleOrganization = origin.text(origin.bundle.manufacturer)
    return [own, of_bundle]

"""Deliberate defects: each a small change to a real, clean result set, and the name by which it must be caught.

`python -m tests.dicom.negative_controls` prints the table.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pydicom import config, dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.checker.checker import DEFECTS, Defect, check_results
from dicom_gam.records import ResultObject
from tests.dicom.example_results import dx_source, encoded, verification

ALL = ("sr", "overlay", "region", "presentation", "rejection")
ELSEWHERE = "1.2.826.0.1.3680043.10.999.77"


class Set(dict[str, Dataset]):
    """The objects of a set by role, each parsed when it is asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def __missing__(self, role: str) -> Dataset:
        self[role] = dcmread(io.BytesIO(self._files[role]))
        return self[role]


@dataclass(frozen=True)
class Control:
    """`spoil` changes the parsed objects, by role; `scratch` the bytes of one file, by role."""

    name: str
    expected: str
    verdict: str = "PASS"
    spoil: Callable[[Set], None] = lambda _: None
    scratch: tuple[str, Callable[[bytes], bytes]] | None = None
    with_source: bool = False


@cache
def clean(verdict: str) -> tuple[ResultObject, ...]:
    checks = tuple(replace(check, measurements=check.measurements[:1]) for check in verification(verdict).checks)
    return encoded(dx_source(), verdict, settings=OutputSettings(overlay_long_side=256, objects=ALL), checks=checks)


@cache
def source_file() -> bytes:
    """The source image itself, with small but real pixels."""
    ds = dx_source()
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(ds.Rows * ds.Columns)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def spoilt(control: Control) -> list[bytes]:
    """The files of a control."""
    files = {item.role: item.content for item in clean(control.verdict)}
    with config.disable_value_validation():
        parsed = Set(files)
        control.spoil(parsed)
        files |= {role: written(ds) for role, ds in parsed.items()}
    if control.scratch is not None:
        role, change = control.scratch
        files[role] = change(files[role])
    return list(files.values())


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=False)
    return buffer.getvalue()


@cache
def caught(control: Control) -> tuple[Defect, ...]:
    return check_results(spoilt(control), [source_file()] if control.with_source else ())


# How to find one's way in a report.


def items(parent: Dataset) -> Iterator[Dataset]:
    for child in parent.get("ContentSequence", []):
        yield child
        yield from items(child)


def group(report: Dataset, name: str) -> Dataset:
    return next(
        item
        for item in items(report)
        if any(getattr(child, "TextValue", "") == name for child in item.get("ContentSequence", []))
    )


def named(parent: Dataset, concept: str) -> Dataset:
    return next(item for item in items(parent) if item.ConceptNameCodeSequence[0].CodeValue == concept)


def without(parent: Dataset, concept: str) -> None:
    kept = [item for item in parent.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != concept]
    parent.ContentSequence = kept


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def put(role: str, keyword: str, value: object) -> Callable[[Set], None]:
    return lambda made: setattr(made[role], keyword, value)


def drop(role: str, keyword: str) -> Callable[[Set], None]:
    return lambda made: delattr(made[role], keyword)


def on(name: str, change: Callable[[Dataset], None]) -> Callable[[Set], None]:
    """Change one measurement group of the report."""
    return lambda made: change(group(made["sr"], name))


def number(concept: str, value: float, *, both: bool = True) -> Callable[[Dataset], None]:
    def change(parent: Dataset) -> None:
        measured = named(parent, concept).MeasuredValueSequence[0]
        measured.NumericValue = f"{value:.6g}"
        if both:
            measured.FloatingPointValue = value

    return change


def coded(concept: str, value: Dataset) -> Callable[[Dataset], None]:
    def change(parent: Dataset) -> None:
        named(parent, concept).ConceptCodeSequence = [value]

    return change


def add(parent: Callable[[Set], Dataset], make: Callable[[Set], Dataset]) -> Callable[[Set], None]:
    return lambda made: parent(made).ContentSequence.append(make(made))


def code_content(concept: Dataset, value: Dataset, relationship: str = "CONTAINS") -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, "CODE"
    item.ConceptNameCodeSequence, item.ConceptCodeSequence = [concept], [value]
    return item


CHEST = code("51185008", "SCT", "Thoracic structure")
MODALITY = b"\x08\0\x60\0CS\x02\0SR"
PREDICTED = code("PRED_CLASS", "99DGAM", "Predicted class")


def evidence(made: Set, role: str = "sr") -> Sequence[Dataset]:
    return made[role].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence


def _evidence_without_overlay(made: Set) -> None:
    study = made["sr"].CurrentRequestedProcedureEvidenceSequence[0]
    overlay = made["overlay"].SeriesInstanceUID
    study.ReferencedSeriesSequence = [s for s in study.ReferencedSeriesSequence if s.SeriesInstanceUID != overlay]


def _all_overlay_references(made: Set, uid: str) -> None:
    for item in made["sr"].iterall():
        if item.keyword == "ReferencedSOPInstanceUID" and item.value == made["overlay"].SOPInstanceUID:
            item.value = uid


def _same_instance(made: Set) -> None:
    made["region"].SOPInstanceUID = made["overlay"].SOPInstanceUID
    made["region"].file_meta.MediaStorageSOPInstanceUID = made["overlay"].SOPInstanceUID


def _outline(change: Callable[[list[float]], list[float]]) -> Callable[[Set], None]:
    def spoil(made: Set) -> None:
        item = named(made["sr"], "111030")
        item.GraphicData = change(list(item.GraphicData))

    return spoil


def _first_score(made: Set) -> Dataset:
    return named(group(made["sr"], "attention verification"), "ATT_IOU")


def _twice_tracked(made: Set) -> None:
    uid = named(group(made["sr"], "classification"), "112040").UID
    named(group(made["sr"], "overall verdict"), "112040").UID = uid


def _no_value(parent: Dataset) -> None:
    named(parent, "P_COMBINED").MeasuredValueSequence = []


def _unit(parent: Dataset) -> None:
    named(parent, "P_COMBINED").MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [code("%", "UCUM", "Percent")]


def _other_source(made: Set) -> None:
    made["overlay"].SourceImageSequence[0].ReferencedSOPInstanceUID = ELSEWHERE


def _relabelled(role: str, verdict: str) -> Callable[[Set], None]:
    def spoil(made: Set) -> None:
        made[role].SeriesDescription = made[role].SeriesDescription.rpartition(" - ")[0] + f" - {verdict}"

    return spoil


def _note_title(made: Set) -> None:
    made["rejection"].ConceptNameCodeSequence = [code("113001", "DCM", "Rejected for Quality Reasons")]


def _pixels(role: str, change: Callable[[bytes], bytes]) -> Callable[[Set], None]:
    return lambda made: setattr(made[role], "PixelData", change(made[role].PixelData))


def _graphic(made: Set) -> Dataset:
    return made["presentation"].GraphicAnnotationSequence[0].GraphicObjectSequence[0]


def _outside_area(made: Set) -> None:
    data = list(_graphic(made).GraphicData)
    _graphic(made).GraphicData = [data[0] + 9000.0, *data[1:]]


def _text_nowhere(made: Set) -> None:
    words = made["presentation"].GraphicAnnotationSequence[0].TextObjectSequence[0]
    del words.BoundingBoxTopLeftHandCorner, words.BoundingBoxBottomRightHandCorner


def _layer(made: Set) -> None:
    made["presentation"].GraphicAnnotationSequence[0].GraphicLayer = "NOWHERE"


def _own_scheme_uid(made: Set) -> None:
    made["sr"].CodingSchemeIdentificationSequence[0].CodingSchemeUID = "2.25.1"


def _misnamed(made: Set) -> None:
    made["sr"].file_meta.MediaStorageSOPInstanceUID = made["overlay"].SOPInstanceUID


def _own_reference(made: Set) -> None:
    _all_overlay_references(made, made["sr"].SOPInstanceUID)


def _implicit(made: Set) -> None:
    made["overlay"].file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def _bad_uid(made: Set) -> None:
    made["sr"].SeriesInstanceUID = "2.25.0123"


def _segment(made: Set) -> None:
    made["region"].SegmentSequence[0].SegmentNumber = 2


def _class_of_overlay(made: Set) -> None:
    for item in made["sr"].iterall():
        if item.keyword == "ReferencedSOPSequence":
            for reference in item.value:
                if reference.ReferencedSOPInstanceUID == made["overlay"].SOPInstanceUID:
                    reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"


def _classless(parent: Dataset) -> None:
    without(parent, "PRED_CLASS")


def _another_patient(made: Set) -> None:
    for role in ("sr", "overlay", "region", "presentation"):
        made[role].PatientName = "Roe^Mary"


def _region_as_evidence(made: Set) -> None:
    other, reference, series = made["region"], Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = other.SOPClassUID, other.SOPInstanceUID
    series.ReferencedSOPSequence, series.SeriesInstanceUID = [reference], other.SeriesInstanceUID
    made["sr"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence.append(series)


FAIL_CODE, PASS_CODE = code("FAIL", "99DGAM", "FAIL"), code("PASS", "99DGAM", "PASS")
CONTROLS: tuple[Control, ...] = (
    # The file
    Control("the report cut in half", "unreadable", scratch=("sr", lambda b: b[: len(b) // 2])),
    Control("no DICM prefix", "unreadable", scratch=("sr", lambda b: b[132:])),
    Control("four bytes after the pixels", "trailing-bytes", scratch=("overlay", lambda b: b + b"\0\0\0\0")),
    Control("file meta names another instance", "meta-mismatch", spoil=_misnamed),
    Control(
        "wrong group length in the file meta",
        "meta-length",
        scratch=("sr", lambda b: b[:140] + bytes([b[140] ^ 4]) + b[141:]),
    ),
    Control("file meta says implicit VR", "wrong-transfer-syntax", spoil=_implicit),
    Control(
        "Modality with the VR of a long string",
        "wrong-vr",
        scratch=("sr", lambda b: b.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00LO", 1)),
    ),
    Control("a date of the thirteenth month", "invalid-value", spoil=put("sr", "ContentDate", "20251304")),
    Control(
        "a title with a letter that its character set has not",
        "text-not-in-character-set",
        scratch=("sr", lambda b: b.replace(b"AI verification report", b"AI v\xe9rification report", 1)),
    ),
    Control(
        "no version in the file meta",
        "meta-version",
        scratch=("sr", lambda b: b.replace(b"OB\0\0\x02\0\0\0\0\x01", b"OB\0\0\x02\0\0\0\0\x02", 1)),
    ),
    Control(
        "an element twice",
        "element-order",
        scratch=("sr", lambda b: b.replace(MODALITY, MODALITY * 2, 1)),
    ),
    Control(
        "a value of an odd length",
        "odd-length",
        scratch=("sr", lambda b: b.replace(MODALITY, b"\x08\0\x60\0CS\x03\0SR ", 1)),
    ),
    # What it is
    Control(
        "a report of a class that we don't make",
        "not-a-result-class",
        spoil=put("sr", "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.11"),
    ),
    Control("no contributing equipment", "not-known-as-ours", spoil=put("sr", "ContributingEquipmentSequence", [])),
    Control(
        "an overlay without our image type",
        "not-known-as-ours",
        spoil=put("overlay", "ImageType", ["DERIVED", "SECONDARY", "OTHER"]),
    ),
    Control("the report's modality is OT", "wrong-modality", spoil=put("sr", "Modality", "OT")),
    Control("no completion flag (Type 1)", "missing-type-1", spoil=drop("sr", "CompletionFlag")),
    Control("empty series number (Type 1)", "empty-type-1", spoil=put("overlay", "SeriesNumber", None)),
    Control("no accession number (Type 2)", "missing-type-2", spoil=drop("overlay", "AccessionNumber")),
    Control(
        "a segment without a label",
        "missing-type-1",
        spoil=lambda made: delattr(made["region"].SegmentSequence[0], "SegmentLabel"),
    ),
    Control("no planar configuration (Type 1C)", "missing-type-1", spoil=drop("overlay", "PlanarConfiguration")),
    Control("pixel spacing on the overlay", "not-permitted", spoil=put("overlay", "PixelSpacing", [0.1, 0.1])),
    Control("a report that says a person verified it", "wrong-flag", spoil=put("sr", "VerificationFlag", "VERIFIED")),
    Control("a preliminary report", "wrong-flag", spoil=put("sr", "PreliminaryFlag", "PRELIMINARY")),
    # UIDs
    Control("a series UID with a leading zero", "malformed-uid", spoil=_bad_uid),
    Control(
        "a series UID of a foreign root", "foreign-uid-root", spoil=put("overlay", "SeriesInstanceUID", "1.2.3.4.5")
    ),
    Control("two objects with one instance UID", "duplicate-instance", spoil=_same_instance),
    Control("two groups with one tracking UID", "duplicate-tracking-uid", spoil=_twice_tracked),
    Control(
        "the overlay in the report's series",
        "series-shared",
        spoil=lambda made: setattr(made["overlay"], "SeriesInstanceUID", made["sr"].SeriesInstanceUID),
    ),
    # Codes
    Control(
        "a standard code with another meaning",
        "wrong-meaning",
        spoil=lambda made: setattr(named(made["sr"], "126010").ConceptNameCodeSequence[0], "CodeMeaning", "Findings"),
    ),
    Control(
        "our own code with another meaning",
        "wrong-meaning",
        spoil=lambda made: setattr(_first_score(made).ConceptNameCodeSequence[0], "CodeMeaning", "Attention overlap"),
    ),
    Control(
        "a class with the words of another class",
        "wrong-meaning",
        spoil=on("classification", coded("121071", code("85562004", "SCT", "Knee"))),
    ),
    Control(
        "a DCM code that is not there",
        "unknown-code",
        spoil=on("attended region", coded("130400", code("999999", "DCM", "Outline"))),
    ),
    Control(
        "a private code that is not there",
        "unknown-code",
        spoil=lambda made: setattr(_first_score(made).ConceptNameCodeSequence[0], "CodeValue", "ATT_NEW"),
    ),
    Control(
        "a scheme that nobody knows",
        "unknown-scheme",
        spoil=on("classification", coded("121071", code("1", "99NOBODY", "Chest"))),
    ),
    Control(
        "our scheme without identification",
        "scheme-not-identified",
        spoil=drop("sr", "CodingSchemeIdentificationSequence"),
    ),
    Control("a UID for our scheme", "scheme-uid-claimed", spoil=_own_scheme_uid),
    Control(
        "a code without meaning",
        "incomplete-code",
        spoil=lambda made: delattr(made["overlay"].DerivationCodeSequence[0], "CodeMeaning"),
    ),
    # The tree
    Control(
        "a content item that the template has not",
        "unknown-content-item",
        spoil=add(
            lambda made: group(made["sr"], "classification"),
            lambda _: code_content(code("111050", "DCM", "Quality Assessment"), PASS_CODE),
        ),
    ),
    Control("no procedure reported", "missing-content-item", spoil=lambda made: without(made["sr"], "121058")),
    Control(
        "a group without its tracking UID",
        "missing-content-item",
        spoil=on("classification", lambda parent: without(parent, "112040")),
    ),
    Control(
        "no overall verdict",
        "missing-content-item",
        spoil=lambda made: setattr(
            named(made["sr"], "126010"),
            "ContentSequence",
            [g for g in named(made["sr"], "126010").ContentSequence if g != group(made["sr"], "overall verdict")],
        ),
    ),
    Control(
        "two findings in one group",
        "too-many-content-items",
        spoil=on("classification", lambda p: p.ContentSequence.append(named(p, "121071"))),
    ),
    Control(
        "a finding as text",
        "wrong-value-type",
        spoil=lambda made: setattr(named(group(made["sr"], "classification"), "121071"), "ValueType", "TEXT"),
    ),
    Control(
        "a threshold that the group contains",
        "wrong-relationship",
        spoil=lambda made: setattr(named(_first_score(made), "THR_MIN"), "RelationshipType", "CONTAINS"),
    ),
    Control(
        "the attention group finds something else",
        "wrong-coded-value",
        spoil=on("attention verification", coded("121071", CHEST)),
    ),
    Control(
        "the outline in a group of TID 1501",
        "wrong-template",
        spoil=lambda made: setattr(
            group(made["sr"], "attended region").ContentTemplateSequence[0], "TemplateIdentifier", "1501"
        ),
    ),
    Control(
        "a group of another name",
        "unknown-group",
        spoil=lambda made: setattr(named(group(made["sr"], "attended region"), "112039"), "TextValue", "lesion 1"),
    ),
    Control(
        "a comment without words",
        "missing-item-value",
        spoil=lambda made: setattr(named(made["sr"], "121106"), "TextValue", ""),
    ),
    Control("a note that archives hide images by", "wrong-document-title", "REJECT", _note_title),
    Control(
        "a note that does not say which issue",
        "missing-title-modifier",
        "REJECT",
        lambda made: without(made["rejection"], "113011"),
    ),
    # Figures
    Control("a number without value or reason", "number-without-value", spoil=on("overall verdict", _no_value)),
    Control("a p-value in percent", "wrong-units", spoil=on("overall verdict", _unit)),
    Control(
        "decimal and floating point differ",
        "number-disagrees",
        spoil=on("overall verdict", number("P_COMBINED", 0.5, both=False)),
    ),
    Control("a probability of 94", "probability-out-of-range", spoil=on("classification", number("CLS_PROB", 94.0))),
    Control(
        "a score below its threshold that passes",
        "threshold-contradiction",
        spoil=on("attention verification", number("ATT_IOU", 0.1)),
    ),
    Control(
        "a check that fails with a good score",
        "threshold-contradiction",
        "FAIL",
        on("early feature verification", coded("EARLY_CHECK", FAIL_CODE)),
    ),
    Control("an outline that is not closed", "open-outline", spoil=_outline(lambda data: data[:-2])),
    Control("an outline of two points", "degenerate-outline", spoil=_outline(lambda data: data[:4] + data[:2])),
    Control(
        "an outline beyond the source's edge",
        "outline-outside-image",
        spoil=_outline(lambda data: [data[0] + 260, *data[1:-2], data[-2] + 260, data[-1]]),
        with_source=True,
    ),
    # Verdict and safety
    Control("a disease on FAIL", "finding-without-pass", "FAIL", on("classification", coded("121071", CHEST))),
    Control("a disease on REJECT", "finding-without-pass", "REJECT", on("classification", coded("121071", CHEST))),
    Control(
        "a predicted class on FAIL",
        "class-without-pass",
        "FAIL",
        add(lambda made: group(made["sr"], "classification"), lambda _: code_content(PREDICTED, CHEST)),
    ),
    Control("PASS of no class", "pass-without-class", spoil=on("classification", _classless)),
    Control(
        "finding and predicted class differ",
        "pass-without-class",
        spoil=on("classification", coded("PRED_CLASS", code("85562004", "SCT", "Hand structure"))),
    ),
    Control(
        "FAIL relabelled PASS in the tree",
        "verdict-contradiction",
        "FAIL",
        on("overall verdict", coded("VERDICT", PASS_CODE)),
    ),
    Control(
        "PASS below the false-alarm rate",
        "verdict-contradiction",
        spoil=on("overall verdict", number("P_COMBINED", 0.01)),
    ),
    Control(
        "the quality assessment of a PASS on FAIL",
        "verdict-contradiction",
        "FAIL",
        on(
            "overall verdict",
            coded("111050", code("111237", "DCM", "Usable - Meets the quality control standard")),
        ),
    ),
    Control("report FAIL, overlay PASS", "two-verdicts", "FAIL", _relabelled("overlay", "PASS")),
    Control("a series that states no verdict", "no-verdict", spoil=put("overlay", "SeriesDescription", "AI overlay")),
    Control(
        "the overlay's words are of another verdict",
        "wrong-verdict-words",
        "FAIL",
        put("overlay", "ImageComments", "AI VERIFICATION: PASS. chest, probability 0.94"),
    ),
    Control("a rejection note without REJECT", "rejection-without-reject", "REJECT", _relabelled("rejection", "FAIL")),
    # Pixels, segments, annotations
    Control(
        "a colour overlay that says it is grey",
        "pixel-format",
        spoil=put("overlay", "PhotometricInterpretation", "MONOCHROME2"),
    ),
    Control("an overlay short of two bytes", "pixel-length", spoil=_pixels("overlay", lambda b: b[:-2])),
    Control("a segmentation short of two bytes", "pixel-length", spoil=_pixels("region", lambda b: b[:-2])),
    Control("a segmentation of another size", "wrong-frame-size", spoil=put("region", "Rows", 299), with_source=True),
    Control("a frame of no segment", "segment-numbers", spoil=_segment),
    Control("two frames promised, one there", "frame-count", spoil=put("region", "NumberOfFrames", 2)),
    Control(
        "a presentation state of half the image",
        "wrong-displayed-area",
        spoil=lambda made: setattr(
            made["presentation"].DisplayedAreaSelectionSequence[0], "DisplayedAreaBottomRightHandCorner", [130, 300]
        ),
        with_source=True,
    ),
    Control("a fractional segmentation", "wrong-value", spoil=put("region", "SegmentationType", "FRACTIONAL")),
    Control("an annotation on no layer", "unknown-layer", spoil=_layer),
    Control("an annotation outside the image", "annotation-outside", spoil=_outside_area),
    Control("words without a place", "text-without-place", spoil=_text_nowhere),
    Control(
        "fewer points than promised",
        "graphic-data-length",
        spoil=lambda made: setattr(_graphic(made), "NumberOfGraphicPoints", 3),
    ),
    # References
    Control(
        "the overlay that the report shows is not there",
        "unresolved-reference",
        spoil=lambda made: _all_overlay_references(made, ELSEWHERE),
    ),
    Control("a report that refers to itself", "self-reference", spoil=_own_reference),
    Control("the overlay referred to as a CR image", "wrong-reference-class", spoil=_class_of_overlay),
    Control(
        "evidence in another series",
        "wrong-reference-series",
        spoil=lambda made: setattr(evidence(made)[-1], "SeriesInstanceUID", ELSEWHERE),
    ),
    Control(
        "evidence in another study",
        "wrong-reference-study",
        spoil=lambda made: setattr(
            made["sr"].CurrentRequestedProcedureEvidenceSequence[0], "StudyInstanceUID", ELSEWHERE
        ),
    ),
    Control("an overlay of another image", "several-sources", spoil=_other_source),
    Control("an overlay of no image", "no-source", spoil=drop("overlay", "SourceImageSequence")),
    Control(
        "a source image that is not the one at hand",
        "unresolved-reference",
        spoil=_other_source,
        with_source=True,
    ),
    Control("evidence lacks the overlay", "missing-evidence", spoil=_evidence_without_overlay),
    Control(
        "evidence of what the report does not use",
        "superfluous-evidence",
        spoil=_region_as_evidence,
    ),
    Control("an overlay in another study", "two-studies", spoil=put("overlay", "StudyInstanceUID", ELSEWHERE)),
    Control("an overlay of another patient", "two-patients", spoil=put("overlay", "PatientID", "ID-2")),
    Control(
        "a whole set of another patient than the source",
        "two-patients",
        spoil=_another_patient,
        with_source=True,
    ),
)


def main() -> int:
    missed = 0
    for control in CONTROLS:
        names = {defect.name for defect in caught(control)}
        missed += control.expected not in names
        print(f"{'caught' if control.expected in names else 'MISSED':7} {control.expected:24} {control.name}")
    unproven = sorted(DEFECTS.keys() - {control.expected for control in CONTROLS})
    print(f"{len(CONTROLS)} deliberate defects, {missed} missed")
    print(f"names without a control: {', '.join(unproven) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

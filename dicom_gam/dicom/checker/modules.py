"""The attributes of the five objects: what must be there (PS3.3 A.7.3, A.8.1, A.33.1, A.35, A.51) and with what value.

A path such as `SegmentSequence.SegmentLabel` asks every item of the sequence for the attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_gam.dicom.checker.reading import Item, ResultFile

REPORT, OVERLAY, REGION, PRESENTATION, NOTE = "report", "overlay", "region", "presentation state", "rejection note"
KINDS: Mapping[str, str] = MappingProxyType(
    {
        str(Comprehensive3DSRStorage): REPORT,
        str(ComprehensiveSRStorage): REPORT,
        str(SecondaryCaptureImageStorage): OVERLAY,
        str(SegmentationStorage): REGION,
        str(GrayscaleSoftcopyPresentationStateStorage): PRESENTATION,
        str(KeyObjectSelectionDocumentStorage): NOTE,
    }
)
_MODALITIES = {REPORT: "SR", OVERLAY: "OT", REGION: "SEG", PRESENTATION: "PR", NOTE: "KO"}

# Patient, General Study, Series, General Equipment and SOP Common modules.
_EVERY_1 = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber")
_OURS_1 = (  # optional in the standard, and what we are known by
    *("SeriesDescription", "InstanceNumber"),
    *("ContributingEquipmentSequence", "ContributingEquipmentSequence.PurposeOfReferenceCodeSequence"),
)
_CONTENT_TIME_1 = ("ContentDate", "ContentTime")  # a presentation state has a date and time of creation instead
_EVERY_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber", "Manufacturer"),
)
_PIXELS_1 = (  # Image Pixel module (PS3.3 C.7.6.3)
    *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData"),
)
_DOCUMENT_1 = (  # SR Document Content (C.17.3)
    *("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence", "ContentSequence"),
    *("ContentTemplateSequence.MappingResource", "ContentTemplateSequence.TemplateIdentifier"),
)
_EVIDENCE_1 = tuple(  # Hierarchical SOP Instance Reference macro (C.17.2.1)
    f"CurrentRequestedProcedureEvidenceSequence{path}"
    for path in (
        *("", ".StudyInstanceUID", ".ReferencedSeriesSequence", ".ReferencedSeriesSequence.SeriesInstanceUID"),
        ".ReferencedSeriesSequence.ReferencedSOPSequence",
        ".ReferencedSeriesSequence.ReferencedSOPSequence.ReferencedSOPClassUID",
        ".ReferencedSeriesSequence.ReferencedSOPSequence.ReferencedSOPInstanceUID",
    )
)
TYPE_1: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        REPORT: (
            *_EVERY_1,
            *_OURS_1,
            *_DOCUMENT_1,
            *_EVIDENCE_1,
            *_CONTENT_TIME_1,
            *("CompletionFlag", "VerificationFlag", "PreliminaryFlag"),
            *("PredecessorDocumentsSequence?.StudyInstanceUID",),
            *("PredecessorDocumentsSequence?.ReferencedSeriesSequence.SeriesInstanceUID",),
            *("PredecessorDocumentsSequence?.ReferencedSeriesSequence.ReferencedSOPSequence.ReferencedSOPInstanceUID",),
        ),
        OVERLAY: (
            *_EVERY_1,
            *_OURS_1,
            *_PIXELS_1,
            *_CONTENT_TIME_1,
            *("ConversionType", "ImageType", "ImageComments", "DerivationDescription", "DerivationCodeSequence"),
            *("SourceImageSequence", "SourceImageSequence.ReferencedSOPClassUID"),
            *("SourceImageSequence.ReferencedSOPInstanceUID", "SourceImageSequence.PurposeOfReferenceCodeSequence"),
        ),
        REGION: (
            *_EVERY_1,
            *_OURS_1,
            *_PIXELS_1,
            *_CONTENT_TIME_1,
            *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),  # C.7.5.2
            *("ImageType", "ContentLabel", "LossyImageCompression", "SegmentationType", "NumberOfFrames"),
            *("SegmentSequence", "SegmentSequence.SegmentNumber", "SegmentSequence.SegmentLabel"),
            *("SegmentSequence.SegmentAlgorithmType", "SegmentSequence.SegmentAlgorithmName"),
            "SegmentSequence.SegmentedPropertyCategoryCodeSequence",
            "SegmentSequence.SegmentedPropertyTypeCodeSequence",
            *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
            *("DimensionOrganizationSequence", "DimensionOrganizationSequence.DimensionOrganizationUID"),
            *("DimensionIndexSequence", "DimensionIndexSequence.DimensionIndexPointer"),
            *("ReferencedSeriesSequence", "ReferencedSeriesSequence.SeriesInstanceUID"),  # C.12.2, as we refer
            "ReferencedSeriesSequence.ReferencedInstanceSequence",
        ),
        PRESENTATION: (
            *_EVERY_1,
            *_OURS_1,
            *("PresentationCreationDate", "PresentationCreationTime", "ContentLabel"),
            *("ReferencedSeriesSequence", "ReferencedSeriesSequence.SeriesInstanceUID"),
            "ReferencedSeriesSequence.ReferencedImageSequence",
            *("DisplayedAreaSelectionSequence", "DisplayedAreaSelectionSequence.DisplayedAreaTopLeftHandCorner"),
            "DisplayedAreaSelectionSequence.DisplayedAreaBottomRightHandCorner",
            "DisplayedAreaSelectionSequence.PresentationSizeMode",
            "GraphicLayerSequence?.GraphicLayer",
            "GraphicLayerSequence?.GraphicLayerOrder",
            "GraphicAnnotationSequence?.GraphicLayer",
            "GraphicAnnotationSequence?.GraphicObjectSequence?.GraphicAnnotationUnits",
            "GraphicAnnotationSequence?.GraphicObjectSequence?.GraphicDimensions",
            "GraphicAnnotationSequence?.GraphicObjectSequence?.NumberOfGraphicPoints",
            "GraphicAnnotationSequence?.GraphicObjectSequence?.GraphicData",
            "GraphicAnnotationSequence?.GraphicObjectSequence?.GraphicType",
            "GraphicAnnotationSequence?.TextObjectSequence?.UnformattedTextValue",
        ),
        NOTE: (*_EVERY_1, *_OURS_1, *_DOCUMENT_1, *_EVIDENCE_1, *_CONTENT_TIME_1),
    }
)
TYPE_2: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        REPORT: (*_EVERY_2, "ReferencedPerformedProcedureStepSequence", "PerformedProcedureCodeSequence"),
        OVERLAY: (*_EVERY_2, "PatientOrientation"),
        REGION: (*_EVERY_2, "ContentDescription", "ContentCreatorName"),
        PRESENTATION: (*_EVERY_2, "ContentDescription", "ContentCreatorName"),
        NOTE: (*_EVERY_2, "ReferencedPerformedProcedureStepSequence"),
    }
)


@dataclass(frozen=True, slots=True)
class Conditional:
    """An attribute of Type 1C, required where `when` holds."""

    kind: str
    keyword: str
    when: Callable[[Item], bool]


TYPE_1C: tuple[Conditional, ...] = (
    Conditional(OVERLAY, "PlanarConfiguration", lambda d: d.number("SamplesPerPixel") not in (None, 1)),
    Conditional(PRESENTATION, "PresentationLUTShape", lambda d: "PresentationLUTSequence" not in d),  # C.11.6
    Conditional(PRESENTATION, "GraphicLayerSequence", lambda d: "GraphicAnnotationSequence" in d),  # C.10.7
)
VALUES: Mapping[str, Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        REPORT: {"ValueType": frozenset({"CONTAINER"}), "ContinuityOfContent": frozenset({"SEPARATE"})},
        OVERLAY: {"ConversionType": frozenset({"WSD"})},
        REGION: {
            "SegmentationType": frozenset({"BINARY"}),
            "ImageType": frozenset({"DERIVED\\PRIMARY"}),
            "LossyImageCompression": frozenset({"00", "01"}),
        },
        PRESENTATION: {"PresentationLUTShape": frozenset({"IDENTITY", "INVERSE"})},
        NOTE: {"ValueType": frozenset({"CONTAINER"}), "ContinuityOfContent": frozenset({"SEPARATE"})},
    }
)
# Sizes are of the source, not of the reduced pictures side by side; only a multi-frame has a Pixel Spacing by function.
_NOT_PERMITTED = {
    OVERLAY: ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    REPORT: ("PixelData", "VerifyingObserverSequence"),
    NOTE: ("PixelData",),
    PRESENTATION: ("PixelData",),
}
_FLAGS = {"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "FINAL"}
OWN_MODEL_NAME, OWN_IMAGE_TYPE, PROCESSING_EQUIPMENT = "dicom_gam", "GRADCAM", "109102"


def kind_of(file: ResultFile) -> str:
    """Which of our objects a file is by its SOP class, empty for another."""
    return KINDS.get(file.sop_class, "")


def check_modules(file: ResultFile) -> None:
    """The attributes of one object. A file of another SOP class has that one defect."""
    dataset, complaints, kind = file.dataset, file.complaints, kind_of(file)
    if not kind:
        complaints.add("not-a-result-class", "SOPClassUID", f"{file.sop_class or 'none'} is none of ours")
        return
    for path in TYPE_1[kind]:
        for place, item, keyword in _asked(dataset, path):
            _require(file, item, keyword, place)
    for path in TYPE_2[kind]:
        if path not in dataset:
            complaints.add("missing-type-2", path)
    for rule in TYPE_1C:
        if rule.kind == kind and rule.when(dataset):
            _require(file, dataset, rule.keyword, rule.keyword)
    for keyword, allowed in VALUES[kind].items():
        if keyword in dataset and dataset.text(keyword) not in allowed:
            complaints.add("wrong-value", keyword, f"it is not {' or '.join(sorted(allowed))}")
    for keyword in _NOT_PERMITTED.get(kind, ()):
        if keyword in dataset:
            complaints.add("not-permitted", keyword)
    if dataset.text("Modality") != _MODALITIES[kind] and "Modality" in dataset:
        complaints.add("wrong-modality", "Modality", f"a {kind} has {_MODALITIES[kind]}")
    if kind == REPORT:
        for keyword, wanted in _FLAGS.items():
            if keyword in dataset and dataset.text(keyword) != wanted:
                complaints.add("wrong-flag", keyword, f"it is not {wanted}")
    _check_marks(file, kind)


def _require(file: ResultFile, item: Item, keyword: str, place: str) -> None:
    if keyword not in item:
        file.complaints.add("missing-type-1", place)
    elif item.is_empty(keyword):
        file.complaints.add("empty-type-1", place)


def _asked(dataset: Item, path: str) -> Iterator[tuple[str, Item, str]]:
    """The items that a path leads to, each with the attribute asked for. Sequences themselves have paths of their own.

    `?` marks a sequence that may be absent; the mark is for the reader, for absence is not asked about here.
    """
    *sequences, keyword = path.replace("?", "").split(".")
    items = [("", dataset)]
    for sequence in sequences:
        items = [
            (f"{place}{sequence}[{number}].", child)
            for place, item in items
            for number, child in enumerate(item.items(sequence), 1)
        ]
    for place, item in items:
        yield place + keyword, item, keyword


def _check_marks(file: ResultFile, kind: str) -> None:
    """What `acceptance` tells our own output by, so that it is never processed again."""
    made_by = [
        item
        for item in file.dataset.items("ContributingEquipmentSequence")
        if item.text("ManufacturerModelName") == OWN_MODEL_NAME
        and item.item("PurposeOfReferenceCodeSequence").text("CodeValue") == PROCESSING_EQUIPMENT
    ]
    if not made_by:
        file.complaints.add("not-known-as-ours", "ContributingEquipmentSequence")
    if kind == OVERLAY:
        parts = file.dataset.text("ImageType").split("\\")
        if parts[:2] != ["DERIVED", "SECONDARY"] or parts[3:4] != [OWN_IMAGE_TYPE]:
            file.complaints.add("not-known-as-ours", "ImageType", f"its fourth value is not {OWN_IMAGE_TYPE}")

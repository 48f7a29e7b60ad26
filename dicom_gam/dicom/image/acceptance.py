"""What is taken as a radiograph: the tables, the rules, and the caps that are checked before memory is allocated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydicom.uid as uids
from pydicom.charset import python_encoding
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from dicom_gam.dicom.identity import is_uid
from dicom_gam.errors import DicomGamError
from dicom_gam.records import Reason, Rejection

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from dicom_gam.config import IntakeSettings

OWN_MODEL_NAME = "dicom_gam"
OWN_IMAGE_TYPE = "GRADCAM"

# A Secondary Capture may hold anything; it says by its Modality alone whether it is a radiograph.
SECONDARY_CAPTURE_SOP_CLASSES: tuple[str, ...] = (
    uids.SecondaryCaptureImageStorage,
    uids.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)
RADIOGRAPHIC_MODALITIES: tuple[str, ...] = ("CR", "DX", "RG", "MG", "IO", "PX")

# Panoramic images (modality PX) come as DX or CR: there is no storage class of their own.
ACCEPTED_SOP_CLASSES: tuple[str, ...] = (
    uids.ComputedRadiographyImageStorage,
    uids.DigitalXRayImageStorageForPresentation,
    uids.DigitalXRayImageStorageForProcessing,
    uids.DigitalMammographyXRayImageStorageForPresentation,
    uids.DigitalMammographyXRayImageStorageForProcessing,
    uids.DigitalIntraOralXRayImageStorageForPresentation,
    uids.DigitalIntraOralXRayImageStorageForProcessing,
    *SECONDARY_CAPTURE_SOP_CLASSES,
)

NATIVE_TRANSFER_SYNTAXES: tuple[str, ...] = (
    uids.ExplicitVRLittleEndian,
    uids.ImplicitVRLittleEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
)
ACCEPTED_TRANSFER_SYNTAXES: tuple[str, ...] = (
    *NATIVE_TRANSFER_SYNTAXES,
    uids.RLELossless,
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000Lossless,
    uids.JPEG2000,
    uids.HTJ2KLossless,
    uids.HTJ2KLosslessRPCL,
    uids.HTJ2K,
)

_SHOWABLE = re.compile(r"[A-Z0-9_ ]{1,16}")  # a code string as the standard wants it; anything else may be a name
_MISSPELT_CHARACTER_SETS = (  # seen in the field, and unmistakable
    (re.compile(r"^ISO.IR."), "ISO_IR "),
    (re.compile(r"^ISO.2022.IR."), "ISO 2022 IR "),
)
_IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


class Refused(DicomGamError):  # noqa: N818 (not an error of ours: the verdict on an input)
    """Carries a Rejection from where a fault is noticed to the edge of this room, where it becomes a value."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection(reason, message)


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the stored values of one grey frame lie, from the Image Pixel module (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    monochrome1: bool

    @property
    def pixels(self) -> int:
        """Number of pixels in the frame."""
        return self.rows * self.columns

    @property
    def length(self) -> int:
        """Length in bytes of the uncompressed frame."""
        return self.pixels * self.bits_allocated // 8


def text(dataset: Dataset, keyword: str) -> str:
    """The first value of a text element, stripped; empty when it is absent or not text."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return value.strip() if isinstance(value, str) else ""


def integer(dataset: Dataset, keyword: str) -> int | None:
    """The value of a single-valued integer element; None when it is absent or something else."""
    value = dataset.get(keyword)
    return int(value) if isinstance(value, int) else None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none when it is absent or not a sequence."""
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def refuse_unaccepted(dataset: Dataset, transfer_syntax_uid: str, intake: IntakeSettings) -> None:
    """Raise Refused unless the instance is a foreign radiograph in a transfer syntax that we decode."""
    if _is_own_result(dataset):
        raise Refused(
            Reason.OWN_RESULT,
            "This is itself a result of dicom_gam, and results are never classified again. "
            "Leave dicom_gam's results out of the rule that sends images to this node.",
        )
    _refuse_sop_class(dataset, intake)
    _refuse_unknown_character_set(dataset)
    if transfer_syntax_uid not in ACCEPTED_TRANSFER_SYNTAXES:
        name = transfer_syntax_uid if is_uid(transfer_syntax_uid) else "(not a UID)"
        raise Refused(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"Transfer Syntax UID {name}: no strict decoder for it is built in. "
            "Send the image in one of the transfer syntaxes of the conformance statement, e.g. uncompressed.",
        )
    for keyword in _IDENTIFYING:
        if not is_uid(text(dataset, keyword)):
            raise Refused(
                Reason.INVALID_ATTRIBUTES,
                f"{keyword} is missing or not a UID, so no result could refer to this image. "
                "Have the sending system write it and send the image again.",
            )


def read_layout(dataset: Dataset, intake: IntakeSettings) -> PixelLayout:
    """Read and check the Image Pixel module. Raises Refused for anything but one grey frame of a sane size."""
    frames = integer(dataset, "NumberOfFrames")
    if frames is not None and frames != 1:
        if frames < 1:
            raise _invalid("Number of Frames", frames, "an image has at least one frame")
        raise Refused(
            Reason.MULTI_FRAME,
            f"Number of Frames is {frames}: a radiograph has one frame. Send single images, not series or loops.",
        )
    monochrome1 = _refuse_colour(dataset)
    rows, columns = _side(dataset, "Rows"), _side(dataset, "Columns")
    if min(rows, columns) < intake.minimum_side:
        raise Refused(
            Reason.ABSURD_DIMENSIONS,
            f"Rows x Columns is {rows} x {columns}: a side is shorter than {intake.minimum_side} pixels. "
            "Send the full image, or lower intake.minimum_side.",
        )
    if rows * columns > intake.maximum_pixels:
        raise Refused(
            Reason.ABSURD_DIMENSIONS,
            f"Rows x Columns is {rows} x {columns}: more than {intake.maximum_pixels} pixels. "
            "If the image is right, raise intake.maximum_pixels.",
        )
    return _bits(dataset, rows, columns, monochrome1)


def _is_own_result(dataset: Dataset) -> bool:
    if text(dataset, "ManufacturerModelName") == OWN_MODEL_NAME:
        return True
    if any(text(i, "ManufacturerModelName") == OWN_MODEL_NAME for i in items(dataset, "ContributingEquipmentSequence")):
        return True
    image_type = dataset.get("ImageType")
    return isinstance(image_type, MultiValue) and len(image_type) >= 4 and image_type[3] == OWN_IMAGE_TYPE


def _refuse_sop_class(dataset: Dataset, intake: IntakeSettings) -> None:
    sop_class = text(dataset, "SOPClassUID")
    if sop_class in intake.extra_sop_classes:
        return
    if sop_class not in ACCEPTED_SOP_CLASSES:
        name = uids.UID(sop_class).name if is_uid(sop_class) else "(missing or not a UID)"
        raise Refused(
            Reason.NOT_ACCEPTED_SOP_CLASS,
            f"{name} is not a radiograph's SOP class. "
            "Send CR, DX, MG, intra-oral or scanned radiographs, or list the class in intake.extra_sop_classes.",
        )
    modality = text(dataset, "Modality")
    if sop_class in SECONDARY_CAPTURE_SOP_CLASSES and modality not in RADIOGRAPHIC_MODALITIES:
        raise Refused(
            Reason.NOT_ACCEPTED_SOP_CLASS,
            f"Secondary Capture with Modality (0008,0060) {_shown(modality)}: a Secondary Capture is a radiograph only "
            f"when its Modality is one of {', '.join(RADIOGRAPHIC_MODALITIES)}, which is never guessed from the pixels."
            f" Set the Modality in the sending system, or list {sop_class} in intake.extra_sop_classes "
            "to take every Secondary Capture.",
        )


def _refuse_unknown_character_set(dataset: Dataset) -> None:
    """Results carry the patient's name as it came, so it must be certain how to read it."""
    value = dataset.get("SpecificCharacterSet")
    for term in value if isinstance(value, MultiValue | list) else [value]:
        spelt = str(term or "").strip()
        for pattern, prefix in _MISSPELT_CHARACTER_SETS:
            spelt = pattern.sub(prefix, spelt)
        if spelt not in python_encoding:
            raise _invalid("Specific Character Set", None, f"{_shown(spelt)} is none of PS3.3 C.12.1.1.2")


def _refuse_colour(dataset: Dataset) -> bool:
    samples = integer(dataset, "SamplesPerPixel")
    photometric = text(dataset, "PhotometricInterpretation").upper()
    if samples is None or not photometric:
        missing = "Photometric Interpretation" if samples is not None else "Samples per Pixel"
        raise _invalid(missing, None, "it says whether the pixels are grey")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(
            Reason.UNSUPPORTED_PHOTOMETRIC_INTERPRETATION,
            f"Photometric Interpretation {_shown(photometric)} with {samples} samples per pixel: colour where grey is "
            "expected. Send the original radiograph (MONOCHROME1 or MONOCHROME2), not a colour copy of it.",
        )
    return photometric == "MONOCHROME1"


def _side(dataset: Dataset, keyword: str) -> int:
    value = integer(dataset, keyword)
    if value is None or value < 1:
        raise _invalid(keyword, value, "it gives the size of the image")
    return value


def _bits(dataset: Dataset, rows: int, columns: int, monochrome1: bool) -> PixelLayout:
    allocated = integer(dataset, "BitsAllocated")
    stored = integer(dataset, "BitsStored")
    high = integer(dataset, "HighBit")
    representation = integer(dataset, "PixelRepresentation")
    if allocated not in (8, 16):
        raise _invalid("Bits Allocated", allocated, "a radiograph has 8 or 16")
    if stored is None or not 2 <= stored <= allocated:
        raise _invalid("Bits Stored", stored, f"it lies between 2 and Bits Allocated ({allocated})")
    if high is not None and high != stored - 1:
        raise _invalid("High Bit", high, f"it is one less than Bits Stored ({stored}), PS3.3 C.7.6.3")
    if representation not in (0, 1):
        raise _invalid("Pixel Representation", representation, "it is 0 (unsigned) or 1 (signed)")
    return PixelLayout(rows, columns, allocated, stored, representation == 1, monochrome1)


def _invalid(name: str, value: int | None, expectation: str) -> Refused:
    found = "is missing or unreadable" if value is None else f"is {value}"
    return Refused(
        Reason.INVALID_ATTRIBUTES,
        f"{name} {found}: {expectation}. Have the sending system correct the header and send the image again.",
    )


def _shown(code: str) -> str:
    if not code:
        return "(missing)"
    return code if _SHOWABLE.fullmatch(code) else "(not a code string)"

"""The overlay as a Secondary Capture image (PS3.3 A.8.1) in the source's study."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_gam.dicom.image.acceptance import OWN_IMAGE_TYPE
from dicom_gam.dicom.result.codes import SOURCE_IMAGE, SPATIAL_RESAMPLING
from dicom_gam.dicom.result.reference import copied, describe_anatomy
from dicom_gam.dicom.result.result_file import Origin, code_item, new_result, reference_item

SERIES_NUMBER = 9802
_INHERITED = (
    "BurnedInAnnotation",  # the banner itself carries no identity
    "RecognizableVisualFeatures",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)


def build_secondary_capture(origin: Origin, rgb: NDArray[np.uint8], summary: str) -> Dataset:
    """Wrap a rendered overlay (rows, columns, 3). `summary` is the banner in plain words."""
    capture = new_result(
        origin,
        "overlay",
        SecondaryCaptureImageStorage,
        modality="OT",
        series_number=SERIES_NUMBER,
        description="AI Grad-CAM overlay",
    )
    copied(origin.reference, _INHERITED, capture)
    _describe(capture, origin, summary)
    _add_pixels(capture, rgb)
    return capture


def _describe(capture: Dataset, origin: Origin, summary: str) -> None:
    source = origin.reference
    capture.ImageType = ["DERIVED", "SECONDARY", "OTHER", OWN_IMAGE_TYPE]
    capture.ConversionType = "WSD"
    capture.DateOfSecondaryCapture = f"{origin.local_time:%Y%m%d}"
    capture.TimeOfSecondaryCapture = f"{origin.local_time:%H%M%S}"
    describe_anatomy(source, capture)  # of both panels, which are the source side by side
    capture.ImageComments = origin.text(summary, 10240)
    capture.DerivationDescription = origin.text(
        f"Reduced copy side by side with the attention map of bundle {origin.bundle.name} {origin.bundle.version}", 1024
    )
    capture.DerivationCodeSequence = [code_item(SPATIAL_RESAMPLING)]
    reference = reference_item(source.SOPClassUID, source.SOPInstanceUID)
    reference.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    capture.SourceImageSequence = [reference]


def _add_pixels(capture: Dataset, rgb: NDArray[np.uint8]) -> None:
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = rgb.shape[:2]
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
    content = np.ascontiguousarray(rgb).tobytes()
    capture.add_new("PixelData", "OB", content + b"\0" * (len(content) % 2))


def overlay_png(content: bytes) -> bytes:
    """The picture inside an encoded overlay object, as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(dcmread(io.BytesIO(content)).pixel_array).save(buffer, "PNG")
    return buffer.getvalue()

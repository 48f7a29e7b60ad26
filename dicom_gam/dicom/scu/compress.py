"""Overlays in JPEG-LS, for destinations that asked for it and accept it: smaller, and the very same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from imagecodecs import JpeglsError, jpegls_encode
from pydicom.encaps import encapsulate
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, SecondaryCaptureImageStorage

from dicom_gam.dicom.image.acceptance import OWN_IMAGE_TYPE, integer

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

_SAMPLES_PER_PIXEL = {"RGB": 3, "MONOCHROME2": 1, "MONOCHROME1": 1}


def can_be_jpeg_ls(ds: FileDataset) -> bool:
    """Whether it is an overlay of ours as `dicom.result` makes them: one native frame of 8 bits, grey or RGB."""
    image_type = ds.get("ImageType")
    return (
        ds.SOPClassUID == SecondaryCaptureImageStorage
        and ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        and isinstance(image_type, MultiValue)
        and OWN_IMAGE_TYPE in image_type
        and (ds.get("BitsAllocated"), ds.get("BitsStored"), ds.get("PixelRepresentation")) == (8, 8, 0)
        and ds.get("SamplesPerPixel") == _SAMPLES_PER_PIXEL.get(ds.get("PhotometricInterpretation"))
        and not ds.get("PlanarConfiguration")
        and ds.get("NumberOfFrames", 1) == 1
        and 0 < _length(ds) <= len(ds.get("PixelData") or b"") <= _length(ds) + 1
    )


def compress_to_jpeg_ls(ds: FileDataset) -> None:
    """Compress the pixels of what `can_be_jpeg_ls`, in place and without loss; the UID stays (PS3.5 8.2.3, A.4.3).

    Colours stay RGB, interleaved by sample. Raises ValueError when the encoder refuses.
    """
    shape = (ds.Rows, ds.Columns, ds.SamplesPerPixel)[: 2 if ds.SamplesPerPixel == 1 else 3]
    pixels = np.frombuffer(ds.PixelData, np.uint8, _length(ds)).reshape(shape)
    try:
        stream = jpegls_encode(pixels, level=0)  # the largest difference from the original
    except JpeglsError as error:
        msg = "its pixels can't be compressed"
        raise ValueError(msg) from error
    ds.add_new("PixelData", "OB", encapsulate([bytes(stream)]))
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGLSLossless


def _length(ds: Dataset) -> int:
    """Length in bytes of the uncompressed frame, without padding."""
    return (integer(ds, "Rows") or 0) * (integer(ds, "Columns") or 0) * (integer(ds, "SamplesPerPixel") or 0)

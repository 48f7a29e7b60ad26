"""The grey scale of the source image, written down for a presentation state: what `image.display` made of its header.

Modality LUT (PS3.3 C.11.1), Softcopy VOI LUT (C.11.8) and Softcopy Presentation LUT (C.11.6) modules. The image is a
decoded radiograph, so its header went through `display`; what is unusable here was unusable there, and is left out.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from dicom_gam.dicom.image.acceptance import integer, items
from dicom_gam.dicom.image.display import are_integers, lut_entries
from dicom_gam.dicom.image.part10 import PYDICOM_ERRORS
from dicom_gam.dicom.result.reference import numbers, texts

_UNSPECIFIED = "US"
_FUNCTIONS = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}  # and what their width may not be below
_LEAST_WIDTH = 1e-9
_GREATEST = 1e12  # of a number that a grey level can be told by, as in display


def add_grey_scale(source: Dataset, stretched: tuple[float, float] | None, into: Dataset) -> None:
    """Add what turns the source's stored values into P-values, as `display` did; `stretched` as in Radiograph."""
    slope, intercept = _rescale(source)
    _add_modality(source, into, slope, intercept)
    voi = _lut(source, "VOILUTSequence", signed=_signed(source) or intercept < 0, least_bits_scaled=True)
    transformation = Dataset()
    if stretched is not None:  # LINEAR maps c - 0.5 - (w - 1) / 2 to 0 and c - 0.5 + (w - 1) / 2 to 1 (C.11.2.1.2.1)
        low, high = stretched
        transformation.WindowCenter = format_number_as_ds((low + high + 1) / 2)
        transformation.WindowWidth = format_number_as_ds(high - low + 1)
    elif voi is not None:
        transformation.VOILUTSequence = [voi]
    else:
        _add_window(source, transformation)
    if transformation:
        into.SoftcopyVOILUTSequence = [transformation]
    # INVERSE in the source says once more what MONOCHROME1 says (PS3.3 C.8.11.1.1); here it is what turns the image.
    inverse = texts(source, "PhotometricInterpretation")[:1] == ["MONOCHROME1"]
    inverse = inverse or texts(source, "PresentationLUTShape")[:1] == ["INVERSE"]
    into.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"


def _add_modality(source: Dataset, into: Dataset, slope: float, intercept: float) -> None:
    """The first Modality LUT, or the rescaling; nothing for the identity."""
    table = _lut(source, "ModalityLUTSequence", signed=_signed(source))
    if table is not None:
        table.ModalityLUTType = _UNSPECIFIED
        into.ModalityLUTSequence = [table]
    elif (slope, intercept) != (1.0, 0.0):
        into.RescaleIntercept = format_number_as_ds(intercept)
        into.RescaleSlope = format_number_as_ds(slope)
        into.RescaleType = _UNSPECIFIED


def _signed(source: Dataset) -> bool:
    return integer(source, "PixelRepresentation") == 1


def _rescale(source: Dataset) -> tuple[float, float]:
    slope, intercept = (numbers(source, keyword)[:1] for keyword in ("RescaleSlope", "RescaleIntercept"))
    offset = intercept[0] if intercept else 0.0
    if not slope or slope[0] == 0 or abs(slope[0]) > 1e9 or abs(offset) > _GREATEST:
        return 1.0, 0.0
    return slope[0], offset


def _add_window(source: Dataset, into: Dataset) -> None:
    """The first window; nothing where it is no window (PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    center, width = (numbers(source, keyword)[:1] for keyword in ("WindowCenter", "WindowWidth"))
    function = (texts(source, "VOILUTFunction")[:1] or [""])[0].upper() or "LINEAR"
    if not center or not width or function not in _FUNCTIONS:
        return
    if not max(_FUNCTIONS[function], _LEAST_WIDTH) <= width[0] <= _GREATEST or abs(center[0]) > _GREATEST:
        return
    into.WindowCenter = format_number_as_ds(center[0])
    into.WindowWidth = format_number_as_ds(width[0])
    if function != "LINEAR":
        into.VOILUTFunction = function


def _lut(source: Dataset, keyword: str, *, signed: bool, least_bits_scaled: bool = False) -> Dataset | None:
    """The first table of a sequence, written in words of 16 bits; None without one that is what it says.

    Descriptors promise 8 bits at least (PS3.3 C.11.2.1.1); `least_bits_scaled` brings entries of fewer to 8.
    """
    try:
        item = next(iter(items(source, keyword)), Dataset())
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    except PYDICOM_ERRORS:
        return None
    if not are_integers(descriptor) or len(descriptor) != 3:
        return None
    length, first, bits = (int(value) for value in descriptor)
    length = length % 65536 or 65536  # 0 stands for 65536, and more than 32767 may have been read as negative
    entries = lut_entries(data, length, bits, little=bool(source.original_encoding[1]))
    if entries is None or not 1 <= bits <= 16:
        return None
    first = first - 65536 if signed and first >= 32768 else first
    table = Dataset()
    bits = max(bits, int(entries.max()).bit_length())  # as display does: the table is what counts
    if bits < 8:
        entries = np.rint(entries * (255 / ((1 << bits) - 1))) if least_bits_scaled else entries
        bits = 8
    values = [length % 65536, first % 65536, bits]
    if first < 0:  # the same 16 bits, read with a sign
        values = [value - 65536 if value >= 32768 else value for value in values]
    table.add_new("LUTDescriptor", "SS" if first < 0 else "US", values)
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return table

"""From stored values to what a viewer shows: the grey-scale transformations of PS3.4 N.2 and PS3.3 C.11.

Every step maps one value to one value, and stored values have at most 16 bits. So the whole chain is worked out once
for each possible value, in double precision, and applied to the pixels as a single table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.multival import MultiValue

from dicom_gam.dicom.image.acceptance import PixelLayout, Refused, integer, items, text
from dicom_gam.records import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

STRETCH = (0.005, 0.995)  # quantiles that become black and white when the header gives no usable window
_INVISIBLE = 1 / 256  # a window that leaves less contrast than one grey level of a screen shows nothing


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """Every stored value there can be: what it is, how many pixels have it, and whether it counts as image."""

    stored: NDArray[np.int64]
    counts: NDArray[np.int64]
    padding: NDArray[np.bool_]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """The values that occur in the image, padding aside."""
        return (self.counts > 0) & ~self.padding


def display(
    stored: NDArray[Any], dataset: Dataset, layout: PixelLayout
) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """Map stored values (rows, columns) to float32 in [0, 1], bone bright, padding black. Raises Refused.

    Second come the modality values that became black and white where the header's own window was not used, else None.
    """
    codes = stored.view(f"u{stored.dtype.itemsize}")
    values = _count(codes, dataset, layout)
    seen = values.seen
    modality = _modality(values.stored, dataset, layout)
    if not seen.any() or np.ptp(modality[seen]) == 0:
        raise Refused(
            Reason.BLANK_IMAGE,
            "The pixels: all have the same value, there is nothing to see. Check the exposure and send it again.",
        )
    shown, ends = _values_of_interest(modality, dataset, seen), None
    if shown is None or np.ptp(shown[seen]) < _INVISIBLE:
        ends = _stretch(modality, values.counts, seen)
        shown = np.clip((modality - ends[0]) / (ends[1] - ends[0]), 0, 1)
    # INVERSE says once more what MONOCHROME1 says (PS3.3 C.8.11.1.1), it does not turn the image back.
    if layout.monochrome1 or text(dataset, "PresentationLUTShape") == "INVERSE":
        shown = 1 - shown
    table = np.where(values.padding, 0.0, shown).astype(np.float32)
    pixels: NDArray[np.float32] = table[codes]
    return pixels, ends


def _count(codes: NDArray[Any], dataset: Dataset, layout: PixelLayout) -> _Values:
    size = 1 << layout.bits_allocated
    unsigned = np.arange(size, dtype=np.int64)
    values = np.where(unsigned >= size // 2, unsigned - size, unsigned) if layout.signed else unsigned
    counts = np.bincount(codes.reshape(-1), minlength=size)
    return _Values(values, counts, _padding(values, dataset, layout))


def _padding(values: NDArray[np.int64], dataset: Dataset, layout: PixelLayout) -> NDArray[np.bool_]:
    """Which values are Pixel Padding Value, or between it and Pixel Padding Range Limit (PS3.3 C.7.5.1.1.2)."""
    first = integer(dataset, "PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, np.bool_)
    last = integer(dataset, "PixelPaddingRangeLimit")
    ends = [_as_stored(end, layout) for end in (first, first if last is None else last)]
    return (values >= min(ends)) & (values <= max(ends))


def _as_stored(value: int, layout: PixelLayout) -> int:
    """Undo the confusion of US and SS: read the value with the sign that the pixels have."""
    size = 1 << layout.bits_allocated
    value %= size
    return value - size if layout.signed and value >= size // 2 else value


def _modality(values: NDArray[np.int64], dataset: Dataset, layout: PixelLayout) -> NDArray[np.float64]:
    """Modality LUT or rescale (PS3.3 C.11.1). A LUT that can't be read is refused: it may even turn black to white."""
    sequence = items(dataset, "ModalityLUTSequence")
    if sequence:
        mapped = _lut(values.astype(np.float64), sequence[0], dataset, signed=layout.signed)
        if mapped is None:
            raise Refused(
                Reason.INVALID_ATTRIBUTES,
                "Modality LUT Sequence: its table and its descriptor contradict each other (PS3.3 C.11.1.1). "
                "Have the sending system correct it, or send the image with its modality transformation applied.",
            )
        return mapped[0]
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope is None or slope == 0 or abs(slope) > 1e9 or abs(intercept or 0) > 1e12:
        slope, intercept = 1.0, 0.0  # out of which no grey level could be told from another
    return values.astype(np.float64) * slope + (intercept or 0.0)


def _values_of_interest(
    modality: NDArray[np.float64], dataset: Dataset, seen: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """The first VOI LUT or the first window, as [0, 1]; None without a usable one (PS3.3 C.11.2)."""
    sequence = items(dataset, "VOILUTSequence")
    if sequence:
        mapped = _lut(modality, sequence[0], dataset, signed=bool(modality[seen].min() < 0))
        if mapped is not None:
            return mapped[0] / mapped[1]
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    return _windowed(modality, center, width, text(dataset, "VOILUTFunction").upper() or "LINEAR")


def _windowed(modality: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64] | None:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT); None for a width it forbids."""
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return (modality > center - 0.5).astype(np.float64)
        return np.clip((modality - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((modality - center) / width + 0.5, 0, 1)
    if function == "SIGMOID" and width > 0:
        exponent = np.clip(-4 * (modality - center) / width, -700, 700)  # beyond, exp() overflows and nothing changes
        return 1 / (1 + np.exp(exponent))
    return None


def _stretch(modality: NDArray[np.float64], counts: NDArray[np.int64], seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Two quantiles of the image to stretch between; its extremes where the quantiles are one value."""
    order = np.argsort(modality[seen], kind="stable")
    levels = modality[seen][order]
    cumulated = np.cumsum(counts[seen][order])
    low, high = (float(levels[np.searchsorted(cumulated, part * cumulated[-1])]) for part in STRETCH)
    if low == high:
        low, high = float(levels[0]), float(levels[-1])
    return low, high


def _lut(
    values: NDArray[np.float64], item: Dataset, dataset: Dataset, *, signed: bool
) -> tuple[NDArray[np.float64], float] | None:
    """Look values up in an item with LUT Descriptor and LUT Data: the result and its largest possible value.

    Values before the first one mapped get the first entry, values behind the last one the last (PS3.3 C.11.1.1.1).
    None for a table that is not what its descriptor says.
    """
    descriptor = item.get("LUTDescriptor")
    if not are_integers(descriptor) or len(descriptor) != 3:
        return None
    length, first, bits = (int(v) for v in descriptor)
    length = length % 65536 or 65536  # 0 stands for 65536, and more than 32767 may have been read as negative
    if signed and first >= 32768:
        first -= 65536
    entries = lut_entries(item.get("LUTData"), length, bits, little=bool(dataset.original_encoding[1]))
    if entries is None or not 1 <= bits <= 16:
        return None
    # Descriptors that promise fewer bits than the table uses are met in the field; the table is what counts.
    largest = (1 << max(bits, int(entries.max()).bit_length())) - 1
    index = np.clip(np.rint(values) - first, 0, length - 1).astype(np.int64)
    return entries[index].astype(np.float64), float(largest)


def lut_entries(data: object, length: int, bits: int, *, little: bool) -> NDArray[Any] | None:
    """The entries of LUT Data, which is text-book US, or OW bytes of one or two for each entry; None for too few."""
    order = "<" if little else ">"
    if isinstance(data, bytes):
        size = 1 if bits <= 8 and len(data) < 2 * length else 2
        return np.frombuffer(data, f"{order}u{size}", length) if len(data) >= size * length else None
    if not are_integers(data):
        return None
    words = np.asarray(data, np.int64).astype(f"{order}u2")
    if len(words) < length and bits <= 8:  # two 8-bit entries in each word
        words = np.frombuffer(words.tobytes(), np.uint8)
    return words[:length] if len(words) >= length else None


def are_integers(value: Any) -> bool:
    """Whether a value is a list of integers (pydicom makes plain lists of LUT descriptors)."""
    return isinstance(value, MultiValue | list) and all(isinstance(v, int) for v in value)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of a decimal string; None when it is absent or not a finite number."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    if not isinstance(value, int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None

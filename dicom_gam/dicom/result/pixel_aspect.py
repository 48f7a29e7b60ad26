"""How much taller than wide a source's pixels are (PS3.3 10.7.1.1 and C.7.6.3.1.7)."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from dicom_gam.dicom.result.reference import texts

# Each gives the vertical figure first: the distance between rows, then between columns.
_TELLING = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
_MOST = 5.0  # no detector or film scanner is known to stretch more; beyond, the header is wrong
_NUMBER = re.compile(r"[+]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def pixel_aspect(dataset: Dataset) -> float:
    """Height over width of a pixel: a picture in true proportions is `rows * pixel_aspect` by `columns`.

    From the first of Pixel Spacing, Imager Pixel Spacing, Nominal Scanned Pixel Spacing and Pixel Aspect Ratio that
    holds two positive numbers within a factor of 5 of each other; 1.0 where none does.
    """
    for keyword in _TELLING:
        numbers = [_number(text) for text in texts(dataset, keyword)]
        if len(numbers) == 2 and all(numbers):
            aspect = numbers[0] / numbers[1]
            if 1 / _MOST <= aspect <= _MOST:
                return aspect
    return 1.0


def _number(text: str) -> float:
    """A positive finite number, or 0."""
    number = float(text) if _NUMBER.fullmatch(text) else 0.0
    return number if number < float("inf") else 0.0

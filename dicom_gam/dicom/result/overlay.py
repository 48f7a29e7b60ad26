"""The picture for the reader: the image beside itself with the attention map, under a banner that can't be missed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result.area_average import area_average
from dicom_gam.dicom.result.attended_region import LEVEL, resized
from dicom_gam.dicom.result.lettering import extent, font
from dicom_gam.dicom.result.overlay_layout import CONTOUR, Box, Colour, Layout, PlacedText, plan
from dicom_gam.dicom.result.overlay_text import banner
from dicom_gam.records import BundleIdentity, Prediction, Verdict, Verification

COLOUR_MAP = "inferno"  # perceptually uniform, and told apart by the colour-blind
MOST_OPAQUE = 0.38  # the anatomy must stay readable underneath
TRANSPARENT_BELOW = 0.2
_OPAQUE_FROM = 0.6
_HALO = 0.7  # how dark the rim of the outline is, without which cyan would be lost on white bone
_FLATTEST = 1e-4  # a slope of attention per pixel below which there is no line to speak of
BANNER: Mapping[Verdict, tuple[Colour, Colour]] = MappingProxyType(  # background and ink, contrast 7:1 and more
    {
        Verdict.PASS: ((0, 92, 70), (255, 255, 255)),  # leans to blue, so that the red-blind see it isn't red
        Verdict.FAIL: ((156, 8, 16), (255, 255, 255)),
        Verdict.REJECT: ((255, 176, 0), (0, 0, 0)),
    }
)
FOOTER_BACKGROUND: Colour = (38, 38, 38)


def render_overlay(
    pixels: NDArray[np.float32],
    prediction: Prediction,
    verification: Verification,
    bundle: BundleIdentity,
    settings: OutputSettings,
    pixel_aspect: float = 1.0,
) -> NDArray[np.uint8]:
    """Draw the overlay of an image (rows, columns) in [0, 1] as RGB (height, width, 3).

    The attention map spans the whole image, corner to corner. The longer side is `settings.overlay_long_side`.
    `pixel_aspect` is height over width of the image's pixels. Equal arguments give equal bytes.
    """
    rows, columns = pixels.shape
    background, ink = BANNER[verification.verdict]
    words = banner(prediction, verification, bundle, settings.labels)
    size = rows * pixel_aspect, columns
    layout = plan(*size, words, ink, settings.footer, settings.overlay_long_side, settings.labels)
    canvas = np.zeros((layout.height, layout.width, 3), np.uint8)
    _region(canvas, layout.banner)[:] = background
    _region(canvas, layout.footer)[:] = FOOTER_BACKGROUND
    grey = _grey(pixels, layout.plain)
    np.copyto(_region(canvas, layout.plain), grey[..., None])
    np.copyto(_region(canvas, layout.overlaid), _overlaid(grey, verification))
    ramp = np.linspace(255, 0, layout.bar.height).round().astype(np.uint8)
    _region(canvas, layout.bar)[:] = colours()[ramp][:, None]
    _region(canvas, _level_mark(layout))[:] = CONTOUR
    for text in layout.texts:
        _write(canvas, text)
    return canvas


def _region(canvas: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return canvas[box.top : box.bottom, box.left : box.right]


def _level_mark(layout: Layout) -> Box:
    """The place of the contour's level on the colour bar."""
    half = max(1, layout.bar.width // 12)
    middle = layout.bar.top + round(layout.bar.height * (1 - LEVEL))
    return Box(layout.bar.left, middle - half, layout.bar.right, middle + half)


def _grey(pixels: NDArray[np.float32], box: Box) -> NDArray[np.uint8]:
    """The image at the picture's size: reduced first, so that all else is done on few pixels."""
    reduced = area_average(pixels, box.height, box.width)
    return (np.clip(reduced, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


@lru_cache(maxsize=1)
def colours() -> NDArray[np.uint8]:
    """The colour map as (256, 3)."""
    table = matplotlib.colormaps[COLOUR_MAP](np.arange(256), bytes=True)
    return np.asarray(table, np.uint8)[:, :3]


def _overlaid(grey: NDArray[np.uint8], verification: Verification) -> NDArray[np.uint8]:
    """The picture under its attention map, with a line where attention is 0.5; without a map, the picture."""
    if verification.attention_status == "degenerate" or not np.isfinite(verification.attention_map).all():
        return np.repeat(grey[..., None], 3, axis=2)
    attention = resized(verification.attention_map, *grey.shape)
    level = (np.clip(attention, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.intp)
    picture = np.take(_coloured(), level * 256 + grey, axis=0)
    _draw_line(picture, attention, _steepest(verification.attention_map, attention.shape))
    return picture


@lru_cache(maxsize=1)
def _coloured() -> NDArray[np.uint8]:
    """What becomes of each grey value under each of 256 levels of attention: (level * 256 + grey, 3).

    Nothing shows below 0.2; from there to 0.6 the colour rises to its full opacity.
    """
    attention = np.arange(256)[:, None, None] / 255
    rise = np.clip((attention - TRANSPARENT_BELOW) / (_OPAQUE_FROM - TRANSPARENT_BELOW), 0, 1)
    grey = np.arange(256)[None, :, None]
    mixed = grey + MOST_OPAQUE * rise * (colours()[:, None].astype(float) - grey)
    return np.asarray(mixed.round().astype(np.uint8).reshape(-1, 3))


def _steepest(attention_map: NDArray[np.float32], shape: tuple[int, ...]) -> float:
    """The most that attention can change from one pixel of the picture to the next."""
    slopes = (
        float(np.abs(np.diff(attention_map, axis=axis)).max(initial=0)) * attention_map.shape[axis] / shape[axis]
        for axis in (0, 1)
    )
    return float(np.hypot(*slopes))


def _draw_line(picture: NDArray[np.uint8], attention: NDArray[np.float32], steepest: float) -> None:
    """Draw where attention is 0.5: a soft cyan line with a dark rim.

    A pixel's distance from the line is about its difference in level over the slope, so where that difference is large
    against the steepest slope there is nothing to draw.
    """
    width = max(1.0, max(attention.shape) / 300)
    reach = width / 2 + 1.5
    difference = np.abs(attention - np.float32(LEVEL))
    row, column = np.nonzero(difference <= reach * max(steepest, _FLATTEST))
    slope = np.hypot(_slope(attention, row, column, 0), _slope(attention, row, column, 1))
    distance = difference[row, column] / np.maximum(slope, np.float32(_FLATTEST))
    mixed = picture[row, column].astype(np.float32)
    mixed *= (1 - _HALO * np.clip(reach - distance, 0, 1))[:, None]
    mixed += np.clip(width / 2 + 0.5 - distance, 0, 1)[:, None] * (np.array(CONTOUR, np.float32) - mixed)
    picture[row, column] = mixed.round().astype(np.uint8)


def _slope(
    attention: NDArray[np.float32], row: NDArray[np.intp], column: NDArray[np.intp], axis: int
) -> NDArray[np.float32]:
    """Change per pixel along an axis at some pixels, by central differences."""
    place, last = (row, column)[axis], attention.shape[axis] - 1
    before, after = np.maximum(place - 1, 0), np.minimum(place + 1, last)
    ends = ((before, column), (after, column)) if axis == 0 else ((row, before), (row, after))
    step = np.maximum(after - before, 1).astype(np.float32)
    return np.asarray((attention[ends[1]] - attention[ends[0]]) / step, np.float32)


def _write(canvas: NDArray[np.uint8], text: PlacedText) -> None:
    """Set a text on ground of one colour."""
    ground = canvas[text.box.top, text.box.left].astype(np.int32)
    ramp = ground + (np.array(text.colour, np.int32) - ground) * np.arange(256)[:, None] // 255
    ink = _ink(text.text, text.bold, text.size, text.box.width, text.box.height)
    _region(canvas, text.box)[:] = np.take(ramp.astype(np.uint8), ink, axis=0)


@lru_cache(maxsize=64)
def _ink(text: str, bold: bool, size: int, width: int, height: int) -> NDArray[np.uint8]:
    """How much of each pixel (height, width) the letters cover, of 255. Most texts are the same on every overlay."""
    image = Image.new("L", (width, height))
    room = extent(text, bold, size)
    ImageDraw.Draw(image).text((room.left, room.top), text, fill=255, font=font(bold, size))
    return np.asarray(image)

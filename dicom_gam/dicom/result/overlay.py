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
from dicom_gam.dicom.result.attended_region import LEVEL, resized
from dicom_gam.dicom.result.overlay_layout import CONTOUR, Box, Colour, Layout, font, plan
from dicom_gam.dicom.result.overlay_text import banner
from dicom_gam.records import BundleIdentity, Prediction, Verdict, Verification

COLOUR_MAP = "inferno"  # perceptually uniform, and told apart by the colour-blind
MOST_OPAQUE = 0.38  # the anatomy must stay readable underneath
TRANSPARENT_BELOW = 0.2
_OPAQUE_FROM = 0.6
_BANNER: Mapping[Verdict, tuple[Colour, Colour]] = MappingProxyType(  # background and ink, contrast 7:1 and more
    {
        Verdict.PASS: ((0, 96, 48), (255, 255, 255)),
        Verdict.FAIL: ((150, 16, 16), (255, 255, 255)),
        Verdict.REJECT: ((255, 176, 0), (0, 0, 0)),
    }
)
_FOOTER_BACKGROUND: Colour = (38, 38, 38)


def render_overlay(
    pixels: NDArray[np.float32],
    prediction: Prediction,
    verification: Verification,
    bundle: BundleIdentity,
    settings: OutputSettings,
) -> NDArray[np.uint8]:
    """Draw the overlay of an image (rows, columns) in [0, 1] as RGB (height, width, 3).

    The attention map spans the whole image, corner to corner. The longer side is `settings.overlay_long_side`.
    """
    rows, columns = pixels.shape
    background, ink = _BANNER[verification.verdict]
    words = banner(prediction, verification, bundle)
    layout = plan(rows, columns, words, ink, settings.footer, settings.overlay_long_side)
    canvas = np.zeros((layout.height, layout.width, 3), np.uint8)
    _region(canvas, layout.banner)[:] = background
    _region(canvas, layout.footer)[:] = _FOOTER_BACKGROUND
    grey = _reduced(pixels, layout.plain.height, layout.plain.width)
    _region(canvas, layout.plain)[:] = grey[..., None]
    _region(canvas, layout.overlaid)[:] = _overlaid(grey, verification)
    ramp = np.linspace(255, 0, layout.bar.height).round().astype(np.uint8)
    _region(canvas, layout.bar)[:] = _colours()[ramp][:, None]
    _region(canvas, _level_mark(layout))[:] = CONTOUR
    return _with_texts(canvas, layout)


def _region(canvas: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return canvas[box.top : box.bottom, box.left : box.right]


def _level_mark(layout: Layout) -> Box:
    """The place of the contour's level on the colour bar."""
    middle = layout.bar.top + round(layout.bar.height * (1 - LEVEL))
    return Box(layout.bar.left, middle - 1, layout.bar.right, middle + 1)


def _reduced(pixels: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.uint8]:
    """The image at the panel's size, areas averaged on the way down, as grey values."""
    image = Image.fromarray((np.clip(pixels, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    down = rows <= pixels.shape[0] and columns <= pixels.shape[1]
    return np.asarray(image.resize((columns, rows), Image.Resampling.BOX if down else Image.Resampling.BICUBIC))


@lru_cache(maxsize=1)
def _colours() -> NDArray[np.uint8]:
    table = matplotlib.colormaps[COLOUR_MAP](np.arange(256), bytes=True)
    return np.asarray(table, np.uint8)[:, :3]


def _overlaid(grey: NDArray[np.uint8], verification: Verification) -> NDArray[np.uint8]:
    """The picture under its attention map, with a line where attention is 0.5; without a map, the picture."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    if verification.attention_status == "degenerate" or not np.isfinite(verification.attention_map).all():
        return picture
    attention = resized(verification.attention_map, *grey.shape)
    colours = _colours()[(np.clip(attention, 0, 1) * 255).astype(np.uint8)].astype(np.float32)
    mixed = _mixed(picture.astype(np.float32), colours, _opacity(attention))
    width = max(1.0, max(grey.shape) / 350)
    distance = _distance_to_level(attention)
    mixed = _mixed(mixed, np.zeros(3, np.float32), 0.6 * np.clip(width / 2 + 1.5 - distance, 0, 1))
    mixed = _mixed(mixed, np.array(CONTOUR, np.float32), np.clip(width / 2 + 0.5 - distance, 0, 1))
    return mixed.round().astype(np.uint8)


def _opacity(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nothing below 0.2, then rising to the full opacity."""
    rise = np.clip((attention - TRANSPARENT_BELOW) / (_OPAQUE_FROM - TRANSPARENT_BELOW), 0, 1)
    return np.asarray(MOST_OPAQUE * rise, np.float32)


def _mixed(below: NDArray[np.float32], above: NDArray[np.float32], opacity: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(below + opacity[..., None] * (above - below), np.float32)


def _distance_to_level(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """About how many pixels away the 0.5 contour is: the difference in level over the slope."""
    if min(attention.shape) < 2:
        return np.full(attention.shape, np.inf, np.float32)
    down, across = np.gradient(attention)
    return np.asarray(np.abs(attention - LEVEL) / np.maximum(np.hypot(down, across), 1e-4), np.float32)


def _with_texts(canvas: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for text in layout.texts:
        draw.text((text.box.left, text.box.top), text.text, fill=text.colour, font=font(text.bold, text.size))
    return np.asarray(image)

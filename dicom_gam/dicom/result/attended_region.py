"""The region that the network attended to: where the attention map, brought to the image's pixels, is 0.5 or more."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

LEVEL = 0.5
_GRID = 256  # longer side of the grid that is outlined: far finer than the map, far coarser than the image
_TOLERANCE = 0.25  # of a grid pixel, by which the outline may be simplified


def resized(attention_map: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """The map (h, w) interpolated bilinearly to (rows, columns); both span the same area, corner to corner."""
    image = Image.fromarray(np.ascontiguousarray(attention_map, dtype=np.float32))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32)


def attended_fraction(attention_map: NDArray[np.float32]) -> float:
    """The fraction of the image's area where attention is 0.5 or more."""
    return float((_fine(attention_map, 1, 1) >= LEVEL).mean())


def attended_outline(attention_map: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float64] | None:
    """Outline the largest connected attended part as a closed polygon (n, 2) of column, row; None when there is none.

    Coordinates are an SCOORD's (PS3.3 C.18.6): 0, 0 is the outer corner of the first pixel, whose centre is 0.5, 0.5,
    and columns, rows is the outer corner of the last.
    """
    if not np.isfinite(attention_map).all():
        return None
    fine = _fine(attention_map, rows, columns)
    parts, count = ndimage.label(fine >= LEVEL)
    if count == 0:
        return None
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    # A rim of zeros closes outlines that run into the edge; other parts and their surroundings are sunk below.
    padded = np.pad(np.where(largest | (fine < LEVEL), fine, 0.0), 1)
    outline = max(find_contours(padded, LEVEL), key=_enclosed_area)  # type: ignore[no-untyped-call]
    outline = approximate_polygon(outline, _TOLERANCE)  # type: ignore[no-untyped-call]
    if len(outline) < 4 or _enclosed_area(outline) == 0:
        return None
    scale = np.array([columns, rows]) / fine.shape[::-1]
    points = (outline[:, ::-1] - 1 + 0.5) * scale  # off with the rim; sample i sits at i + 0.5
    points = np.clip(points, 0, (columns, rows)).round(2)
    points[-1] = points[0]
    return np.asarray(points, dtype=np.float64)


def _fine(attention_map: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """The map on a grid of about the image's shape, never coarser than the map itself."""
    scale = _GRID / max(rows, columns)
    height = max(math.ceil(rows * scale), attention_map.shape[0])
    width = max(math.ceil(columns * scale), attention_map.shape[1])
    return resized(attention_map, height, width)


def _enclosed_area(points: NDArray[np.float64]) -> float:
    y, x = points[:, 0], points[:, 1]
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2

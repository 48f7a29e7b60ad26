"""The region that the network attended to: where the attention map, brought to the image's pixels, is 0.5 or more."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.measure import approximate_polygon, find_contours

LEVEL = 0.5
_GRID = 256  # longer side of the grid that is outlined: far finer than the map, far coarser than the image
_TOLERANCE = 0.25  # of a grid pixel, by which the outline may be simplified
_MOST_PARTS = 8
_SPECK = 0.001  # of the image's area, below which a part is left out, unless it is the largest
_MOST_POINTS = 4000  # Graphic Data has a length of two bytes, four for each coordinate


def resized(attention_map: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """The map (h, w) interpolated bilinearly to (rows, columns); both span the same area, corner to corner."""
    image = Image.fromarray(np.ascontiguousarray(attention_map, dtype=np.float32))
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR), dtype=np.float32)


def attended_mask(attention_map: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.bool_] | None:
    """Say of every pixel (rows, columns) whether attention at its centre is 0.5 or more; None where it is nowhere.

    All parts are in it, the smallest too.
    """
    if not np.isfinite(attention_map).all():
        return None
    mask = resized(attention_map, rows, columns) >= LEVEL
    return mask if mask.any() else None


@dataclass(frozen=True, slots=True, eq=False)
class AttendedPart:
    """One connected part of the attended region.

    `outline` is a closed polygon (n, 2) of column, row in the coordinates of an SCOORD (PS3.3 C.18.6): 0, 0 is the
    outer corner of the first pixel, whose centre is 0.5, 0.5, and columns, rows is the outer corner of the last.
    `fraction` is the part's share of the image's area.
    """

    outline: NDArray[np.float64]
    fraction: float


def attended_parts(attention_map: NDArray[np.float32], rows: int, columns: int) -> tuple[AttendedPart, ...]:
    """Outline the connected attended parts, the largest first; at most eight, and none that is a mere speck."""
    if not np.isfinite(attention_map).all():
        return ()
    fine = _fine(attention_map, rows, columns)
    labels, count = ndimage.label(fine >= LEVEL)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas, kind="stable")[:_MOST_PARTS]
    parts = []
    for place, number in enumerate(order):
        outline = _outlined(fine, labels == number + 1, rows, columns)
        if outline is not None and (place == 0 or areas[number] >= _SPECK * fine.size):
            parts.append(AttendedPart(outline, float(areas[number] / fine.size)))
    return tuple(parts)


def _outlined(
    fine: NDArray[np.float32], part: NDArray[np.bool_], rows: int, columns: int
) -> NDArray[np.float64] | None:
    """The outer edge of one part of the grid; None where it encloses nothing."""
    # A rim of zeros closes outlines that run into the edge; other parts and their surroundings are sunk below.
    padded = np.pad(np.where(part | (fine < LEVEL), fine, 0.0), 1)
    edge = max(find_contours(padded, LEVEL), key=_enclosed_area)  # type: ignore[no-untyped-call]
    tolerance = _TOLERANCE
    outline = approximate_polygon(edge, tolerance)  # type: ignore[no-untyped-call]
    while len(outline) > _MOST_POINTS:
        tolerance *= 2
        outline = approximate_polygon(edge, tolerance)  # type: ignore[no-untyped-call]
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

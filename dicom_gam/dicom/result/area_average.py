"""An image at another size, by area: every pixel is taken for the rectangle it is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def area_average(pixels: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Bring an image to (rows, columns): each new pixel is the mean of what it covers, in parts where it covers parts.

    On the way down nothing is skipped. On the way up every pixel stays a plain rectangle: nothing is drawn that was not
    measured, and nobody takes a few dozen pixels for a sharp image.
    """
    halfway = _weights(pixels.shape[0], rows) @ pixels
    result = _weights(pixels.shape[1], columns) @ np.ascontiguousarray(halfway.T)
    return np.asarray(result.T, np.float32)


@lru_cache(maxsize=16)
def _weights(old: int, new: int) -> sparse.csr_matrix:
    """The share of each old sample (column) in each new one (row); rows sum to 1."""
    edges = np.arange(new + 1) * old / new
    first = np.floor(edges[:-1]).astype(np.intp)
    last = np.minimum(np.ceil(edges[1:] - 1e-9).astype(np.intp), old)
    counts = np.maximum(last - first, 1)
    row = np.repeat(np.arange(new), counts)
    column = first[row] + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    covered = np.minimum(edges[row + 1], column + 1) - np.maximum(edges[row], column)
    share = (covered * new / old).astype(np.float32)
    return sparse.csr_matrix((share, (row, column)), shape=(new, old))

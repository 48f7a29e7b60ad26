"""Measurements as a network might give them, correlated and skewed, without a network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicom_gam.core.calibration import Sample
from dicom_gam.core.measure import MEASUREMENTS

COLUMN = {spec.name: i for i, spec in enumerate(MEASUREMENTS)}


def simulated(count: int, rng: np.random.Generator | None = None, seed: int = 0) -> NDArray[np.float64]:
    """Measurements (count, M): one quality of the image moves all of them, and each has a noise of its own."""
    rng = rng or np.random.default_rng(seed)
    quality = rng.normal(size=(count, 1))
    raw = 0.7 * quality + rng.normal(size=(count, len(MEASUREMENTS)))
    values = np.exp(0.5 * raw)  # skewed, above 0
    for i, spec in enumerate(MEASUREMENTS):
        if spec.bound == "min":
            values[:, i] = 1 / (1 + values[:, i])
        if spec.logit:
            values[:, i] = 1 / (1 + np.exp(6 - 2 * raw[:, i]))
    for check in ("attention", "early"):
        overlap = values[:, COLUMN[f"{check}.iou"]]
        values[:, COLUMN[f"{check}.dice"]] = 2 * overlap / (1 + overlap)
    return values


def sample_of(values: NDArray[np.float64]) -> Sample:
    """A sample that the network gets all right."""
    return Sample(values, np.ones(len(values), bool), np.zeros(len(values), bool))

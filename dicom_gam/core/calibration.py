"""From measurements to p-values with a known false-alarm rate.

Each measurement is turned into an *oddness* (higher is odder) and scaled by what is usual for the class; a check's
score is its oddest measurement; its p-value is split-conformal against calibration images of the same class,
p = (1 + #{calibration score ≥ score}) / (n + 1) (Vovk et al., Algorithmic Learning in a Random World, 2005).
For exchangeable images P(p ≤ level) ≤ level, whatever the distribution. Bonferroni shares α among the checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicom_gam.core.measure import CHECKS, MEASUREMENTS, SMALLEST_PROBABILITY, MeasurementSpec
from dicom_gam.records import CheckName

Array: TypeAlias = NDArray[np.float64]
_COUNTED = {c: [i for i, m in enumerate(MEASUREMENTS) if m.check == c and m.counted] for c in CHECKS}
_LOGIT = [i for i, m in enumerate(MEASUREMENTS) if m.logit]
_SIGN = np.array([-1.0 if m.bound == "min" else 1.0 for m in MEASUREMENTS])


@dataclass(frozen=True, slots=True, eq=False)
class ClassCalibration:
    """One class's calibration sample.

    `centre` and `scale` (M,) are the usual oddness and its upper spread, from images that are not in the sample;
    `oddness` (n, M) is sorted in each column; `scores` holds each check's n sorted scores.
    """

    centre: Array
    scale: Array
    oddness: Array
    scores: Mapping[CheckName, Array]

    @property
    def size(self) -> int:
        """The number of calibration images, n."""
        return len(self.oddness)


@dataclass(frozen=True, slots=True)
class CheckScore:
    """A check's score in units of the class's usual spread, its p-value, and the measurement that is oddest."""

    score: float
    p_value: float
    oddest: int


def oddness(values: Array) -> Array:
    """Turn measurements (..., M) so that higher is odder; a value that is not a number is infinitely odd."""
    turned = np.array(values, dtype=np.float64)
    clipped = np.clip(turned[..., _LOGIT], SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    turned[..., _LOGIT] = np.log(clipped) - np.log1p(-clipped)
    turned *= _SIGN
    return np.where(np.isnan(turned), np.inf, turned)


def value_at(odd: float, spec: MeasurementSpec) -> float:
    """The measured value whose oddness is `odd`: the inverse of `oddness` for one measurement."""
    turned = -odd if spec.bound == "min" else odd
    return 1 / (1 + math.exp(-min(max(turned, -700.0), 700.0))) if spec.logit else turned


def calibrate_class(scaling: Array, calibration: Array) -> ClassCalibration:
    """Calibrate one class from measurements (m, M) for the scales and (n, M) of other images for the p-values."""
    usual = oddness(scaling)
    centre = np.median(usual, axis=0)
    spread = np.quantile(usual, 0.9, axis=0) - centre
    scale = np.maximum(spread, 1e-3 + 1e-3 * np.abs(centre))  # a measurement that never varies must not divide by zero
    odd = oddness(calibration)
    scores = {check: np.sort(_scores(odd, centre, scale, check)) for check in CHECKS}
    return ClassCalibration(centre, scale, np.sort(odd, axis=0), scores)


def check_score(odd: Array, calibration: ClassCalibration, check: CheckName) -> CheckScore:
    """Score one image's oddness (M,) on one check."""
    columns = _COUNTED[check]
    scaled = (odd[columns] - calibration.centre[columns]) / calibration.scale[columns]
    oddest = int(scaled.argmax())
    score = float(scaled[oddest])
    return CheckScore(score, conformal_p(calibration.scores[check], score), columns[oddest])


def conformal_p(sorted_sample: Array, score: float) -> float:
    """(1 + #{sample ≥ score}) / (n + 1); the smallest possible value when the score is not finite."""
    n = len(sorted_sample)
    at_least = 0 if not math.isfinite(score) else n - int(np.searchsorted(sorted_sample, score, side="left"))
    return (1 + at_least) / (n + 1)


def own_p_values(sorted_oddness: Array, odd: Array) -> Array:
    """Each measurement's own p-value (M,) from the calibration sample's oddness (n, M) and an image's (M,)."""
    at_least = np.where(np.isfinite(odd), (sorted_oddness >= odd).sum(axis=0), 0)
    p_values: Array = (1 + at_least) / (len(sorted_oddness) + 1)
    return p_values


def score_threshold(sorted_sample: Array, level: float) -> float | None:
    """The largest score whose p-value is above `level`; None when the sample is too small for the level."""
    rank = math.floor(level * (len(sorted_sample) + 1) + 1e-9)  # p ≤ level needs at most rank - 1 scores at or above
    return None if rank < 1 else float(sorted_sample[len(sorted_sample) - rank])


def smallest_alpha(size: int) -> float:
    """The smallest total false-alarm rate that `size` calibration images of a class can support."""
    return len(CHECKS) / (size + 1)


def needed_size(alpha: float) -> int:
    """How many calibration images of each class a total false-alarm rate `alpha` needs."""
    return math.ceil(len(CHECKS) / alpha - 1e-9) - 1


def _scores(odd: Array, centre: Array, scale: Array, check: CheckName) -> Array:
    columns = _COUNTED[check]
    scores: Array = ((odd[:, columns] - centre[columns]) / scale[columns]).max(axis=1)
    return scores

"""From measurements to one p-value with a known false-alarm rate.

Each measurement is turned into an *oddness* (higher is odder) and scaled by what is usual for the class; a check's
score is its oddest measurement. Two folds of images of the class, of other patients, do the rest:

1. the *scaling* fold gives the usual oddness and spread of each measurement and, for each check, a tail function: how
   seldom a score at least as odd is, as -log of the share, continuous and increasing. The largest among the checks that
   decide is the image's *combined score* (min-p, in logarithms);
2. the *calibration* fold gives the combined scores of n images. An image's p-value is split-conformal,
   p = (1 + #{combined scores ≥ its own}) / (n + 1) (Vovk et al., Algorithmic Learning in a Random World, 2005).

The functions of fold 1 are fixed before fold 2 is looked at, so for exchangeable images of the class P(p ≤ α) is at
most α whatever the distribution and however the checks depend on each other, and equal to ⌊α(n + 1)⌋ / (n + 1) without
ties. An image that does not pass whatever its scores say (taken for garbage, degenerate attention) has an infinite
combined score in both places, so these alarms are inside the promised rate too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from dicom_gam.core.measure import CHECKS, MEASUREMENTS, SMALLEST_PROBABILITY, MeasurementSpec
from dicom_gam.records import CheckName

Array: TypeAlias = NDArray[np.float64]
_COUNTED = {c: [i for i, m in enumerate(MEASUREMENTS) if m.check == c and m.counted] for c in CHECKS}
_LOGIT = [i for i, m in enumerate(MEASUREMENTS) if m.logit]
_SIGN = np.array([-1.0 if m.bound == "min" else 1.0 for m in MEASUREMENTS])
FEWEST_SCALING = 5  # images of a class from which a spread and the beginning of a tail can be learnt
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_TAIL_SHARE = 0.7  # where the exponential tail is fitted: the mean excess above this quantile


@dataclass(frozen=True, slots=True, eq=False)
class TailFunction:
    """How seldom a check's score is: -log of the share of images at least as odd, from m sorted scores.

    Interpolated between the scores; beyond the largest, where the share is 1 / (m + 1), an exponential tail whose
    `rate` is one over the mean excess of the upper scores. So two odd images can always be told apart.
    """

    scores: Array
    rate: float

    def __call__(self, score: float) -> float:
        """Increasing, above 0; infinite when the score is not finite."""
        m = len(self.scores)
        if not math.isfinite(score):
            return math.inf
        if score >= self.scores[-1]:
            return math.log(m + 1) + self.rate * (score - float(self.scores[-1]))
        if score <= self.scores[0]:
            return -math.log1p(-math.exp(-self.rate * (float(self.scores[0]) - score)) / (m + 1))
        return -math.log(float(np.interp(score, self.scores, np.arange(m, 0, -1) / (m + 1))))

    def score_at(self, seldom: float) -> float:
        """The score at which the function reaches `seldom` > 0: the inverse."""
        m = len(self.scores)
        share = math.exp(-seldom)
        if share <= 1 / (m + 1):
            return float(self.scores[-1]) + (seldom - math.log(m + 1)) / self.rate
        if share >= m / (m + 1):
            return float(self.scores[0]) + math.log(max((1 - share) * (m + 1), 1e-300)) / self.rate
        return float(np.interp(share, np.arange(1, m + 1) / (m + 1), self.scores[::-1]))


@dataclass(frozen=True, slots=True, eq=False)
class ClassCalibration:
    """One class's calibration.

    From the scaling fold: `centre` and `scale` (M,), the usual oddness and its upper spread, and each check's `tails`.
    From the calibration fold: `combined` (N,), the sorted combined scores of all N images of the class, 0 for those
    taken for another real class, which can't be a false alarm about this one; and of the n images that are given their
    own class and not alarmed anyway `oddness` (n, M), sorted in each column, and each check's sorted `scores`.
    """

    centre: Array
    scale: Array
    tails: Mapping[CheckName, TailFunction]
    oddness: Array
    scores: Mapping[CheckName, Array]
    combined: Array

    @property
    def size(self) -> int:
        """The number of calibration images, N."""
        return len(self.combined)


@dataclass(frozen=True, slots=True)
class CheckScore:
    """A check's score in units of the class's usual spread, how seldom it is, its p-value, the oddest measurement."""

    score: float
    seldom: float
    p_value: float
    oddest: int


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What the network made of the images of one class in a fold.

    `values` (n, M) are the measurements; `right` (n,) marks images whose most probable real class is their own, and
    `alarmed` (n,) those that never pass whatever their scores: taken for garbage, or with degenerate attention.
    """

    values: Array
    right: NDArray[np.bool_]
    alarmed: NDArray[np.bool_]


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


def calibrate_class(scaling: Array, sample: Sample, deciding: Sequence[CheckName] = CHECKS) -> ClassCalibration:
    """Calibrate one class from measurements (m, M) of the scaling fold and a sample of the calibration fold.

    `deciding` are the checks that take part in the verdict; the others have scores and p-values of their own only.
    Raises ValueError when the scaling fold has fewer than FEWEST_SCALING images.
    """
    if len(scaling) < FEWEST_SCALING:
        raise ValueError(f"{len(scaling)} images to learn the usual spread from, {FEWEST_SCALING} are needed")
    usual = oddness(scaling)
    centre = np.median(usual, axis=0)
    spread = np.quantile(usual, 0.9, axis=0) - centre
    scale = np.maximum(spread, 1e-3 + 1e-3 * np.abs(centre))  # a measurement that never varies must not divide by zero
    tails = {check: _tail_function(np.sort(_scores(usual, centre, scale, check))) for check in CHECKS}
    odd = oddness(sample.values)
    scores = {check: _scores(odd, centre, scale, check) for check in CHECKS}
    combined = np.zeros(len(odd))
    for i in np.flatnonzero(sample.right):
        combined[i] = max(tails[check](float(scores[check][i])) for check in deciding)
    combined[sample.alarmed] = np.inf
    own = sample.right & ~sample.alarmed
    sorted_scores = {check: np.sort(values[own]) for check, values in scores.items()}
    return ClassCalibration(centre, scale, tails, np.sort(odd[own], axis=0), sorted_scores, np.sort(combined))


def check_score(odd: Array, calibration: ClassCalibration, check: CheckName) -> CheckScore:
    """Score one image's oddness (M,) on one check."""
    columns = _COUNTED[check]
    scaled = (odd[columns] - calibration.centre[columns]) / calibration.scale[columns]
    oddest = int(scaled.argmax())
    score = float(scaled[oddest])
    p_value = conformal_p(calibration.scores[check], score)
    return CheckScore(score, calibration.tails[check](score), p_value, columns[oddest])


def rank(sorted_sample: Array, score: float) -> tuple[int, int]:
    """How many of a sample are odder than `score`, and how many are equal to it."""
    below, up_to = (int(np.searchsorted(sorted_sample, score, side=side)) for side in _SIDES)
    return len(sorted_sample) - up_to, up_to - below


def conformal_p(sorted_sample: Array, score: float) -> float:
    """(1 + #{sample ≥ score}) / (n + 1)."""
    return (1 + sum(rank(sorted_sample, score))) / (len(sorted_sample) + 1)


def own_p_values(sorted_oddness: Array, odd: Array) -> Array:
    """Each measurement's own p-value (M,) from the calibration sample's oddness (n, M) and an image's (M,)."""
    p_values: Array = (1 + (sorted_oddness >= odd).sum(axis=0)) / (len(sorted_oddness) + 1)
    return p_values


def score_threshold(sorted_sample: Array, alpha: float) -> float | None:
    """The largest score whose p-value is above `alpha`; None when the sample can't support the level.

    It can't when it is too small, or when more of it than `alpha` allows is alarmed whatever its scores.
    """
    allowed = alarms_allowed(len(sorted_sample), alpha)
    threshold = float(sorted_sample[-allowed]) if allowed >= 1 else math.inf
    return threshold if math.isfinite(threshold) else None


def alarms_allowed(size: int, alpha: float) -> int:
    """⌊α (n + 1)⌋: how many of n + 1 exchangeable images may be alarmed."""
    return math.floor(alpha * (size + 1) + 1e-9)


def smallest_alpha(sorted_sample: Array) -> float:
    """The smallest false-alarm rate that a calibration sample of combined scores can support."""
    return (1 + int(np.count_nonzero(np.isinf(sorted_sample)))) / (len(sorted_sample) + 1)


def needed_size(alpha: float) -> int:
    """How many calibration images of each class a false-alarm rate `alpha` needs at least: 1/α - 1."""
    return math.ceil(1 / alpha - 1e-9) - 1


def realised_interval(size: int, alpha: float, confidence: float = 0.95) -> tuple[float, float]:
    """Where the false-alarm rate that this one calibration really has lies, over calibrations of this size.

    Without ties it is distributed as Beta(k, n + 1 - k), k = ⌊α (n + 1)⌋ (Vovk 2012, arXiv 1209.2673).
    Raises ValueError when the size can't support the level.
    """
    allowed = alarms_allowed(size, alpha)
    if allowed < 1:
        raise ValueError(f"{size} calibration images can't support level {alpha:g}; {needed_size(alpha)} are needed")
    low, high = betaincinv(allowed, size + 1 - allowed, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _tail_function(sorted_scores: Array) -> TailFunction:
    start = float(np.quantile(sorted_scores, _TAIL_SHARE))
    excess = float(np.mean(sorted_scores[sorted_scores > start] - start)) if sorted_scores[-1] > start else 0.0
    return TailFunction(sorted_scores, 1 / max(excess, 1e-3))


def _scores(odd: Array, centre: Array, scale: Array, check: CheckName) -> Array:
    columns = _COUNTED[check]
    scores: Array = ((odd[:, columns] - centre[columns]) / scale[columns]).max(axis=1)
    return scores

"""How well odd images are told from the images a bundle is for: AUROC and FPR at 95 % TPR, with intervals.

Scores are higher for odder images. For FPR at 95 % TPR the *expected* (in-distribution) images are the positives, as
in the literature on out-of-distribution detection (Hendrycks & Gimpel, arXiv 1610.02136): the threshold accepts 95 %
of them, and the FPR is the share of odd images that the same threshold accepts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from dicom_gam.training.evaluation import interval

Array: TypeAlias = NDArray[np.float64]
TPR = 0.95
LEVEL = 0.95  # of the confidence intervals


@dataclass(frozen=True, slots=True)
class Separation:
    """How `n` odd images separate from the expected ones; intervals are 95 % confidence intervals."""

    n: int
    auroc: float
    auroc_interval: tuple[float, float]
    fpr_at_95_tpr: float
    fpr_interval: tuple[float, float]


def separation(expected: Array, odd: Array) -> Separation:
    """AUROC and FPR at 95 % TPR of scores (n,) and (m,). Raises ValueError when a sample is empty or holds a NaN."""
    accepted = int((odd <= acceptance_threshold(expected)).sum())
    area, bounds = auroc(expected, odd)
    return Separation(len(odd), area, bounds, accepted / len(odd), interval(accepted, len(odd)))


def acceptance_threshold(expected: Array, tpr: float = TPR) -> float:
    """The smallest score that at least a share `tpr` of the expected images don't exceed; at it one is accepted."""
    _check(expected)
    return float(np.sort(expected)[math.ceil(tpr * len(expected) - 1e-9) - 1])


def auroc(expected: Array, odd: Array) -> tuple[float, tuple[float, float]]:
    """P(odd scores higher than expected), ties counting one half, and its 95 % interval.

    The interval is DeLong's variance (DeLong, DeLong & Clarke-Pearson 1988, by Sun & Xu's ranks, 2014) on the logit
    scale (Pepe 2003). That variance vanishes as the samples separate, so the lower bound is never above what perfect
    separation of this many images would prove: k = min(n, m) disjoint pairs all in order have a probability of at
    most AUROC^k, which excludes only AUROC < 0.025^(1/k). The upper bound is treated alike at the other end.
    """
    _check(expected)
    _check(odd)
    n, m = len(expected), len(odd)
    ranks = rankdata(np.concatenate([expected, odd]))
    above = (ranks[n:] - rankdata(odd)) / n  # for each odd image, the share of expected ones below it
    below = 1 - (ranks[:n] - rankdata(expected)) / m  # for each expected image, the share of odd ones above it
    area = float(above.mean())
    variance = _variance(above) / m + _variance(below) / n
    return area, area_interval(area, variance, min(n, m))


def area_interval(area: float, variance: float, pairs: int) -> tuple[float, float]:
    """The 95 % interval of `auroc` from an area, its variance and how many disjoint pairs of images there are."""
    margin = ((1 - LEVEL) / 2) ** (1 / pairs)
    low, high = area, area
    if 0 < area < 1:
        centre = math.log(area / (1 - area))
        half = float(norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance) / (area * (1 - area))
        low, high = _logistic(centre - half), _logistic(centre + half)
    return min(low, margin), max(high, 1 - margin)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-min(max(x, -700.0), 700.0)))


def _variance(placements: Array) -> float:
    return float(placements.var(ddof=1)) if len(placements) > 1 else 0.0


def _check(scores: Array) -> None:
    if len(scores) == 0 or np.isnan(scores).any():
        raise ValueError("a sample of scores is empty or holds a NaN: nothing can be said about it")

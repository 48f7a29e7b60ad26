"""How much odder a site's images are than calibration images: effect sizes with intervals, p-values and power.

The effect is AUC = P(a site image is odder than a calibration image of the class it was taken for), ties counting one
half. Every image is ranked inside its own class's calibration sample only, so another mixture of classes is no shift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm, rankdata

from dicom_gam.evidence.detection import LEVEL, area_interval
from dicom_gam.training.evaluation import interval

Array: TypeAlias = NDArray[np.float64]
Z = float(norm.ppf((1 + LEVEL) / 2))
POWER = 0.8
MOST_IMAGES = 20_000  # nobody will collect more to settle a question


@dataclass(frozen=True, slots=True, eq=False)
class Stratum:
    """One class: oddness (m, M) of the site's images taken for it, and (n, M) of its calibration images."""

    site: Array
    reference: Array


@dataclass(frozen=True, slots=True)
class Shift:
    """One measurement's effect size, its 95 % interval, and the one-sided p-value of AUC ≤ 0.5.

    The AUC's variance is `site_variance` / m + `reference_variance`: more site images shrink the first part only.
    """

    auc: float
    interval: tuple[float, float]
    p_value: float
    site_variance: float
    reference_variance: float


def shifts(strata: Sequence[Stratum]) -> list[Shift]:
    """The shift of each of M measurements; classes for which no site image was taken don't count.

    The p-value is the Mann-Whitney test stratified by class: under exchangeability within each class the rank sums'
    means and variances, ties included, are those of all permutations; their sum is close to normal from the 30 images
    on that are asked for. It was chosen over drawing permutations because it can tell p-values far below one over the
    number of draws, which Holm's correction needs, and gives the same answer every time. The interval
    allows for both samples' chance (DeLong's variance, stratified), and doesn't presuppose exchangeability.
    """
    present = [s for s in strata if len(s.site)]
    total = sum(len(s.site) for s in present)
    placements, null, reference = [], np.zeros(present[0].site.shape[1]), np.zeros(present[0].site.shape[1])
    for stratum in present:
        n, m = len(stratum.reference), len(stratum.site)
        pooled = rankdata(np.concatenate([stratum.reference, stratum.site]), axis=0)
        above = (pooled[n:] - rankdata(stratum.site, axis=0)) / n  # for each site image, the share it is odder than
        below = 1 - (pooled[:n] - rankdata(stratum.reference, axis=0)) / m
        placements.append(above)
        null += (m / total) ** 2 * pooled.var(axis=0) / ((n + m - 1) * n * m)
        reference += (m / total) ** 2 * below.var(axis=0, ddof=1) / n
    every = np.concatenate(placements)
    areas, spread = every.mean(axis=0), every.var(axis=0, ddof=1)
    pairs = sum(min(len(s.site), len(s.reference)) for s in present)
    found = []
    for area, usual, a, b in zip(areas.tolist(), null.tolist(), spread.tolist(), reference.tolist(), strict=True):
        p_value = float(norm.sf((area - 0.5) / math.sqrt(usual))) if usual > 0 else 1.0
        found.append(Shift(area, area_interval(area, a / total + b, pairs), p_value, a, b))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that comparing each with α errs anywhere with probability ≤ α (Holm 1979)."""
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def images_for_auc(shift: Shift, limit: float) -> int | None:
    """How many site images would part the interval from `limit` if the AUC stayed; None if no number would."""
    area = min(max(shift.auc, 1e-6), 1 - 1e-6)
    distance = math.log(area / (1 - area)) - math.log(limit / (1 - limit))
    wanted = (distance * area * (1 - area) / Z) ** 2 - shift.reference_variance
    needed = shift.site_variance / wanted if wanted > 0 else math.inf
    return math.ceil(needed) if needed <= MOST_IMAGES else None


def images_for_share(count: int, n: int, limit: float) -> int | None:
    """How many images would part a share's exact interval from `limit` if the share stayed; None if too many."""
    size = n
    while size <= MOST_IMAGES:
        low, high = interval(round(count / n * size), size)
        if high < limit or low > limit:
            return size
        size += max(1, size // 50)
    return None


@dataclass(frozen=True, slots=True)
class Power:
    """What a sample of this size finds with 80 % probability: the smallest such effects.

    `detected_auc` is told from 0.5 by any one measurement after Holm's correction; at `unsuitable_auc` and
    `unsuitable_share` (of images not passed) the conclusion is UNSUITABLE. None where no effect is large enough.
    """

    detected_auc: float | None
    unsuitable_auc: float | None
    unsuitable_share: float | None


def power(sizes: Sequence[tuple[int, int]], tests: int, auc_limit: float, share_limit: float) -> Power:
    """The power of a sample with (site, calibration) images in each class, `tests` measurements being tested.

    The standard error is that of no shift, which is larger than that of a shift: the truth is a little better.
    """
    total = sum(m for m, _ in sizes)
    error = math.sqrt(sum((m / total) ** 2 * (n + m + 1) / (12 * n * m) for m, n in sizes if m))
    beyond = float(norm.ppf(POWER))
    detected = 0.5 + (float(norm.isf((1 - LEVEL) / tests)) + beyond) * error
    unsuitable = auc_limit + (Z + beyond) * error
    return Power(_probability(detected), _probability(unsuitable), _share_power(total, share_limit))


def _probability(value: float) -> float | None:
    return value if value < 1 else None


def _share_power(n: int, limit: float) -> float | None:
    enough = next((k for k in range(n + 1) if interval(k, n)[0] > limit), None)
    if enough is None:
        return None
    return next((p / 200 for p in range(200) if binom.sf(enough - 1, n, p / 200) >= POWER), None)

"""What must not be above its limit for a network to be suitable, and what follows from all of it together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dicom_gam.evidence.shift import Shift, images_for_auc, images_for_share
from dicom_gam.training.evaluation import interval

SIGNIFICANCE = 0.05  # of all tests together


class Conclusion(StrEnum):
    """Whether the network belongs at the site."""

    SUITABLE = "SUITABLE"
    UNSUITABLE = "UNSUITABLE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is tolerated; chosen on development seeds of the experiment in conformance/suitability, judged on others.

    `auc` is for every deciding measurement but the DISTANCES, which fine-tuning moves long before it changes what the
    network looks at, and which have `distance_auc`. `excess` is for the share of images not passed, above the bundle's
    alpha; `errors` for the share of labelled images given another class.
    """

    auc: float = 0.75
    distance_auc: float = 0.9
    excess: float = 0.25
    errors: float = 0.25

    def of(self, measurement: str) -> float:
        """The limit of a measurement's AUC."""
        return self.distance_auc if measurement in DISTANCES else self.auc


DISTANCES = ("input.feature_distance", "early.channel_distance")  # taken in the channels of the reference's network
LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `n`, with the exact 95 % interval (Clopper & Pearson 1934)."""

    count: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, n: int) -> Share:
        """`count` of `n`."""
        return cls(count, n, *interval(count, n))


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that must not be above its limit: `conclusion` says whether its interval is below it, above or across.

    `images_needed` would settle it if the estimate stayed, None when it is settled or no number of images would.
    """

    name: str
    estimate: float
    low: float
    high: float
    limit: float
    conclusion: Conclusion
    images_needed: int | None


def share_criterion(name: str, share: Share, limit: float) -> Criterion:
    """A share that must not be above `limit`."""
    conclusion = _standing(share.low, share.high, limit)
    undecided = conclusion is Conclusion.INCONCLUSIVE
    needed = images_for_share(share.count, share.n, limit) if undecided else None
    return Criterion(name, share.count / share.n, share.low, share.high, limit, conclusion, needed)


def shift_criterion(name: str, shift: Shift, holm_p: float, limit: float) -> Criterion:
    """An AUC that must not be above `limit`; only a significant one ever speaks against a network."""
    low, high = shift.interval
    conclusion = _standing(low, high, limit)
    if conclusion is Conclusion.UNSUITABLE and holm_p > SIGNIFICANCE:
        conclusion = Conclusion.INCONCLUSIVE
    needed = images_for_auc(shift, limit) if conclusion is Conclusion.INCONCLUSIVE else None
    return Criterion(name, shift.auc, low, high, limit, conclusion, needed)


def conclude_all(criteria: Sequence[Criterion]) -> tuple[Conclusion, int | None]:
    """The conclusion, and how many images would bring one if there is none: one criterion above, or all below."""
    if any(c.conclusion is Conclusion.UNSUITABLE for c in criteria):
        return Conclusion.UNSUITABLE, None
    undecided = [c for c in criteria if c.conclusion is Conclusion.INCONCLUSIVE]
    if not undecided:
        return Conclusion.SUITABLE, None
    needed = [c.images_needed for c in undecided]
    above = [c.images_needed for c in undecided if c.estimate > c.limit and c.images_needed is not None]
    if above:
        return Conclusion.INCONCLUSIVE, min(above)
    known = [n for n in needed if n is not None]
    return Conclusion.INCONCLUSIVE, max(known) if len(known) == len(needed) else None


def _standing(low: float, high: float, limit: float) -> Conclusion:
    if low > limit:
        return Conclusion.UNSUITABLE
    return Conclusion.SUITABLE if high < limit else Conclusion.INCONCLUSIVE

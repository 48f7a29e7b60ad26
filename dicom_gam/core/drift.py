"""Has a stream of images drifted away from the calibration images? Evidence that may be looked at after every image.

Each image gives one smoothed conformal p-value: its rank, by oddness, among the calibration images of its class and
all images of the stream before it. While calibration and stream are exchangeable, these p-values are independent and
uniform on (0, 1), exactly and jointly (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005). A
p-value against the calibration sample alone would not do: all of a stream's p-values would share that sample's luck,
and a long stream would take the sample's error for drift.

The evidence is the wealth of a gambler who starts with 1 and bets against uniformity. It is a martingale, so by
Ville's inequality P(it ever reaches 1/δ) ≤ δ, however often one looks and however long the stream.
The gambler does not know when a drift begins: at every image a part of the reserve starts to bet (Shiryaev's mixture
over change points, Theory Probab. Appl. 8, 1963, with a prior that sums to 1), so a long calm costs little.

What it sees: images that are odder than before (most power), or more usual than before. What it doesn't see: images
that are odd in a way the verification score is blind to, and, because past images join the comparison, a change so
slow that each image looks like the ones before it, or so small that it has become usual before the evidence is in.
What raises it without drift: images that aren't exchangeable, such as many images of one patient in a row.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

# Densities on (0, 1) that are bet on, as Beta(a, b): odd images, very odd images, images that are too usual.
BETS: tuple[tuple[float, float], ...] = ((0.5, 1.0), (0.2, 1.0), (1.0, 0.5))


def _reserve(images: int) -> float:
    """The share of the wealth that has not begun to bet after so many images: falls to 0, ever more slowly."""
    return 1 / (1 + math.log(2 + images))


@dataclass(frozen=True, slots=True)
class DriftState:
    """What must be remembered of a stream: small, and the same after a round trip through JSON.

    `log_wealths` are natural logarithms of what has been won on each of BETS per unit of wealth laid on it.
    `log_maximum` is that of the highest evidence so far.
    """

    images: int = 0
    log_wealths: tuple[float, ...] = (math.log(1 - _reserve(0)),) * len(BETS)
    log_maximum: float = 0.0

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of the martingale: 0 at the start, high when the stream has drifted."""
        shares = [log_wealth - math.log(len(BETS)) for log_wealth in self.log_wealths]
        return _log_sum([*shares, math.log(_reserve(self.images))])

    def to_json(self) -> str:
        """The state as JSON text."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> DriftState:
        """Read what `to_json` wrote. Raises ValueError when it is something else, such as of other BETS."""
        try:
            table = json.loads(text)
            state = cls(int(table["images"]), tuple(map(float, table["log_wealths"])), float(table["log_maximum"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("this is not a drift state") from error
        figures = (*state.log_wealths, state.log_maximum)
        if len(state.log_wealths) != len(BETS) or state.images < 0 or not all(map(math.isfinite, figures)):
            raise ValueError("this is not a drift state of these bets")
        return state


def update(state: DriftState, p_value: float) -> DriftState:
    """The state after one more image, whose smoothed p-value is in (0, 1).

    The p-value must be uniform given the past, as `smoothed_p_value` makes it. A plain conformal p-value k / (n + 1)
    is not: the bet on usual images would win on its steps. Raises ValueError outside of (0, 1).
    """
    if not 0 < p_value < 1:
        raise ValueError(f"a smoothed p-value lies between 0 and 1, {p_value} doesn't")
    images = state.images + 1
    begins = math.log(_reserve(state.images) - _reserve(images))
    wealths = tuple(
        _log_sum([log_wealth, begins]) + log_density(p_value, a, b)
        for log_wealth, (a, b) in zip(state.log_wealths, BETS, strict=True)
    )
    after = DriftState(images, wealths, state.log_maximum)
    return DriftState(images, wealths, max(state.log_maximum, after.log_evidence))


def alarm(state: DriftState, false_alarm_rate: float) -> bool:
    """Whether the evidence has ever reached 1 / `false_alarm_rate`; an undrifted stream gets there that seldom."""
    return state.log_maximum >= -math.log(false_alarm_rate)


def log_density(p_value: float, a: float, b: float) -> float:
    """Natural logarithm of the density of Beta(a, b), one of a and b being 1."""
    return math.log(a * b) + (a - 1) * math.log(p_value) + (b - 1) * math.log1p(-p_value)


def smoothed_p_value(odder: int, equal: int, others: int, chance: float) -> float:
    """The smoothed conformal p-value of an image among `others`, `odder` and `equal` of which are odder or tied.

    `chance` is uniform on (0, 1) and breaks the ties; it makes the p-value exactly uniform.
    """
    return (odder + chance * (equal + 1)) / (others + 1)


def chance_of(text: str) -> float:
    """A number in (0, 1) that is as good as drawn at random, and always the same for the same text."""
    # 24 bits: far enough from 0 and 1 that no p-value of a stream of millions is rounded to either
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:3], "big") + 0.5) / 2**24


def _log_sum(logarithms: list[float]) -> float:
    highest = max(logarithms)
    return highest + math.log(sum(math.exp(value - highest) for value in logarithms))

"""The chart of scores against their thresholds: where everything in it lies. The template draws it as SVG.

One lane a score. Each has its own scale, shifted so that all thresholds lie on one vertical line, and turned so that
the right of the line is always the good side. Which side it is also shows by the mark, by the ground and by a word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_gam.service.result_view import CheckView, MeasurementView, ResultView

WIDTH = 960
LANES_FROM, LINE, LANES_TO = 230, 430, 630  # the lanes' left end, the common threshold, their right end
LANE_HEIGHT, HEAD_HEIGHT, TOP = 24, 34, 30
_NEAREST = 9  # so that a mark never lies on the line, however little is missing
_MARK = 7
LEAST_P = 0.001  # the left end of the scale of p-values


@dataclass(frozen=True, slots=True)
class Lane:
    """One score: its mark at (`x`, `y`). `beyond` says that it lies further out than there is room."""

    label: str
    x: int
    y: int
    passed: bool
    beyond: bool
    word: str
    figures: str


@dataclass(frozen=True, slots=True)
class Group:
    """The lanes of one check under its heading at height `y`."""

    title: str
    verdict: str
    passed: bool
    y: int
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """All lanes, and how high the picture is. `words` say what it shows to who can't see it."""

    groups: tuple[Group, ...]
    height: int
    words: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A row with a bar of `length` in hundredths. `line` is where a limit is drawn, None where there is none."""

    label: str
    length: float
    figures: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class PValueChart:
    """p-values on a logarithmic scale, the longest bar 1. `alpha` is where the false-alarm rate lies, in hundredths."""

    bars: tuple[Bar, ...]
    alpha: float
    figure: str


def score_chart(checks: Sequence[CheckView]) -> ScoreChart:
    """Lay out the chart."""
    groups = []
    y = TOP
    for check in checks:
        head = y + HEAD_HEIGHT - 12
        y += HEAD_HEIGHT
        lanes = []
        for item in check.measurements:
            lanes.append(_lane(item, y + LANE_HEIGHT // 2))
            y += LANE_HEIGHT
        groups.append(Group(check.title, _verdict(check), check.passed, head, tuple(lanes)))
    failed = [lane.label for group in groups for lane in group.lanes if not lane.passed]
    count = sum(len(group.lanes) for group in groups)
    words = f"{count} scores against their limits. " + (
        f"Outside of its limit: {', '.join(failed)}." if failed else "All are within their limits."
    )
    return ScoreChart(tuple(groups), y + 10, words)


def p_value_chart(view: ResultView) -> PValueChart | None:
    """Lay out the p-values, the combined one first; None when there are none."""
    if view.p_value is None or view.alpha is None:
        return None
    decides = "above" if view.p_value > view.alpha else "not above"
    note = f"{decides} α: this one decides"
    first = Bar("all deciding checks", _log_share(view.p_value), figure(view.p_value), note)
    others = (
        Bar(
            f"{check.name} check",
            _log_share(check.p_value),
            figure(check.p_value),
            "advisory" if check.advisory else "",
        )
        for check in view.checks
    )
    return PValueChart((first, *others), _log_share(view.alpha), figure(view.alpha))


def probability_bars(view: ResultView) -> tuple[Bar, ...]:
    """The classes with their probabilities, the most probable first."""
    ordered = sorted(view.probabilities, key=lambda item: (math.isnan(item[1]), -item[1]))
    return tuple(
        Bar(
            name,
            100 * _share(value),
            f"{value:.3f}",
            "stands for all other images" if name == view.garbage_class else "",
        )
        for name, value in ordered
    )


def figure(value: float | None) -> str:
    """A number for people: at least three digits that count."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    return f"{value:.3g}".replace("-", "−")  # the sign, not the hyphen


def limit(item: MeasurementView) -> str:
    """The threshold in words of mathematics."""
    return f"{'≥' if item.bound == 'min' else '≤'} {figure(item.threshold)}"


def _lane(item: MeasurementView, y: int) -> Lane:
    place = _place(item)
    reach = LANES_TO - LINE - _MARK
    side = 1 if place >= 0 and item.passed else -1
    x = LINE + side * max(_NEAREST, round(min(1.0, abs(place)) * reach))
    word = "within" if item.passed else "outside"
    return Lane(
        item.label, x, y, item.passed, abs(place) > 1, word, f"{figure(item.value)}, limit {limit(item)}: {word}"
    )


def _place(item: MeasurementView) -> float:
    """How far on the good side of the threshold, in (-1, 1) of what there is room for.

    Scores that can't exceed 1 are on that scale, distances are in units of their threshold. The root spreads what lies
    near the threshold, which is where one looks.
    """
    if math.isnan(item.value):
        return -2.0
    unit = abs(item.threshold) if item.bound == "max" and not item.name.endswith("probability") else 1.0
    margin = item.value - item.threshold if item.bound == "min" else item.threshold - item.value
    if math.isinf(margin):
        return math.copysign(2.0, margin)
    return math.copysign(math.sqrt(abs(margin) / (unit or 1.0)), margin)


def _verdict(check: CheckView) -> str:
    word = "passed" if check.passed else "failed"
    return f"{word} (advisory: decides nothing)" if check.advisory else word


def _log_share(p_value: float) -> float:
    """Where a p-value lies on a logarithmic scale from `LEAST_P` to 1, in hundredths."""
    if math.isnan(p_value) or p_value <= LEAST_P:
        return 0.0
    return round(100 * (1 - math.log10(min(1.0, p_value)) / math.log10(LEAST_P)), 2)


def _share(value: float) -> float:
    return 0.0 if math.isnan(value) else min(1.0, max(0.0, value))

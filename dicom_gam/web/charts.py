"""Charts as inline SVG, made by the server: no script, no remote asset, colours by classes, and never by colour alone.

Each has `role="img"` and a label that says the gist; the page shows the same figures in a table beside it. Everything
is built as a tree and written by ElementTree, so text from outside can't become markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Tree

from markupsafe import Markup

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 30
SMALL_WIDTH, SMALL_HEIGHT = 320, 170
ROW = 44
# How an outcome's area is filled: besides its colour each has its own pattern.
PATTERNS = ("PASS", "FAIL", "REJECT", "UNUSABLE", "SKIPPED")


@dataclass(frozen=True, slots=True)
class Series:
    """The figures of one outcome, one for each column or row; `name` is one of PATTERNS."""

    name: str
    values: Sequence[int]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the quartiles of one day's figures."""

    lower: float
    middle: float
    upper: float


@dataclass(frozen=True, slots=True)
class Level:
    """Evidence of one stream, as decimal logarithms: `now` and the highest so far."""

    name: str
    now: float
    highest: float


def stacked_columns(chart_id: str, gist: str, labels: Sequence[str], series: Sequence[Series]) -> Markup:
    """One column for each label, the series on top of each other."""
    svg = _svg(chart_id, gist, WIDTH, HEIGHT)
    _patterns(svg, chart_id, series)
    totals = [sum(values) for values in zip(*(item.values for item in series), strict=True)] or [0]
    top = _nice(max(totals))
    _scale(svg, top, WIDTH, HEIGHT)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    for place, label in enumerate(labels):
        x, below = LEFT + place * step, 0
        told = ", ".join(f"{item.values[place]} {item.name}" for item in series if item.values[place])
        column = _add(svg, "g")
        _add(column, "title").text = f"{label}: {told or 'none'}"
        for item in series:
            value = item.values[place]
            if value:
                y, height = _y(below + value, top, HEIGHT), _y(below, top, HEIGHT) - _y(below + value, top, HEIGHT)
                _bar(column, chart_id, item.name, (x + step * 0.1, y, step * 0.8, height))
            below += value
    _labels(svg, labels, step, WIDTH, HEIGHT, 6)
    _legend(svg, chart_id, [item.name for item in series])
    return _markup(svg)


def stacked_rows(chart_id: str, gist: str, names: Sequence[str], series: Sequence[Series]) -> Markup:
    """One row for each name, the series side by side as shares of the whole, with the number of images."""
    svg = _svg(chart_id, gist, WIDTH, TOP + ROW * len(names) + 8)
    _patterns(svg, chart_id, series)
    for place, name in enumerate(names):
        values = [item.values[place] for item in series]
        total = sum(values)
        y = TOP + place * ROW
        _text(svg, 8, y + 12, name)
        _text(svg, WIDTH - 8, y + 12, f"{total} images", anchor="end", css="dim")
        x = 8.0
        for item, value in zip(series, values, strict=True):
            width = (WIDTH - 16) * value / max(1, total)
            if value:
                row = _add(svg, "g")
                _add(row, "title").text = f"{name}: {value} {item.name}, {value / total:.1%}"
                _bar(row, chart_id, item.name, (x, y + 17, width, 18))
            x += width
    _legend(svg, chart_id, [item.name for item in series])
    return _markup(svg)


def histogram(chart_id: str, gist: str, shares: Sequence[float], expected: float, alpha_words: str) -> Markup:
    """Shares (summing to 1) of equal bins from 0 to 1; a dashed line shows the `expected` share."""
    svg = _svg(chart_id, gist, WIDTH, HEIGHT)
    top = _nice(max([*shares, expected]) * 100)
    _scale(svg, top, WIDTH, HEIGHT, " %")
    step = (WIDTH - LEFT - RIGHT) / len(shares)
    for place, share in enumerate(shares):
        y = _y(share * 100, top, HEIGHT)
        bar = _add(svg, "rect", x=LEFT + place * step + 1, y=y, width=step - 2, height=HEIGHT - BOTTOM - y)
        bar.set("class", "bin")
        _add(bar, "title").text = f"{place / len(shares):.2f} to {(place + 1) / len(shares):.2f}: {share:.1%}"
    y = _y(expected * 100, top, HEIGHT)
    _line(svg, LEFT, y, WIDTH - RIGHT, y, "expected")
    for tick in range(0, 11, 2):
        _text(svg, LEFT + (WIDTH - LEFT - RIGHT) * tick / 10, HEIGHT - 10, f"{tick / 10:.1f}", anchor="middle")
    _line(svg, LEFT, 16, LEFT + 24, 16, "expected")
    _text(svg, LEFT + 30, 20, alpha_words)
    return _markup(svg)


def spread_over_days(
    chart_id: str, gist: str, title: str, labels: Sequence[str], spreads: Sequence[Spread | None]
) -> Markup:
    """The median as a line with a dot for each day, the quartiles as a band; a day without figures is a gap."""
    svg = _svg(chart_id, gist, SMALL_WIDTH, SMALL_HEIGHT)
    known = [spread for spread in spreads if spread is not None]
    low, high = _range([s.lower for s in known], [s.upper for s in known])
    inner, step = SMALL_WIDTH - LEFT - RIGHT, (SMALL_WIDTH - LEFT - RIGHT) / max(1, len(labels))

    def y(value: float) -> float:
        return SMALL_HEIGHT - BOTTOM - (value - low) / (high - low) * (SMALL_HEIGHT - TOP - BOTTOM)

    for value in (low, (low + high) / 2, high):
        _line(svg, LEFT, y(value), LEFT + inner, y(value), "axis")
        _text(svg, LEFT - 6, y(value) + 4, f"{value:.3g}", anchor="end", css="dim")
    for run in _runs(spreads):
        points = [(LEFT + (place + 0.5) * step, spread) for place, spread in run]
        edge = [(x, y(s.upper)) for x, s in points] + [(x, y(s.lower)) for x, s in reversed(points)]
        _add(svg, "polygon", points=_points(edge)).set("class", "band")
        _add(svg, "polyline", points=_points([(x, y(s.middle)) for x, s in points])).set("class", "middle")
        for x, spread in points:
            _add(svg, "circle", cx=x, cy=y(spread.middle), r=2.2 if len(labels) > 31 else 3).set("class", "dot")
    _text(svg, LEFT, 20, title, css="title")
    _labels(svg, labels, step, SMALL_WIDTH, SMALL_HEIGHT, 3)
    return _markup(svg)


def levels(chart_id: str, gist: str, streams: Sequence[Level], alarm: float) -> Markup:
    """For each stream a bar to its evidence now and a diamond at the highest; a dashed line is the alarm level."""
    svg = _svg(chart_id, gist, WIDTH, TOP + ROW * len(streams) + BOTTOM)
    bottom = TOP + ROW * len(streams)
    low = math.floor(min([0.0, *(stream.now for stream in streams)]))
    high = math.ceil(max([alarm, *(stream.highest for stream in streams)]) + 0.2)

    def x(value: float) -> float:
        return 8 + (value - low) / (high - low) * (WIDTH - 24)

    stride = max(1, math.ceil((high - low) / 8))
    for power in range(low, high + 1, stride):
        _line(svg, x(power), TOP, x(power), bottom, "axis")
        anchor = "start" if power == low else "end" if power + stride > high else "middle"
        _text(svg, x(power), bottom + 18, _odds(power), anchor=anchor, css="dim")
    for place, stream in enumerate(streams):
        y = TOP + place * ROW
        reached = stream.highest >= alarm
        _text(svg, 10, y + 13, ("ALARM: " if reached else "") + stream.name)
        start, end = sorted((x(0), x(stream.now)))
        _add(svg, "rect", x=start, y=y + 20, width=max(1.0, end - start), height=14).set(
            "class", "evidence over" if reached else "evidence"
        )
        middle, height = x(stream.highest), y + 27
        diamond = [(middle, height - 8), (middle + 7, height), (middle, height + 8), (middle - 7, height)]
        _add(svg, "polygon", points=_points(diamond)).set("class", "highest")
    _line(svg, x(alarm), TOP - 4, x(alarm), bottom, "threshold")
    _text(svg, 8, 18, "bar: evidence now \u00b7 \u25c6: highest so far \u00b7 dashed: alarm level")
    return _markup(svg)


def _svg(chart_id: str, gist: str, width: float, height: float) -> Tree.Element:
    svg = Tree.Element("svg", {"viewBox": f"0 0 {width:g} {height:g}", "class": "chart", "role": "img", "id": chart_id})
    svg.set("aria-label", gist)
    return svg


def _add(parent: Tree.Element, tag: str, **attributes: float | str) -> Tree.Element:
    texts = {key: value if isinstance(value, str) else f"{value:.6g}" for key, value in attributes.items()}
    return Tree.SubElement(parent, tag, texts)


def _text(parent: Tree.Element, x: float, y: float, words: str, *, anchor: str = "start", css: str = "") -> None:
    text = _add(parent, "text", x=x, y=y)
    text.set("text-anchor", anchor)
    if css:
        text.set("class", css)
    text.text = words


def _line(parent: Tree.Element, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
    _add(parent, "line", x1=x1, y1=y1, x2=x2, y2=y2).set("class", css)


def _bar(parent: Tree.Element, chart_id: str, name: str, box: tuple[float, float, float, float]) -> None:
    x, y, width, height = box
    bar = _add(parent, "rect", x=x, y=y, width=width, height=height, fill=f"url(#{chart_id}-{name})")
    bar.set("class", f"edge-{name}")


def _patterns(svg: Tree.Element, chart_id: str, series: Sequence[Series]) -> None:
    """What the areas are filled with: full, stripes, dots, lines, and nothing but an edge."""
    defs = _add(svg, "defs")
    for item in series:
        pattern = _add(defs, "pattern", id=f"{chart_id}-{item.name}", width=6, height=6, patternUnits="userSpaceOnUse")
        _add(pattern, "rect", width=6, height=6).set("class", f"ground-{item.name}")
        if item.name == "FAIL":
            pattern.set("patternTransform", "rotate(45)")
            _line(pattern, 1.5, 0, 1.5, 6, "mark-FAIL")
        elif item.name == "REJECT":
            _add(pattern, "circle", cx=3, cy=3, r=1.6).set("class", "mark-REJECT")
        elif item.name == "UNUSABLE":
            _line(pattern, 0, 2, 6, 2, "mark-UNUSABLE")


def _legend(svg: Tree.Element, chart_id: str, names: Sequence[str]) -> None:
    x = 8.0
    for name in names:
        _bar(svg, chart_id, name, (x, 9, 14, 14))
        _text(svg, x + 20, 20, name)
        x += 40 + 8.2 * len(name)


def _scale(svg: Tree.Element, top: float, width: float, height: float, unit: str = "") -> None:
    """Three lines with their figures: nothing, half, all."""
    for part in (0.0, 0.5, 1.0):
        y = _y(top * part, top, height)
        _line(svg, LEFT, y, width - RIGHT, y, "axis")
        _text(svg, LEFT - 6, y + 4, f"{top * part:g}{unit}", anchor="end", css="dim")


def _labels(svg: Tree.Element, labels: Sequence[str], step: float, width: float, height: float, most: int) -> None:
    """As many of the labels as fit, below the columns."""
    stride = max(1, math.ceil(len(labels) / most))
    for place in range(0, len(labels), stride):
        x = min(LEFT + (place + 0.5) * step, width - 32)
        _text(svg, x, height - 10, labels[place][5:], anchor="middle", css="dim")


def _y(value: float, top: float, height: float) -> float:
    return height - BOTTOM - value / top * (height - TOP - BOTTOM)


def _nice(value: float) -> float:
    """A round number that is at least `value`, and at least 2."""
    power = 10.0 ** math.floor(math.log10(max(value, 2)))
    return next(power * factor for factor in (1, 2, 4, 5, 6, 8, 10) if power * factor >= max(value, 2) * (1 - 1e-9))


def _range(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _runs(spreads: Sequence[Spread | None]) -> list[list[tuple[int, Spread]]]:
    """The stretches of days that have figures."""
    runs: list[list[tuple[int, Spread]]] = [[]]
    for place, spread in enumerate(spreads):
        if spread is not None:
            runs[-1].append((place, spread))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _odds(power: int) -> str:
    many = f"10^{abs(power)}" if abs(power) > 4 else str(10 ** abs(power))
    return f"{many} : 1" if power >= 0 else f"1 : {many}"


def _markup(svg: Tree.Element) -> Markup:
    return Markup(Tree.tostring(svg, encoding="unicode"))  # noqa: S704 (ElementTree has escaped every text)

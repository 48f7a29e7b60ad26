"""Charts as SVG: what is drawn where, and that nothing from outside becomes markup."""

from __future__ import annotations

import pytest
from lxml import etree
from markupsafe import Markup

from dicom_gam.web.charts import (
    BOTTOM,
    HEIGHT,
    PATTERNS,
    TOP,
    Level,
    Series,
    Spread,
    histogram,
    levels,
    spread_over_days,
    stacked_columns,
    stacked_rows,
)
from tests.web.made_site import HOSTILE

INNER = HEIGHT - TOP - BOTTOM
EVERY = [Series(name, [4, 0]) for name in PATTERNS]


def parsed(chart: Markup) -> etree._Element:
    return etree.fromstring(str(chart))


def bars(chart: Markup, css: str) -> list[etree._Element]:
    return [bar for bar in parsed(chart).iter("rect") if bar.get("class") == css]


ALL = {
    "columns": stacked_columns("c", HOSTILE, [HOSTILE, "b"], EVERY),
    "rows": stacked_rows("r", HOSTILE, [HOSTILE, "b"], EVERY),
    "histogram": histogram("h", HOSTILE, [0.5, 0.5], 0.5, HOSTILE),
    "spread": spread_over_days("s", HOSTILE, HOSTILE, [HOSTILE, "b"], [Spread(0, 1, 2), None]),
    "levels": levels("l", HOSTILE, [Level(HOSTILE, 1.0, 2.0)], 3.0),
}


@pytest.mark.requirement("WEB-63")
@pytest.mark.parametrize("name", ALL)
def test_a_chart_is_an_image_with_a_label_and_hostile_words_in_it_stay_words(name):
    svg = parsed(ALL[name])
    assert (svg.get("role"), svg.get("aria-label")) == ("img", HOSTILE)
    assert {element.tag for element in svg.iter()} <= {
        "svg", "g", "rect", "line", "text", "title", "polygon", "polyline", "circle", "defs", "pattern"}  # fmt: skip
    assert not [e for e in svg.iter() if e.get("style") or any(key.startswith("on") for key in e.attrib)]


@pytest.mark.requirement("WEB-63")
def test_every_outcome_has_a_pattern_of_its_own_besides_its_colour():
    svg = parsed(stacked_columns("c", "", ["a", "b"], EVERY))
    drawn = {p.get("id"): (p.get("patternTransform"), [child.tag for child in p]) for p in svg.iter("pattern")}
    assert len(drawn) == len(PATTERNS)
    marked = [repr(look) for name, look in drawn.items() if name not in ("c-PASS", "c-SKIPPED")]
    assert len(set(marked)) == 3  # and PASS is full, SKIPPED an edge without a ground


@pytest.mark.requirement("WEB-60")
def test_columns_are_as_high_as_their_numbers_and_stand_on_each_other():
    chart = stacked_columns("c", "", ["d1"], [Series("PASS", [6]), Series("FAIL", [2])])
    (passed, _), (failed, _) = bars(chart, "edge-PASS"), bars(chart, "edge-FAIL")  # the second is the legend's
    assert float(passed.get("height")) == pytest.approx(INNER * 6 / 8, rel=1e-4)
    assert float(failed.get("height")) == pytest.approx(INNER * 2 / 8, rel=1e-4)
    assert float(failed.get("y")) + float(failed.get("height")) == pytest.approx(float(passed.get("y")), abs=0.01)


@pytest.mark.requirement("WEB-61")
def test_the_line_of_what_is_expected_crosses_the_bins_at_its_height():
    svg = parsed(histogram("h", "", [0.1] * 10, 0.1, ""))
    (line, _) = [item for item in svg.iter("line") if item.get("class") == "expected"]
    assert {bar.get("y") for bar in svg.iter("rect")} == {line.get("y1")}


@pytest.mark.requirement("WEB-61")
def test_a_day_without_figures_is_a_gap_and_not_a_line_across_it():
    spreads = [Spread(1, 2, 3), Spread(1, 2, 3), None, Spread(2, 3, 4)]
    svg = parsed(spread_over_days("s", "", "IoU", ["a", "b", "c", "d"], spreads))
    runs = [line.get("points").split() for line in svg.iter("polyline")]
    assert [len(run) for run in runs] == [2, 1]


@pytest.mark.requirement("WEB-64")
def test_a_stream_beyond_the_alarm_level_says_so_in_words_and_lies_beyond_the_line():
    chart = levels("l", "", [Level("calm", -1.0, 0.5), Level("odd", 3.5, 4.0)], 3.0)
    svg = parsed(chart)
    assert [t.text for t in svg.iter("text") if "odd" in (t.text or "")] == ["ALARM: odd"]
    (line,) = [item for item in svg.iter("line") if item.get("class") == "threshold"]
    (over,) = bars(chart, "evidence over")
    (calm,) = bars(chart, "evidence")
    assert float(over.get("x")) + float(over.get("width")) > float(line.get("x1"))
    assert float(calm.get("x")) + float(calm.get("width")) == pytest.approx(float(over.get("x")), abs=0.01)


@pytest.mark.requirement("WEB-63")
def test_nothing_to_draw_is_drawn_without_a_fault():
    for chart in (
        stacked_columns("c", "", [], [Series("PASS", [])]),
        stacked_rows("r", "", [], [Series("PASS", [])]),
        histogram("h", "", [0.0] * 20, 0.05, ""),
        spread_over_days("s", "", "IoU", ["a"], [None]),
        levels("l", "", [], 3.0),
    ):
        assert parsed(chart).tag == "svg"

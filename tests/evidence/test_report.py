"""The HTML page: whole, escaped, self-contained, readable without seeing colours or pictures."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import matplotlib.figure
import pytest

from dicom_gam.evidence.report import Figure, Section, Table, html_report, png

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects tags with their attributes, and the text; fails on tags that don't close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def picture() -> bytes:
    canvas = matplotlib.figure.Figure(figsize=(2, 1))
    canvas.subplots().plot([1, 2, 3])
    return png(canvas)


def sample(**changes) -> str:
    table = Table(["name", "n"], [["a<b", "1.5"], ["c", "-"]], "The caption", {1: "bad"})
    figure = Figure(picture(), "What it shows", 'alt "quoted"')
    arguments = {
        "title": "T & U",
        "lead": "The <lead>",
        "verdict": "not suitable",
        "sections": [Section("One", ["p > 0.05"], [table], [figure]), Section("Two")],
        "tone": "bad",
    }
    return html_report(**(arguments | changes))


@pytest.mark.requirement("EVD-06")
def test_every_text_is_escaped_and_every_tag_closes():
    page = Page(sample())
    for words in ("T & U", "The <lead>", "p > 0.05", "a<b", "The caption", "What it shows"):
        assert words in page.words
    assert page.all("img")[0]["alt"] == 'alt "quoted"'


@pytest.mark.requirement("EVD-06")
def test_markup_in_a_text_stays_text():
    page = Page(sample(lead="<script>alert(1)</script><img src=http://x/>"))
    assert page.all("script") == []
    assert len(page.all("img")) == 1


@pytest.mark.requirement("EVD-06")
def test_nothing_remote_is_asked_for_and_the_policy_forbids_it():
    page = Page(sample())
    for _, attributes in page.tags:
        assert not {"onclick", "onload"} & attributes.keys()
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in sample()
    assert "@import" not in sample()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_the_picture_comes_back_as_it_went_in():
    source = Page(sample()).all("img")[0]["src"]
    assert base64.b64decode(source.partition(",")[2]) == picture()


def test_the_contents_lead_to_every_section():
    page = Page(sample())
    ids = {s["id"] for s in page.all("section")}
    assert [a["href"] for a in page.all("a") if "section" in a["href"]] == [f"#{i}" for i in sorted(ids)]


def test_emphasis_is_told_by_a_sign_and_a_word_too():
    page = Page(sample())
    assert "✗" in page.words
    assert {"class": "mark", "role": "img", "aria-label": "bad"} in page.all("span")


def test_columns_of_numbers_are_set_as_numbers():
    classes = [cell.get("class") for cell in Page(sample()).all("td")]
    assert classes == ["number", "number"]


def test_without_a_verdict_there_is_no_box():
    assert 'class="verdict' not in sample(verdict=None)


def test_a_row_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match="'C' has a row that is not 2 cells wide"):
        sample(sections=[Section("S", tables=[Table(["a", "b"], [["1"]], "C")])])


def test_a_figure_has_the_same_bytes_every_time():
    assert picture() == picture()

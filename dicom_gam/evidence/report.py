"""One self-contained HTML page from words, tables and figures: nothing remote, no script.

It follows the reader's light or dark setting, can be read by keyboard and screen reader, prints, and never says
anything by colour alone.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Literal

import matplotlib.figure

Emphasis = Literal["good", "bad", "warning"]
RESOLUTION_DPI = 110
_NUMBER = re.compile(r"^[<>≤≥≈]?\s*[-−+]?\d")
_MARKS: Mapping[Emphasis, str] = {"good": "✓", "bad": "✗", "warning": "!"}
_MARK_WORDS: Mapping[Emphasis, str] = {"good": "good", "bad": "bad", "warning": "note"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: PNG bytes, the caption under it, and `alt`, which tells what it shows to whom can't see it."""

    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a header; `emphasis` marks rows, by number from 0, with a sign and a tint."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    emphasis: Mapping[int, Emphasis] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with paragraphs, then tables, then figures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def html_report(
    title: str, lead: str, verdict: str | None, sections: Sequence[Section], tone: Emphasis | None = None
) -> str:
    """The whole page. Every text is escaped; `verdict` stands in a box at the top, tinted by `tone`.

    Raises ValueError when a table's row is not as wide as its header.
    """
    style = (files("dicom_gam.evidence") / "report.css").read_text(encoding="utf-8")
    contents = "".join(
        f'<li><a href="#section-{i}">{escape(section.title)}</a></li>' for i, section in enumerate(sections, 1)
    )
    body = "".join(_section(i, section) for i, section in enumerate(sections, 1))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"  # nothing may be fetched, even if a text slipped through
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#contents">Skip to the contents</a>\n'
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n{_verdict(verdict, tone)}</header>\n"
        f'<nav id="contents" aria-label="Contents">\n<ol>{contents}</ol>\n</nav>\n'
        f"<main>\n{body}</main>\n</body>\n</html>\n"
    )


def png(figure: matplotlib.figure.Figure) -> bytes:
    """A figure as PNG bytes, the same for the same figure: no date, no version, no global state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=RESOLUTION_DPI, metadata={"Software": None}, facecolor="white")
    return buffer.getvalue()


def _verdict(verdict: str | None, tone: Emphasis | None) -> str:
    if verdict is None:
        return ""
    return f'<p class="verdict {tone or ""}">{_mark(tone)}{escape(verdict)}</p>\n'


def _section(number: int, section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(figure) for figure in section.figures]
    return f'<section id="section-{number}">\n' + "\n".join(parts) + "\n</section>\n"


def _table(table: Table) -> str:
    width = len(table.header)
    if any(len(row) != width for row in table.rows):
        raise ValueError(f"table {table.caption!r} has a row that is not {width} cells wide")
    numeric = [bool(table.rows) and all(_is_numeric(row[i]) for row in table.rows) for i in range(width)]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell, kind in zip(table.header, kinds, strict=True))
    rows = "".join(_row(row, kinds, table.emphasis.get(i)) for i, row in enumerate(table.rows))
    caption = escape(table.caption)
    return (  # a wide table scrolls by itself, by keyboard too
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">\n<table>\n'
        f"<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>"
    )


def _row(row: Sequence[str], kinds: Sequence[str], emphasis: Emphasis | None) -> str:
    cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
    first = f'<th scope="row"{kinds[0]}>{_mark(emphasis)}{escape(row[0])}</th>'
    return f'<tr class="{emphasis}">{first}{cells}</tr>\n' if emphasis else f"<tr>{first}{cells}</tr>\n"


def _mark(emphasis: Emphasis | None) -> str:
    if emphasis is None:
        return ""
    return f'<span class="mark" role="img" aria-label="{_MARK_WORDS[emphasis]}">{_MARKS[emphasis]}</span> '


def _is_numeric(cell: str) -> bool:
    return not cell or cell in "-–" or _NUMBER.match(cell) is not None


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    return (
        f'<figure>\n<img src="data:image/png;base64,{data}" alt="{escape(figure.alt)}">\n'
        f"<figcaption>{escape(figure.caption)}</figcaption>\n</figure>"
    )

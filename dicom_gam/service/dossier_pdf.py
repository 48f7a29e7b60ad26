"""A dossier as PDF: A4, page numbers, tables whose headers repeat. The same dossier gives the same bytes."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from fpdf import FPDF
from fpdf.enums import TableBordersLayout, VAlign, XPos, YPos
from fpdf.fonts import FontFace
from PIL import Image

from dicom_gam.service.dossier_blocks import Code, Facts, Heading, Table, Words
from dicom_gam.service.dossier_document import document, title_of
from dicom_gam.service.dossier_words import plain

if TYPE_CHECKING:
    from typing import IO

    from dicom_gam.service.dossier import Dossier
    from dicom_gam.service.dossier_blocks import Block, Tone
    from dicom_gam.service.dossier_pictures import Picture

_MISSING = "\u25af"  # stands for a character that the font lacks; the other formats hold it
_FONTS = {("sans", ""): "DejaVuSans.ttf", ("sans", "B"): "DejaVuSans-Bold.ttf", ("mono", ""): "DejaVuSansMono.ttf"}
_FILL: dict[Tone, tuple[int, int, int]] = {
    "plain": (255, 255, 255),
    "good": (229, 246, 234),
    "bad": (251, 223, 223),
    "warn": (253, 236, 203),
}
_LINE = (190, 198, 206)
_HEAD = FontFace(emphasis="BOLD", fill_color=(228, 233, 238))
_LABEL_MM = 42.0
_ROW_MM = 7.0  # of a row of about two lines
_KEPT_TOGETHER = 8  # rows of a table that is not broken over two pages
_INSET: Any = (1, 1.5, 1, 1.5)


class _Paper(FPDF):
    """A page with what the dossier is about at its head, and its number at its foot."""

    def __init__(self, title: str, made_at: float) -> None:
        super().__init__(format="A4")
        made = datetime.fromtimestamp(made_at, UTC)
        self.running = title
        self.made = f"{made:%Y-%m-%d %H:%M:%S} UTC"
        self.set_creation_date(made)
        self.set_title(title)
        self.set_creator("dicom_gam")
        self.set_producer("dicom_gam")
        self.set_lang("en")
        self.set_margins(16, 20, 16)
        self.set_auto_page_break(True, 20)
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        for (family, style), name in _FONTS.items():
            self.add_font(family, style, folder / name)
        self.set_font("sans", "", 9)
        self.characters = frozenset(self.fonts["sans"].cmap)  # type: ignore[union-attr]

    def header(self) -> None:
        """Draw the head of a page."""
        self.set_font("sans", "", 7)
        self.set_text_color(79, 93, 109)
        self.set_y(9)
        self.cell(0, 4, _fitted(self, self.running), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_draw_color(*_LINE)
        self.line(self.l_margin, 14, self.w - self.r_margin, 14)
        self.set_text_color(0)
        self.set_y(20)

    def footer(self) -> None:
        """Draw the foot of a page."""
        self.set_y(-14)
        self.set_font("sans", "", 7)
        self.set_text_color(79, 93, 109)
        self.cell(0, 4, f"made {self.made}", align="L")
        self.set_x(self.l_margin)
        self.cell(0, 4, f"page {self.page_no()} of {{nb}}", align="R")
        self.set_text_color(0)


def write_pdf(dossier: Dossier, file: IO[bytes]) -> None:
    """Write it."""
    paper = _Paper("", dossier.made_at)
    paper.running = _shown(paper, title_of(dossier))
    paper.set_title(paper.running)
    paper.add_page()
    for block in document(dossier):
        _draw(paper, block)
    file.write(paper.output())


def _draw(paper: _Paper, block: Block) -> None:
    if isinstance(block, Heading):
        _heading(paper, block)
    elif isinstance(block, Words):
        _words(paper, block)
    elif isinstance(block, Facts):
        _facts(paper, block)
    elif isinstance(block, Table):
        _table(paper, block)
    elif isinstance(block, Code):
        paper.set_font("mono", "", 7)
        paper.set_fill_color(242, 244, 247)
        _paragraph(paper, block.text, 3.6, fill=True)
    else:
        _picture(paper, block)


def _heading(paper: _Paper, heading: Heading) -> None:
    if (heading.new_page and paper.get_y() > 60) or paper.will_page_break(34):  # not alone at the foot of a page
        paper.add_page()
    paper.ln({1: 0, 2: 5, 3: 3}[heading.level])
    paper.set_font("sans", "B", {1: 15, 2: 12.5, 3: 10.5}[heading.level])
    _paragraph(paper, heading.text, {1: 7.5, 2: 6.5, 3: 5.5}[heading.level], section=heading.level)


def _words(paper: _Paper, words: Words) -> None:
    paper.set_font("sans", "B" if words.tone == "bad" else "", 9)
    paper.set_fill_color(*_FILL[words.tone])
    _paragraph(paper, words.text, 4.8, fill=words.tone != "plain")


def _paragraph(paper: _Paper, text: str, height: float, *, fill: bool = False, section: int = 0) -> None:
    shown = "\n".join(_shown(paper, line) for line in text.split("\n"))
    if section:
        paper.start_section(plain(shown), level=section - 1)
    paper.multi_cell(0, height, shown, fill=fill, align="L", wrapmode=_wrap(shown), new_x=XPos.LMARGIN, new_y=YPos.NEXT,
                     padding=_INSET if fill else 0)  # fmt: skip
    paper.set_fill_color(*_FILL["plain"])  # a table's cells would take it on
    paper.ln(1.5)


def _facts(paper: _Paper, facts: Facts) -> None:
    width = paper.epw - _LABEL_MM
    with paper.table(
        borders_layout=TableBordersLayout.NONE,
        col_widths=(_LABEL_MM, width),
        first_row_as_headings=False,
        line_height=4.4,
        text_align="LEFT",
        v_align=VAlign.T,
        padding=(0.4, 1, 0.4, 0),
        wrapmode=_wrap("".join(value for _, value in facts.rows)),
    ) as table:
        paper.set_font("sans", "", 8.5)
        for name, value in facts.rows:
            row = table.row()
            row.cell(_shown(paper, name), style=FontFace(color=(79, 93, 109)))
            row.cell(_shown(paper, value))
    paper.ln(2)


def _table(paper: _Paper, table: Table) -> None:
    if paper.will_page_break(24 + (_ROW_MM * len(table.rows) if len(table.rows) <= _KEPT_TOGETHER else 0)):
        paper.add_page()
    paper.ln(1)
    paper.set_font("sans", "B", 8.5)
    _paragraph(paper, table.caption, 4.4)
    paper.set_font("sans", "", 7.5)
    paper.set_draw_color(*_LINE)
    wrap = _wrap(" ".join(cell for row in table.rows for cell in row))
    with paper.table(
        col_widths=tuple(share for _, share in table.columns),
        headings_style=_HEAD,
        line_height=3.7,
        text_align="LEFT",
        v_align=VAlign.T,
        padding=0.8,
        wrapmode=wrap,
    ) as drawn:
        drawn.row([title for title, _ in table.columns])
        for place, cells in enumerate(table.rows):
            tone = table.tones[place] if table.tones else "plain"
            style = None if tone == "plain" else FontFace(fill_color=_FILL[tone])
            row = drawn.row(style=style)
            for cell in cells:
                row.cell(_shown(paper, cell))
    paper.ln(2.5)


def _picture(paper: _Paper, picture: Picture) -> None:
    paper.set_font("sans", "", 8)
    if not picture.png:
        _words(paper, Words(f"{plain(picture.caption)}: {plain(picture.why_not)}.", "warn"))
        return
    caption = _shown(paper, plain(picture.caption))
    with Image.open(io.BytesIO(picture.png)) as image:
        columns, rows = image.size
    width = min(picture.width_mm, paper.epw, (paper.eph - 12) * columns / rows)
    height = width * rows / columns
    if paper.will_page_break(height + 12):
        paper.add_page()
    paper.image(io.BytesIO(picture.png), w=width, h=height, alt_text=caption)
    paper.ln(1)
    _paragraph(paper, caption, 4)


def _shown(paper: _Paper, text: str) -> str:
    """What the font can draw."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if ord(character) in paper.characters else _MISSING for character in text)


def _wrap(text: str) -> Any:
    """By words, but in the middle of one where a word (a UID, a digest) would not fit its line."""
    return "CHAR" if any(len(word) > 400 for word in text.split()) else "WORD"


def _fitted(paper: _Paper, text: str) -> str:
    while paper.get_string_width(text) > paper.epw:
        text = text[:-2] + "…"
    return text

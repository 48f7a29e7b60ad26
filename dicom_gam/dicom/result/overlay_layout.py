"""Where everything on the overlay goes: texts are measured first, and the pictures get the room that is left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_gam.dicom.result.attended_region import LEVEL
from dicom_gam.dicom.result.lettering import balanced, extent, text_width, wrapped
from dicom_gam.dicom.result.overlay_text import NO_BREAK, Banner
from dicom_gam.wording import DEFAULT_LABELS, LabelSettings

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
CONTOUR: Colour = (0, 229, 255)
FOOTER_TEXT: Colour = (255, 214, 0)
_DESIGN_SIDE = 1024  # the sizes below are for an overlay of this long side
_TITLE, _DETAIL, _FOOTER, _LEGEND = 30, 18, 16, 13
_SMALLEST = {
    _TITLE: 14,
    _DETAIL: 11,
    _FOOTER: 11,
    _LEGEND: 11,
}  # below 11 `e` has too few rows to differ from `c`
_LARGEST_BANNER = 0.35  # of the long side; then the less important lines go
_NARROWEST = 0.6  # of the long side, so that the banner's words have room over narrow images
_STACKED_ASPECT = 2.0  # columns / rows from which the pictures are larger one above the other
_GAP = 2  # between the pictures, at the design side


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; `right` and `bottom` are just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns covered."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows covered."""
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class PlacedText:
    """One line of text; `box` is where its ink may fall."""

    text: str
    bold: bool
    size: int
    box: Box
    colour: Colour


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole plan. `footer` is empty where there is none; `bar` is the colour bar itself, high values on top."""

    width: int
    height: int
    banner: Box
    footer: Box
    plain: Box
    overlaid: Box
    bar: Box
    texts: tuple[PlacedText, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines of text one below the other, broken to a width."""

    lines: tuple[tuple[str, bool, int], ...]
    height: int


def plan(
    rows: float,
    columns: float,
    words: Banner,
    ink: Colour,
    footer: str,
    long_side: int,
    labels: LabelSettings = DEFAULT_LABELS,
) -> Layout:
    """Lay out an image in the proportions of `rows` to `columns` twice, with banner, colour bar and footer.

    The two pictures lie side by side, or one above the other when the image is much wider than high. The longer side of
    the whole is `long_side` pixels; more only where title, outcome and footer, which are never cut, need more.
    """
    room = _Room(rows, columns, columns / rows >= _STACKED_ASPECT, long_side, _key_width(labels, long_side))
    width = _width(room, words, footer)
    head, foot = _banner_block(words, width, long_side), _footer_block(footer, width, long_side)
    spare = long_side - head.height - foot.height
    picture = room.picture(width, spare)
    high = max(room.down(picture) if width == long_side else spare, _least_middle(labels, long_side))
    middle = Box(0, head.height, width, head.height + high)
    left = (width - room.across(picture) - room.key) // 2
    right = left + room.across(picture)
    plain, overlaid = room.placed(picture, Box(left, middle.top, right, middle.bottom))
    bar, legend = _key(Box(right, middle.top, right + room.key, middle.bottom), labels, long_side)
    height = middle.bottom + foot.height
    texts = (*_placed(head, 0, width, ink), *legend, *_placed(foot, middle.bottom, width, FOOTER_TEXT, centred=True))
    bands = Box(0, 0, width, head.height), Box(0, middle.bottom, width, height)
    return Layout(width, height, *bands, plain, overlaid, bar, texts)


@dataclass(frozen=True, slots=True)
class _Room:
    """What the pictures need: their proportions, how they lie, and the width of the colour bar's column."""

    rows: float
    columns: float
    stacked: bool
    long_side: int
    key: int

    @property
    def gap(self) -> int:
        return max(_GAP, round(_GAP * self.long_side / _DESIGN_SIDE))

    def picture(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of each picture, as large as a canvas of this width and this height for both allow."""
        wide, high = self._largest(width, height)
        scale = min(wide / self.columns, high / self.rows)
        return max(1, int(self.columns * scale + 1e-6)), max(1, int(self.rows * scale + 1e-6))

    def too_wide(self, width: int, height: int) -> bool:
        """Whether it is the width that keeps the pictures from being larger."""
        wide, high = self._largest(width, height)
        return wide / self.columns < high / self.rows

    def _largest(self, width: int, height: int) -> tuple[int, int]:
        width -= self.key
        return (width, (height - self.gap) // 2) if self.stacked else ((width - self.gap) // 2, height)

    def across(self, picture: tuple[int, int]) -> int:
        """Width of both pictures."""
        return picture[0] if self.stacked else 2 * picture[0] + self.gap

    def down(self, picture: tuple[int, int]) -> int:
        """Height of both pictures."""
        return 2 * picture[1] + self.gap if self.stacked else picture[1]

    def placed(self, picture: tuple[int, int], room: Box) -> tuple[Box, Box]:
        """Both pictures in the middle of their room."""
        width, height = picture
        left = room.left + (room.width - self.across(picture)) // 2
        top = room.top + (room.height - self.down(picture)) // 2
        first = Box(left, top, left + width, top + height)
        across, down = (0, height + self.gap) if self.stacked else (width + self.gap, 0)
        return first, Box(left + across, top + down, left + across + width, top + down + height)


def _width(room: _Room, words: Banner, footer: str) -> int:
    """Of the whole: the long side, or less where it is the height that limits the pictures."""
    long_side = width = room.long_side
    for _ in range(8):  # narrower means more lines of text, so less height for the pictures, so narrower still
        head, foot = _banner_block(words, width, long_side), _footer_block(footer, width, long_side)
        spare = long_side - head.height - foot.height
        needed = room.across(room.picture(width, spare)) + room.key
        narrower = max(needed, round(_NARROWEST * long_side), min(256, long_side))
        if room.too_wide(width, spare) or narrower >= width:
            break
        width = narrower
    return width


def _scaled(size: int, long_side: int) -> int:
    return max(_SMALLEST[size], round(size * long_side / _DESIGN_SIDE))


def _margin(long_side: int) -> int:
    return max(4, round(8 * long_side / _DESIGN_SIDE))


def _banner_block(words: Banner, width: int, long_side: int) -> _Block:
    room = width - 2 * _margin(long_side)
    detail = _scaled(_DETAIL, long_side)
    title = _title_lines(words.title, room, _scaled(_TITLE, long_side))
    outcome = [(line, True, detail) for line in wrapped(words.outcome, True, detail, room)]
    others = [[(line, False, detail) for line in wrapped(text, False, detail, room, most=3)] for text in words.others]
    while True:
        block = _block([*title, *outcome, *(line for lines in others for line in lines)], long_side)
        if not others or block.height <= _LARGEST_BANNER * long_side:
            return block
        others.pop()


def _title_lines(title: str, room: int, size: int) -> list[tuple[str, bool, int]]:
    """On one line if a somewhat smaller size allows it, else broken."""
    for smaller in range(size, max(_SMALLEST[_TITLE], round(0.75 * size)) - 1, -1):
        if text_width(title, True, smaller) <= room:
            return [(title, True, smaller)]
    return [(line, True, size) for line in balanced(_by_clause(title), True, size, room)]


def _by_clause(text: str) -> str:
    """The same to be broken after punctuation if that will do: `NOT FOR DIAGNOSIS` must not lose its NOT."""
    return " ".join(clause.replace(" ", NO_BREAK) for clause in re.split(r"(?<=[:;,–—-]) ", text))


def _footer_block(footer: str, width: int, long_side: int) -> _Block:
    size = _scaled(_FOOTER, long_side)
    lines = balanced(_by_clause(footer), True, size, width - 2 * _margin(long_side))
    return _block([(line, True, size) for line in lines], long_side) if lines else _Block((), 0)


def _block(lines: Sequence[tuple[str, bool, int]], long_side: int) -> _Block:
    margin = _margin(long_side) // 2
    return _Block(tuple(lines), 2 * margin + sum(extent(*line).height for line in lines))


def _placed(block: _Block, top: int, width: int, colour: Colour, centred: bool = False) -> list[PlacedText]:
    texts = []
    heights = [extent(*line).height for line in block.lines]
    margin = (block.height - sum(heights)) // 2
    y = top + margin
    for (text, bold, size), height in zip(block.lines, heights, strict=True):
        across = text_width(text, bold, size)
        left = (width - across) // 2 if centred else 2 * margin
        texts.append(PlacedText(text, bold, size, Box(left, y, left + across, y + height), colour))
        y += height
    return texts


_KEY_VALUES = ("1.0", "0.5", "0.0")


def _key_line(labels: LabelSettings) -> str:
    return f"{labels.key_line} {LEVEL}"


def _key_width(labels: LabelSettings, long_side: int) -> int:
    size = _scaled(_LEGEND, long_side)
    widest = max(text_width(text, True, size) for text in (labels.key_title, _key_line(labels), f"{_KEY_VALUES[0]}MM"))
    return widest + 2 * (_margin(long_side) // 2)


def _key_step(labels: LabelSettings, long_side: int) -> int:
    """Height of a line of the legend."""
    size = _scaled(_LEGEND, long_side)
    return max(extent(text, True, size).height for text in (labels.key_title, _key_line(labels)))


def _least_middle(labels: LabelSettings, long_side: int) -> int:
    """So much height the colour bar's title, its ends' values and the line's label need."""
    return 5 * _key_step(labels, long_side)


def _key(column: Box, labels: LabelSettings, long_side: int) -> tuple[Box, list[PlacedText]]:
    """The colour bar and its labels in their column."""
    size = _scaled(_LEGEND, long_side)
    line = _key_step(labels, long_side)
    length = min(max(column.height - 4 * line, 2 * line), round(0.6 * long_side))
    top = column.top + (column.height - length) // 2
    left = column.left + _margin(long_side) // 2
    bar = Box(left, top, left + text_width("M", True, size), top + length)
    texts = []
    for text, middle in zip(_KEY_VALUES, (bar.top, bar.top + length // 2, bar.bottom), strict=True):
        if text != _KEY_VALUES[1] or length >= 4 * line:
            x, y = bar.right + text_width("i", True, size), middle - line // 2
            texts.append(_label(text, x, y, size, WHITE))
    texts.append(_label(labels.key_title, left, bar.top - line // 2 - line, size, WHITE))
    texts.append(_label(_key_line(labels), left, bar.bottom - line // 2 + line, size, CONTOUR))
    return bar, texts


def _label(text: str, left: int, top: int, size: int, colour: Colour) -> PlacedText:
    box = Box(left, top, left + extent(text, True, size).width, top + extent(text, True, size).height)
    return PlacedText(text, True, size, box, colour)

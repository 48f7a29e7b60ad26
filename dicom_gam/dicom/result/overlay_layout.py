"""Where everything on the overlay goes: texts are measured first, and the pictures get the room that is left."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

from dicom_gam.dicom.result.overlay_text import NO_BREAK, Banner

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
CONTOUR: Colour = (0, 229, 255)
FOOTER_TEXT: Colour = (255, 214, 0)
_DESIGN_SIDE = 1024  # the sizes below are for an overlay of this long side
_TITLE, _DETAIL, _FOOTER, _LEGEND = 30, 18, 16, 13
_SMALLEST = {_TITLE: 13, _DETAIL: 11, _FOOTER: 10, _LEGEND: 9}  # below these pixels DejaVu can't be read
_LARGEST_BANNER = 0.35  # of the long side; then the less important lines go
_NARROWEST = 0.6  # of the long side, so that the banner's words have room over narrow images
_STACKED_ASPECT = 2.0  # columns / rows from which the pictures are larger one above the other
_GAP = 2


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


@lru_cache(maxsize=64)
def font(bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, laid out the same on every machine."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, bold: bool, size: int) -> int:
    """Pixels from the start of the line to the end of its ink, rounded up."""
    return int(-(-max(font(bold, size).getlength(text), font(bold, size).getbbox(text)[2]) // 1))


def line_height(bold: bool, size: int) -> int:
    """Pixels that one line takes, whatever letters it holds."""
    ascent, descent = font(bold, size).getmetrics()
    return ascent + descent


def plan(rows: int, columns: int, words: Banner, ink: Colour, footer: str, long_side: int) -> Layout:
    """Lay out an image of `rows` x `columns` twice, with banner, colour bar and footer, `long_side` pixels long.

    The two pictures lie side by side, or one above the other when the image is much wider than high.
    """
    stacked = columns / rows >= _STACKED_ASPECT
    key = _key_width(long_side)
    width = long_side
    for _ in range(8):  # narrower means more lines of text, so less height for the pictures, so narrower still
        head, foot = _banner_block(words, width, long_side), _footer_block(footer, width, long_side)
        picture = _fitted(rows, columns, width - key, long_side - head.height - foot.height, stacked)
        pictures = picture[0] if stacked else 2 * picture[0] + _GAP
        narrower = max(pictures + key, round(_NARROWEST * long_side), min(256, long_side))
        if narrower >= width:
            break
        width = narrower
    head, foot = _banner_block(words, width, long_side), _footer_block(footer, width, long_side)
    spare = long_side - head.height - foot.height
    picture = _fitted(rows, columns, width - key, spare, stacked)
    tall = 2 * picture[1] + _GAP if stacked else picture[1]
    room = max(tall if width == long_side else spare, _least_middle(long_side))
    middle = Box(0, head.height, width, head.height + room)
    across = picture[0] if stacked else 2 * picture[0] + _GAP
    left = (width - across - key) // 2
    plain, overlaid = _pictures(picture, Box(left, middle.top, left + across, middle.bottom), stacked)
    bar, legend = _key(Box(left + across, middle.top, left + across + key, middle.bottom), long_side)
    height = middle.bottom + foot.height
    texts = (*_placed(head, 0, width, ink), *legend, *_placed(foot, middle.bottom, width, FOOTER_TEXT, centred=True))
    bands = Box(0, 0, width, head.height), Box(0, middle.bottom, width, height)
    return Layout(width, height, *bands, plain, overlaid, bar, texts)


def _scaled(size: int, long_side: int) -> int:
    return max(_SMALLEST[size], round(size * long_side / _DESIGN_SIDE))


def _margin(long_side: int) -> int:
    return max(4, round(8 * long_side / _DESIGN_SIDE))


def _fitted(rows: int, columns: int, width: int, height: int, stacked: bool) -> tuple[int, int]:
    """Width and height of each picture, as large as the room allows."""
    width, height = (width, (height - _GAP) // 2) if stacked else ((width - _GAP) // 2, height)
    scale = min(width / columns, height / rows)
    return max(1, int(columns * scale + 1e-6)), max(1, int(rows * scale + 1e-6))


def _pictures(picture: tuple[int, int], room: Box, stacked: bool) -> tuple[Box, Box]:
    """Both pictures, centred in the room they have."""
    width, height = picture
    across, down = (0, height + _GAP) if stacked else (width + _GAP, 0)
    left = room.left + (room.width - width - across) // 2
    top = room.top + (room.height - height - down) // 2
    first = Box(left, top, left + width, top + height)
    return first, Box(left + across, top + down, left + across + width, top + down + height)


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
    return [(line, True, size) for line in wrapped(title, True, size, room)]


def _footer_block(footer: str, width: int, long_side: int) -> _Block:
    size = _scaled(_FOOTER, long_side)
    lines = wrapped(footer, True, size, width - 2 * _margin(long_side), most=4)
    return _block([(line, True, size) for line in lines], long_side) if lines else _Block((), 0)


def _block(lines: Sequence[tuple[str, bool, int]], long_side: int) -> _Block:
    margin = _margin(long_side) // 2
    return _Block(tuple(lines), 2 * margin + sum(line_height(bold, size) for _, bold, size in lines))


def wrapped(text: str, bold: bool, size: int, room: int, most: int | None = None) -> list[str]:
    """Break a text at spaces, or within a word too long for a line; after `most` lines it ends in an ellipsis."""
    lines: list[str] = []
    for word in _words(text, bold, size, room):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, bold, size) <= room:
            lines[-1] = longer
            continue
        if most is not None and len(lines) > most:
            break
        lines.append(word)
        while len(lines[-1]) > 1 and text_width(lines[-1], bold, size) > room:
            cut = _longest_start(lines[-1], bold, size, room)
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
            if most is not None and len(lines) > most:
                break
    if most is not None and len(lines) > most:
        last = lines[most - 1]
        cut = _longest_start(f"{last} ", bold, size, room - text_width("...", bold, size))
        lines[most - 1 :] = [f"{last[:cut].rstrip()}..."]
    return lines


def _words(text: str, bold: bool, size: int, room: int) -> list[str]:
    words: list[str] = []
    for word in re.split(rf"[^\S{NO_BREAK}]+", text):
        fits = text_width(word, bold, size) <= room
        words.extend([word] if fits else word.split(NO_BREAK))
    return [word for word in words if word]


def _longest_start(text: str, bold: bool, size: int, room: int) -> int:
    """How many characters of a text that is too long fit, at least one."""
    return max(1, bisect_right(range(1, len(text)), room, key=lambda cut: text_width(text[:cut], bold, size)))


def _placed(block: _Block, top: int, width: int, colour: Colour, centred: bool = False) -> list[PlacedText]:
    texts = []
    heights = [line_height(bold, size) for _, bold, size in block.lines]
    margin = (block.height - sum(heights)) // 2
    y = top + margin
    for (text, bold, size), height in zip(block.lines, heights, strict=True):
        across = text_width(text, bold, size)
        left = (width - across) // 2 if centred else 2 * margin
        texts.append(PlacedText(text, bold, size, Box(left, y, left + across, y + height), colour))
        y += height
    return texts


_KEY_TITLE, _KEY_LINE, _KEY_VALUES = "Attention", "line: 0.5", ("1.0", "0.5", "0.0")


def _key_width(long_side: int) -> int:
    size = _scaled(_LEGEND, long_side)
    widest = max(text_width(text, True, size) for text in (_KEY_TITLE, _KEY_LINE, f"{_KEY_VALUES[0]}MM"))
    return widest + 2 * (_margin(long_side) // 2)


def _least_middle(long_side: int) -> int:
    """So much height the colour bar's title, its ends' values and the line's label need."""
    return 5 * line_height(True, _scaled(_LEGEND, long_side))


def _key(column: Box, long_side: int) -> tuple[Box, list[PlacedText]]:
    """The colour bar and its labels in their column."""
    size = _scaled(_LEGEND, long_side)
    line = line_height(True, size)
    length = min(column.height - 3 * line, round(0.6 * long_side))
    top = column.top + (column.height - length) // 2
    left = column.left + _margin(long_side) // 2
    bar = Box(left, top, left + text_width("M", True, size), top + length)
    texts = []
    for text, middle in zip(_KEY_VALUES, (bar.top, bar.top + length // 2, bar.bottom), strict=True):
        if text != _KEY_VALUES[1] or length >= 4 * line:
            x, y = bar.right + text_width("i", True, size), middle - line // 2
            texts.append(_label(text, x, y, size, WHITE))
    texts.append(_label(_KEY_TITLE, left, bar.top - line // 2 - line, size, WHITE))
    texts.append(_label(_KEY_LINE, left, bar.bottom - line // 2 + line, size, CONTOUR))
    return bar, texts


def _label(text: str, left: int, top: int, size: int, colour: Colour) -> PlacedText:
    box = Box(left, top, left + text_width(text, True, size), top + line_height(True, size))
    return PlacedText(text, True, size, box, colour)

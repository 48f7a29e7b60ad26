"""Measured lettering: how much room a line of text takes, and where a text is broken."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

from dicom_gam.dicom.result.overlay_text import NO_BREAK


@lru_cache(maxsize=64)
def font(bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, laid out the same on every machine."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True, slots=True)
class Extent:
    """The room of one line of text in pixels; its letters start `left` and `top` inside, for ink that reaches out."""

    left: int
    top: int
    width: int
    height: int


@lru_cache(maxsize=8192)
def extent(text: str, bold: bool, size: int) -> Extent:
    """Measure a line: as high as any line, or higher where accents are stacked upon capitals."""
    ascent, descent = font(bold, size).getmetrics()
    ink = font(bold, size).getbbox(text)
    left, top = max(0, -math.floor(ink[0])), max(0, -math.floor(ink[1]))
    return Extent(left, top, left + math.ceil(ink[2]), top + max(ascent + descent, math.ceil(ink[3])))


def text_width(text: str, bold: bool, size: int) -> int:
    """Pixels that the line takes: to the end of its last letter or of its ink, whichever is further."""
    return extent(text, bold, size).width


@lru_cache(maxsize=256)
def wrapped(text: str, bold: bool, size: int, room: int, most: int | None = None) -> tuple[str, ...]:
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
    return tuple(lines)


def balanced(text: str, bold: bool, size: int, room: int) -> tuple[str, ...]:
    """The same in as few lines, but of about equal length, so that no word is left alone on the last."""
    count = len(wrapped(text, bold, size, room))
    widest = max((text_width(word, bold, size) for word in text.split(" ")), default=0)
    low, high = min(room, max(room // 2, widest)), room
    while count > 1 and high - low > size // 2:
        middle = (low + high) // 2
        low, high = (low, middle) if len(wrapped(text, bold, size, middle)) == count else (middle, high)
    return wrapped(text, bold, size, high)


def _words(text: str, bold: bool, size: int, room: int) -> list[str]:
    words: list[str] = []
    for word in re.split(rf"[^\S{NO_BREAK}]+", text):
        fits = text_width(word, bold, size) <= room
        words.extend([word] if fits else word.split(NO_BREAK))
    return [word for word in words if word]


def _longest_start(text: str, bold: bool, size: int, room: int) -> int:
    """How many characters of a text that is too long fit, at least one."""
    return max(1, bisect_right(range(1, len(text)), room, key=lambda cut: text_width(text[:cut], bold, size)))

"""What a dossier's document is made of. HTML and PDF are drawn from the same blocks, so that they say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dicom_gam.service.dossier_pictures import Picture

Tone = Literal["plain", "good", "bad", "warn"]


@dataclass(frozen=True, slots=True)
class Heading:
    """`level` is 1 to 3; `new_page` for what begins on a page of its own on paper."""

    text: str
    level: int = 2
    new_page: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """One paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of a name and a value."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` are titles and their share of the width; `tones` colour a row, beside its words."""

    caption: str
    columns: Sequence[tuple[str, float]]
    rows: Sequence[Sequence[str]]
    tones: Sequence[Tone] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be kept as they are."""

    text: str


Block = Heading | Words | Facts | Table | Code | Picture
Document = Iterator[Block]

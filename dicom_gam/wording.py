"""The words on the overlay, which a hospital may put into its own language, and the characters they may hold."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from dicom_gam.sections import Section

SCRIPTS = "Latin, Greek, Cyrillic, Armenian and Georgian"
# What both weights of the overlay's font (DejaVu Sans) hold and plain left-to-right setting gets right; a test holds
# the table against the font. First and last of each range.
_DRAWABLE = (
    *((0x20, 0x7E), (0xA0, 0xAC), (0xAE, 0x24F), (0x1E00, 0x1EFB)),  # Latin
    *((0x370, 0x377), (0x37B, 0x37E), (0x384, 0x38A), (0x38C, 0x38C), (0x38E, 0x3A1), (0x3A3, 0x3FF)),  # Greek
    *((0x400, 0x482), (0x48A, 0x525)),  # Cyrillic
    *((0x531, 0x556), (0x559, 0x55F), (0x561, 0x587), (0x589, 0x58A)),  # Armenian
    *((0x10A0, 0x10C5), (0x10D0, 0x10FC)),  # Georgian
    *((0x2010, 0x2027), (0x2030, 0x205E), (0x20A0, 0x20B5), (0x2190, 0x22FF)),  # punctuation, currencies, mathematics
)
_RANGES = tuple(sorted(_DRAWABLE))
_FIRSTS = tuple(first for first, _ in _RANGES)
_VERDICT_WORDS = ("PASS", "FAIL", "REJECT")


def is_drawable(character: str) -> bool:
    """Whether the overlay can show it."""
    place = bisect_right(_FIRSTS, ord(character)) - 1
    return place >= 0 and ord(character) <= _RANGES[place][1]


def drawable(text: str) -> str:
    """The same on one line, with a question mark for what the overlay can't show."""
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(character if is_drawable(character) else "?" for character in words)


def _all_drawable(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    for character in text:
        if not is_drawable(character):
            name = unicodedata.name(character, "without a name")
            msg = f"the overlay's font can't show U+{ord(character):04X} ({name}): it has {SCRIPTS}; write it in these"
            raise ValueError(msg)
    return text


_WORDS = AfterValidator(_all_drawable)
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60), _WORDS]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40), _WORDS]
KeyWord = Annotated[  # stands beside the pictures, in their room
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=14), _WORDS
]
Footer = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), _WORDS]


class LabelSettings(Section):
    """The words on the overlay. Figures, signs and the names IoU, Dice, SSIM and so on need no translation."""

    pass_title: Title = Field("AI VERIFICATION: PASS", description="the banner of a PASS; must hold the word PASS")
    fail_title: Title = Field(
        "AI VERIFICATION: FAIL - DO NOT USE AI RESULT",
        description="the banner of a FAIL; must hold the word FAIL, and should say not to use the AI's result",
    )
    reject_title: Title = Field(
        "AI VERIFICATION: INPUT REJECTED", description="the banner of a REJECT; must hold the word REJECT or REJECTED"
    )
    failed: Phrase = Field("Failed:", description="before the figures that made it fail")
    rejected: Phrase = Field("Rejected:", description="before the figures that made it be rejected")
    note: Phrase = Field("Note:", description="before a remark; remarks themselves are in English")
    probability: Phrase = Field("probability", description="between the class and its probability")
    attention: Phrase = Field("attention", description="names the attention check, as in `attention IoU`")
    early: Phrase = Field("early", description="names the early feature check, as in `early IoU`")
    input: Phrase = Field("input", description="names the input check")
    authenticity: Phrase = Field("authenticity", description="names the authenticity check")
    garbage_probability: Phrase = Field("garbage probability", description="probability that it is no such image")
    class_probability: Phrase = Field("class probability", description="probability of the most probable class")
    feature_distance: Phrase = Field("feature distance", description="distance from the reference images")
    channel_distance: Phrase = Field("early channel distance", description="the same of the early features")
    frequency_distance: Phrase = Field("frequency distance", description="the same of the frequency statistics")
    check: Phrase = Field("check", description="after the name of a check that failed as a whole")
    not_measured: Phrase = Field("could not be measured", description="after a figure that has no value")
    more: Phrase = Field("more", description="after the number of failed figures for which there is no room")
    no_attention: Phrase = Field(
        "no location speaks for the class", description="why it failed: the attention map is empty"
    )
    more_than_any_class: Phrase = Field(
        "more than any class", description="why it was rejected: the garbage class is the most probable"
    )
    see_report: Phrase = Field("see the report", description="where no single figure is the reason")
    key_title: KeyWord = Field("Attention", description="over the colour bar")
    key_line: KeyWord = Field("line:", description="under the colour bar, before the level of the outline")

    @model_validator(mode="after")
    def _tell_the_truth(self) -> LabelSettings:
        own = {"pass_title": "PASS", "fail_title": "FAIL", "reject_title": "REJECT"}
        for key, word in own.items():
            if re.search(rf"\b{word}(ED)?\b", getattr(self, key)) is None:
                msg = f"{key} lacks the word {word}, which is the same in every language: add it in capitals"
                raise ValueError(msg)
        own |= {"failed": "FAIL", "rejected": "REJECT"}
        for key, text in self:
            for word in _VERDICT_WORDS:
                if word != own.get(key) and re.search(rf"\b{word}", text, re.IGNORECASE) is not None:
                    msg = f"{key} holds the word {word}, which belongs to another verdict: write it without"
                    raise ValueError(msg)
        return self


DEFAULT_LABELS = LabelSettings()

"""The overlay's words: which are refused, and why."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from fontTools.ttLib import TTFont

from dicom_gam.config import settings_from
from dicom_gam.dicom.result.codes import VERDICT_WORDS
from dicom_gam.errors import ConfigError
from dicom_gam.records import Verdict
from dicom_gam.wording import LabelSettings, is_drawable


def labels(**words: str) -> LabelSettings:
    return settings_from({"output": {"labels": words}}).output.labels


@pytest.mark.parametrize("name", ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"])
def test_the_overlays_font_has_every_character_that_may_be_written(name):
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    has = set(TTFont(path).getBestCmap())
    assert [hex(code) for code in range(0x3000) if is_drawable(chr(code)) and code not in has] == []


@pytest.mark.parametrize(
    "text",
    [
        *("ÄÖÜäöüß", "ÀÇÉÈÊËÎÏÔŒÙÛŸ", "ĄĆĘŁŃÓŚŹŻ", "ŠČŘĎŤŇŮ", "ĞİŞğış", "ĀĒĪŪĢĶ", "ŐŰ", "ĄČĘĖĮŠŲŪŽ", "KIỂM TRA: ĐẠT"),
        *("≥≤–—…«»“”„€°±µ", "ПРОВЕРКА", "ПЕРЕВІРКА ЇЄҐ", "Έλεγχος", "ՍՏՈՒԳՈՒՄ", "შემოწმება"),
    ],
)
def test_the_languages_of_europe_and_vietnamese_can_be_written(text):
    assert labels(note=text).note == text


def test_a_letter_in_two_parts_becomes_one():
    assert labels(note="Pru\u0308fung").note == "Pr\u00fcfung"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("注意", "CJK UNIFIED IDEOGRAPH-6CE8"),
        ("ملاحظة", "ARABIC LETTER MEEM"),
        ("הערה", "HEBREW LETTER HE"),
        ("a\nb", "U\\+000A"),
        ("a\u202eb", "RIGHT-TO-LEFT OVERRIDE"),
        ("a\u00adb", "SOFT HYPHEN"),
        ("q\u0308", "COMBINING DIAERESIS"),
    ],
)
def test_a_character_that_the_font_lacks_is_named_with_the_scripts_it_has(text, named):
    with pytest.raises(ConfigError, match=rf"output\.labels\.note: .*{named}.* it has Latin, Greek, Cyrillic"):
        labels(note=text)


def test_the_footer_too_is_held_to_the_font():
    with pytest.raises(ConfigError, match=r"output\.footer: the overlay's font can't show U\+7814"):
        settings_from({"output": {"footer": "研究用"}})


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"note": ""}, r"output\.labels\.note: .*at least 1 char"),
        ({"note": "   "}, r"output\.labels\.note: .*at least 1 char"),
        ({"note": "x" * 41}, r"output\.labels\.note: .*at most 40 char"),
        ({"key_title": "x" * 15}, r"output\.labels\.key_title: .*at most 14 char"),
        ({"pass_title": "PASS" + "x" * 57}, r"output\.labels\.pass_title: .*at most 60 char"),
        ({"fail_titel": "FAIL"}, r"did you mean fail_title\?"),
        ({"pass_title": "AI: OK"}, "pass_title lacks the word PASS"),
        ({"pass_title": "AI: COMPASS"}, "pass_title lacks the word PASS"),
        ({"fail_title": "KI: NICHT BESTANDEN"}, "fail_title lacks the word FAIL"),
        ({"fail_title": "FAIL - DID NOT PASS"}, "fail_title holds the word PASS, which belongs to another verdict"),
        ({"reject_title": "REJECTED, not failed"}, "reject_title holds the word FAIL"),
        ({"pass_title": "PASS", "fail_title": "PASS"}, "fail_title lacks the word FAIL"),
        ({"failed": "Passed:"}, "failed holds the word PASS"),
        ({"key_title": "PASS"}, "key_title holds the word PASS"),
    ],
)
def test_words_that_are_empty_too_long_or_untrue_are_refused(words, complaint):
    with pytest.raises(ConfigError, match=complaint):
        labels(**words)


@pytest.mark.parametrize("title", ["KI-PRÜFUNG: PASS", "PASSED", "VÉRIFICATION: PASS (accepté)"])
def test_a_title_may_be_in_any_language_around_the_verdicts_word(title):
    assert labels(pass_title=title).pass_title == title


def test_unless_told_otherwise_the_titles_are_those_of_the_report():
    plain = LabelSettings()
    assert plain.pass_title == VERDICT_WORDS[Verdict.PASS]
    assert plain.fail_title == VERDICT_WORDS[Verdict.FAIL]
    assert plain.reject_title == VERDICT_WORDS[Verdict.REJECT]
    assert "DO NOT USE AI RESULT" in plain.fail_title


def test_a_label_shapes_the_result_and_so_its_identity():
    base = settings_from({})
    assert base.result_digest() != settings_from({"output": {"labels": {"note": "Hinweis:"}}}).result_digest()

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.color import rgb2lab

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result import overlay as drawing
from dicom_gam.dicom.result.overlay import render_overlay
from dicom_gam.dicom.result.overlay_layout import WHITE, Box, Layout, font, plan, text_width, wrapped
from dicom_gam.dicom.result.overlay_text import banner, comparison
from dicom_gam.records import BundleIdentity, Measurement, Prediction
from tests.dicom.example_results import BUNDLE, blob, check, measurement, prediction, thorax, verification

NOTE = "BodyPartExamined says HAND, but the image looks like chest: check the body part"
FOOTER = OutputSettings().footer
SHAPES = {
    "square": (1000, 1000),
    "portrait": (2500, 2000),
    "landscape": (2000, 2500),
    "1:4": (2000, 500),
    "4:1": (500, 2000),
    "1:40": (2000, 50),
    "40:1": (50, 2000),
    "tiny": (64, 64),
}
SIDES = (256, 512, 1024, 4096)


def render(verdict: str = "PASS", pixels: np.ndarray | None = None, side: int = 512, label: str = "chest", **changes):
    pixels = thorax() if pixels is None else pixels
    settings = OutputSettings(overlay_long_side=side)
    return render_overlay(pixels, prediction(label), verification(verdict, **changes), BUNDLE, settings)


@functools.cache
def layout(verdict: str = "PASS", shape: tuple[int, int] = (300, 260), side: int = 512, footer: str = FOOTER) -> Layout:
    words = banner(prediction(), verification(verdict, notes=(NOTE,)), BUNDLE)
    return plan(*shape, words, WHITE, footer, side)


def shown(verdict: str, label: str = "chest", **changes: object) -> str:
    """All the words of the banner."""
    words = banner(prediction(label), verification(verdict, **changes), BUNDLE)
    return words.summary


def part(image: np.ndarray, box: Box) -> np.ndarray:
    return image[box.top : box.bottom, box.left : box.right]


def apart(one: Box, other: Box) -> bool:
    across = one.right <= other.left or other.right <= one.left
    return across or one.bottom <= other.top or other.bottom <= one.top


ANY = pytest.mark.parametrize(
    ("verdict", "shape", "side"), list(itertools.product(("PASS", "FAIL", "REJECT"), SHAPES.values(), SIDES))
)


@ANY
def test_no_text_is_clipped(verdict, shape, side):
    made = layout(verdict, shape, side)
    for text in made.texts:
        box = text.box
        assert 0 <= box.left < box.right <= made.width, text
        assert 0 <= box.top < box.bottom <= made.height, text


@ANY
def test_no_text_overlaps_another_text_or_a_picture(verdict, shape, side):
    made = layout(verdict, shape, side)
    boxes = [*(text.box for text in made.texts), made.plain, made.overlaid]
    assert all(apart(one, other) for one, other in itertools.combinations(boxes, 2))


@ANY
def test_the_pictures_keep_the_images_aspect_and_stay_in_view(verdict, shape, side):
    made = layout(verdict, shape, side)
    for box in (made.plain, made.overlaid):
        assert made.banner.bottom <= box.top
        assert box.bottom <= made.footer.top
        assert box.left >= 0
        assert box.right <= made.width
        assert abs(box.width * shape[0] - box.height * shape[1]) <= max(shape)  # within a pixel


@ANY
def test_the_longer_side_is_what_the_settings_say(verdict, shape, side):
    made = layout(verdict, shape, side)
    assert max(made.width, made.height) == side


@pytest.mark.parametrize("size", [9, 11, 18, 30, 120])
@pytest.mark.parametrize("bold", [True, False])
def test_the_ink_of_a_text_stays_in_its_measured_box(bold, size):
    text = "AI gjpqy|[]{}_ Ägf 0.31 < 0.50"
    image = Image.new("L", (60 * size, 4 * size))
    ImageDraw.Draw(image).text((size, size), text, fill=255, font=font(bold, size))
    left, top, right, bottom = image.getbbox()
    ascent, descent = font(bold, size).getmetrics()
    assert size <= left
    assert right <= size + text_width(text, bold, size)
    assert size <= top
    assert bottom <= size + ascent + descent


@pytest.mark.parametrize("side", SIDES)
def test_the_smallest_letters_are_still_legible(side):
    assert min(text.size for text in layout("FAIL", side=side).texts) >= 9


def test_a_line_is_broken_between_words_and_nothing_is_lost():
    text = "one two three four five six seven"
    lines = wrapped(text, bold=False, size=12, room=80)
    assert " ".join(lines) == text
    assert all(text_width(line, False, 12) <= 80 for line in lines)


def test_a_word_longer_than_a_line_is_broken_within():
    lines = wrapped("W" * 30, bold=False, size=12, room=80)
    assert "".join(lines) == "W" * 30
    assert all(text_width(line, False, 12) <= 80 for line in lines)


def test_a_text_beyond_its_lines_ends_in_an_ellipsis_that_fits():
    lines = wrapped("word " * 5000, bold=False, size=12, room=80, most=2)
    assert len(lines) == 2
    assert lines[1].endswith("...")
    assert all(text_width(line, False, 12) <= 80 for line in lines)


def test_a_note_of_a_hundred_thousand_letters_fits_too():
    words = banner(prediction(), verification("PASS", notes=("x" * 100_000,)), BUNDLE)
    made = plan(300, 260, words, WHITE, FOOTER, 512)
    assert all(text.box.right <= made.width for text in made.texts)


def test_a_wide_image_is_shown_above_itself_and_others_beside_themselves():
    wide, square = layout(shape=(500, 2000)), layout(shape=(500, 500))
    assert wide.plain.left == wide.overlaid.left
    assert square.plain.top == square.overlaid.top


def test_without_a_footer_there_is_no_footer():
    made = layout(footer="")
    assert made.footer.height == 0
    assert not {text.text for text in made.texts} & set(FOOTER.split())


def test_the_footer_is_written_out():
    words = " ".join(text.text for text in layout(side=256).texts)
    assert FOOTER in words


@pytest.mark.parametrize(
    ("verdict", "title"),
    [
        ("PASS", "AI VERIFICATION: PASS"),
        ("FAIL", "AI VERIFICATION: FAIL - DO NOT USE AI RESULT"),
        ("REJECT", "AI VERIFICATION: INPUT REJECTED"),
    ],
)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_verdict_stands_in_words_whatever_the_room(verdict, title, shape, side):
    assert " ".join(text.text for text in layout(verdict, shape, side).texts).startswith(title)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_failed_figure_and_its_threshold_stand_on_the_overlay_whatever_the_room(shape, side):
    words = " ".join(text.text.replace("\u00a0", " ") for text in layout("FAIL", shape, side).texts)
    assert "Failed: attention IoU 0.31 < 0.50" in words


@pytest.mark.parametrize(
    ("verdict", "colour"), [("PASS", (0, 96, 48)), ("FAIL", (150, 16, 16)), ("REJECT", (255, 176, 0))]
)
def test_the_banner_is_green_red_or_amber_from_edge_to_edge(verdict, colour):
    image = render(verdict)
    assert {tuple(pixel) for pixel in image[0]} == {colour}


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
def test_the_banners_words_stand_out_from_its_ground(verdict):
    background, ink = drawing._BANNER[verdict]

    def luminance(colour):  # WCAG 2.1, relative luminance
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(colour) / 255]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(background), luminance(ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 7


def test_a_pass_names_the_class_and_its_probability():
    assert "hand, probability 0.94" in shown("PASS", "hand")


@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
def test_without_a_pass_the_overlay_is_the_same_whatever_class_was_predicted(verdict):
    np.testing.assert_array_equal(render(verdict, label="chest"), render(verdict, label="hand"))


def test_a_rejection_leaves_out_notes_that_may_name_a_class():
    assert "chest" not in shown("REJECT", notes=(NOTE,))


@pytest.mark.parametrize("verdict", ["PASS", "FAIL"])
def test_notes_are_shown(verdict):
    assert f"Note: {NOTE}" in shown(verdict, notes=(NOTE,))


def test_a_rejection_says_what_was_exceeded():
    assert "Rejected: garbage probability 0.97 > 0.35, feature distance 88.00 > 30.00" in shown("REJECT")


def test_a_rejection_by_the_garbage_class_alone_says_so():
    checks = (check("input"), check("attention"), check("early"))
    assert "garbage probability 0.94, more than any class" in shown("REJECT", "other", checks=checks)


def test_a_degenerate_map_is_a_reason_to_fail():
    checks = (check("input"), check("attention"), check("early"))
    assert "Failed: no location speaks for the predicted class" in shown(
        "FAIL", checks=checks, attention_status="degenerate"
    )


def test_a_check_that_failed_as_a_whole_shows_its_score():
    odd = replace(check("attention"), passed=False, score=4.25)
    assert "attention check 4.25 > 3.10" in shown("FAIL", checks=(check("input"), odd, check("early")))


def test_a_limit_below_what_an_overlap_can_be_is_left_out():
    lenient = replace(check("early"), measurements=(replace(measurement("early.iou"), threshold=-0.02),))
    words = shown("PASS", checks=(check("input"), check("attention"), lenient))
    assert "attention IoU 0.62 (min 0.50)" in words
    assert "-0.02" not in words


def test_an_advisory_check_is_no_reason():
    doubtful = replace(check("authenticity", False), advisory=True)
    checks = (check("input"), check("attention", False), check("early"), doubtful)
    assert "frequency" not in shown("FAIL", checks=checks)


def test_dice_is_not_told_beside_iou_for_it_says_the_same():
    assert "Dice" not in shown("FAIL")


@pytest.mark.parametrize(
    ("value", "threshold", "bound", "words"),
    [
        (0.31, 0.5, "min", "attention IoU 0.31 < 0.50"),
        (0.4996, 0.5, "min", "attention IoU 0.4996 < 0.5000"),
        (88.0, 30.0, "max", "attention IoU 88.00 > 30.00"),
        (0.004, 0.001, "max", "attention IoU 0.0040 > 0.0010"),
        (math.nan, 0.5, "min", "attention IoU could not be measured"),
    ],
)
def test_a_figure_has_as_many_digits_as_tell_it_from_its_threshold(value, threshold, bound, words):
    text = comparison(Measurement("attention.iou", value, threshold, bound, None))
    assert text.replace("\u00a0", " ") == words


def test_attention_is_transparent_below_a_fifth():
    image = render(attention_map=np.full((8, 8), 0.19, np.float32))
    made = plan(300, 260, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    np.testing.assert_array_equal(part(image, made.plain), part(image, made.overlaid))


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_attention_covers_at_most_0_38_of_the_picture(grey):
    pixels = np.full((300, 260), grey, np.float32)
    image = render(pixels=pixels, attention_map=np.ones((8, 8), np.float32))
    made = plan(300, 260, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    below, colour = 255 * grey, drawing._colours()[255].astype(float)
    np.testing.assert_allclose(part(image, made.overlaid)[20, 20], below + 0.38 * (colour - below), atol=0.51)


def test_a_line_is_drawn_where_attention_is_a_half():
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    image = render(attention_map=ramp)
    made = plan(300, 260, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    row = part(image, made.overlaid)[made.overlaid.height // 3].astype(int)
    most_cyan = int(np.argmax(row[:, 1] + row[:, 2] - 2 * row[:, 0]))
    assert most_cyan == pytest.approx(made.overlaid.width / 2, abs=1.5)


def test_a_degenerate_map_is_not_drawn():
    image = render("FAIL", attention_status="degenerate", attention_map=blob())
    made = plan(
        300, 260, banner(prediction(), verification("FAIL", attention_status="degenerate"), BUNDLE), WHITE, FOOTER, 512
    )
    np.testing.assert_array_equal(part(image, made.plain), part(image, made.overlaid))


def test_the_colour_map_gets_steadily_lighter():
    lightness = rgb2lab(drawing._colours()[None] / 255.0)[0, :, 0]
    steps = np.diff(lightness)
    assert steps.min() > -0.3  # 8-bit colours round
    assert np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256)).max() < 6


def test_the_picture_is_an_average_of_areas():
    pixels = np.zeros((1200, 1200), np.float32)
    pixels[::2] = 1  # rows of black and white: their average is grey, any sampling of rows is not
    image = render(pixels=pixels, attention_map=np.zeros((8, 8), np.float32))
    made = plan(1200, 1200, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    assert np.abs(part(image, made.plain)[5:-5].astype(int) - 127).max() < 70
    assert part(image, made.plain).mean() == pytest.approx(127.5, abs=2)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_any_shape_is_drawn_at_its_planned_size(shape):
    words = banner(prediction(), verification(), BUNDLE)
    made = plan(*shape, words, WHITE, FOOTER, 256)
    image = render(pixels=np.full(shape, 0.5, np.float32), side=256)
    assert image.shape == (made.height, made.width, 3)
    assert image.dtype == np.uint8


def test_the_longest_class_and_bundle_names_fit():
    names = ("c" * 64, "other")
    long = Prediction(names, (0.9, 0.1), "other")
    words = banner(long, verification(), BundleIdentity("b" * 64, "1.0.0", "", "", ""))
    made = plan(2000, 500, words, WHITE, FOOTER, 256)
    assert all(text.box.right <= made.width for text in made.texts)
    assert "".join(text.text for text in made.texts).count("c" * 10) >= 3

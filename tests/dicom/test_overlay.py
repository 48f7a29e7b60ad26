from __future__ import annotations

import functools
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pydantic import ValidationError
from skimage.color import rgb2lab

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result import overlay as drawing
from dicom_gam.dicom.result.codes import MEASUREMENTS
from dicom_gam.dicom.result.lettering import balanced, extent, font, text_width, wrapped
from dicom_gam.dicom.result.overlay import render_overlay
from dicom_gam.dicom.result.overlay_layout import CONTOUR, FOOTER_TEXT, WHITE, Box, Layout, PlacedText, plan
from dicom_gam.dicom.result.overlay_text import banner, comparison, figure_name
from dicom_gam.records import BundleIdentity, Measurement, Prediction
from dicom_gam.wording import LabelSettings, is_drawable
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
    output = OutputSettings(overlay_long_side=side)
    return render_overlay(pixels, prediction(label), verification(verdict, **changes), BUNDLE, output)


@functools.cache
def layout(verdict: str = "PASS", shape: tuple[int, int] = (300, 260), side: int = 512, footer: str = FOOTER) -> Layout:
    words = banner(prediction(), verification(verdict, notes=(NOTE,)), BUNDLE)
    return plan(*shape, words, WHITE, footer, side)


def shown(verdict: str, label: str = "chest", **changes: object) -> str:
    """All the words of the banner."""
    words = banner(prediction(label), verification(verdict, **changes), BUNDLE)
    return words.summary


def words_of(made: Layout) -> str:
    """All that is written, in order, without line breaks."""
    return " ".join(text.text for text in made.texts).replace("\u00a0", " ")


def part(image: np.ndarray, box: Box) -> np.ndarray:
    return image[box.top : box.bottom, box.left : box.right]


def apart(one: Box, other: Box) -> bool:
    across = one.right <= other.left or other.right <= one.left
    return across or one.bottom <= other.top or other.bottom <= one.top


@functools.cache
def characters() -> str:
    """Every character that a label may hold."""
    return "".join(character for character in map(chr, range(0x3000)) if is_drawable(character))


def phrases(most: int, least: int = 1) -> st.SearchStrategy[str]:
    """Anything that a label may be: words of the overlay's characters, and single words as long as they may be."""
    letters = st.sampled_from(characters())
    return st.one_of(
        st.text(letters, min_size=least, max_size=most),
        st.sampled_from(["W" * most, "j" * most, "Ẵ" * most, "a " * (most // 2), "Ġg" * (most // 2)]),
    )


@st.composite
def wordings(draw: st.DrawFn) -> LabelSettings:
    most = {"key_title": 14, "key_line": 14}
    words = {key: draw(phrases(most.get(key, 40))) for key in ("failed", "attention", "more", "note", *most)}
    titles = {f"{v.lower()}_title": f"{draw(phrases(50, 0))} {v}" for v in ("PASS", "FAIL", "REJECT")}
    try:
        return LabelSettings(**titles, **words)
    except ValidationError:  # only spaces, or a word of another verdict
        reject()


@pytest.mark.requirement("RES-11")
@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(
    verdict=st.sampled_from(["PASS", "FAIL", "REJECT"]),
    proportion=st.floats(-np.log(12), np.log(12)).map(np.exp),
    side=st.one_of(st.sampled_from(SIDES), st.integers(256, 4096)),
    labels=wordings(),
    footer=st.one_of(st.sampled_from(["", FOOTER, "x" * 200, "Ẵg " * 66]), phrases(200, 0)),
    notes=st.lists(st.text(max_size=400), max_size=2),
)
def test_nothing_is_clipped_or_overlaps_whatever_the_shape_the_size_and_the_words(
    verdict, proportion, side, labels, footer, notes
):
    words = banner(prediction(), verification(verdict, notes=tuple(notes)), BUNDLE, labels)
    made = plan(1000, 1000 * proportion, words, WHITE, footer, side, labels)
    boxes = [*(text.box for text in made.texts), made.plain, made.overlaid, made.bar]
    for box in boxes:
        assert 0 <= box.left < box.right <= made.width
        assert 0 <= box.top < box.bottom <= made.height
    for text in made.texts:
        left, top, right, bottom = ink(text)
        assert min(left, top) >= 0, text
        assert right <= text.box.width, text
        assert bottom <= text.box.height, text
    assert all(apart(one, other) for one, other in itertools.combinations(boxes, 2))
    banner_and_footer = made.banner.height + made.footer.height
    assert max(made.width, made.height) == side or (side < 512 and banner_and_footer > 0.6 * side)
    for box in (made.plain, made.overlaid):
        assert made.banner.bottom <= box.top
        assert box.bottom <= made.footer.top
        assert abs(box.width - box.height * proportion) <= max(1, proportion) + 1e-3  # within a pixel


def ink(text: PlacedText) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what a text inks, from its box's corner; drawn where nothing clips it."""
    room = 2 * text.size
    image = Image.new("L", (text.box.width + 2 * room, text.box.height + 2 * room))
    inset = extent(text.text, text.bold, text.size)
    place = room + inset.left, room + inset.top
    ImageDraw.Draw(image).text(place, text.text, fill=255, font=font(text.bold, text.size))
    left, top, right, bottom = image.getbbox() or (room, room, room, room)
    return left - room, top - room, right - room, bottom - room


@pytest.mark.parametrize("side", [512, 1024, 2048, 2050])
@pytest.mark.parametrize("shape", [(1955, 1841), (1000, 1000), (2500, 2000), (2000, 2500), (500, 2000)])
def test_the_pictures_have_all_the_room_there_is(shape, side):
    made = layout("FAIL", shape, side)
    pictures = made.overlaid.right - made.plain.left, made.overlaid.bottom - made.plain.top
    free_across = made.width - pictures[0] - (made.width - made.overlaid.right)
    free_down = made.footer.top - made.banner.bottom - pictures[1]
    assert min(free_across, free_down) <= 4


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


@pytest.mark.requirement("RES-31")
@pytest.mark.parametrize("side", [256, 512])
@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
def test_the_smallest_letters_have_rows_enough_to_be_read(verdict, side):
    for text in layout(verdict, (300, 260), side).texts:
        box = font(text.bold, text.size).getbbox("x")
        assert box[3] - box[1] >= 6, text  # five rows can't tell e from c, six can


@pytest.mark.requirement("RES-31")
def test_on_a_5_megapixel_monitor_the_letters_are_as_large_as_the_picture_asks():
    small, large = layout("FAIL", (2560, 2048), 1024), layout("FAIL", (2560, 2048), 2560)
    assert large.texts[0].size == pytest.approx(2.5 * small.texts[0].size, abs=1)
    assert [text.text for text in large.texts] == [text.text for text in small.texts]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_title_is_broken_after_its_dash_and_do_not_use_stays_whole(shape, side):
    lines = [text.text.replace("\u00a0", " ") for text in layout("FAIL", shape, side).texts]
    assert any("DO NOT USE AI RESULT" in line for line in lines)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_not_for_diagnosis_stays_on_one_line(shape, side):
    lines = [text.text.replace("\u00a0", " ") for text in layout("PASS", shape, side).texts]
    assert any("NOT FOR DIAGNOSIS" in line for line in lines)


def test_no_word_is_left_alone_on_the_last_line_of_the_footer():
    lines = balanced("one two three four five six seven eight nine ten", True, 10, 140)
    widths = [text_width(line, True, 10) for line in lines]
    assert len(lines) == len(wrapped("one two three four five six seven eight nine ten", True, 10, 140))
    assert min(widths) > 0.7 * max(widths)


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
    assert FOOTER in words_of(layout(side=256))


@pytest.mark.requirement("RES-12")
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
    assert words_of(layout(verdict, shape, side)).startswith(title)


@pytest.mark.requirement("RES-12")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_failed_figure_and_its_threshold_stand_on_the_overlay_whatever_the_room(shape, side):
    words = words_of(layout("FAIL", shape, side))
    assert "Failed: attention IoU 0.31 < 0.50" in words


@pytest.mark.requirement("RES-12")
@pytest.mark.parametrize(
    ("verdict", "colour"), [("PASS", (0, 92, 70)), ("FAIL", (156, 8, 16)), ("REJECT", (255, 176, 0))]
)
def test_the_banner_is_green_red_or_amber_from_edge_to_edge(verdict, colour):
    image = render(verdict)
    assert {tuple(pixel) for pixel in image[0]} == {colour}


def linear(colour) -> np.ndarray:
    """sRGB of 255 as linear light."""
    share = np.asarray(colour, float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one, other) -> float:
    """WCAG 2.1, contrast ratio."""
    dark, light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


# Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color vision deficiency, IEEE TVCG
# 15 (2009) 1291-1298: the matrices of severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "red-blind": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "green-blind": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "blue-blind": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(colours, deficiency: str) -> np.ndarray:
    """Colours (..., 3) in CIELAB, as someone with a deficiency sees them."""
    light = np.clip(linear(colours) @ np.array(DEFICIENCIES[deficiency]).T, 0, 1)
    return rgb2lab(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def difference(one, other, deficiency: str) -> np.ndarray:
    """CIE76: 2.3 is just noticeable, 20 is another colour."""
    return np.linalg.norm(seen(one, deficiency) - seen(other, deficiency), axis=-1)


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
def test_the_banners_words_stand_out_from_its_ground(verdict):
    assert contrast(*drawing.BANNER[verdict]) >= 7


@pytest.mark.parametrize(
    ("ink", "ground"), [(FOOTER_TEXT, drawing.FOOTER_BACKGROUND), (WHITE, (0, 0, 0)), (CONTOUR, (0, 0, 0))]
)
def test_footer_and_legend_stand_out_from_their_ground(ink, ground):
    assert contrast(ink, ground) >= 4.5


@pytest.mark.requirement("RES-30")
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colour_blind_tell_the_banners_of_the_verdicts_apart(deficiency):
    grounds = [ground for ground, _ in drawing.BANNER.values()]
    assert min(difference(a, b, deficiency) for a, b in itertools.combinations(grounds, 2)) >= 20


@pytest.mark.requirement("RES-30")
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colour_blind_tell_the_line_from_the_colour_map(deficiency):
    assert difference(CONTOUR, drawing.colours(), deficiency).min() >= 40


@pytest.mark.requirement("RES-30")
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colour_blind_see_the_line_on_every_grey_under_every_colour(deficiency):
    under = drawing._coloured().astype(float)
    rim = under * (1 - drawing._HALO)
    beside = np.maximum(difference(CONTOUR, under, deficiency), difference(CONTOUR, rim, deficiency))
    assert beside.min() >= 40


@pytest.mark.requirement("RES-30")
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_for_the_colour_blind_the_colour_map_gets_steadily_lighter_too(deficiency):
    assert np.diff(seen(drawing.colours(), deficiency)[::8, 0]).min() > 0


def test_a_pass_names_the_class_and_its_probability():
    assert "hand, probability 0.94" in shown("PASS", "hand")


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
def test_without_a_pass_the_overlay_is_the_same_whatever_class_was_predicted(verdict):
    np.testing.assert_array_equal(render(verdict, label="chest"), render(verdict, label="hand"))


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
def test_without_a_pass_notes_are_left_out_for_they_may_name_a_class(verdict):
    assert "chest" not in shown(verdict, notes=(NOTE,))


def test_notes_are_shown():
    assert f"Note: {NOTE}" in shown("PASS", notes=(NOTE,))


def test_a_rejection_says_what_was_exceeded():
    assert "Rejected: garbage probability 0.97 > 0.35, feature distance 88.00 > 30.00" in shown("REJECT")


def test_a_rejection_by_the_garbage_class_alone_says_so():
    checks = (check("input"), check("attention"), check("early"))
    assert "garbage probability 0.94, more than any class" in shown("REJECT", "other", checks=checks)


@pytest.mark.requirement("VER-03")
def test_a_degenerate_map_is_a_reason_to_fail():
    checks = (check("input"), check("attention"), check("early"))
    assert "Failed: no location speaks for the class" in shown("FAIL", checks=checks, attention_status="degenerate")


def test_a_check_that_failed_as_a_whole_shows_its_score():
    odd = replace(check("attention"), passed=False, score=4.25)
    assert "attention check 4.25 > 3.10" in shown("FAIL", checks=(check("input"), odd, check("early")))


def test_a_limit_below_what_an_overlap_can_be_is_left_out():
    lenient = replace(check("early"), measurements=(replace(measurement("early.iou"), threshold=-0.02),))
    words = shown("PASS", checks=(check("input"), check("attention"), lenient))
    assert "attention IoU 0.62 >= 0.50" in words
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
        (1.96e-08, 0.00784, "max", "attention IoU <0.0001 ≤ 0.00784"),
    ],
)
def test_a_figure_has_as_many_digits_as_tell_it_from_its_threshold(value, threshold, bound, words):
    text = comparison(Measurement("attention.iou", value, threshold, bound, None))
    assert text.replace("\u00a0", " ") == words


def test_attention_is_transparent_below_a_fifth():
    image = render(attention_map=np.full((8, 8), 0.19, np.float32))
    made = plan(300, 260, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    np.testing.assert_array_equal(part(image, made.plain), part(image, made.overlaid))


@pytest.mark.requirement("RES-13")
@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_attention_covers_at_most_0_38_of_the_picture(grey):
    pixels = np.full((300, 260), grey, np.float32)
    image = render(pixels=pixels, attention_map=np.ones((8, 8), np.float32))
    made = plan(300, 260, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    below, colour = 255 * grey, drawing.colours()[255].astype(float)
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


@pytest.mark.requirement("RES-13")
def test_the_colour_map_gets_steadily_lighter():
    lightness = rgb2lab(drawing.colours()[None] / 255.0)[0, :, 0]
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


@pytest.mark.requirement("RES-11")
def test_the_longest_class_and_bundle_names_fit():
    names = ("c" * 64, "other")
    long = Prediction(names, (0.9, 0.1), "other")
    words = banner(long, verification(), BundleIdentity("b" * 64, "1.0.0", "", "", ""))
    made = plan(2000, 500, words, WHITE, FOOTER, 256)
    assert all(text.box.right <= made.width for text in made.texts)
    assert "".join(text.text for text in made.texts).count("c" * 10) >= 3


@pytest.mark.parametrize(("aspect", "width_to_height"), [(1.0, 1.0), (2.0, 0.5), (0.5, 2.0), (0.25, 4.0)])
def test_pixels_that_are_not_square_are_drawn_in_true_proportions(aspect, width_to_height):
    made = plan(400 * aspect, 400, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    pixels = np.full((400, 400), 0.4, np.float32)
    image = render_overlay(
        pixels, prediction(), verification(), BUNDLE, OutputSettings(overlay_long_side=512), pixel_aspect=aspect
    )
    assert image.shape == (made.height, made.width, 3)
    assert made.plain.width / made.plain.height == pytest.approx(width_to_height, rel=0.02)
    assert part(image, made.plain).min() == part(image, made.plain).max() == 102


def test_few_pixels_are_drawn_as_the_squares_they_are():
    pixels = np.tile(np.array([[0, 1], [1, 0]], np.float32), (16, 16))
    image = render(pixels=pixels, attention_map=np.zeros((8, 8), np.float32))
    made = plan(32, 32, banner(prediction(), verification(), BUNDLE), WHITE, FOOTER, 512)
    greys = part(image, made.plain)
    assert ((greys == 0) | (greys == 255)).mean() > 0.7  # else only where a square's edge falls within a pixel


def test_equal_arguments_give_equal_bytes():
    np.testing.assert_array_equal(render("FAIL"), render("FAIL"))


def test_the_image_itself_is_not_changed():
    pixels = thorax()
    render(pixels=pixels)
    np.testing.assert_array_equal(pixels, thorax())


def test_a_map_finer_than_the_picture_and_a_picture_one_pixel_wide_are_drawn():
    image = render(pixels=np.full((4000, 32), 0.5, np.float32), side=256, attention_map=blob(600, 600))
    assert image.shape[0] == 256


def test_the_words_are_the_hospitals():
    labels = LabelSettings(fail_title="KI-PRÜFUNG: FAIL", failed="Nicht bestanden:", attention="Aufmerksamkeit")
    words = banner(prediction(), verification("FAIL"), BUNDLE, labels).summary
    assert words.startswith("KI-PRÜFUNG: FAIL. Nicht bestanden: Aufmerksamkeit IoU 0.31 < 0.50")


def test_the_legend_is_in_the_hospitals_words():
    labels = LabelSettings(key_title="Fokus", key_line="Linie:")
    made = plan(300, 260, banner(prediction(), verification(), BUNDLE), WHITE, "", 512, labels)
    assert {"Fokus", "Linie: 0.5"} <= {text.text for text in made.texts}


def test_in_another_language_no_english_word_is_left_but_the_names_of_figures():
    keys = [key for key in LabelSettings.model_fields if not key.endswith("_title") and not key.startswith("key_")]
    labels = LabelSettings(**{key: f"Ж{number}" for number, key in enumerate(keys)})
    for verdict in ("PASS", "FAIL", "REJECT"):
        words = banner(prediction(), verification(verdict), BUNDLE, labels)
        told = " ".join((words.outcome, *words.others[:-1])).replace("\u00a0", " ")
        names = {"IoU", "soft", "SSIM", "chest"}
        assert set(re.findall("[A-Za-z]+", told)) <= names
        assert "Ж" in told


def test_every_measurement_has_a_name_on_the_overlay():
    names = {figure_name(name, LabelSettings()) for name in MEASUREMENTS}
    assert names == {code.label for code in MEASUREMENTS.values()}


def test_what_a_remark_holds_that_the_font_lacks_becomes_a_question_mark():
    assert "Note: BodyPartExamined says ??" in shown("PASS", notes=("BodyPartExamined says 胸部",))


def test_the_texts_of_dicom_have_signs_that_every_character_set_has():
    assert shown("PASS").isascii()

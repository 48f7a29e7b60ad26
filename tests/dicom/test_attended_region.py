from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import polygon2mask
from skimage.transform import resize

from dicom_gam.dicom.result.attended_region import attended_parts
from tests.dicom.example_results import blob


def square(rows: slice, columns: slice, side: int = 4) -> np.ndarray:
    attention = np.zeros((side, side), np.float32)
    attention[rows, columns] = 1
    return attention


def bounds(outline: np.ndarray) -> list[float]:
    return [*outline.min(0), *outline.max(0)]


@pytest.mark.requirement("RES-06")
def test_a_block_of_the_map_is_outlined_where_it_lies_on_the_image():
    # Columns 1 and 2 of 4 cover 200 to 600 of 800 pixels, rows 1 and 2 of 4 cover 100 to 300 of 400.
    outline = attended_parts(square(slice(1, 3), slice(1, 3)), rows=400, columns=800)[0].outline
    assert bounds(outline) == pytest.approx([200, 100, 600, 300], abs=1)


def test_an_outline_over_the_whole_image_ends_at_its_outer_corners():
    outline = attended_parts(np.ones((4, 4), np.float32), rows=50, columns=70)[0].outline
    assert bounds(outline) == [0, 0, 70, 50]


def test_an_outline_that_runs_into_the_edge_is_closed_along_it():
    outline = attended_parts(square(slice(None), slice(0, 2)), rows=100, columns=100)[0].outline
    assert bounds(outline) == pytest.approx([0, 0, 50, 100], abs=0.5)


def test_an_outline_is_closed():
    outline = attended_parts(blob(), rows=300, columns=260)[0].outline
    assert (outline[0] == outline[-1]).all()


def test_every_part_is_outlined_the_largest_first():
    attention = square(slice(0, 2), slice(0, 2), side=8) + square(slice(4, 8), slice(4, 8), side=8)
    first, second = attended_parts(attention, 80, 80)
    assert bounds(first.outline) == pytest.approx([40, 40, 80, 80], abs=0.5)
    assert bounds(second.outline) == pytest.approx([0, 0, 20, 20], abs=0.5)
    assert (first.fraction, second.fraction) == pytest.approx((0.25, 0.0625), abs=0.005)


def test_specks_and_what_is_beyond_eight_parts_are_left_out():
    attention = np.zeros((64, 64), np.float32)
    attention[0:8, 0:8] = 1
    attention[20, 20] = 1  # 1 of 4096
    assert len(attended_parts(attention, 640, 640)) == 1
    many = np.zeros((16, 16), np.float32)
    many[::4, ::4] = 1
    assert len(attended_parts(many, 640, 640)) == 8


def test_an_outline_has_no_more_points_than_a_report_can_hold():
    ragged = np.kron(np.random.default_rng(0).random((180, 180)) > 0.35, np.ones((2, 2))).astype(np.float32)
    assert all(len(part.outline) <= 4000 for part in attended_parts(ragged, 3000, 3000))


@pytest.mark.requirement("RES-06")
@pytest.mark.parametrize(("rows", "columns"), [(300, 260), (64, 64), (2000, 500), (500, 2000)])
def test_the_outline_encloses_the_pixels_where_the_upsampled_map_is_a_half_or_more(rows, columns):
    attention = blob(7, 9)
    outline = attended_parts(attention, rows, columns)[0].outline
    upsampled = resize(attention, (rows, columns), order=1, mode="edge", anti_aliasing=False)
    enclosed = polygon2mask((rows, columns), outline[:, ::-1] - 0.5)
    assert np.mean(enclosed != (upsampled >= 0.5)) < 0.005


@pytest.mark.parametrize("value", [0.0, 0.49, np.nan])
def test_a_map_that_is_nowhere_a_half_has_no_outline(value):
    assert attended_parts(np.full((7, 7), value, np.float32), 100, 100) == ()


def test_the_attended_fraction_is_a_fraction_of_the_area():
    (part,) = attended_parts(square(slice(None), slice(0, 1)), 100, 100)
    assert part.fraction == pytest.approx(0.25, abs=0.002)

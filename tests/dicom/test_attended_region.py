from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import polygon2mask
from skimage.transform import resize

from dicom_gam.dicom.result.attended_region import attended_fraction, attended_outline
from tests.dicom.example_results import blob


def square(rows: slice, columns: slice, side: int = 4) -> np.ndarray:
    attention = np.zeros((side, side), np.float32)
    attention[rows, columns] = 1
    return attention


def bounds(outline: np.ndarray) -> list[float]:
    return [*outline.min(0), *outline.max(0)]


def test_a_block_of_the_map_is_outlined_where_it_lies_on_the_image():
    # Columns 1 and 2 of 4 cover 200 to 600 of 800 pixels, rows 1 and 2 of 4 cover 100 to 300 of 400.
    outline = attended_outline(square(slice(1, 3), slice(1, 3)), rows=400, columns=800)
    assert bounds(outline) == pytest.approx([200, 100, 600, 300], abs=1)


def test_an_outline_over_the_whole_image_ends_at_its_outer_corners():
    outline = attended_outline(np.ones((4, 4), np.float32), rows=50, columns=70)
    assert bounds(outline) == [0, 0, 70, 50]


def test_an_outline_that_runs_into_the_edge_is_closed_along_it():
    outline = attended_outline(square(slice(None), slice(0, 2)), rows=100, columns=100)
    assert bounds(outline) == pytest.approx([0, 0, 50, 100], abs=0.5)


def test_an_outline_is_closed():
    outline = attended_outline(blob(), rows=300, columns=260)
    assert (outline[0] == outline[-1]).all()


def test_only_the_largest_part_is_outlined():
    attention = square(slice(0, 1), slice(0, 1), side=8) + square(slice(4, 8), slice(4, 8), side=8)
    assert bounds(attended_outline(attention, 80, 80)) == pytest.approx([40, 40, 80, 80], abs=0.5)


@pytest.mark.parametrize(("rows", "columns"), [(300, 260), (64, 64), (2000, 500), (500, 2000)])
def test_the_outline_encloses_the_pixels_where_the_upsampled_map_is_a_half_or_more(rows, columns):
    attention = blob(7, 9)
    outline = attended_outline(attention, rows, columns)
    upsampled = resize(attention, (rows, columns), order=1, mode="edge", anti_aliasing=False)
    enclosed = polygon2mask((rows, columns), outline[:, ::-1] - 0.5)
    assert np.mean(enclosed != (upsampled >= 0.5)) < 0.005


@pytest.mark.parametrize("value", [0.0, 0.49, np.nan])
def test_a_map_that_is_nowhere_a_half_has_no_outline(value):
    assert attended_outline(np.full((7, 7), value, np.float32), 100, 100) is None


def test_the_attended_fraction_is_a_fraction_of_the_area():
    assert attended_fraction(square(slice(None), slice(0, 1))) == pytest.approx(0.25, abs=0.002)

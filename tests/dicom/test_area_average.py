"""Images at another size, against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_gam.dicom.result.area_average import area_average


def test_a_smaller_image_holds_the_means_of_what_each_pixel_covers():
    pixels = np.array([[0, 1, 2], [3, 4, 5]], np.float32)
    # Three columns into two: each new one covers one and a half old ones.
    left = np.mean([(0 + 0.5 * 1) / 1.5, (3 + 0.5 * 4) / 1.5])
    right = np.mean([(0.5 * 1 + 2) / 1.5, (0.5 * 4 + 5) / 1.5])
    expected = [[left, right]]
    np.testing.assert_allclose(area_average(pixels, 1, 2), expected, rtol=1e-6)


def test_a_larger_image_shows_every_pixel_as_a_rectangle():
    pixels = np.array([[0.25, 1.0]], np.float32)
    np.testing.assert_allclose(area_average(pixels, 2, 6), [[0.25] * 3 + [1.0] * 3] * 2)


def test_where_a_rectangle_ends_within_a_pixel_it_counts_in_part():
    np.testing.assert_allclose(area_average(np.array([[0.0, 1.0]], np.float32), 1, 3), [[0, 0.5, 1]], atol=1e-7)


@pytest.mark.parametrize("old", [(1, 1), (32, 5000), (2500, 2000), (17, 33)])
@pytest.mark.parametrize("new", [(1, 1), (480, 582), (3, 999)])
def test_the_mean_and_a_plain_image_are_kept_at_any_size(old, new):
    noise = np.random.default_rng(3).random(old, np.float32)
    assert area_average(noise, *new).mean(dtype=float) == pytest.approx(noise.mean(dtype=float), abs=1e-4)
    np.testing.assert_allclose(area_average(np.full(old, 0.5, np.float32), *new), 0.5, atol=1e-4)
    assert area_average(noise, *new).dtype == np.float32

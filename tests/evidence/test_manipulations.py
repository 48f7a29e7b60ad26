"""Manipulations keep the convention, are deterministic, and do what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dicom_gam.evidence.manipulations import MANIPULATIONS, Pixels


def picture(rows: int = 160, columns: int = 128, seed: int = 0) -> Pixels:
    g = np.random.default_rng(seed)
    smooth = gaussian_filter(g.standard_normal((rows, columns)), 10)
    image = 0.5 + 0.18 * smooth / smooth.std() + 0.01 * g.standard_normal((rows, columns))
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def apply(name: str, image: Pixels, seed: int = 0) -> Pixels:
    return MANIPULATIONS[name].apply(image, np.random.default_rng(seed))


def high_power(image: Pixels) -> float:
    return float(np.diff(image, 2, axis=1).std())


@pytest.mark.parametrize("name", MANIPULATIONS)
@pytest.mark.parametrize("shape", [(160, 128), (64, 64), (33, 90)])
def test_every_result_is_an_image_of_the_same_convention(name: str, shape: tuple[int, int]) -> None:
    for seed in range(4):  # both branches of whatever is left to chance
        made = apply(name, picture(*shape), seed)
        assert made.dtype == np.float32
        assert made.ndim == 2
        assert made.flags.c_contiguous
        assert made.min() >= 0
        assert made.max() <= 1
        assert made.std() > 0.01, "an image that shows nothing proves nothing"


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_generator_decides_everything_and_the_source_stays_as_it_was(name: str) -> None:
    image = picture()
    before = image.copy()
    np.testing.assert_array_equal(apply(name, image, 7), apply(name, image, 7))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", [n for n in MANIPULATIONS if n != "inverted"])
def test_other_seeds_make_other_images(name: str) -> None:
    made = [apply(name, picture(), seed) for seed in range(6)]
    assert any(made[0].shape != other.shape or not np.array_equal(made[0], other) for other in made[1:])


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_blank_image_is_no_error(name: str) -> None:
    for grey in (0.0, 1.0):
        assert np.isfinite(apply(name, np.full((80, 70), grey, np.float32))).all()


def test_families_are_the_ones_that_the_evaluation_reports() -> None:
    fabricated = {name for name, m in MANIPULATIONS.items() if m.kind == "fabricated"}
    assert fabricated == {"generated", "screenshot", "phone_photograph", "resampled", "double_compressed"}
    assert len(MANIPULATIONS) - len(fabricated) == 8


def test_inverting_twice_gives_the_image_back() -> None:
    np.testing.assert_allclose(apply("inverted", apply("inverted", picture())), picture(), atol=1e-6)


def test_rotated_image_is_one_of_the_three_turns() -> None:
    image = picture()
    for seed in range(8):
        made = apply("rotated", image, seed)
        assert any(np.array_equal(made, np.rot90(image, k)) for k in (1, 2, 3))


def test_half_crop_is_half_of_the_image() -> None:
    image = picture()
    halves = [image[:80], image[80:], image[:, :64], image[:, 64:]]
    found = {
        next(i for i, h in enumerate(halves) if np.array_equal(h, apply("half_cropped", image, s))) for s in range(40)
    }
    assert found == {0, 1, 2, 3}


def test_overexposed_image_is_darker_and_has_lost_its_thin_parts() -> None:
    made = apply("overexposed", picture())
    assert made.mean() < picture().mean()
    assert (made == 0).mean() > 0.15


def test_underexposed_image_is_brighter_noisier_and_has_lost_its_dense_parts() -> None:
    made = apply("underexposed", picture())
    assert made.mean() > picture().mean()
    assert high_power(made) > high_power(picture())
    assert (made == 1).mean() > 0.1


def test_blur_and_noise_change_the_fine_detail_as_they_say() -> None:
    assert high_power(apply("blurred", picture())) < 0.5 * high_power(picture())
    assert high_power(apply("noisy", picture())) > 2 * high_power(picture())


def test_labels_cover_a_part_and_leave_the_rest() -> None:
    for seed in range(10):
        changed = (apply("marker_covered", picture(), seed) != picture()).mean()
        assert 0.005 < changed < 0.35


def test_generated_image_keeps_the_coarse_anatomy_and_none_of_the_detail() -> None:
    image = picture(256, 256)
    made = apply("generated", image)
    coarse = [gaussian_filter(i, 8).ravel() for i in (image, made)]
    detail = [np.diff(i, 2, axis=1).ravel() for i in (image, made)]
    assert np.corrcoef(coarse)[0, 1] > 0.8
    assert abs(np.corrcoef(detail)[0, 1]) < 0.1


def test_screenshot_is_larger_than_what_it_shows_and_has_an_even_frame() -> None:
    made = apply("screenshot", picture())
    edge = made[-1, :]
    assert np.ptp(edge) < 0.05, "the window's frame, not the image, reaches the edge"


def test_photograph_is_askew_and_uneven() -> None:
    flat = np.full((200, 200), 0.6, np.float32)
    made = gaussian_filter(apply("phone_photograph", flat), 12)
    assert made.std() > 0.02


def test_resampled_image_has_its_size_and_less_detail() -> None:
    for seed in range(5):
        made = apply("resampled", picture(), seed)
        assert made.shape == picture().shape
        assert high_power(made) < high_power(picture())


def test_double_compression_moves_the_grid() -> None:
    for seed in range(5):
        made = apply("double_compressed", picture(), seed)
        assert all(1 <= a - b <= 7 for a, b in zip(picture().shape, made.shape, strict=True))

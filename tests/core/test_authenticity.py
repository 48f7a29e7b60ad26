"""Frequency statistics against numpy, Pillow's JPEG and resampling, and by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kurtosis
from torch import Tensor

from dicom_gam.core.authenticity import FREQUENCY_STATISTICS, TILE, frequency_distance, frequency_statistics

pytestmark = pytest.mark.requirement("VER-15")


def statistics(image: Tensor) -> dict[str, float]:
    return dict(zip(FREQUENCY_STATISTICS, frequency_statistics(image).tolist(), strict=True))


def exposure(rows: int = 320, columns: int = 256, seed: int = 0) -> Tensor:
    """Smooth anatomy and white noise, in 16-bit steps."""
    g = np.random.default_rng(seed)
    smooth = gaussian_filter(g.standard_normal((rows, columns)), 9)
    image = 0.5 + 0.15 * smooth / smooth.std() + 0.012 * g.standard_normal((rows, columns))
    return torch.from_numpy(np.rint(np.clip(image, 0, 1) * 65535).astype(np.float32) / 65535)


def jpeg(image: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(stream), np.float32) / 255)


def enlarged(image: Tensor, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(np.array(Image.fromarray(image.numpy()).resize((columns, rows), Image.Resampling.BICUBIC)))


def test_statistics_are_as_many_as_their_names() -> None:
    found = frequency_statistics(exposure())
    assert found.shape == (len(set(FREQUENCY_STATISTICS)),)
    assert found.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 150), st.integers(1, 150)),
        elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        fill=st.sampled_from([0.0, 0.25, 1.0]),
    )
)
def test_any_image_has_finite_statistics(image: np.ndarray) -> None:
    assert torch.isfinite(frequency_statistics(torch.from_numpy(image))).all()


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
def test_even_image_has_finite_statistics(grey: float) -> None:
    assert torch.isfinite(frequency_statistics(torch.full((300, 200), grey))).all()


def test_linear_change_of_grey_scale_changes_nothing() -> None:
    image = exposure()
    changed = frequency_statistics(0.25 + 0.5 * image)
    torch.testing.assert_close(changed, frequency_statistics(image), atol=0.02, rtol=0.01)


def test_inverting_changes_nothing() -> None:
    image = exposure()
    torch.testing.assert_close(frequency_statistics(1 - image), frequency_statistics(image), atol=1e-3, rtol=1e-3)


def test_same_image_has_the_same_statistics_whatever_its_memory_layout_and_type() -> None:
    image = exposure()
    turned = image.T.contiguous().T
    assert torch.equal(frequency_statistics(turned), frequency_statistics(image))
    torch.testing.assert_close(frequency_statistics(image.double()), frequency_statistics(image))


def test_what_lies_outside_the_collimation_is_not_looked_at() -> None:
    image = exposure(448, 448)
    framed = torch.zeros(448, 448)
    framed[64:384, 64:384] = image[64:384, 64:384]
    inner = statistics(image[64:384, 64:384])
    outer = statistics(framed)
    assert outer["power_5"] == pytest.approx(inner["power_5"], abs=0.1)
    assert outer["equal_neighbours"] == pytest.approx(inner["equal_neighbours"], abs=0.1)


def test_power_of_white_noise_is_the_same_in_every_band() -> None:
    noise = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))
    found = statistics(noise)
    assert [found[f"power_{n}"] for n in range(1, 6)] == pytest.approx([0] * 5, abs=0.5)
    assert found["power_5"] - found["power_2"] == pytest.approx(0, abs=0.05)


def test_spectrum_is_numpy_s_over_the_whole_plane() -> None:
    tile = exposure(TILE, TILE).numpy().astype(np.float64)
    window = np.outer(np.hanning(TILE), np.hanning(TILE))
    power = np.abs(np.fft.fft2((tile - (tile * window).sum() / window.sum()) * window)) ** 2
    fy, fx = np.abs(np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE), indexing="ij"))
    radius = np.hypot(fy, fx)
    lowest, highest = (
        power[(radius >= 0.012) & (radius < 0.05)].mean(),
        power[(radius >= 0.46) & (radius < 0.71)].mean(),
    )
    high = (radius >= 0.25) & (radius < 0.5)
    found = statistics(torch.from_numpy(tile).float())
    assert found["power_5"] == pytest.approx(np.log(highest / lowest), abs=1e-2)
    directions = np.log(power[high & (2 * fy < fx)]).mean() - np.log(power[high & (2 * fx < fy)]).mean()
    assert found["anisotropy"] == pytest.approx(directions, abs=1e-2)


def test_a_wave_s_power_is_in_its_own_band() -> None:
    wave = torch.sin(2 * torch.pi * 0.25 * torch.arange(256.0))[None].expand(256, -1)  # 0.20 to 0.32 is the third band
    found = statistics(0.5 + 0.4 * wave)
    assert max((f"power_{n}" for n in range(1, 6)), key=found.__getitem__) == "power_3"


def test_stripes_of_fine_columns_are_horizontal_waves() -> None:
    image = exposure(256, 256)
    fine = 0.05 * torch.randn(256, generator=torch.Generator().manual_seed(1))
    assert statistics(image + fine)["anisotropy"] > statistics(image)["anisotropy"] + 0.3
    assert statistics(image + fine[:, None])["anisotropy"] < statistics(image)["anisotropy"] - 0.3


def test_turned_image_has_the_opposite_anisotropy_and_the_rest_unchanged() -> None:
    image = jpeg(exposure(256, 256), 70) + 0.05 * torch.rand(256, generator=torch.Generator().manual_seed(1))
    found, turned = statistics(image), statistics(image.T)
    assert turned.pop("anisotropy") == pytest.approx(-found.pop("anisotropy"), abs=1e-3)
    assert list(turned.values()) == pytest.approx(list(found.values()), abs=1e-3)


def test_blur_takes_power_from_high_frequencies() -> None:
    image = exposure()
    blurred = torch.from_numpy(gaussian_filter(image.numpy(), 1.0))
    assert statistics(blurred)["power_5"] < statistics(image)["power_5"] - 2


def test_moire_is_a_peak() -> None:
    image = exposure()
    row, column = torch.meshgrid(*(torch.arange(float(n)) for n in image.shape), indexing="ij")
    moire = 0.01 * torch.cos(2 * torch.pi * (0.21 * row + 0.17 * column))
    assert statistics(image + moire)["peak"] > statistics(image)["peak"] + 1


def test_enlarging_leaves_a_period_that_no_exposure_has() -> None:
    image = exposure(300, 300)
    larger = enlarged(image, 400, 400)  # by 4/3: the variance repeats every four pixels, a multiple of 1/8
    other = enlarged(image, 480, 480)  # by 8/5: three cycles in eight pixels
    uneven = enlarged(image, 390, 390)  # by 1.3: not a multiple of 1/8
    usual = statistics(image)
    assert statistics(larger)["periodicity_by_8"] > usual["periodicity_by_8"] + 1
    assert statistics(other)["periodicity_by_8"] > usual["periodicity_by_8"] + 1
    assert statistics(uneven)["periodicity"] > usual["periodicity"] + 1


def test_jpeg_shows_on_its_own_grid() -> None:
    image = exposure()
    found, usual = statistics(jpeg(image, 60)), statistics(image)
    assert found["blockiness"] > usual["blockiness"] + 0.3
    assert found["quantisation"] > usual["quantisation"] + 0.2
    assert found["quantisation_elsewhere"] < found["quantisation"]


def test_jpeg_that_was_cropped_shows_on_another_grid() -> None:
    image = exposure()
    moved, aligned = statistics(jpeg(image, 60)[3:, 5:]), statistics(jpeg(image, 60)[16:, 8:])
    assert aligned["blockiness"] > aligned["blockiness_elsewhere"]
    assert moved["blockiness_elsewhere"] > moved["blockiness"] + 0.3
    assert moved["quantisation_elsewhere"] > moved["quantisation"] + 0.2


def test_grid_is_the_whole_image_s_however_large_it_is() -> None:
    image = jpeg(exposure(1000, 830), 60)  # ends in the middle of blocks, and tiles don't meet
    assert statistics(image)["blockiness"] > statistics(image[4:, 4:])["blockiness"] + 0.3


def test_residual_of_white_noise_has_the_mask_s_own_correlations() -> None:
    noise = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)) * 0.05 + 0.5
    found = statistics(noise)
    # the mask [1, -2, 1] has the autocorrelation 6, -4, 1, 0: neighbours -4/6, third 0, diagonal (4/6)²
    assert np.tanh(found["correlation_1"]) == pytest.approx(-4 / 6, abs=0.01)
    assert np.tanh(found["correlation_3"]) == pytest.approx(0, abs=0.01)
    assert np.tanh(found["correlation_diagonal"]) == pytest.approx(16 / 36, abs=0.01)


def test_kurtosis_is_scipy_s() -> None:
    tile = exposure(TILE, TILE)
    second = np.diff(np.diff(tile.numpy().astype(np.float64), 2, axis=0), 2, axis=1).ravel()
    moments = kurtosis(np.concatenate([second, -second]), fisher=False)  # about zero, not about the mean
    assert statistics(tile)["kurtosis"] == pytest.approx(np.log(moments + 0.1), abs=1e-3)


def test_equal_neighbours_are_counted_along_rows_and_columns() -> None:
    stripes = (torch.arange(64) % 2).float()[None].expand(64, -1)  # equal down every column, never along a row
    assert statistics(stripes)["equal_neighbours"] == pytest.approx(0, abs=1e-5)


def test_saturation_is_the_share_of_pixels_at_either_end() -> None:
    image = torch.linspace(0.2, 0.8, 64 * 64).reshape(64, 64)
    image[0], image[1, :32] = 0.0, 1.0
    assert statistics(image)["saturation"] == pytest.approx(np.log(96 / 4096 + 0.003), abs=1e-4)


def test_one_odd_corner_makes_the_image_uneven() -> None:
    image = exposure(512, 512)
    pasted = image.clone()
    pasted[:256, :256] = torch.from_numpy(gaussian_filter(image.numpy(), 1.5))[:256, :256]
    assert statistics(pasted)["unevenness_high"] > statistics(image)["unevenness_high"] + 0.5


def test_distance_is_to_the_nearest_prototype_over_the_root_of_the_dimension() -> None:
    whitening = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0]))
    prototypes = torch.tensor([[0.0, 0, 0, 0], [10.0, 0, 0, 0]])
    points = torch.tensor([[0.0, 3, 0, 0], [10.0, 0, 0, 4], [6.0, 0, 0, 0]])
    found = frequency_distance(points, prototypes, whitening)
    torch.testing.assert_close(found, torch.tensor([6.0, 4.0, 4.0]) / 2)


def test_prototype_itself_is_at_no_distance() -> None:
    prototypes = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) + 1000
    assert frequency_distance(prototypes, prototypes, torch.eye(5)).tolist() == [0.0] * 40

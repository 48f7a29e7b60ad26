"""From display values to the network's input, by hand."""

from __future__ import annotations

import pytest
import torch

from dicom_gam.core.preprocess import Preprocessing, preprocess, stretch, to_content, to_input


def spec(content: int = 4, size: int = 4, channels: int = 1, mean: float = 0.0, std: float = 1.0) -> Preprocessing:
    return Preprocessing(size, content, (0.0, 100.0), mean, std, channels)


def test_areas_are_averaged() -> None:
    pixels = torch.tensor(
        [[0.0, 0.2, 0.4, 0.4], [0.0, 0.2, 0.4, 0.4], [0.8, 0.8, 1.0, 0.6], [0.8, 0.8, 0.8, 0.8]]
    )  # averages .1 .4 .8 .8
    expected = torch.tensor([[0.0, 3 / 7], [1.0, 1.0]])
    torch.testing.assert_close(to_content(pixels, spec(content=2)), expected)


def test_fine_checkerboard_becomes_even_grey_and_no_pattern() -> None:
    board = ((torch.arange(512)[:, None] + torch.arange(512)[None]) % 2).float()
    board[:256] *= 0.5
    content = to_content(board, spec(content=64))
    assert content[:32].unique().tolist() == [0.0]  # the darker half, evenly
    assert content[32:].unique().tolist() == [1.0]


def test_aspect_is_given_up_so_that_no_network_can_learn_it() -> None:
    wide = torch.linspace(0, 1, 40).expand(10, 40)
    content = to_content(wide, spec(content=8))
    assert content.shape == (8, 8)
    torch.testing.assert_close(content, content[:1].expand(8, 8))
    assert (content[0].diff() > 0).all()


def test_image_smaller_than_the_content_is_enlarged() -> None:
    content = to_content(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), spec(content=6))
    assert content.shape == (6, 6)
    assert content[0, 0] == 0
    assert content[0, -1] == 1


def test_constant_image_becomes_all_zero() -> None:
    assert not to_content(torch.full((30, 20), 0.7), spec()).any()


def test_percentiles_become_zero_and_one_and_the_rest_is_clipped() -> None:
    image = torch.arange(101.0).view(1, 101) / 100
    stretched = stretch(image, (10.0, 90.0))
    assert stretched[0, 5] == 0
    assert stretched[0, 95] == 1
    assert stretched[0, 50].item() == pytest.approx(0.5)
    assert stretched[0, 30].item() == pytest.approx(0.25)


def test_input_is_normalised_and_repeated_over_channels() -> None:
    content = torch.tensor([[[0.0, 0.5], [0.75, 1.0]]])
    x = to_input(content, spec(2, 2, channels=3, mean=0.5, std=0.25))
    assert x.shape == (1, 3, 2, 2)
    assert x[0, 2].tolist() == [[-2.0, 0.0], [1.0, 2.0]]


def test_input_of_another_size_is_interpolated() -> None:
    assert to_input(torch.rand(3, 4, 4), spec(content=4, size=10)).shape == (3, 1, 10, 10)


def test_preprocess_is_both_steps_for_one_image() -> None:
    pixels = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    plan = spec(8, 16, channels=3, mean=0.5, std=0.25)
    torch.testing.assert_close(preprocess(pixels, plan), to_input(to_content(pixels, plan)[None], plan))


def test_brightness_and_contrast_of_the_whole_image_do_not_matter() -> None:
    pixels = torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_content(pixels, spec(8)), to_content(0.3 + 0.5 * pixels, spec(8)), atol=1e-5, rtol=0)

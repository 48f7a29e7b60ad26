"""Augmentation, and negatives made from thin air."""

from __future__ import annotations

import pytest
import torch

from dicom_gam.training.augmentation import (
    SYNTHETIC_FAMILIES,
    Placement,
    augment,
    draw_placement,
    synthetic_negatives,
    vary_appearance,
)
from tests.tiny_bundle import DISC, SIDE, STRIPES, shapes

LABELS = torch.tensor([0] * 5 + [1] * 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def contents() -> torch.Tensor:
    return torch.cat([shapes(DISC, 5, 1), shapes(STRIPES, 5, 1)])


def stay(n: int, flip: bool = False, shift: tuple[float, float] = (0.0, 0.0)) -> Placement:
    moved = torch.tensor(shift).repeat_interleave(n)
    return Placement(torch.ones(n), torch.ones(n), torch.zeros(n), moved, torch.full((n,), flip))


def test_negatives_of_every_family_have_the_shape_and_range_of_contents(contents: torch.Tensor) -> None:
    made = synthetic_negatives(contents, LABELS, generator())
    assert tuple(made) == SYNTHETIC_FAMILIES
    for family, images in made.items():
        assert images.shape == contents.shape, family
        assert images.min() >= 0, family
        assert images.max() <= 1, family


def test_inverted_negative_is_one_minus_the_image(contents: torch.Tensor) -> None:
    torch.testing.assert_close(synthetic_negatives(contents, LABELS, generator())["inverted"], 1 - contents)


def test_rotated_negative_is_never_upright(contents: torch.Tensor) -> None:
    for made, original in zip(synthetic_negatives(contents, LABELS, generator())["rotated"], contents, strict=True):
        assert any(torch.equal(made, original.rot90(k)) for k in (1, 2, 3))
        assert not torch.equal(made, original)


def test_shuffled_negative_has_the_same_tiles_in_another_order(contents: torch.Tensor) -> None:
    made = synthetic_negatives(contents, LABELS, generator())["shuffled"]
    torch.testing.assert_close(made.flatten(1).sort(1).values, contents.flatten(1).sort(1).values)
    assert not any(torch.equal(m, c) for m, c in zip(made, contents, strict=True))


def test_spliced_negative_is_half_of_one_class_and_half_of_another(contents: torch.Tensor) -> None:
    made = synthetic_negatives(contents, LABELS, generator())["spliced"]
    for image, original, label in zip(made, contents, LABELS, strict=True):
        upright = image if torch.equal(image[:16], original[:16]) else image.T
        assert torch.equal(upright[:16], original[:16])
        assert any(torch.equal(upright[16:], other[16:]) for other in contents[label != LABELS])


def test_splicing_one_class_alone_never_makes_a_whole_image_of_it(contents: torch.Tensor) -> None:
    one = contents[:5]
    for image in synthetic_negatives(one, LABELS[:5], generator())["spliced"]:
        assert not any(torch.equal(image[16:], other[16:]) or torch.equal(image.T[16:], other[16:]) for other in one)


def test_augmented_contents_stay_contents_and_repeat_for_a_seed(contents: torch.Tensor) -> None:
    once, again = augment(contents, generator(3)), augment(contents, generator(3))
    assert torch.equal(once, again)
    assert once.shape == contents.shape
    assert 0 <= once.min() <= once.max() <= 1
    assert not torch.equal(once, augment(contents, generator(4)))


def test_augmenting_is_placing_and_then_varying_the_appearance(contents: torch.Tensor) -> None:
    g = generator(3)
    by_hand = vary_appearance(draw_placement(len(contents), g).move(contents), g)
    assert torch.equal(by_hand, augment(contents, generator(3)))


def test_placement_moves_a_map_to_where_it_moves_the_image() -> None:
    """The centre of mass of a bright spot and of the map that marks it stay together, whatever the draw."""
    n = 200
    spot = torch.zeros(n, SIDE, SIDE)
    spot[:, 8:13, 18:23] = 1.0
    placement = draw_placement(n, generator(5))
    image, marked = placement.move(0.2 + 0.6 * spot), placement.move(spot, outside="zeros")
    inside = marked.flatten(1).sum(1) > 1
    assert inside.sum() > 190
    bright = (image - 0.2) / 0.6
    torch.testing.assert_close(bright[inside], marked[inside], atol=1e-5, rtol=0)
    centres = (marked * torch.arange(SIDE)).sum((1, 2)) / marked.sum((1, 2))
    assert centres[inside & ~placement.flip].mean() > SIDE / 2 + 2
    assert centres[inside & placement.flip].mean() < SIDE / 2 - 2


def test_flip_mirrors_columns() -> None:
    image = torch.arange(16.0).view(1, 4, 4)
    torch.testing.assert_close(stay(1, flip=True).move(image), image.flip(2))


def test_shift_by_a_quarter_frame_moves_columns_and_what_comes_in_is_the_edge_or_nothing() -> None:
    image = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(4, 4)[None]
    right = stay(1, shift=(0.5, 0.0))
    assert right.move(image)[0, 0].tolist() == [2.0, 3.0, 4.0, 4.0]
    assert right.move(image, outside="zeros")[0, 0].tolist() == [2.0, 3.0, 4.0, 0.0]

"""Augmentation, made-up negatives, and a training run that repeats itself."""

from __future__ import annotations

import pytest
import torch

from dicom_gam.errors import TrainingError
from dicom_gam.training.augmentation import augment, synthetic_negatives
from dicom_gam.training.fitting import Curve, fit
from dicom_gam.training.specification import Schedule
from tests.tiny_bundle import CPU, DISC, NOISE, STRIPES, fold, shapes, tiny_manifest

FAMILIES = {"inverted", "rotated", "cropped", "collimated", "shuffled", "spliced", "noise", "blank"}
QUICK = Schedule(steps=4, batch_size=8, validate_every=2)
LABELS = torch.tensor([0] * 5 + [1] * 5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def contents() -> torch.Tensor:
    return torch.cat([shapes(DISC, 5, 1), shapes(STRIPES, 5, 1)])


def test_negatives_of_every_family_have_the_shape_and_range_of_contents(contents: torch.Tensor) -> None:
    made = synthetic_negatives(contents, LABELS, generator())
    assert made.keys() == FAMILIES
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


def test_training_twice_with_one_seed_gives_the_same_weights() -> None:
    train, validation = fold(1, 8, (DISC, STRIPES, NOISE)), fold(2, 4, (DISC, STRIPES, NOISE))
    one, _ = fit(tiny_manifest(), QUICK, train, validation, CPU)
    torch.manual_seed(999)  # what happened before must not matter
    other, _ = fit(tiny_manifest(), QUICK, train, validation, CPU)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_training_with_another_seed_gives_other_weights() -> None:
    train = fold(1, 8, (DISC, STRIPES, NOISE))
    one, _ = fit(tiny_manifest(), QUICK, train, train, CPU)
    other, _ = fit(tiny_manifest(), QUICK.model_copy(update={"seed": 1}), train, train, CPU)
    assert not torch.equal(one.state_dict()["classifier.weight"], other.state_dict()["classifier.weight"])


def test_training_leaves_the_caller_s_random_state_and_determinism_alone() -> None:
    before = torch.get_rng_state()
    train = fold(1, 8, (DISC, STRIPES, NOISE))
    fit(tiny_manifest(), QUICK, train, train, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_trained_network_is_frozen_and_its_curve_has_every_validation() -> None:
    train = fold(1, 8, (DISC, STRIPES, NOISE))
    network, curve = fit(tiny_manifest(), QUICK.model_copy(update={"steps": 5}), train, train, CPU)
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert [step for step, _ in curve.accuracy] == [2, 4, 5]


def test_class_without_training_images_is_named() -> None:
    with pytest.raises(TrainingError, match="no training images of stripes, garbage"):
        fit(tiny_manifest(), QUICK, fold(1, 8, (DISC,)), fold(2, 2), CPU)


def test_curve_is_drawn_as_a_png() -> None:
    png = Curve([(1, 2.0), (2, 1.0)], [(1, 0.5), (2, 0.9)]).png()
    assert png.startswith(b"\x89PNG")

"""What can be split, what can't and why, and the early layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicom_gam.core.attention import explain
from dicom_gam.core.network import SplitError, SplitNetwork, grid_means
from tests.core.networks import MlpHead, images, random_network, seeded


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x)).mean((2, 3))


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.mean((2, 3)) if y.sum() > 0 else y.amax((2, 3))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = _Both()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x)
        return (a + b).mean((2, 3))


class _Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class Hidden(nn.Module):
    """The attention layer's output reaches an in-place ReLU through layers that pass on the very same tensor."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.conv, self.between = nn.Conv2d(1, 3, 3, padding=1), between
        self.relu, self.linear = nn.ReLU(inplace=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.relu(self.between(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "layer", "early", "message"),
    [
        (MlpHead, "nowhere", [], "no layer 'nowhere'; its top-level layers are: stem, body, head"),
        (MlpHead, "body", ["nowhere"], "no layer 'nowhere'"),
        (MlpHead, "stem", ["body"], "early layer 'body' comes after the attention layer 'stem'"),
        (Twice, "conv", [], "layer 'conv' is called 2 times in a forward pass"),
        (DataDependent, "conv", [], "can't be traced .*control flow depends on the data"),
        (Pair, "both", [], "returns tuple, not a tensor"),
    ],
)
def test_network_that_cannot_be_split_is_refused_with_the_reason(
    build: type[nn.Module], layer: str, early: list[str], message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        SplitNetwork(seeded(build), layer, early)


def test_layer_that_is_never_called_is_refused() -> None:
    network = seeded(MlpHead)
    network.unused = nn.ReLU()
    with pytest.raises(SplitError, match="'unused' is called 0 times"):
        SplitNetwork(network.eval(), "unused")


def test_network_in_training_mode_is_refused() -> None:
    with pytest.raises(SplitError, match=r"call network\.eval\(\)"):
        SplitNetwork(seeded(MlpHead).train(), "body")


def test_network_with_one_layer_in_training_mode_is_refused() -> None:
    network = seeded(MlpHead)
    network.body.train()
    with pytest.raises(SplitError, match=r"call network\.eval\(\)"):
        SplitNetwork(network, "body")


@pytest.mark.parametrize("layer", ["layer4", "layer4.1.conv2", "layer2", "layer4.1.bn2", "maxpool"])
def test_trunk_and_head_together_give_the_network_s_own_logits(layer: str) -> None:
    network, x = random_network("resnet18"), images(side=64)
    split = SplitNetwork(network, layer)
    with torch.no_grad():
        trunk = split.trunk(x)
        torch.testing.assert_close(split.head(trunk.activations, trunk.carried), network(x))


def test_early_grids_are_the_layers_outputs_averaged_over_eight_by_eight_cells() -> None:
    network, x = random_network("resnet18"), images(side=64)
    with torch.no_grad():
        early = SplitNetwork(network, "layer4", ["conv1", "layer1"]).trunk(x).early
        stem = network.conv1(x)
        first = network.layer1(network.maxpool(F.relu(network.bn1(stem))))
    torch.testing.assert_close(early[0], stem.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean((3, 5)))
    torch.testing.assert_close(early[1], first.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5)))


def test_early_features_are_taken_before_a_later_layer_writes_over_them() -> None:
    network, x = random_network("resnet18"), images(side=64)
    assert network.relu.inplace
    with torch.no_grad():
        early = SplitNetwork(network, "layer4", ["bn1"]).trunk(x).early[0]
    assert (early < 0).any()


def test_attention_layer_may_be_an_early_layer_too() -> None:
    split = SplitNetwork(seeded(MlpHead), "body", ["stem", "body"])
    trunk = split.trunk(images(1, 16, channels=1).float())
    torch.testing.assert_close(trunk.early[1], grid_means(trunk.activations))


@pytest.mark.parametrize(("side", "cells"), [(16, 8), (13, 8), (8, 8), (5, 5), (1, 1)])
def test_grid_has_eight_cells_a_side_or_as_many_as_there_are_pixels(side: int, cells: int) -> None:
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    grid = grid_means(x)
    assert grid.shape == (2, 3, cells, cells)
    torch.testing.assert_close(grid, F.adaptive_avg_pool2d(x, (cells, cells)))


@pytest.mark.parametrize("between", [nn.Identity, nn.Dropout, nn.Dropout2d], ids=lambda b: b.__name__)
def test_head_never_writes_into_the_activations_it_was_given(between: Callable[[], nn.Module]) -> None:
    split = SplitNetwork(seeded(lambda: Hidden(between())), "conv")
    x = images(2, 8, channels=1).float()
    with torch.no_grad():
        before = split.trunk(x).activations
        given = before.clone()
        split.head(given)
    assert (before < 0).any()
    assert torch.equal(given, before)
    torch.testing.assert_close(explain(split, x).features, before.mean((2, 3)))


def _head(*layers: nn.Module) -> SplitNetwork:
    return SplitNetwork(nn.Sequential(nn.Conv2d(1, 4, 3), *layers).eval(), "0")


POOL, FLAT = nn.AdaptiveAvgPool2d(1), nn.Flatten()


@pytest.mark.parametrize(
    "layers",
    [
        (POOL, FLAT, nn.Linear(4, 2)),
        (nn.ReLU(), POOL, FLAT, nn.Linear(4, 2)),
        (nn.AdaptiveAvgPool2d((1, 1)), FLAT, nn.Dropout(), nn.Linear(4, 2)),
    ],
)
def test_pooling_and_one_linear_layer_have_a_closed_form(layers: tuple[nn.Module, ...]) -> None:
    assert _head(*layers).linear_head is not None


@pytest.mark.parametrize(
    "layers",
    [
        (POOL, FLAT, nn.Linear(4, 4), nn.Linear(4, 2)),
        (POOL, FLAT, nn.Linear(4, 2), nn.Softmax(1)),
        (POOL, nn.ReLU(), FLAT, nn.Linear(4, 2)),
        (nn.AdaptiveMaxPool2d(1), FLAT, nn.Linear(4, 2)),
        (nn.AdaptiveAvgPool2d(2), FLAT, nn.Linear(16, 2)),
        (nn.SiLU(), POOL, FLAT, nn.Linear(4, 2)),
        (nn.BatchNorm2d(4), POOL, FLAT, nn.Linear(4, 2)),
    ],
)
def test_any_other_head_has_no_closed_form(layers: tuple[nn.Module, ...]) -> None:
    assert _head(*layers).linear_head is None

"""Maps worked out by hand, degenerate maps, and what an explanation must leave alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from dicom_gam.bundle.architectures import compact_resnet
from dicom_gam.core.attention import METHODS, explain, normalise
from dicom_gam.core.network import SplitNetwork
from tests.core.networks import MlpHead, Reluctant, images, random_network, seeded


class ByHand(nn.Module):
    """Two channels, the picture and its negative; class 0 wants the first, class 1 the second, class 2 neither."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.channels = nn.Conv2d(1, 2, 1, bias=False)
        self.channels.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(2, len(weights))
        self.linear.weight.data, self.linear.bias.data = weights, torch.zeros(len(weights))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.channels(x)).flatten(1))


WEIGHTS = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
PICTURE = torch.tensor([[[[4.0, -1.0], [2.0, 1.0]]]])


def by_hand(weights: Tensor = WEIGHTS) -> SplitNetwork:
    return SplitNetwork(ByHand(weights).eval(), "channels")


def test_hirescam_of_a_small_picture_is_what_it_is_by_hand() -> None:
    # class 0: evidence = 2/4 · picture = [[2, -0.5], [1, 0.5]], clipped and divided by 2
    explanation = explain(by_hand(), PICTURE, "hirescam")
    assert explanation.targets.tolist() == [0]
    assert explanation.logits.tolist() == [[3.0, -4.5, 0.0]]
    assert explanation.maps.tolist() == [[[1.0, 0.0], [0.5, 0.25]]]


def test_map_of_another_class_shows_the_evidence_for_that_class() -> None:
    # class 1: evidence = 3/4 · (-picture) = [[-3, 0.75], [-1.5, -0.75]]
    explanation = explain(by_hand(), PICTURE, "hirescam", torch.tensor([1]))
    assert explanation.maps.tolist() == [[[0.0, 1.0], [0.0, 0.0]]]


def test_targets_may_be_chosen_from_the_logits() -> None:
    explanation = explain(by_hand(), PICTURE, targets=lambda logits: logits.argmin(1))
    assert explanation.targets.tolist() == [1]


def test_features_are_the_mean_of_the_activations_over_space() -> None:
    assert explain(by_hand(), PICTURE).features.tolist() == [[1.5, -1.5]]


def test_smallest_positive_evidence_becomes_zero_and_the_largest_one() -> None:
    maps, degenerate = normalise(torch.tensor([[[1.0, 2.0, 3.0]]]))
    assert maps.tolist() == [[[0.0, 0.5, 1.0]]]
    assert degenerate.tolist() == [False]


@pytest.mark.requirement("VER-03")
@pytest.mark.parametrize("method", METHODS)
def test_evidence_against_the_class_everywhere_is_degenerate(method: str) -> None:
    explanation = explain(by_hand(), torch.full((1, 1, 2, 2), 5.0), method, torch.tensor([1]))
    assert explanation.degenerate.tolist() == [True]
    assert not explanation.maps.any()


@pytest.mark.requirement("VER-03")
@pytest.mark.parametrize("value", [0.0, 7.0, torch.nan, torch.inf])
def test_evidence_without_a_place_is_degenerate(value: float) -> None:
    maps, degenerate = normalise(torch.full((1, 3, 3), value))
    assert degenerate.tolist() == [True]
    assert not maps.any()


@pytest.mark.requirement("VER-03")
def test_one_nan_makes_the_whole_map_degenerate_and_leaves_its_neighbour_alone() -> None:
    evidence = torch.tensor([[[1.0, torch.nan]], [[0.0, 2.0]]])
    maps, degenerate = normalise(evidence)
    assert degenerate.tolist() == [True, False]
    assert maps.tolist() == [[[0.0, 0.0]], [[0.0, 1.0]]]


def test_three_dimensional_activations_give_three_dimensional_maps() -> None:
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.pool, self.linear = nn.Conv3d(1, 3, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.pool(self.body(x)).flatten(1))

    split = SplitNetwork(seeded(Volume), "body", ["body"])
    assert split.linear_head is not None
    explanation = explain(split, torch.rand(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(1)))
    assert explanation.maps.shape == (2, 4, 6, 8)
    closed, split.linear_head = explanation.maps, None
    torch.testing.assert_close(
        closed, explain(split, torch.rand(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(1))).maps
    )


def test_unknown_method_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="moonshine"):
        explain(by_hand(), PICTURE, "moonshine")


@pytest.mark.requirement("VER-02")
@pytest.mark.parametrize("closed_form", [True, False])
def test_network_is_left_as_it_was(closed_form: bool) -> None:
    network = random_network("resnet18")
    split = SplitNetwork(network, "layer4", ["layer1"])
    if not closed_form:
        split.linear_head = None
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training = [module.training for module in network.modules()]
    explain(split, images(side=64))
    assert all((parameter.grad == 3.0).all() for parameter in network.parameters())
    assert [module.training for module in network.modules()] == training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, kind) for module in network.modules() for kind in hooks)


HEADS = {"closed form": Reluctant, "autograd": MlpHead}


@pytest.mark.requirement("VER-02")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_finite_map_for_every_image_and_leaves_the_network_alone(method: str, head: str) -> None:
    network = seeded(HEADS[head])
    x = images(3, 16, channels=1).float()
    given = x.clone()
    explanation = explain(SplitNetwork(network, "body"), x, method)
    assert explanation.maps.shape == (3, 8, 8)
    assert explanation.maps.dtype is torch.float32
    assert not explanation.degenerate.any()
    assert explanation.maps.flatten(1).amin(1).tolist() == [0.0] * 3
    assert explanation.maps.flatten(1).amax(1).tolist() == [1.0] * 3
    assert torch.equal(x, given)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.requirement("VER-13")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_image_has_the_same_map_alone_and_among_others(method: str, head: str) -> None:
    split, x = SplitNetwork(seeded(HEADS[head]), "body"), images(3, 16, channels=1).float()
    together = explain(split, x, method).maps
    alone = torch.cat([explain(split, image[None], method).maps for image in x])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_in_inference_mode_and_near_enough_under_bf16_autocast(method: str, head: str) -> None:
    network = seeded(HEADS[head]).requires_grad_(False)
    x = images(3, 16, channels=1).float()
    split = SplitNetwork(network, "body")
    exact = explain(split, x, method)
    with torch.inference_mode():
        found = explain(split, x.clone(), method, exact.targets.clone())
    torch.testing.assert_close(found.maps, exact.maps, atol=1e-6, rtol=0)
    if method.startswith("cfcam"):
        return  # the clusters of so few channels change with the rounding
    with torch.autocast("cpu", torch.bfloat16):
        rounded = explain(split, x, method, exact.targets)
    assert rounded.maps.dtype is torch.float32
    torch.testing.assert_close(rounded.maps, exact.maps, atol=0.1, rtol=0)


MODES = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frozen", [True, False])
def test_autograd_path_works_in_every_mode_and_with_frozen_parameters(mode: str, frozen: bool) -> None:
    network = seeded(MlpHead).requires_grad_(not frozen)
    x = images(3, 16, channels=1).float()
    expected = explain(SplitNetwork(network, "body"), x)
    context: AbstractContextManager[object] = MODES[mode]()
    with context:
        split = SplitNetwork(network, "body")
        found = explain(split, x.clone())  # under inference_mode the clone is an inference tensor
    torch.testing.assert_close(found.maps, expected.maps)
    assert not found.maps.requires_grad
    assert not found.logits.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_closed_form_works_in_every_mode(mode: str) -> None:
    network, x = random_network("resnet18"), images(side=64)
    expected = explain(SplitNetwork(network, "layer4"), x)
    context: AbstractContextManager[object] = MODES[mode]()
    with context:
        found = explain(SplitNetwork(network, "layer4"), x.clone())
    torch.testing.assert_close(found.maps, expected.maps)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("after_a_forward", [True, False])
def test_maps_under_bf16_autocast_are_float32_and_near_the_exact_ones(frozen: bool, after_a_forward: bool) -> None:
    network = seeded(MlpHead).requires_grad_(not frozen)
    x = images(3, 16, channels=1).float()
    exact = explain(SplitNetwork(network, "body"), x)
    with torch.autocast("cpu", torch.bfloat16):
        if after_a_forward:  # autocast then keeps the weights that it has cast
            with torch.inference_mode():
                network(x)
        found = explain(SplitNetwork(network, "body"), x)
    assert found.maps.dtype is found.logits.dtype is found.features.dtype is torch.float32
    torch.testing.assert_close(found.maps, exact.maps, atol=0.1, rtol=0)


def test_closed_form_under_bf16_autocast_is_near_the_exact_map() -> None:
    split = SplitNetwork(seeded(lambda: compact_resnet(3, (4, 4, 8), 1)), "layer3")
    x = images(4, 32, channels=1).float()
    exact = explain(split, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(split, x, targets=exact.targets)
    assert found.maps.dtype is torch.float32
    torch.testing.assert_close(found.maps, exact.maps, atol=0.1, rtol=0)


@pytest.mark.requirement("VER-02")
@pytest.mark.parametrize("layer", ["layer3", "layer4"])  # by autograd, in closed form
def test_two_threads_of_twenty_calls_sharing_a_network_get_the_maps_that_one_thread_gets(layer: str) -> None:
    split = SplitNetwork(random_network("resnet18"), layer)
    batches = [images(1, 64, seed=seed) for seed in range(40)]
    serial = [explain(split, x).maps for x in batches]
    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(lambda x: explain(split, x).maps, batches))
    for one, other in zip(serial, threaded, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)

"""Volumes and clips: networks with three spatial axes are split, explained and looked at early as pictures are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicom_gam.core.attention import METHODS, explain
from dicom_gam.core.network import SplitNetwork, grid_means
from tests.core.networks import ATTENTION_LAYER, VIDEO, autograd_map, clips, random_network, seeded

pytestmark = pytest.mark.requirement("VER-16")


class DenseVolume(nn.Module):
    """What a 3-D DenseNet ends with: concatenation, an in-place ReLU, pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grow = nn.Conv3d(1, 4, 3, stride=2, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.norm, self.classifier = nn.BatchNorm3d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.norm(torch.cat([x, self.grow(x)], 1)), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool3d(x, (1, 1, 1)), 1))


def volumes(count: int = 2) -> Tensor:
    return torch.randn(count, 1, 8, 12, 10, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
@pytest.mark.parametrize("name", VIDEO)
def test_video_network_in_closed_form_agrees_with_autograd_through_the_whole_network(name: str, method: str) -> None:
    network, layer, x = random_network(name), ATTENTION_LAYER[name], clips()
    split = SplitNetwork(network, layer, ["stem", "layer1"])
    assert split.linear_head is not None
    explanation = explain(split, x, method)
    assert not explanation.degenerate.any()
    assert explanation.maps.ndim == 4
    expected = autograd_map(network, layer, x, explanation.targets, method)
    torch.testing.assert_close(explanation.maps.double(), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(explanation.logits.double(), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VIDEO)
def test_video_network_split_in_the_middle_agrees_with_autograd(name: str) -> None:
    network, x = random_network(name), clips()
    explanation = explain(SplitNetwork(network, "layer3"), x)
    expected = autograd_map(network, "layer3", x, explanation.targets, "hirescam")
    torch.testing.assert_close(explanation.maps.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "scorecam"])  # 512 passes of a video network
def test_every_method_explains_a_video_network(method: str) -> None:
    explanation = explain(SplitNetwork(random_network("r3d_18"), "layer4"), clips(), method)
    assert explanation.maps.shape == (1, 1, 3, 3)
    assert not explanation.degenerate.any()


@pytest.mark.parametrize("method", METHODS)
def test_dense_volume_in_closed_form_equals_the_path_by_autograd(method: str) -> None:
    split, x = SplitNetwork(seeded(DenseVolume), "norm"), volumes()
    assert split.linear_head is not None
    closed, split.linear_head = explain(split, x, method), None
    assert closed.maps.shape == (2, 4, 6, 5)
    assert not closed.degenerate.any()
    torch.testing.assert_close(closed.maps, explain(split, x, method).maps, atol=1e-5, rtol=0)


# CF-CAM's Gaussian also reaches beyond the one slice and takes a share off every cluster: another map, rightly.
@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("cfcam")])
def test_volume_of_one_slice_has_the_map_of_the_picture(method: str) -> None:
    flat = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    )
    deep = nn.Sequential(nn.Conv3d(1, 6, (1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3))
    for parameter, source in zip(deep.parameters(), flat.parameters(), strict=True):
        parameter.data = source.data.reshape(parameter.shape)
    x = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(5))
    picture = explain(SplitNetwork(flat, "0"), x, method)
    volume = explain(SplitNetwork(deep.eval(), "0"), x[:, :, None], method)
    assert not picture.degenerate.any()
    torch.testing.assert_close(volume.maps[:, 0], picture.maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 9, 8), (4, 32, 32), (1, 7, 40)])
def test_early_grid_of_a_volume_is_its_mean_over_up_to_eight_cells_an_axis(shape: tuple[int, int, int]) -> None:
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grid_means(x), F.adaptive_avg_pool3d(x, [min(8, side) for side in shape]))


def test_early_layers_of_a_video_network_are_those_of_its_modules() -> None:
    network, x = random_network("r3d_18"), clips()
    early = explain(SplitNetwork(network, "layer4", ["stem", "layer1"]), x).early
    with torch.no_grad():
        stem = network.stem(x)
        first = network.layer1(stem)
    torch.testing.assert_close(early[0].double(), F.adaptive_avg_pool3d(stem, 8), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(early[1].double(), F.adaptive_avg_pool3d(first, 8), atol=1e-5, rtol=1e-5)

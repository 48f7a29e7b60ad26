"""Networks with random weights that are known to give maps with something in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torchvision.models
from torch import Tensor, nn

from dicom_gam.core.attention import METHODS, normalise

ATTENTION_LAYER = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "densenet121": "features",
    "efficientnet_b0": "features",
    "mobilenet_v3_small": "features",
}


@lru_cache(maxsize=8)
def random_network(name: str, seed: int = 1) -> nn.Module:
    """A torchvision network in float64, so that a comparison is about the method and not about rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = getattr(torchvision.models, name)(weights=None, num_classes=5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.Linear):
                module.weight.data.normal_()
    return network.eval().double()


def images(count: int = 2, side: int = 96, channels: int = 3, seed: int = 3) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autograd_map(network: nn.Module, layer: str, x: Tensor, targets: Tensor, method: str) -> Tensor:
    """The map by the book: a hook takes A out, and the gradient comes from the whole network."""
    kept: list[Tensor] = []

    def take(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what comes next may write into it

    handle = network.get_submodule(layer).register_forward_hook(take)
    try:
        score = network(x.clone().requires_grad_()).gather(1, targets.clone()[:, None]).sum()
    finally:
        handle.remove()
    (gradients,) = torch.autograd.grad(score, kept[0])
    return normalise(METHODS[method](kept[0].detach(), gradients))[0]


class MlpHead(nn.Module):
    """A small network with a head that is not linear, so its gradient has no closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()

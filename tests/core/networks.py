"""Networks with random weights that are known to give maps with something in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torchvision.models
import torchvision.models.video
from torch import Tensor, nn

from dicom_gam.core.attention import normalise

ATTENTION_LAYER = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "densenet121": "features",
    "efficientnet_b0": "features",
    "mobilenet_v3_small": "features",
    "r3d_18": "layer4",
    "mc3_18": "layer4",
}
VIDEO = ("r3d_18", "mc3_18")  # of clips (N, 3, frames, H, W)

FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of activations and gradients
    "hirescam": lambda a, g: (a * g).sum(1),
    "gradcam": lambda a, g: (a * g.flatten(2).mean(2).view(*g.shape[:2], *[1] * (g.ndim - 2))).sum(1),
}


@lru_cache(maxsize=8)
def random_network(name: str, seed: int = 1) -> nn.Module:
    """A torchvision network in float64, so that a comparison is about the method and not about rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        home = torchvision.models.video if name in VIDEO else torchvision.models
        network = getattr(home, name)(weights=None, num_classes=5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.3, 0.3)
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.Linear):
                module.weight.data.normal_()
    return network.eval().double()


def images(count: int = 2, side: int = 96, channels: int = 3, seed: int = 3) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clips(count: int = 1, side: int = 48, frames: int = 8, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, frames, side, side, generator=generator, dtype=torch.float64)


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
    return normalise(FORMULAS[method](kept[0].detach(), gradients))[0]


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


class Reluctant(nn.Module):
    """The attention layer gives negative values too, and the head cuts them off before it pools (as DenseNet does)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
        self.relu, self.pool, self.linear = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.relu(self.body(x))).flatten(1))


class Skipping(nn.Module):
    """The head needs more of the trunk than the attention layer's output: an earlier tensor, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        early = self.stem(x).relu()
        side = early.size(2)
        pooled = ((self.body(early) + early).relu() ** 2).sum((2, 3)) / (side * side)
        return self.head(pooled)

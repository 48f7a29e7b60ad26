"""Architectures by entry point, and the default bundle's own.

An architecture is one function `build(num_classes, **options) -> nn.Module` under the entry point group
`dicom_gam.architectures`. It must build the network without downloading anything.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from dicom_gam.errors import BundleError

GROUP = "dicom_gam.architectures"


def build_network(architecture: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build the network that an entry point offers. Raises BundleError that names what is installed."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if architecture not in found:
        raise BundleError(
            f"architecture {architecture!r} is not installed; installed are: {', '.join(sorted(found)) or 'none'}. "
            "Install the package that offers it, or correct `architecture` in bundle.toml."
        )
    build = cast(Callable[..., nn.Module], found[architecture].load())
    try:
        return build(num_classes, **options)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise BundleError(f"architecture {architecture!r} does not take the options {options}: {error}") from error


class CompactResNet(nn.Module):
    """A small residual network (He et al., arXiv 1512.03385) for grey images: one stem, three stages, one linear layer.

    With the default widths an input (N, 1, 96, 96) gives an attention layer `layer3` of (N, 128, 12, 12).
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 64, 128), blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.layer1 = _stage(widths[0], widths[0], blocks, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(widths[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of grey images (N, 1, H, W)."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.classifier(self.dropout(self.pool(x).flatten(1)))
        return logits


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut (the paper's basic block)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(_Block(channels_out, channels_out) for _ in range(blocks - 1)))


def compact_resnet(num_classes: int, widths: tuple[int, ...] = (32, 64, 128), blocks: int = 2) -> nn.Module:
    """A small residual network for grey images; see CompactResNet."""
    return CompactResNet(num_classes, tuple(widths), blocks)

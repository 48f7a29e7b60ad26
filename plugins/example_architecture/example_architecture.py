"""A hospital's own classifier as dicom_gam wants it: the architecture, and its checkpoint without pickle.

Yours goes in the place of `ExampleNet`. What it must keep to: `build` takes the number of outputs and the
specification's options, loads nothing, and returns a network whose answer is logits.
"""

import sys

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class ExampleNet(nn.Module):
    """A small convolutional network for grey images (N, 1, H, W)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.stem = _convolution(1, width)
        self.features = nn.Sequential(_convolution(width, 2 * width), _convolution(2 * width, 4 * width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K). What the training did to its input, beyond the specification's preprocessing, stands here."""
        return self.classifier(self.pool(self.features(self.stem(x))).flatten(1))


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    layer = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.ReLU())


def build(num_classes: int, width: int = 16) -> nn.Module:
    """What the entry point names."""
    return ExampleNet(num_classes, width)


def convert() -> None:
    """Write the state_dict in a PyTorch checkpoint as safetensors."""
    if len(sys.argv) != 3:
        sys.exit("use: example-architecture-convert FROM.pt TO.safetensors")
    checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)  # runs no code of the file's
    state = checkpoint.get("state_dict", checkpoint)  # Lightning and others put it one level down
    save_file({name.removeprefix("module."): value.clone().contiguous() for name, value in state.items()}, sys.argv[2])

"""From a radiograph's display values to the network's input.

Every image goes through the coarsest resolution of the training sources, so that no network can tell sources apart
by their sharpness, and is stretched to a square, so that it can't tell them apart by aspect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """`content_size` is the resolution every image is reduced to, `input_size` the side of the network's input.

    Grey values are stretched so that the two percentiles become 0 and 1, then normalised by `mean` and `std` and
    repeated over `channels`.
    """

    input_size: int
    content_size: int
    percentiles: tuple[float, float]
    mean: float
    std: float
    channels: int


def to_content(pixels: Tensor, spec: Preprocessing) -> Tensor:
    """Reduce one image (rows, columns) in [0, 1] to (content_size, content_size), averaging areas, and stretch it."""
    size = (spec.content_size, spec.content_size)
    image = pixels[None, None].float()
    reduced = (min(size[0], image.shape[2]), min(size[1], image.shape[3]))
    image = F.adaptive_avg_pool2d(image, reduced)  # averages whole areas: no aliasing
    if reduced != size:
        image = F.interpolate(image, size, mode="bilinear", align_corners=False)
    return stretch(image[0, 0], spec.percentiles)


def stretch(image: Tensor, percentiles: tuple[float, float]) -> Tensor:
    """Map the two percentiles of an image to 0 and 1 and clip; a constant image becomes all zero."""
    low, high = torch.quantile(image.flatten(), torch.tensor([p / 100 for p in percentiles], device=image.device))
    stretched: Tensor = ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return stretched


def to_input(content: Tensor, spec: Preprocessing) -> Tensor:
    """A batch of contents (N, s, s) in [0, 1] as the network's input (N, channels, input_size, input_size)."""
    batch = content[:, None]
    if spec.input_size != spec.content_size:
        batch = F.interpolate(batch, (spec.input_size, spec.input_size), mode="bilinear", align_corners=False)
    batch = (batch - spec.mean) / spec.std
    return batch.expand(-1, spec.channels, -1, -1) if spec.channels > 1 else batch


def preprocess(pixels: Tensor, spec: Preprocessing) -> Tensor:
    """One image (rows, columns) in [0, 1] as a network input (1, channels, input_size, input_size)."""
    return to_input(to_content(pixels, spec)[None], spec)

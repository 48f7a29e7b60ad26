"""Augmentations that take away what a network must not answer by, and negatives made from thin air.

All work on batches of contents (N, s, s) in [0, 1] and draw from the given generator only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SYNTHETIC_FAMILIES = ("inverted", "rotated", "cropped", "collimated", "shuffled", "spliced", "noise", "blank")
Outside = Literal["border", "zeros"]  # what comes in from outside the frame: its edge repeated, or nothing


def uniform(n: int, low: float, high: float, g: Generator) -> Tensor:
    """`n` numbers between `low` and `high`, (n,)."""
    return torch.rand(n, generator=g) * (high - low) + low


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where an augmentation puts each of n images: `shift` is (2n,), columns first, in halves of the frame."""

    zoom: Tensor
    aspect: Tensor
    degrees: Tensor
    shift: Tensor
    flip: Tensor

    def move(self, x: Tensor, outside: Outside = "border") -> Tensor:
        """Move images (n, s, s), or what lies in their frame, to their new places."""
        moved = warp(x, self.zoom, self.aspect, self.degrees, self.shift, outside)
        return torch.where(self.flip[:, None, None], moved.flip(2), moved)


def draw_placement(n: int, g: Generator) -> Placement:
    """Random place, size, aspect, tilt and side for `n` images."""
    zoom, aspect, degrees = uniform(n, 0.75, 1.2, g), uniform(n, 0.85, 1.18, g), uniform(n, -12, 12, g)
    return Placement(zoom, aspect, degrees, uniform(2 * n, -0.1, 0.1, g), torch.rand(n, generator=g) < 0.5)


def augment(x: Tensor, g: Generator) -> Tensor:
    """Random place, size, aspect, tilt, side, sharpness, contrast, noise, borders and markers."""
    return vary_appearance(draw_placement(len(x), g).move(x), g)


def vary_appearance(x: Tensor, g: Generator) -> Tensor:
    """Random sharpness, contrast, noise, borders and markers; everything stays in its place."""
    n = len(x)
    blurred = F.avg_pool2d(F.pad(x[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    x = torch.lerp(x, blurred, uniform(n, 0, 1, g)[:, None, None])
    gamma = torch.exp(uniform(n, -0.5, 0.5, g))[:, None, None]
    x = x.clamp(1e-4, 1) ** gamma
    x = x * uniform(n, 0.75, 1.1, g)[:, None, None] + uniform(n, -0.05, 0.15, g)[:, None, None]
    x = x + torch.randn(x.shape, generator=g) * uniform(n, 0, 0.04, g)[:, None, None]
    return _mark(_border(x.clamp(0, 1), g), g)


def vary_negatives(x: Tensor, negative: Tensor, g: Generator) -> Tensor:
    """Enlarge and turn half of the `negative` (N,) far more than a class may be: few stand for a whole family."""
    n = len(x)
    chosen = negative & (torch.rand(n, generator=g) < 0.5)
    turn = uniform(n, -180, 180, g) * (torch.rand(n, generator=g) < 0.5)
    varied = warp(x, uniform(n, 0.8, 2.8, g), torch.ones(n), turn, uniform(2 * n, -0.35, 0.35, g))
    return torch.where(chosen[:, None, None], _restretch(varied), x)


def warp(
    x: Tensor, zoom: Tensor, aspect: Tensor, degrees: Tensor, shift: Tensor, outside: Outside = "border"
) -> Tensor:
    """Scale, squeeze, tilt and move each image."""
    n = len(x)
    angle = degrees * math.pi / 180
    sx, sy = 1 / (zoom * aspect.sqrt()), aspect.sqrt() / zoom
    theta = torch.stack(
        [
            torch.stack([sx * angle.cos(), -sy * angle.sin(), shift[:n]], 1),
            torch.stack([sx * angle.sin(), sy * angle.cos(), shift[n:]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, *x.shape[1:]], align_corners=False)
    return F.grid_sample(x[:, None], grid, padding_mode=outside, align_corners=False)[:, 0]


def _border(x: Tensor, g: Generator) -> Tensor:
    """Put a collimation border of random width and grey on about a third of the images."""
    n, size, _ = x.shape
    wide = torch.rand(n, 4, generator=g) * 0.14 * size * (torch.rand(n, 4, generator=g) < 0.2)
    i = torch.arange(size)
    rows = (i[None] < wide[:, :1]) | (i[None] >= size - wide[:, 1:2])
    columns = (i[None] < wide[:, 2:3]) | (i[None] >= size - wide[:, 3:])
    outside = rows[:, :, None] | columns[:, None, :]
    grey = torch.where(torch.rand(n, generator=g) < 0.8, uniform(n, 0, 0.1, g), uniform(n, 0.7, 1.0, g))
    return torch.where(outside, grey[:, None, None], x)


def _mark(x: Tensor, g: Generator) -> Tensor:
    """Put a small bright or dark block, like a lead marker or a label, on about a third of the images."""
    n, size, _ = x.shape
    centre = torch.rand(n, 2, generator=g) * size
    half = uniform(n, 0.02, 0.06, g) * size
    i = torch.arange(size)
    inside_rows = (i[None] - centre[:, :1]).abs() < half[:, None]
    inside_columns = (i[None] - centre[:, 1:]).abs() < half[:, None]
    inside = inside_rows[:, :, None] & inside_columns[:, None, :] & (torch.rand(n, generator=g) < 0.3)[:, None, None]
    return torch.where(inside, uniform(n, 0, 1, g).round()[:, None, None], x)


def synthetic_negatives(x: Tensor, labels: Tensor, g: Generator) -> dict[str, Tensor]:
    """Negatives made from real contents (N, s, s) of classes (N,), by family, each as many as there are contents.

    The families are SYNTHETIC_FAMILIES, in that order.
    Two halves are spliced from different classes where there are any; from the same class they'd be no negative.
    """
    n, size, _ = x.shape
    foreign = (labels[:, None] != labels[None]).float() + 1e-6
    partner = torch.multinomial(foreign, 1, generator=g)[:, 0]
    other = torch.where((labels == labels[partner])[:, None, None], _noise(n, size, g), x[partner])
    quarter = torch.randint(1, 4, (n,), generator=g)
    rotated = torch.stack([image.rot90(int(k)) for image, k in zip(x, quarter, strict=True)])
    half = size // 2
    spliced = torch.cat([x[:, :half], other[:, half:]], 1)
    spliced = torch.where((torch.rand(n, generator=g) < 0.5)[:, None, None], spliced, spliced.transpose(1, 2))
    zeros = torch.zeros(n)
    far = uniform(2 * n, -0.6, 0.6, g)
    return {
        "inverted": 1 - x,
        "rotated": rotated,
        "cropped": _restretch(warp(x, uniform(n, 2.6, 5.0, g), torch.ones(n), zeros, far)),
        "collimated": _collimate(x, g),
        "shuffled": _shuffle(x, g),
        "spliced": spliced,
        "noise": _noise(n, size, g),
        "blank": _blank(n, size, g),
    }


def _restretch(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    low, high = flat.quantile(0.01, 1)[:, None, None], flat.quantile(0.99, 1)[:, None, None]
    return ((x - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)


def _collimate(x: Tensor, g: Generator) -> Tensor:
    n, size, _ = x.shape
    centre = uniform(2 * n, 0.25, 0.75, g).view(n, 2) * size
    half = uniform(2 * n, 0.06, 0.16, g).view(n, 2) * size
    i = torch.arange(size)
    rows, columns = ((i[None] - centre[:, k : k + 1]).abs() < half[:, k : k + 1] for k in (0, 1))
    return x * (rows[:, :, None] & columns[:, None, :])


def _shuffle(x: Tensor, g: Generator) -> Tensor:
    """Deal the sixteen tiles of each image anew."""
    n, size, _ = x.shape
    tile = size // 4
    tiles = x[:, : 4 * tile, : 4 * tile].reshape(n, 4, tile, 4, tile).transpose(2, 3).reshape(n, 16, tile, tile)
    order = torch.rand(n, 16, generator=g).argsort(1)
    dealt = tiles.gather(1, order[:, :, None, None].expand_as(tiles))
    whole = dealt.reshape(n, 4, 4, tile, tile).transpose(2, 3).reshape(n, 1, 4 * tile, 4 * tile)
    return F.interpolate(whole, (size, size))[:, 0]


def _noise(n: int, size: int, g: Generator) -> Tensor:
    """Noise whose spectrum falls as 1/f^k for a random k from white to cloudy."""
    f = torch.fft.fftfreq(size)
    radius = (f[:, None] ** 2 + f[None] ** 2).sqrt().clamp_min(1 / size)
    spectrum = torch.fft.fft2(torch.randn(n, size, size, generator=g))
    return _restretch(torch.fft.ifft2(spectrum * radius ** -uniform(n, 0, 2.2, g)[:, None, None]).real)


def _blank(n: int, size: int, g: Generator) -> Tensor:
    """Exposures of nothing: a smooth gradient with a little noise."""
    line = torch.linspace(-0.5, 0.5, size)
    slope = uniform(2 * n, -1, 1, g).view(n, 2, 1, 1)
    field = 0.5 + slope[:, 0] * line[:, None] + slope[:, 1] * line[None]
    return (field + torch.randn(n, size, size, generator=g) * uniform(n, 0, 0.1, g)[:, None, None]).clamp(0, 1)

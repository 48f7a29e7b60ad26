"""Seven similarities between attention maps, batched, at the maps' own resolution, in two and three dimensions.

`a` are test maps and `r` reference maps, both (N, h, w) or (N, d, h, w), ≥ 0, scaled to [0, 1]; a tensor, or maps that
`prepare` has worked through once because they are compared with often. Every function returns (N,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

REGION = 0.5  # the attended region is where a map reaches half of its maximum
SMOOTHING = 1e-3  # λ of the KL divergence, in units of the map's maximum
DIRECTIONS = 8  # of the sliced Wasserstein distance in the plane; 13 in space
WINDOW = 7  # side of SSIM's window
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for data range 1
NOTHING = 1e-12  # what an all-zero map is made of where it must be a distribution


@dataclass(frozen=True, eq=False)
class PreparedMaps:
    """Maps (N, h, w) or (N, d, h, w) with what comparisons need of them, each quantity computed when first asked for.

    `prepare` computes all of it at once, for references that stay; `take` then deals out rows without computing.
    """

    maps: Tensor

    def take(self, indices: Tensor) -> PreparedMaps:
        """The maps at `indices` (M,), with every quantity."""
        rows = torch.split(self._packed.index_select(0, indices), self._widths, 1)
        values = dict(zip(_QUANTITIES, rows, strict=True))
        taken = PreparedMaps(values["flat"].view(len(indices), *self.maps.shape[1:]))
        taken.__dict__.update(values)
        return taken

    def to(self, device: torch.device) -> PreparedMaps:
        """The same maps, prepared on another device."""
        return prepare(self.maps.to(device))

    @cached_property
    def flat(self) -> Tensor:
        """(N, D) values, D = h·w or d·h·w."""
        return self.maps.flatten(1)

    @cached_property
    def total(self) -> Tensor:
        """(N, 1) sum of the values."""
        return self.flat.sum(1, keepdim=True)

    @cached_property
    def region(self) -> Tensor:
        """(N, D) 1 in the attended region, 0 outside."""
        return (self.flat >= _constant(REGION)).to(self.flat.dtype)

    @cached_property
    def region_size(self) -> Tensor:
        """(N, 1) how many cells are attended."""
        return self.region.sum(1, keepdim=True)

    @cached_property
    def unit(self) -> Tensor:
        """(N, D) of length 1; an all-zero map stays zero."""
        length: Tensor = torch.linalg.vector_norm(self.flat, dim=1, keepdim=True)
        return self.flat / length.clamp_min(NOTHING)

    @cached_property
    def standard(self) -> Tensor:
        """(N, D) of mean 0 and variance 1; a constant map is zero."""
        standard: Tensor = F.layer_norm(self.flat, self.flat.shape[1:], eps=NOTHING)
        return standard

    @cached_property
    def log_smoothed(self) -> Tensor:
        """(N, D) logarithms of (x + λ) / Σ(x + λ)."""
        return (self.flat + _constant(SMOOTHING)).log().log_softmax(1)

    @cached_property
    def smoothed(self) -> Tensor:
        """(N, D) values (x + λ) / Σ(x + λ)."""
        return self.log_smoothed.exp()

    @cached_property
    def window_mean(self) -> Tensor:
        """(N, windows) mean in every window of SSIM."""
        return _window_means(self.maps)

    @cached_property
    def window_square(self) -> Tensor:
        """(N, windows) squared mean in every window."""
        return self.window_mean * self.window_mean

    @cached_property
    def window_variance(self) -> Tensor:
        """(N, windows) variance in every window, of n."""
        return _window_means(self.maps * self.maps) - self.window_square

    @cached_property
    def travel(self) -> Tensor:
        """(N, directions · D) mass up to each cell along each direction × the gap to the next cell."""
        order, gaps = _projections(tuple(self.maps.shape[1:]), self.maps.device)
        raised = self.flat + _constant(NOTHING)
        mass = raised / raised.sum(1, keepdim=True)
        return mass.index_select(1, order).view(-1, *gaps.shape).cumsum(2).mul_(gaps).flatten(1)

    @cached_property
    def _packed(self) -> Tensor:
        return torch.cat([getattr(self, name) for name in _QUANTITIES], 1)

    @cached_property
    def _widths(self) -> list[int]:
        return [getattr(self, name).shape[1] for name in _QUANTITIES]


_QUANTITIES = [n for n, v in vars(PreparedMaps).items() if isinstance(v, cached_property) and not n.startswith("_")]
Maps: TypeAlias = Tensor | PreparedMaps


def prepare(maps: Tensor) -> PreparedMaps:
    """Work through reference maps once, so that `compare` and `similarities` need only look at the test maps."""
    with torch.inference_mode(False), torch.no_grad():
        prepared = PreparedMaps(maps.detach().clone())
        for name in ("_packed", "_widths"):
            getattr(prepared, name)
    return prepared


def _prepared(maps: Maps) -> PreparedMaps:
    return maps if isinstance(maps, PreparedMaps) else PreparedMaps(maps)


def iou(a: Maps, r: Maps) -> Tensor:
    """Intersection over union of the attended regions; 0 when both are empty (nothing agrees with nothing)."""
    a, r = _prepared(a), _prepared(r)
    return _share((a.region * r.region).sum(1, keepdim=True), a.region_size + r.region_size)


def _share(shared: Tensor, sizes: Tensor) -> Tensor:
    return (shared / (sizes - shared).clamp_min(NOTHING)).squeeze(1)


def dice(a: Maps, r: Maps) -> Tensor:
    """Dice coefficient of the attended regions, 2·IoU / (1 + IoU)."""
    return _dice(iou(a, r))


def _dice(overlap: Tensor) -> Tensor:
    return _constant(2.0) * overlap / (_constant(1.0) + overlap)


def soft_iou(a: Maps, r: Maps) -> Tensor:
    """Σ min(a, r) / Σ max(a, r)."""
    a, r = _prepared(a), _prepared(r)
    return _share(torch.minimum(a.flat, r.flat).sum(1, keepdim=True), a.total + r.total)


def ssim(a: Maps, r: Maps) -> Tensor:
    """Structural similarity with data range 1 and a uniform 7×7 or 7×7×7 window (Wang et al. 2004, as skimage has it).

    An axis shorter than 7 uses the largest odd length that fits. Sample (n - 1) covariances; windows inside the map.
    """
    a, r = _prepared(a), _prepared(r)
    product_of_means = a.window_mean * r.window_mean
    covariance = _window_means(a.maps * r.maps) - product_of_means
    n = math.prod(_window(a.maps))
    c1, c2 = _constant(C1), _constant(C2 * max(n - 1, 1) / n)  # moments of n: the factor n / (n - 1) goes into c2
    top = torch.add(c1, product_of_means, alpha=2) * torch.add(c2, covariance, alpha=2)
    bottom = (a.window_square + r.window_square + c1) * (a.window_variance + r.window_variance + c2)
    index = top / bottom
    return index.sum(1) * _constant(1 / index.shape[1])


def cosine(a: Maps, r: Maps) -> Tensor:
    """Cosine of the flattened maps; 0 when one of them is all zero."""
    return (_prepared(a).unit * _prepared(r).unit).sum(1)


def pearson(a: Maps, r: Maps) -> Tensor:
    """Pearson correlation: the cosine of the centred maps; 0 when one of them is constant."""
    a, r = _prepared(a), _prepared(r)
    return (a.standard * r.standard).sum(1) * _constant(1 / a.flat.shape[1])


def kl(a: Maps, r: Maps) -> Tensor:
    """KL(r ‖ a) in nats of the smoothed, sum-normalised maps, (x + λ) / Σ(x + λ)."""
    a, r = _prepared(a), _prepared(r)
    return (r.smoothed * (r.log_smoothed - a.log_smoothed)).sum(1).clamp_min(0.0)


def wasserstein(a: Maps, r: Maps) -> Tensor:
    """Sliced 1-Wasserstein distance between the maps as distributions over positions, in units of the diagonal.

    Mean over fixed directions (8 in the plane, 13 in space) of the exact distance between the projections.
    0 = same place, at most 1 = opposite corners. An all-zero map counts as spread evenly.

    It sees a map that is rotated by 180°, which the distance between intensities can't:

    >>> import torch
    >>> attention = torch.zeros(1, 7, 7)
    >>> attention[0, 1, 1:4] = torch.tensor([0.5, 1.0, 0.5])
    >>> rotated = attention.rot90(2, (1, 2))
    >>> print(f"{wasserstein_intensity(attention, rotated).item():.3f}")
    0.000
    >>> print(f"{wasserstein(attention, rotated).item():.3f}")
    0.335
    """
    a, r = _prepared(a), _prepared(r)
    return (a.travel - r.travel).abs().sum(1) * _constant(a.flat.shape[1] / a.travel.shape[1])


def wasserstein_intensity(a: Tensor, r: Tensor) -> Tensor:
    """1-Wasserstein distance between the intensity histograms only: blind to position, offered for comparison."""
    return (a.flatten(1).sort(1).values - r.flatten(1).sort(1).values).abs().mean(1)


SIMILARITIES: Mapping[str, Callable[[Maps, Maps], Tensor]] = {
    "iou": iou,
    "dice": dice,
    "soft_iou": soft_iou,
    "ssim": ssim,
    "cosine": cosine,
    "pearson": pearson,
    "kl": kl,
    "wasserstein": wasserstein,
}
HIGHER_IS_BETTER = frozenset({"iou", "dice", "soft_iou", "ssim", "cosine", "pearson"})


def similarities(a: Maps, r: Maps) -> dict[str, Tensor]:
    """All similarities of maps `a` with references `r`, by name; what several of them need is computed once."""
    a, r = _prepared(a), _prepared(r)
    values = {"iou": iou(a, r)}
    values["dice"] = _dice(values["iou"])  # not counted out twice
    return values | {name: function(a, r) for name, function in SIMILARITIES.items() if name not in values}


def nearest_prototype(a: Maps, prototypes: Maps, allowed: Tensor | None = None) -> Tensor:
    """Index (N,) of the prototype, of P, whose cosine with each map is highest.

    `allowed` (N, P) says which prototypes each map may be compared with, such as those of its own class.
    """
    agreement = _prepared(a).flat @ _prepared(prototypes).unit.T  # the map's own length doesn't change the order
    if allowed is not None:
        agreement = agreement.where(allowed, -math.inf)
    return agreement.argmax(1)


def compare(a: Maps, prototypes: PreparedMaps, allowed: Tensor | None = None) -> dict[str, Tensor]:
    """All similarities of maps `a` with the nearest of P prototypes, by name; `allowed` as in `nearest_prototype`."""
    a = _prepared(a)
    return similarities(a, prototypes.take(nearest_prototype(a, prototypes, allowed)))


def _window(maps: Tensor) -> tuple[int, ...]:
    return tuple(min(WINDOW, side - 1 + side % 2) for side in maps.shape[1:])


def _window_means(maps: Tensor) -> Tensor:
    pool = F.avg_pool2d if maps.ndim == 3 else F.avg_pool3d
    return pool(maps, _window(maps), stride=1).flatten(1)  # the maps are the channels of one picture


@lru_cache(maxsize=256)
def _constant(value: float) -> Tensor:
    """A number as a tensor (): torch would convert a bare one anew each time, at twice the cost of the operation."""
    with torch.inference_mode(False):
        return torch.tensor(value)


@lru_cache(maxsize=32)
def _projections(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """For each direction, the order of cells along it, (directions·D,), and the gap after each, (directions, D).

    The last cell has no gap after it: 0.
    """
    with torch.inference_mode(False):
        axes = torch.meshgrid(*(torch.arange(side).double() for side in shape), indexing="ij")
        cells = torch.stack([axis.flatten() for axis in axes])
        diagonal = max(math.hypot(*(side - 1 for side in shape)), 1.0)
        along = _directions(len(shape)) @ cells / diagonal
        order = along.argsort(dim=1, stable=True)
        gaps = F.pad(along.gather(1, order).diff(dim=1), (0, 1))
        return order.flatten().to(device), gaps.float().to(device)


def _directions(dimensions: int) -> Tensor:
    """Unit vectors over half of all directions, (directions, dimensions), in the order of the map's axes.

    In the plane evenly spaced; in space the 13 lines from a cell to its 26 neighbours.
    """
    if dimensions == 2:
        angles = torch.arange(DIRECTIONS).double() * math.pi / DIRECTIONS
        return torch.stack((angles.sin(), angles.cos()), 1)
    half = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
    return F.normalize(torch.tensor(half).double(), dim=1)

"""Seven similarities between attention maps, batched, at the maps' own resolution.

`a` are test maps and `r` reference maps, both (N, h, w), ≥ 0, scaled to [0, 1]. Every function returns (N,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

REGION = 0.5  # the attended region is where a map reaches half of its maximum
SMOOTHING = 1e-3  # λ of the KL divergence, in units of the map's maximum
DIRECTIONS = 8  # of the sliced Wasserstein distance


def iou(a: Tensor, r: Tensor) -> Tensor:
    """Intersection over union of the attended regions; 0 when both are empty (nothing agrees with nothing)."""
    a_region, r_region = (a >= REGION).flatten(1), (r >= REGION).flatten(1)
    union = (a_region | r_region).sum(1)
    return (a_region & r_region).sum(1) / union.clamp_min(1)


def dice(a: Tensor, r: Tensor) -> Tensor:
    """Dice coefficient of the attended regions, 2·IoU / (1 + IoU)."""
    return _dice(iou(a, r))


def _dice(overlap: Tensor) -> Tensor:
    return 2 * overlap / (1 + overlap)


def soft_iou(a: Tensor, r: Tensor) -> Tensor:
    """Σ min(a, r) / Σ max(a, r)."""
    return torch.minimum(a, r).flatten(1).sum(1) / torch.maximum(a, r).flatten(1).sum(1).clamp_min(1e-12)


def ssim(a: Tensor, r: Tensor) -> Tensor:
    """Structural similarity with data range 1 and a uniform 7×7 window (Wang et al. 2004, skimage's definition).

    Maps smaller than 7 use the largest odd window that fits. Sample (n - 1) covariances; windows inside the map only.
    """
    window = min(7, *a.shape[1:])
    window -= 1 - window % 2
    n = window * window
    stack = torch.stack((a, r, a * a, r * r, a * r), 1)
    windows = stack.unfold(2, window, 1).mean(4).unfold(3, window, 1).mean(4)  # one axis after the other
    mean_a, mean_r, mean_aa, mean_rr, mean_ar = windows.unbind(1)
    unbiased = n / max(n - 1, 1)
    var_a, var_r = unbiased * (mean_aa - mean_a**2), unbiased * (mean_rr - mean_r**2)
    covariance = unbiased * (mean_ar - mean_a * mean_r)
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_r + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_r**2 + c1) * (var_a + var_r + c2)
    index: Tensor = (top / bottom).flatten(1).mean(1)
    return index


def cosine(a: Tensor, r: Tensor) -> Tensor:
    """Cosine of the flattened maps; 0 when one of them is all zero."""
    return F.cosine_similarity(a.flatten(1), r.flatten(1), dim=1, eps=1e-12)


def pearson(a: Tensor, r: Tensor) -> Tensor:
    """Pearson correlation: the cosine of the centred maps; 0 when one of them is constant."""
    a, r = a.flatten(1), r.flatten(1)
    return F.cosine_similarity(a - a.mean(1, keepdim=True), r - r.mean(1, keepdim=True), dim=1, eps=1e-12)


def kl(a: Tensor, r: Tensor) -> Tensor:
    """KL(r ‖ a) in nats of the smoothed, sum-normalised maps, (x + λ) / Σ(x + λ)."""
    p, q = r.flatten(1) + SMOOTHING, a.flatten(1) + SMOOTHING
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return (p * (p / q).log()).sum(1).clamp_min(0.0)


def wasserstein(a: Tensor, r: Tensor) -> Tensor:
    """Sliced 1-Wasserstein distance between the maps as distributions over positions, in units of the diagonal.

    Mean over 8 fixed directions of the exact distance between the projections. 0 = same place, 1 = opposite corners.
    An all-zero map counts as spread evenly.
    """
    order, gaps = _projections(a.shape[1], a.shape[2], a.device)
    difference = (_distribution(a) - _distribution(r))[:, order]  # (N, D, h·w), sorted along each direction
    return (difference.cumsum(2)[:, :, :-1].abs() * gaps).sum(2).mean(1)


def wasserstein_intensity(a: Tensor, r: Tensor) -> Tensor:
    """1-Wasserstein distance between the intensity histograms only: blind to position, offered for comparison."""
    return (a.flatten(1).sort(1).values - r.flatten(1).sort(1).values).abs().mean(1)


SIMILARITIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
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


def similarities(a: Tensor, r: Tensor) -> dict[str, Tensor]:
    """All similarities of maps `a` with references `r`, by name."""
    values = {"iou": iou(a, r)}
    values["dice"] = _dice(values["iou"])  # not counted out twice
    return values | {name: function(a, r) for name, function in SIMILARITIES.items() if name not in values}


def nearest_prototype(a: Tensor, prototypes: Tensor) -> Tensor:
    """Index (N,) of the prototype, of (P, h, w), whose cosine with each map is highest."""
    unit = F.normalize(prototypes.flatten(1), dim=1, eps=1e-12)
    return (a.flatten(1) @ unit.T).argmax(1)  # the map's own length changes nothing about which is highest


def _distribution(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    total = flat.sum(1, keepdim=True)
    return torch.where(total > 0, flat / total.clamp_min(1e-12), 1 / flat.shape[1])


@lru_cache(maxsize=32)
def _projections(h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each direction, the order of cells along it (D, h·w) and the gaps between neighbours (D, h·w - 1)."""
    with torch.inference_mode(False):
        rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
        diagonal = max(math.hypot(h - 1, w - 1), 1.0)
        angles = torch.arange(DIRECTIONS).double() * math.pi / DIRECTIONS
        along = (
            angles.cos()[:, None] * columns.flatten()[None] + angles.sin()[:, None] * rows.flatten()[None]
        ) / diagonal
        order = along.argsort(dim=1, stable=True)
        gaps = along.gather(1, order).diff(dim=1)
        return order.to(device), gaps.float().to(device)

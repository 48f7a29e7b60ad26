"""Early convolutional features: what the picture is made of, before the network knows what it shows.

A wrong exposure, an inverted image or a foreign detector shows here while the attention map still looks plausible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def structure_map(grid: Tensor) -> Tensor:
    """Channel-wise energy of an early layer's grid, (N, C, G, G[, G]) → (N, G, G[, G]), each map scaled to [0, 1]."""
    energy = (grid * grid).mean(1).sqrt()
    low, high = energy.flatten(1).aminmax(dim=1)
    shape = (-1,) + (1,) * (energy.ndim - 1)
    return (energy - low.view(shape)) / (high - low).view(shape).clamp_min(1e-12)


def channel_statistics(grid: Tensor) -> Tensor:
    """Mean and spread over the grid (N, C, G, G[, G]) of every channel of an early layer, (N, 2C)."""
    variance, mean = torch.var_mean(grid.flatten(2), 2)
    return torch.cat([mean, variance.sqrt()], 1)


def mahalanobis(x: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Mahalanobis distance of vectors (N, D) from `mean` (D,), per square root of dimension: about 1 for a typical one.

    `whitening` (D, D) is W with W·Wᵀ = inverse covariance, as `whitening_matrix` makes it.
    """
    white = (x - mean) @ whitening
    distance: Tensor = torch.linalg.vector_norm(white, dim=1) / math.sqrt(white.shape[1])
    return distance


def whitening_matrix(residuals: Tensor) -> Tensor:
    """W (D, D) with W·Wᵀ = inverse of the Ledoit-Wolf covariance of centred vectors (n, D).

    Shrinkage towards a scaled identity keeps it invertible when n < D (Ledoit & Wolf, J. Multivar. Anal. 88, 2004).
    """
    covariance = ledoit_wolf(residuals.double())
    values, vectors = torch.linalg.eigh(covariance)
    floor = values.max().clamp_min(1e-12) * 1e-9
    whitening: Tensor = (vectors * values.clamp_min(floor).rsqrt()).float()
    return whitening


def ledoit_wolf(x: Tensor) -> Tensor:
    """Ledoit-Wolf shrunk covariance (D, D) of vectors (n, D) that are already centred."""
    n, d = x.shape
    sample = x.T @ x / n
    mu = sample.diagonal().mean()
    delta = (sample.square().sum() - d * mu**2) / d  # squared distance to the scaled identity
    squared = x.square()
    beta = ((squared.T @ squared).sum() / n - sample.square().sum()) / (d * n)  # estimation error of `sample`
    shrinkage = 0.0 if delta <= 0 else min(float(beta), float(delta)) / float(delta)
    shrunk: Tensor = (1 - shrinkage) * sample + shrinkage * mu * torch.eye(d, dtype=x.dtype, device=x.device)
    return shrunk

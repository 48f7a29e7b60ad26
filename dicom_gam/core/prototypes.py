"""Prototypes: the few members of a sample that stand for all of it."""

from __future__ import annotations

import torch
from torch import Tensor


def medoids(distance: Tensor, count: int) -> list[int]:
    """The indices of up to `count` medoids of a sample with pairwise distances (n, n), by k-medoids.

    Alternates between dealing members to their nearest medoid and choosing each part's most central member
    (Park & Jun, Expert Systems with Applications 36, 2009), from a farthest-first start: deterministic, no seed.
    """
    chosen = [int(distance.sum(1).argmin())]
    while len(chosen) < min(count, len(distance)):
        chosen.append(int(distance[:, chosen].amin(1).argmax()))
    for _ in range(50):
        owner = distance[:, chosen].argmin(1)
        updated = []
        for k, medoid in enumerate(chosen):
            members = (owner == k).nonzero()[:, 0]
            inner = distance[members][:, members].sum(1)
            updated.append(int(members[inner.argmin()]) if len(members) else medoid)
        if updated == chosen:
            break
        chosen = updated
    return chosen


def prototype_maps(maps: Tensor, count: int) -> Tensor:
    """The mean map (scaled to maximum 1) and up to `count` medoids of maps (n, ...) under 1 - cosine."""
    mean = maps.mean(0)
    unit = torch.nn.functional.normalize(maps.flatten(1).double(), dim=1, eps=1e-12)
    chosen = medoids(1 - unit @ unit.T, count)
    return torch.cat([(mean / mean.max().clamp_min(1e-12))[None], maps[chosen]])


def prototype_vectors(vectors: Tensor, whitening: Tensor, count: int) -> Tensor:
    """Up to `count` medoids of vectors (n, D) under Euclidean distance after whitening (D, D)."""
    white = (vectors @ whitening).double()
    return vectors[medoids(torch.cdist(white, white), count)]

"""CF-CAM: Grad-CAM whose channel weights are filtered by clusters of channels. Symbols as in `attention_methods`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from dicom_gam.core.attention_methods import spatial_axes, weighted_sum
from dicom_gam.core.head_case import HeadCase

DOMINANT_PERCENTILE = 75  # a channel whose norm reaches it keeps its own gradient
RADIUS_PERCENTILE = 25  # of the distances between channels: the radius of DBSCAN
LEAST_SHARE = 0.05  # of the channels: so many, and two at least, make a place dense
SMALLEST_RADIUS = 1e-5  # for channels that are all alike
NOISE = -1


@dataclass(frozen=True)
class ClusterFilterCAM:
    """CF-CAM, Σ_c w_c · A_c with weights filtered by clusters of channels (He et al., arXiv 2504.00060).

    Channels whose norm ‖A_c‖₂ reaches the 75th percentile are dominant: w_c = mean_u(g_c). The others are clustered by
    DBSCAN on A_c (Euclidean; radius = 25th percentile of their distances, a core point has max(2, 5 %) of them within
    it, itself counted). Channels that are noise are dropped. Every channel of a cluster has w_c = mean_u(G_σ * ḡ), ḡ =
    mean gradient of the cluster, G_σ = Gaussian of `sigma` locations with zeros beyond the border, as the authors
    filter (mirrored at the border, a filter would leave a mean as it was).

    `weights="softmax"` passes the kept weights through a softmax, as published. Gradients are far smaller than 1, so
    that makes all weights nearly equal and the map nearly the same for every class; `"linear"` leaves them as they are.
    """

    weights: Literal["linear", "softmax"] = "linear"
    sigma: float = 1.0

    def __call__(self, case: HeadCase) -> Tensor:
        """Evidence (N, h, w[, d])."""
        gradients, axes = case.gradients(), spatial_axes(case.activations)
        own = gradients.mean(axes)
        smoothed = (gradients * _kept_by_smoothing(case.activations, self.sigma)).mean(axes)
        groups = torch.stack([_groups(image.flatten(1)) for image in case.activations]).to(own.device)
        weights = torch.stack([_filtered(*row) for row in zip(own, smoothed, groups, strict=True)])
        if self.weights == "softmax":
            weights = weights.masked_fill(groups == NOISE, -torch.inf).softmax(1)
        return weighted_sum(weights, case.activations)


def _filtered(own: Tensor, smoothed: Tensor, groups: Tensor) -> Tensor:
    """One image's channel weights (C,): a dominant channel's own, a cluster's mean smoothed one, 0 for noise."""
    clusters = groups.clamp_min(0)
    sizes = torch.bincount(clusters)
    means = smoothed.new_zeros(len(sizes)).index_add(0, clusters, smoothed) / sizes
    return torch.where(groups == NOISE, 0.0, torch.where(groups == 0, own, means[clusters]))


def _groups(channels: Tensor) -> Tensor:
    """Group of each of C channels (C, L): 0 = dominant, -1 = noise, 1, 2, ... = clusters."""
    points = channels.double().cpu().numpy()
    norms = np.linalg.norm(points, axis=1)
    others = np.flatnonzero(norms < np.percentile(norms, DOMINANT_PERCENTILE))
    groups = np.zeros(len(norms), np.int64)
    if len(others) == 1:
        groups[others] = NOISE
    elif len(others):
        pairs = pdist(points[others])
        radius = max(float(np.percentile(pairs, RADIUS_PERCENTILE)), SMALLEST_RADIUS)
        labels = dbscan(squareform(pairs), radius, max(2, int(LEAST_SHARE * len(others))))
        groups[others] = np.where(labels == NOISE, NOISE, labels + 1)
    return torch.from_numpy(groups)


def dbscan(between: NDArray[np.floating], radius: float, min_samples: int) -> NDArray[np.int64]:
    """Density clusters 0, 1, ... of n points by their distances (n, n); -1 = noise (Ester et al., KDD 1996).

    A point with `min_samples` points within `radius`, itself counted, is a core point; core points within `radius` of
    each other share a cluster; any other point joins the first cluster that has a core point within `radius`.
    """
    near = between <= radius
    core = near.sum(1) >= min_samples
    if not core.any():
        return np.full(len(near), NOISE, np.int64)
    count, clusters = connected_components(csr_array(near[np.ix_(core, core)]), directed=False)
    first = np.where(near[:, core], clusters, count).min(1)
    return np.where(first == count, NOISE, first).astype(np.int64)


def _kept_by_smoothing(activations: Tensor, sigma: float) -> Tensor:
    """How much of each location a Gaussian filter keeps inside the map, (h, w[, d]).

    The mean of a filtered map is the mean of the map weighted by this, so nothing needs to be filtered.
    """
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=activations.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    kept = torch.ones((), device=activations.device)
    for side in activations.shape[2:]:
        kept = kept[..., None] * F.conv1d(torch.ones(1, 1, side, device=kernel.device), kernel, padding=reach).view(-1)
    return kept

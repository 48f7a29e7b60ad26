"""Attention methods that change something and look at the score: Ablation-CAM (the head only) and Score-CAM.

Symbols as in `attention_methods`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dicom_gam.core.attention_methods import weighted_sum
from dicom_gam.core.head_case import HeadCase

HEAD_BATCH = 64  # images that one pass of the head takes
FORWARD_BATCH = 32  # images that one pass of the whole network takes


def ablationcam(case: HeadCase) -> Tensor:
    """Ablation-CAM, Σ_c (y - y_c) · A_c, y_c = logit with channel c at zero (Desai & Ramaswamy, WACV 2020, eq. 4).

    For a head of pooling and one linear layer y - y_c = Σ_u g_c ⊙ A_c, at no cost; for any other the head runs once for
    every channel, in chunks. The paper divides by y: that only scales a map, and would turn it upside down where y < 0.
    """
    drops = (case.gradients() * case.activations).flatten(2).sum(2) if case.is_linear else _drops(case)
    return weighted_sum(drops, case.activations)


def _drops(case: HeadCase) -> Tensor:
    """The fall of the target's logit for each channel set to zero, (N, C)."""
    activations, targets = case.activations, case.targets[:, None]
    whole = case.head(activations).gather(1, targets)
    drops = []
    channels = torch.arange(activations.shape[1], device=activations.device)
    for some in torch.split(channels, case.copies(HEAD_BATCH)):
        changed = activations.repeat(len(some), 1, *(1,) * (activations.ndim - 2))
        copies = changed.view(len(some), *activations.shape)
        copies[torch.arange(len(some), device=some.device), :, some] = 0
        logits = case.head(changed).view(len(some), len(targets), -1)
        drops.append(whole - logits.gather(2, targets.expand(len(some), -1, -1))[:, :, 0].T)
    return torch.cat(drops, 1)


def scorecam(case: HeadCase) -> Tensor:
    """Score-CAM, Σ_c softmax_c(y(X ⊙ M_c)) · A_c (Wang et al., arXiv 1910.01279, algorithm 1).

    X = the images as the network gets them, M_c = A_c enlarged (linearly) to the images' size and scaled to [0, 1],
    zero where A_c is flat. The paper subtracts the score of a baseline, which the softmax cancels. Every image passes
    the whole network C times more.
    """
    scores = [_masked_scores(case, i) for i in range(len(case.images))]
    return weighted_sum(torch.stack(scores).softmax(1), case.activations)


def _masked_scores(case: HeadCase, index: int) -> Tensor:
    """The target's logit (C,) of one image under the mask of each of its channels."""
    image = case.images[index]
    scores = []
    for channels in torch.split(case.activations[index], FORWARD_BATCH):
        masks = _enlarged(channels[:, None], image.shape[1:])
        low, high = masks.flatten(1).aminmax(dim=1)
        shape = (-1,) + (1,) * (masks.ndim - 1)
        span = torch.where(high > low, high - low, torch.inf).view(shape)
        masked = image * ((masks - low.view(shape)) / span).to(image.dtype)
        scores.append(case.forward(masked)[:, case.targets[index]])
    return torch.cat(scores)


def _enlarged(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear" if len(size) == 2 else "trilinear", align_corners=False)

"""Attention maps: where in the image the evidence for a class lies.

A method (`attention_registry.METHODS`) maps a `HeadCase` to raw evidence (N, h, w[, d]); `normalise` turns evidence
into a map in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dicom_gam.core.attention_methods import Method
from dicom_gam.core.attention_registry import METHODS
from dicom_gam.core.head_case import HeadCase
from dicom_gam.core.network import SplitNetwork
from dicom_gam.errors import BundleError

__all__ = ["METHODS", "Explanation", "explain", "normalise"]

SMALLEST_EVIDENCE = 1e-12  # float32 evidence at or below this is rounding, not evidence


@dataclass(frozen=True, slots=True)
class Explanation:
    """A batch's logits (N, K), target classes (N,), maps (N, h, w[, d]) in [0, 1] and what the checks need besides.

    `degenerate` (N,) marks maps in which no location speaks for the class; such a map is all zero and says nothing.
    `early` holds a grid of channel means (N, C_i, G, G) for each early layer; `features` (N, C) is A's mean over space.
    """

    logits: Tensor
    targets: Tensor
    maps: Tensor
    degenerate: Tensor
    early: tuple[Tensor, ...]
    features: Tensor


def normalise(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Clip evidence (N, h, w) at zero and scale each map to [0, 1]; also tell which maps are degenerate, (N,)."""
    positive = evidence.clamp_min(0.0)
    low, high = positive.flatten(1).aminmax(dim=1)
    span = high - low
    degenerate = ~((span > SMALLEST_EVIDENCE) & (span < torch.inf))  # a flat map, or one with a NaN, points nowhere
    shape = (-1,) + (1,) * (evidence.ndim - 1)
    maps = (positive - low.view(shape)) / span.view(shape)
    return maps.masked_fill(degenerate.view(shape), 0.0), degenerate


def explain(
    network: SplitNetwork,
    x: Tensor,
    method: str = "hirescam",
    targets: Tensor | Callable[[Tensor], Tensor] | None = None,
) -> Explanation:
    """Classify `x` (N, C, H, W[, D]) and explain each image's target class with one forward pass.

    `targets` (N,) are class indices, or a function from logits (N, K) to them; by default the most probable class.
    Neither `.grad` of any parameter nor the training mode changes; works under no_grad, inference_mode and autocast.
    Only `scorecam` needs more forward passes than one. Raises KeyError for an unknown method, BundleError for an
    installed one that doesn't work.
    """
    attend = METHODS[method]
    if network.linear_head is not None:
        with torch.inference_mode():
            trunk = network.trunk(x)
            logits = network.head(trunk.activations).float()
            activations = trunk.activations.float()
            case = HeadCase(network, x, trunk, activations, logits, _targets(logits, targets), None)
            return _explanation(case, attend, method)
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone() if x.is_inference() else x
        trunk = network.trunk(x)
        leaf = trunk.activations.detach().requires_grad_()
        with torch.enable_grad():
            tracked = network.head(leaf, trunk.carried)
        logits = tracked.detach().float()
        chosen = _targets(logits, targets)
        chosen = chosen.clone() if chosen.is_inference() else chosen
        case = HeadCase(network, x, trunk, leaf.detach().float(), logits, chosen, (leaf, tracked))
        return _explanation(case, attend, method)


def _targets(logits: Tensor, targets: Tensor | Callable[[Tensor], Tensor] | None) -> Tensor:
    if targets is None:
        return logits.argmax(1)
    return targets.to(logits.device) if isinstance(targets, Tensor) else targets(logits)


def _explanation(case: HeadCase, attend: Method, method: str) -> Explanation:
    with torch.autocast(case.activations.device.type, enabled=False):  # evidence is a sum of many small terms
        evidence = attend(case)
    expected = (len(case.activations), *case.activations.shape[2:])
    if tuple(evidence.shape) != expected:
        raise BundleError(
            f"attention method {method!r} gave evidence of shape {tuple(evidence.shape)} instead of {expected}: "
            "tell the authors of the package that offers it, and name another method"
        )
    maps, degenerate = normalise(evidence)
    early = tuple(grid.float() for grid in case.trunk.early)
    features = case.activations.flatten(2).mean(2)
    return Explanation(case.logits, case.targets, maps, degenerate, early, features)

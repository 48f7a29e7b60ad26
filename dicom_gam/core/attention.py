"""Attention maps: where in the image the evidence for a class lies.

Symbols: A = activations of the attention layer (N, C, h, w), y = logit of the target class, g = ∂y/∂A.
Every method maps (A, g) to raw evidence (N, h, w); `normalise` turns evidence into a map in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dicom_gam.core.network import SplitNetwork, TrunkOutput

Method = Callable[[Tensor, Tensor], Tensor]
SMALLEST_EVIDENCE = 1e-12  # float32 evidence at or below this is rounding, not evidence


@dataclass(frozen=True, slots=True)
class Explanation:
    """A batch's logits (N, K), target classes (N,), maps (N, h, w) in [0, 1] and what the checks need besides.

    `degenerate` (N,) marks maps in which no location speaks for the class; such a map is all zero and says nothing.
    `early` holds a grid of channel means (N, C_i, G, G) for each early layer; `features` (N, C) is A's mean over space.
    """

    logits: Tensor
    targets: Tensor
    maps: Tensor
    degenerate: Tensor
    early: tuple[Tensor, ...]
    features: Tensor


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiResCAM, Σ_c g_c ⊙ A_c: exactly the locations a linear head used (Draelos & Carin, arXiv 2011.08891)."""
    return (gradients * activations).sum(1)


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM, Σ_c mean(g_c) · A_c (Selvaraju et al., arXiv 1610.02391)."""
    spatial = tuple(range(2, activations.ndim))
    return (gradients.mean(spatial, keepdim=True) * activations).sum(1)


METHODS: Mapping[str, Method] = {"hirescam": hirescam, "gradcam": gradcam}


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
    """Classify `x` (N, C, H, W) and explain each image's target class with one forward pass.

    `targets` (N,) are class indices, or a function from logits (N, K) to them; by default the most probable class.
    Neither `.grad` of any parameter nor the training mode changes; works under no_grad, inference_mode and autocast.
    Raises KeyError for an unknown method.
    """
    attend = METHODS[method]
    if network.linear_head is not None:
        with torch.inference_mode():
            trunk = network.trunk(x)
            logits = network.head(trunk.activations).float()
            chosen = _targets(logits, targets)
            activations = trunk.activations.float()
            evidence = attend(activations, _closed_form_gradients(network, activations, chosen))
            return _explanation(logits, chosen, evidence, trunk, activations)
    with torch.inference_mode(False), torch.no_grad():
        trunk = network.trunk(x.clone() if x.is_inference() else x)
        leaf = trunk.activations.detach().requires_grad_()
        with torch.enable_grad():
            head_logits = network.head(leaf, trunk.carried)
            chosen = _targets(head_logits.detach(), targets)
            score = head_logits.gather(1, chosen[:, None]).sum()
            (gradients,) = torch.autograd.grad(score, leaf)
        activations = leaf.detach().float()
        evidence = attend(activations, gradients.float())
        return _explanation(head_logits.detach().float(), chosen, evidence, trunk, activations)


def _targets(logits: Tensor, targets: Tensor | Callable[[Tensor], Tensor] | None) -> Tensor:
    if targets is None:
        return logits.argmax(1)
    return targets.to(logits.device) if isinstance(targets, Tensor) else targets(logits)


def _closed_form_gradients(network: SplitNetwork, activations: Tensor, targets: Tensor) -> Tensor:
    """∂y/∂A of [ReLU →] mean → linear: the class's weights over the number of locations, 0 where ReLU cuts."""
    head = network.linear_head
    assert head is not None
    locations = activations[0, 0].numel()
    weights = head.linear.weight[targets].float() / locations
    gradients = weights.view(*weights.shape, *(1,) * (activations.ndim - 2))
    return gradients * (activations > 0) if head.relu else gradients


def _explanation(
    logits: Tensor, targets: Tensor, evidence: Tensor, trunk: TrunkOutput, activations: Tensor
) -> Explanation:
    maps, degenerate = normalise(evidence)
    early = tuple(grid.float() for grid in trunk.early)
    return Explanation(logits, targets, maps, degenerate, early, activations.flatten(2).mean(2))

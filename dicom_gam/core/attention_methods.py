"""Attention methods from activations and gradients.

Symbols, here and in every method: A = activations of the attention layer (N, C, h, w[, d]), A_c its channel c, y =
logit of the target class, g = ∂y/∂A, Σ_c over channels, Σ_u over locations. A method is one callable that maps a
`HeadCase` to raw evidence (N, h, w[, d]); what is negative in it speaks against the class and is clipped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dicom_gam.core.head_case import HeadCase

Method = Callable[[HeadCase], Tensor]


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Σ_c w_c · A_c for channel weights (N, C)."""
    return (weights.view(*weights.shape, *(1,) * (activations.ndim - 2)) * activations).sum(1)


def spatial_axes(activations: Tensor) -> tuple[int, ...]:
    """The axes of the locations, after batch and channel."""
    return tuple(range(2, activations.ndim))


def hirescam(case: HeadCase) -> Tensor:
    """HiResCAM, Σ_c g_c ⊙ A_c: exactly the locations a linear head used (Draelos & Carin, arXiv 2011.08891)."""
    return (case.gradients() * case.activations).sum(1)


def gradcam(case: HeadCase) -> Tensor:
    """Grad-CAM, Σ_c mean_u(g_c) · A_c (Selvaraju et al., arXiv 1610.02391)."""
    return _gradcam(case.activations, case.gradients())


def _gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients.mean(spatial_axes(activations), keepdim=True) * activations).sum(1)


def gradcam_plus_plus(case: HeadCase) -> Tensor:
    """Grad-CAM++, Σ_c w_c · A_c with w_c = Σ_u α_c · ReLU(g_c) (Chattopadhyay et al., arXiv 1710.11063, eq. 19).

    For the score exp(y) of the paper α_c = g² / (2g² + g³ · Σ_u A_c) = 1 / (2 + g · Σ_u A_c), and 0 where g is 0. No
    small constant joins the denominator: next to g² it would make the map depend on the unit of the logits.
    """
    gradients, axes = case.gradients(), spatial_axes(case.activations)
    denominator = 2 + gradients * case.activations.sum(axes, keepdim=True)
    alpha = 1 / torch.where(denominator == 0, 1.0, denominator)  # as the authors do
    return weighted_sum((alpha * gradients.clamp_min(0)).sum(axes), case.activations)


def xgradcam(case: HeadCase) -> Tensor:
    """XGrad-CAM, Σ_c w_c · A_c with w_c = Σ_u g_c ⊙ A_c / Σ_u A_c (Fu et al., arXiv 2008.02312, eq. 8).

    A channel whose activations sum to 0 has no weight; where activations may be negative a sum near 0 makes the
    published weight very large.
    """
    axes = spatial_axes(case.activations)
    total = case.activations.sum(axes)
    part = (case.gradients() * case.activations).sum(axes)
    weights = torch.where(total == 0, 0.0, part / torch.where(total == 0, 1.0, total))
    return weighted_sum(weights, case.activations)


def layercam(case: HeadCase) -> Tensor:
    """LayerCAM, Σ_c ReLU(g_c) ⊙ A_c (Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943, eq. 8)."""
    return (case.gradients().clamp_min(0) * case.activations).sum(1)


def eigencam(case: HeadCase) -> Tensor:
    """Eigen-CAM, A projected on its first right singular vector (Muhammad & Yeasin, arXiv 2008.00299).

    With A as a matrix M (locations × channels) = U Σ Vᵀ the map is M·v₁ = σ₁·u₁. It does not depend on the class. M is
    not centred, as published. A singular vector has no sign of its own: the one is taken with which the map is large
    where the activations are, Σ_u map(u) · Σ_c |A_c(u)| ≥ 0; behind a ReLU the map is then nowhere negative.
    """
    matrix = case.activations.flatten(2).double()  # (N, C, L)
    leading: Tensor
    if matrix.shape[2] <= matrix.shape[1]:  # the smaller of the two Gram matrices has the same leading vector
        values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
        leading = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        leading = (vectors[:, :, -1:] * matrix).sum(1)
    sign = torch.where((leading * matrix.abs().sum(1)).sum(1, keepdim=True) < 0, -1.0, 1.0)
    return (sign * leading).float().view(len(matrix), *case.activations.shape[2:])


def residual_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """The utility ReST of ShapleyCAM, y + ln softmax(y): the target's logit and its log-probability together."""
    log_probability: Tensor = F.log_softmax(logits, 1)
    return (logits + log_probability).gather(1, targets[:, None])[:, 0]


def shapleycam(case: HeadCase) -> Tensor:
    """ShapleyCAM, Σ_c mean_u(∂U/∂A - ½ H·A)_c · A_c (Cai, arXiv 2501.06261).

    The Shapley value of each activation for the utility U, from its second-order Taylor expansion; H = ∂²U/∂A², and
    only its product with A is ever computed. U is the paper's `residual_softmax`. With the bare logit for U the
    product would vanish for every head of pooling and one linear layer, and the map would be Grad-CAM's.
    """
    slope, curvature = case.derivatives(residual_softmax)
    return _gradcam(case.activations, slope - 0.5 * curvature)


@dataclass(frozen=True)
class FusedMultiClassGradCAM:
    """FM-G-CAM: the Grad-CAM maps of the K most probable classes in one (Silva & Bird, arXiv 2312.05975).

    M_k = Grad-CAM of class k; at each location only the class with the largest M_k keeps its value; each class's map is
    divided by its L2 norm; the fused map is their sum after ReLU. The K classes are the target and the K - 1 most
    probable others, which by default are the top K. The authors' code divides every row of a map by its own norm; here
    it is the whole map, so that the result does not depend on which way the image lies.
    """

    classes: int = 3

    def __call__(self, case: HeadCase) -> Tensor:
        """Evidence (N, h, w[, d])."""
        target_first = case.logits.scatter(1, case.targets[:, None], torch.inf)
        ranked = target_first.topk(min(self.classes, case.logits.shape[1])).indices
        maps = torch.stack([_gradcam(case.activations, case.gradients(column)) for column in ranked.unbind(1)], 1)
        largest, winner = maps.max(1, keepdim=True)
        kept = torch.zeros_like(maps).scatter(1, winner, largest)
        norms = kept.flatten(2).norm(dim=2).view(*kept.shape[:2], *(1,) * (kept.ndim - 2))
        return (kept / torch.where(norms == 0, 1.0, norms)).sum(1)

"""A batch that stands at the network's head: all that an attention method may ask for, and nothing of the trunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dicom_gam.core.network import SplitNetwork, TrunkOutput

Utility = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class HeadCase:
    """A batch of N images whose trunk and head have run once.

    `activations` is A, (N, C, h, w[, d]), float32; `logits` (N, K), float32; `targets` (N,) the classes to explain;
    `images` (N, ...) what the network was given. `tracked` is A as a leaf and its logits with their autograd graph;
    None where the head is [ReLU →] mean → one linear layer, whose derivatives are known in closed form.
    """

    network: SplitNetwork
    images: Tensor
    trunk: TrunkOutput
    activations: Tensor
    logits: Tensor
    targets: Tensor
    tracked: tuple[Tensor, Tensor] | None

    @property
    def is_linear(self) -> bool:
        """Whether logits are linear in A as long as no sign in A changes; then a zeroed channel only drops its part."""
        return self.tracked is None

    def gradients(self, targets: Tensor | None = None) -> Tensor:
        """∂y/∂A of each image's target logit, or of another class's, (N,).

        Shape (N, C, h, w), or (N, C, 1, 1) where the gradient is the same everywhere: it broadcasts against A.
        """
        targets = self.targets if targets is None else targets
        if self.tracked is None:
            assert self.network.linear_head is not None
            return self._spread(self.network.linear_head.linear.weight[targets].float())
        leaf, logits = self.tracked
        with torch.enable_grad():
            score = logits.gather(1, targets[:, None]).sum()
        (gradients,) = torch.autograd.grad(score, leaf, retain_graph=True)
        return gradients.float()

    def derivatives(self, utility: Utility) -> tuple[Tensor, Tensor]:
        """∂U/∂A and H·A, H = ∂²U/∂A², for a utility U of the logits: (logits (N, K), targets (N,)) → (N,).

        Both broadcast against A, as `gradients` does.
        """
        if self.tracked is not None:
            leaf, logits = self.tracked
            return _slope_and_curvature(utility, logits, self.targets, leaf, leaf.detach())
        head = self.network.linear_head
        assert head is not None
        weight, bias = head.linear.weight, head.linear.bias
        with torch.inference_mode(False):  # autograd takes no inference tensors; it sees the logits only
            logits = self.logits.clone().requires_grad_()
            change = logits.detach() if bias is None else logits.detach() - bias.detach().float()  # (∂y/∂A)·A
            slope, curvature = _slope_and_curvature(utility, logits, self.targets.clone(), logits, change)
        return self._spread(slope @ weight.float()), self._spread(curvature @ weight.float())

    def _spread(self, weights: Tensor) -> Tensor:
        """Carry weights (N, C) of the channels back through [ReLU →] mean: the same share for every location."""
        head = self.network.linear_head
        gradients = weights / self.activations[0, 0].numel()
        gradients = gradients.view(*gradients.shape, *(1,) * (self.activations.ndim - 2))
        return gradients * (self.activations > 0) if head is not None and head.relu else gradients

    def copies(self, most: int) -> int:
        """How many changed copies of the batch one call of `head` takes, for `most` images at a time; at least one."""
        count = len(self.activations)
        batched = all(isinstance(value, Tensor) and len(value) == count for value in self.trunk.carried)
        return max(1, most // count) if batched else 1

    def head(self, activations: Tensor) -> Tensor:
        """Logits (M·N, K) of M changed copies of the batch, (M·N, C, h, w), copy after copy; the head alone runs."""
        copies, precision = len(activations) // len(self.activations), self.images.dtype
        carried = tuple(_repeated(value, copies, precision) for value in self.trunk.carried)
        with torch.no_grad():
            return self.network.head(activations.to(precision), carried).float()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (M, K) of other images, through the whole network."""
        with torch.no_grad():
            trunk = self.network.trunk(images)
            return self.network.head(trunk.activations, trunk.carried).float()


def _repeated(value: object, copies: int, precision: torch.dtype) -> object:
    if not isinstance(value, Tensor):  # a size, for instance
        return value
    value = value.to(precision) if value.is_floating_point() else value
    return value if copies == 1 else value.repeat(copies, *(1,) * (value.ndim - 1))


def _slope_and_curvature(
    utility: Utility, logits: Tensor, targets: Tensor, at: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """∂U/∂at and (∂²U/∂at²)·direction, both float32 and without a graph."""
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(utility(logits.float(), targets).sum(), at, create_graph=True)
        if not slope.requires_grad:  # U is linear
            return slope.float(), torch.zeros_like(slope, dtype=torch.float32)
        (curvature,) = torch.autograd.grad(slope, at, direction, retain_graph=True, materialize_grads=True)
    return slope.detach().float(), curvature.detach().float()

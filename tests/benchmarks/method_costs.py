"""What each attention method costs: one map of every image with its class and logits, as `explain` makes it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dicom_gam.core.attention import METHODS, explain
from dicom_gam.core.network import SplitNetwork
from tests.benchmarks.contenders import MODELS, Run

# One pass of the whole network for every channel and image: shown once, at batch 1.
SLOW = ("scorecam",)


def method_runs(network: nn.Module, model: str, batch: int) -> dict[str, Run]:
    """Every method that is worth its time at this batch size; all share one network, as the service's workers do."""
    split = SplitNetwork(network, MODELS[model].attention_layer, MODELS[model].early_layers)
    return {name: _run(split, name) for name in METHODS if batch == 1 or name not in SLOW}


def _run(split: SplitNetwork, method: str) -> Callable[[Tensor], object]:
    return lambda x: explain(split, x, method).maps.cpu()

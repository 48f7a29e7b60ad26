"""Weights of a network that somebody else trained: read, checked, and put into the manifest's architecture.

The manifest's network has one output more than there are classes, the garbage output. Weights may come with it or
without it; without it one layer has one row too few, and that row is learned elsewhere (`garbage_output`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.bundle import split_network
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.errors import TrainingError

_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's zip, and its older form
_COUNTER = "num_batches_tracked"  # older checkpoints lack it, and nothing depends on it
_LISTED = 3  # names told in a message
_TOLERANCE = 1e-4  # of logits, of matrices multiplied with one row more


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNetwork:
    """A network of the manifest's architecture with the given weights, frozen, in evaluation mode.

    `output_layer` names the layer whose last row was not given and is zero; empty when every row was given.
    `one_output` says that the weights came with one output for two classes.
    """

    network: nn.Module
    output_layer: str
    one_output: bool = False


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises TrainingError with the remedy when it is another kind of file, or not finite."""
    try:
        content = path.read_bytes()
        weights = safetensors.torch.load(content)
    except OSError as error:
        raise TrainingError(f"{path}: can't be read: {error.strerror}. Name the file of the weights.") from error
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        if content.startswith(_PICKLES):
            raise TrainingError(
                f"{path}: is a PyTorch checkpoint, and those can run code when they are read. Convert it once, on a "
                'machine where you trust it: `safetensors.torch.save_file(torch.load(FILE, weights_only=True), "'
                'weights.safetensors")`; plugins/example_architecture does so.'
            ) from error
        raise TrainingError(
            f"{path}: is no safetensors file ({error}). Save the network's state_dict as one."
        ) from error
    broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise TrainingError(
            f"{path}: {_some(broken)} holds values that are not finite. The training diverged, or the file is damaged: "
            "take an earlier checkpoint."
        )
    return weights


def place_weights(manifest: Manifest, weights: Mapping[str, Tensor], origin: str) -> TrainedNetwork:
    """Put weights into the manifest's architecture. Raises TrainingError or BundleError with the remedy.

    `origin` names the weights in messages. Every given value is kept, in float32.
    """
    network = _build(manifest, len(manifest.class_names))
    state = network.state_dict()
    _same_names(manifest, state, weights, origin)
    short = [name for name, tensor in weights.items() if name in state and tensor.shape != state[name].shape]
    given = dict(weights)
    layer, one_output = "", False
    if short:
        layer = _output_layer(manifest, network, state, weights, short, origin)
        one_output = len(weights[short[0]]) == 1 and len(manifest.classes) == 2
        for name in short:
            given[name] = _with_zero_row(weights[name].float(), one_output)
    network.load_state_dict(given, strict=False)  # the names are known to fit
    network.eval().requires_grad_(False)
    split_network(network, manifest, "the specification")
    if layer:
        _answers_alike(manifest, network, weights, layer, one_output, origin)
    return TrainedNetwork(network, layer, one_output)


def output_features(network: nn.Module, layer: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the output layer receives, (N, F), of a 1×1 convolution averaged over the image, and the logits (N, K)."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        logits = network(x)
    finally:
        handle.remove()
    features = seen[0].flatten(2).mean(2) if seen[0].ndim > 2 else seen[0]
    return features.float(), logits.float()


def output_layer(network: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    """The layer whose rows are the outputs."""
    return cast("nn.Linear | nn.Conv2d", network.get_submodule(name))


def _build(manifest: Manifest, outputs: int) -> nn.Module:
    return build_network(manifest.architecture, outputs, dict(manifest.options)).eval()


def _same_names(manifest: Manifest, state: Mapping[str, Tensor], weights: Mapping[str, Tensor], origin: str) -> None:
    missing = [name for name in state if name not in weights and not name.endswith(_COUNTER)]
    surplus = [name for name in weights if name not in state]
    if missing or surplus:
        raise TrainingError(
            f"{origin}: doesn't fit architecture {manifest.architecture!r} with options {dict(manifest.options)}: "
            + "; ".join(
                [f"the network has {_some(missing)}, the weights don't"] * bool(missing)
                + [f"the weights have {_some(surplus)}, the network doesn't"] * bool(surplus)
            )
            + ". Correct `architecture` or `options`, or rename when converting (a prefix such as `module.` comes from "
            "the program that trained)."
        )


def _output_layer(
    manifest: Manifest,
    network: nn.Module,
    state: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    short: Sequence[str],
    origin: str,
) -> str:
    """The one layer whose rows are the outputs. Raises TrainingError when the weights differ elsewhere or otherwise."""
    layers = {name.rpartition(".")[0] for name in short}
    whole = (len(manifest.class_names),)
    rows = {tuple(weights[name].shape[:1]) for name in short}
    by_rows = all(weights[n].shape[1:] == state[n].shape[1:] and state[n].shape[:1] == whole for n in short)
    if len(layers) > 1 or len(rows) > 1 or not by_rows:
        told = [f"{name} is {tuple(weights[name].shape)} and not {tuple(state[name].shape)}" for name in short]
        raise TrainingError(
            f"{origin}: doesn't fit architecture {manifest.architecture!r} with options {dict(manifest.options)}: "
            f"{_some(told)}. Correct `options`; only one layer, that of the outputs, may differ, by the garbage row."
        )
    (name,), ((count,),) = layers, rows
    if count != len(manifest.classes) and (count, len(manifest.classes)) != (1, 2):
        raise TrainingError(
            f"{origin}: layer {name!r} has {count} outputs, but the specification has {len(manifest.classes)} classes "
            f"({', '.join(entry.name for entry in manifest.classes)}). List one class for each output, in the order of "
            "the outputs."
        )
    _can_have_one_more(network.get_submodule(name), name, origin)
    return name


def _can_have_one_more(layer: nn.Module, name: str, origin: str) -> None:
    point = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    if not (isinstance(layer, nn.Linear) or point):
        raise TrainingError(
            f"{origin}: the outputs come from layer {name!r}, a {type(layer).__name__}; a garbage output can be "
            "learned beside a Linear layer or a 1x1 Conv2d only. Train with a garbage class, or wrap the architecture."
        )
    if layer.bias is None:
        raise TrainingError(
            f"{origin}: the outputs' layer {name!r} has no bias, which a garbage output needs. Give it one in the "
            "architecture, and zeros for it in the weights: that changes no answer."
        )


def _with_zero_row(rows: Tensor, one_output: bool) -> Tensor:
    """The given rows and a row of zeros; one output z of a sigmoid becomes -z/2 and z/2, whose softmax is the same."""
    if one_output:
        rows = torch.cat([-rows / 2, rows / 2])
    return torch.cat([rows, torch.zeros_like(rows[:1])])


def _answers_alike(
    manifest: Manifest, network: nn.Module, weights: Mapping[str, Tensor], layer: str, one_output: bool, origin: str
) -> None:
    """Compare with the network as it was given, on noise. Raises TrainingError when one more row changes its answer."""
    original = _build(manifest, 1 if one_output else len(manifest.classes))
    try:
        original.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{origin}: doesn't fit architecture {manifest.architecture!r}: {error}") from error
    spec = manifest.preprocessing
    x = torch.randn(4, spec.channels, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, logits = output_features(network, layer, x)
        before = original.eval()(x).float()
    outputs = output_layer(network, layer)
    linear = F.linear(features, outputs.weight.flatten(1), outputs.bias)
    scale = _TOLERANCE * (1 + float(linear.abs().max()))
    if not torch.allclose(linear, logits, atol=scale):
        raise TrainingError(
            f"{origin}: something stands between layer {layer!r} and the network's answer, a softmax perhaps. "
            "The architecture must return the layer's output as it is (logits): leave the last step out of it."
        )
    given = logits[:, 1:2] - logits[:, :1] if one_output else logits[:, :-1]
    if not torch.allclose(given, before, atol=scale):
        raise TrainingError(
            f"{origin}: the architecture answers otherwise with {len(manifest.class_names)} outputs than with "
            f"{before.shape[1]}: `num_classes` must change its last layer only."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more

"""Split a network at its attention layer, so that explanations never need a backward pass through the trunk."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

_DROPOUT = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d
EARLY_GRID = 8  # early features are averaged over a grid of this many cells a side


class SplitError(ValueError):
    """A network can't be split at the named layer; the message says why."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A head that is [ReLU →] global average pooling → [dropout →] one linear layer."""

    linear: nn.Linear
    relu: bool


@dataclass(frozen=True, slots=True)
class TrunkOutput:
    """What the trunk hands over.

    `activations` is A, (N, C, h, w[, d]), the tensor that the head receives. `early` holds one grid of channel means
    (N, C_i, G, G[, G]) for each early layer.
    `carried` are other trunk values that the head needs: skip connections, sizes.
    """

    activations: Tensor
    early: tuple[Tensor, ...]
    carried: tuple[Any, ...]


class SplitNetwork:
    """A network as trunk and head, sharing the parameters of the original, which is not changed in any way.

    No hooks are registered and no state is kept between calls, so any number of threads may share one instance.
    The network is split as it is at this moment: put it into evaluation mode first.
    """

    def __init__(self, network: nn.Module, attention_layer: str, early_layers: Sequence[str] = ()) -> None:
        if any(module.training for module in network.modules()):
            raise SplitError("the network is in training mode: call network.eval() before it is split")
        graph, outputs = _trace(network, {attention_layer, *early_layers})
        target = outputs[attention_layer]
        early = [outputs[name] for name in early_layers]
        nodes = list(graph.nodes)
        position = {node: i for i, node in enumerate(nodes)}
        for name, node in zip(early_layers, early, strict=True):
            if position[node] > position[target]:
                raise SplitError(f"early layer {name!r} comes after the attention layer {attention_layer!r}")
        carried = _carried(nodes, position, target)
        self._trunk = _trunk_module(network, nodes[: position[target] + 1], target, early, carried)
        self._head, relu_in_place = _head_module(network, nodes[position[target] + 1 :], target, carried)
        self._head_mutates_input = relu_in_place
        self.linear_head = None if carried else _linear_head(network, target)

    def trunk(self, x: Tensor) -> TrunkOutput:
        """Run the trunk on `x` (N, C, H, W) in the caller's own grad and autocast mode."""
        activations, early, carried = self._trunk(x)
        return TrunkOutput(activations, tuple(early), tuple(carried))

    def head(self, activations: Tensor, carried: tuple[Any, ...] = ()) -> Tensor:
        """Run the head; returns logits (N, K). `activations` is left as it was, even by in-place layers."""
        if self._head_mutates_input:
            activations = activations.clone()
        logits: Tensor = self._head(activations, *carried)
        return logits


class _Tracer(fx.Tracer):
    """Records the output of every named layer, whether a single module or a container of modules."""

    def __init__(self, layers: set[str]) -> None:
        super().__init__()
        self.outputs: dict[str, list[Any]] = {name: [] for name in layers}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        if name in self.outputs:
            self.outputs[name].append(output)
        return output


def _trace(network: nn.Module, layers: set[str]) -> tuple[fx.Graph, dict[str, fx.Node]]:
    known = dict(network.named_modules())
    for name in layers:
        if name not in known:
            near = ", ".join(n for n, _ in network.named_children())
            raise SplitError(f"the network has no layer {name!r}; its top-level layers are: {near}")
    tracer = _Tracer(layers)
    try:
        graph = tracer.trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise SplitError(
            f"the network's forward can't be traced ({error}): its control flow depends on the data. "
            "Write it without `if` or `for` over tensor values, or put that part behind torch.fx.wrap"
        ) from error
    return graph, {name: _only_output(name, found) for name, found in tracer.outputs.items()}


def _only_output(layer: str, outputs: list[Any]) -> fx.Node:
    if len(outputs) != 1:
        raise SplitError(f"layer {layer!r} is called {len(outputs)} times in a forward pass; name one called once")
    if not isinstance(outputs[0], fx.Proxy):
        raise SplitError(f"layer {layer!r} returns {type(outputs[0]).__name__}, not a tensor; name one that does")
    return outputs[0].node


def _carried(nodes: list[fx.Node], position: dict[fx.Node, int], target: fx.Node) -> list[fx.Node]:
    cut = position[target]
    carried = []
    for node in nodes[:cut]:
        if node.op != "get_attr" and any(position[user] > cut for user in node.users):
            carried.append(node)
    return carried


def grid_means(x: Tensor) -> Tensor:
    """Channel means over a coarse grid, (N, C, H, W[, D]) → (N, C, G, G[, G]); shorter sides stay."""
    sides = tuple(min(EARLY_GRID, s) for s in x.shape[2:])
    if all(s % g == 0 for s, g in zip(x.shape[2:], sides, strict=True)):
        for axis, cells in enumerate(sides, start=2):  # the outer axis first: two to four times as quick as pooling
            x = torch.unflatten(x, axis, (cells, -1)).mean(axis + 1)
        return x
    adaptive: Callable[[Tensor, tuple[int, ...]], Tensor] = (
        F.adaptive_avg_pool2d if len(sides) == 2 else F.adaptive_avg_pool3d  # type: ignore[assignment]
    )
    return adaptive(x, sides)


def _trunk_module(
    network: nn.Module, nodes: list[fx.Node], target: fx.Node, early: list[fx.Node], carried: list[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    pooled: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node in early:  # at once, before a later in-place layer changes the tensor and while it is in the cache
            pooled[node] = graph.call_function(grid_means, (copies[node],))
    graph.output((copies[target], tuple(pooled[n] for n in early), tuple(copies[n] for n in carried)))
    return fx.GraphModule(network, graph, "Trunk")


def _head_module(
    network: nn.Module, nodes: list[fx.Node], target: fx.Node, carried: list[fx.Node]
) -> tuple[fx.GraphModule, bool]:
    graph = fx.Graph()
    copies = {target: graph.placeholder("activations")}
    for i, node in enumerate(carried):
        copies[node] = graph.placeholder(f"carried_{i}")

    def argument(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter or constant that was fetched in the trunk's part of the graph
            copies[node] = graph.node_copy(node, argument)
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, argument)
    return fx.GraphModule(network, graph, "Head"), _is_changed_in_place(network, target)


def _is_changed_in_place(network: nn.Module, node: fx.Node) -> bool:
    """Whether a later layer writes into the node's tensor, directly or through what may be a view of it."""
    return any(
        _is_in_place(network, user) or (_may_share_memory(network, user) and _is_changed_in_place(network, user))
        for user in node.users
    )


def _may_share_memory(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Identity | nn.Flatten | nn.Unflatten | _DROPOUT)
    return node.op == "call_method" or node.target in (F.dropout, torch.flatten, operator.getitem)


def _is_in_place(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return bool(getattr(module, "inplace", False)) and not isinstance(module, _DROPOUT)  # idle when not training
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return bool(node.kwargs.get("inplace", False)) or node.target in (operator.iadd, operator.imul)


def _linear_head(network: nn.Module, target: fx.Node) -> LinearHead | None:
    """Recognise the common head, whose gradient is known in closed form; None for any other."""
    relu = pooled = False
    node = target
    while True:
        if len(node.users) != 1:
            return None
        node = next(iter(node.users))
        kind = _kind(network, node)
        if kind == "relu" and not pooled:
            relu = True
        elif kind == "pool" and not pooled:
            pooled = True
        elif kind == "linear" and pooled:
            linear = network.get_submodule(str(node.target))
            ends = len(node.users) == 1 and next(iter(node.users)).op == "output"
            return LinearHead(linear, relu) if ends and isinstance(linear, nn.Linear) else None
        elif not (kind in ("flatten", "dropout") and pooled):
            return None


_RELU = (F.relu, torch.relu, "relu", "relu_")
_POOL: tuple[Callable[..., Any], ...] = (F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


def _kind(network: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
            return "pool" if _is_one(module.output_size) else ""
        if isinstance(module, nn.Flatten):
            return "flatten" if (module.start_dim, module.end_dim) == (1, -1) else ""
        if isinstance(module, nn.Linear):
            return "linear"
        if isinstance(module, nn.ReLU):
            return "relu"
        return "dropout" if isinstance(module, nn.Dropout | nn.Identity) else ""
    if node.target in _RELU:
        return "relu"
    if node.target in _POOL:
        size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        return "pool" if _is_one(size) else ""
    if node.target in (torch.flatten, "flatten"):
        return "flatten" if node.args[1:] in ((1,), (1, -1)) or node.kwargs == {"start_dim": 1} else ""
    if node.target is F.dropout:
        return "" if node.kwargs.get("training", True) else "dropout"
    return ""


def _is_one(size: Any) -> bool:
    return size == 1 or (isinstance(size, tuple | list) and all(s == 1 for s in size))

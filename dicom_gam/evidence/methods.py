"""Every attention method side by side on the same images: faithfulness, sanity, class sensitivity, cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.core.attention import METHODS, explain
from dicom_gam.core.measure import real_targets
from dicom_gam.core.preprocess import to_input
from dicom_gam.core.similarity import pearson
from dicom_gam.evidence.faithfulness import Predict, Sanity, faithfulness, predictor, randomisation

EXAMPLES = 4  # images whose maps are shown
TIMED, REPEATS = 8, 5  # images and runs of a measurement of cost
ENOUGH_S = 1.0  # a measurement of cost that took so long is not repeated
PROBED = 16  # images on which the maps of other classes and of randomised networks are looked at
EXPENSIVE, FEW = 20.0, 4  # a method that costs so many classifications (Score-CAM) is probed on so few images


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over images and the half width of its 95 % interval (normal); NaN where there are too few images."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Tensor) -> Average:
        """The average of values (n,)."""
        n = len(values)
        half = 1.96 * float(values.double().std()) / math.sqrt(n) if n > 1 else math.nan
        return cls(float(values.double().mean()) if n else math.nan, half)


@dataclass(frozen=True, slots=True)
class Faithful:
    """Averages of insertion (high is good), deletion (low is good) and ROAD (high is good) over `n` images."""

    n: int
    insertion: Average
    deletion: Average
    road: Average


@dataclass(frozen=True, slots=True)
class MethodEvidence:
    """One method. Its `degenerate` maps, which point nowhere, are left out of the averages.

    `class_likeness` is the mean Pearson correlation between the maps of one image for different classes: near 1, the
    map does not tell which class it explains. `cost` is the time of a classification with the map over the bare one's.
    """

    name: str
    faithful: Faithful
    degenerate: int
    sanity: tuple[Sanity, ...]
    class_likeness: Average
    cost: float


@dataclass(frozen=True, slots=True, eq=False)
class MethodComparison:
    """All methods on the same `n` images, and what maps that know nothing of the network achieve (`controls`).

    `examples` are a few of the images (s, s), `example_maps` their maps (h, w) by method.
    """

    n: int
    methods: tuple[MethodEvidence, ...]
    controls: dict[str, Faithful]
    examples: tuple[NDArray[np.float32], ...]
    example_maps: dict[str, tuple[NDArray[np.float32], ...]]


def compare_methods(bundle: Bundle, network: nn.Module, contents: Tensor, seed: int) -> MethodComparison:
    """Compare all registered methods on contents (N, s, s), each explained for its most probable real class.

    `network` is the bundle's whole network, for the randomised copies; it is not changed.
    """
    x = to_input(contents.to(bundle.device), bundle.manifest.preprocessing.record())
    predict = predictor(bundle.network)
    targets = real_targets(bundle.manifest.garbage_index)(predict(x))
    costs = {name: _cost(bundle, predict, x[:TIMED], name, targets[:TIMED]) for name in METHODS}
    probed = {name: FEW if cost > EXPENSIVE else PROBED for name, cost in costs.items()}
    sanity: dict[str, tuple[Sanity, ...]] = {}
    for count in sorted(set(probed.values())):
        alike = [name for name in METHODS if probed[name] == count]
        sanity |= randomisation(network, bundle.manifest.attention_layer, x[:count], targets[:count], alike, seed)
    found, maps = [], {}
    for name in track(tuple(METHODS), "comparing attention methods"):
        explanation = explain(bundle.network, x, name, targets)
        usable = ~explanation.degenerate
        faithful = _faithful(predict, x[usable], explanation.maps[usable], targets[usable], seed)
        own = explanation.maps[usable][: probed[name]]
        likeness = _class_likeness(bundle, x[usable][: len(own)], own, targets[usable][: len(own)], name)
        found.append(MethodEvidence(name, faithful, int((~usable).sum()), sanity[name], likeness, costs[name]))
        maps[name] = tuple(explanation.maps[:EXAMPLES].cpu().numpy())
    shape = next(iter(maps.values()))[0].shape
    controls = {n: _faithful(predict, x, m, targets, seed) for n, m in _control_maps(len(x), shape, seed).items()}
    return MethodComparison(len(x), tuple(found), controls, tuple(contents[:EXAMPLES].cpu().numpy()), maps)


def _faithful(predict: Predict, x: Tensor, maps: Tensor, targets: Tensor, seed: int) -> Faithful:
    if len(x) == 0:
        nothing = Average(math.nan, math.nan)
        return Faithful(0, nothing, nothing, nothing)
    measured = faithfulness(predict, x, maps.to(x.device), targets, seed)
    averages = (Average.of(v) for v in (measured.insertion, measured.deletion, measured.road))
    return Faithful(len(x), *averages)


def _class_likeness(bundle: Bundle, x: Tensor, maps: Tensor, targets: Tensor, method: str) -> Average:
    """Correlation of each image's map with its maps for every other class, where those point anywhere."""
    found = []
    for other in range(len(bundle.manifest.classes)):
        explanation = explain(bundle.network, x, method, torch.full_like(targets, other))
        usable = (targets != other) & ~explanation.degenerate
        found.append(pearson(explanation.maps[usable], maps[usable]))
    return Average.of(torch.cat(found))


def _control_maps(n: int, shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """Maps that no network was asked for: noise, and a bump in the middle, where radiographs have their subject."""
    noise = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    rows, columns = (torch.linspace(-1, 1, side) for side in shape)
    bump = torch.exp(-2 * (rows[:, None] ** 2 + columns[None] ** 2))
    return {"control: noise": noise, "control: middle of the image": bump.expand(n, *shape)}


def _cost(bundle: Bundle, predict: Predict, x: Tensor, method: str, targets: Tensor) -> float:
    """The time of classifying with a map over that of classifying, each the shortest of a few runs in turn.

    What disturbs a run only ever makes it longer.
    """
    pairs: list[tuple[float, float]] = []
    for _ in range(REPEATS):
        if sum(explained for _, explained in pairs) > ENOUGH_S:
            break
        bare = _seconds(lambda: predict(x))
        pairs.append((bare, _seconds(lambda: explain(bundle.network, x, method, targets))))
    return min(explained for _, explained in pairs) / min(bare for bare, _ in pairs)


def _seconds(work: Callable[[], object]) -> float:
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

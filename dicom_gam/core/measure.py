"""The table of measurements, the references they are taken against, and taking them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from dicom_gam.core.attention import Explanation
from dicom_gam.core.authenticity import frequency_distance
from dicom_gam.core.early import channel_statistics, mahalanobis, structure_map, whitening_matrix
from dicom_gam.core.prototypes import prototype_maps, prototype_vectors
from dicom_gam.core.similarity import HIGHER_IS_BETTER, SIMILARITIES, PreparedMaps, compare, prepare
from dicom_gam.records import CheckName

FREQUENCY_PROTOTYPES = 48  # of a class; images come from several detectors and archives, each with its own spectrum


@dataclass(frozen=True, slots=True)
class MeasurementSpec:
    """One row of the table: which check it belongs to and which side is good.

    `counted` is False for a measurement that repeats another one (Dice is a function of IoU): it is reported, but the
    check does not look at it twice. On the `logit` scale a probability's distance from 0 and 1 becomes visible.
    """

    name: str
    check: CheckName
    bound: Literal["min", "max"]
    counted: bool = True
    logit: bool = False


def _similarity_specs(check: CheckName) -> tuple[MeasurementSpec, ...]:
    return tuple(
        MeasurementSpec(f"{check}.{name}", check, "min" if name in HIGHER_IS_BETTER else "max", counted=name != "dice")
        for name in SIMILARITIES
    )


MEASUREMENTS: tuple[MeasurementSpec, ...] = (
    MeasurementSpec("input.garbage_probability", "input", "max", logit=True),
    MeasurementSpec("input.class_probability", "input", "min", logit=True),
    MeasurementSpec("input.feature_distance", "input", "max"),
    *_similarity_specs("attention"),
    *_similarity_specs("early"),
    MeasurementSpec("early.channel_distance", "early", "max"),
    MeasurementSpec("authenticity.frequency_distance", "authenticity", "max"),
)
CHECKS: tuple[CheckName, ...] = ("input", "attention", "early", "authenticity")
SMALLEST_PROBABILITY = 1e-9  # probabilities are kept this far from 0 and 1 before the logit


@dataclass(frozen=True, eq=False)
class ClassReference:
    """What one class normally looks like to this network.

    `attention` (P, h, w) and, for each of L early layers, `early` (L, P, G, G) are prototype maps, the mean map first.
    `channel_mean` holds each early layer's mean channel statistics (D_l,), `feature_mean` that of the attention layer's
    features (C,); `frequency` (Q, F) are prototypes of the frequency statistics.
    """

    attention: Tensor
    early: Tensor
    channel_mean: tuple[Tensor, ...]
    feature_mean: Tensor
    frequency: Tensor

    @cached_property
    def attention_maps(self) -> PreparedMaps:
        """The attention prototypes, ready to be compared with."""
        return prepare(self.attention)

    @cached_property
    def early_maps(self) -> PreparedMaps:
        """The structure prototypes of all depths, one after the other, ready to be compared with."""
        return prepare(self.early.flatten(0, 1))


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The references of every real class, by the class's index in the bundle; the whitenings are shared by all."""

    classes: dict[int, ClassReference]
    channel_whitening: tuple[Tensor, ...]
    feature_whitening: Tensor
    frequency_whitening: Tensor

    def to(self, device: torch.device) -> References:
        """The same references on another device."""
        moved = {
            i: ClassReference(*(_moved(getattr(c, f.name), device) for f in fields(c))) for i, c in self.classes.items()
        }
        return References(
            moved,
            _moved(self.channel_whitening, device),
            self.feature_whitening.to(device),
            self.frequency_whitening.to(device),
        )


def _moved(value: Any, device: torch.device) -> Any:
    return tuple(v.to(device) for v in value) if isinstance(value, tuple) else value.to(device)


def real_targets(garbage_index: int) -> Callable[[Tensor], Tensor]:
    """A function from logits (N, K) to the most probable class that is not garbage.

    That class would be reported if the image were accepted, so it is the one to be explained and checked.
    """

    def targets(logits: Tensor) -> Tensor:
        masked = logits.clone()
        masked[:, garbage_index] = -torch.inf
        return masked.argmax(1)

    return targets


def measure(explanation: Explanation, frequency: Tensor, references: References, garbage_index: int) -> Tensor:
    """Take every measurement of a batch against its target classes: (N, M) in the order of MEASUREMENTS.

    `frequency` (N, F) are the frequency statistics of the images as they came, before the network's own resolution.
    """
    with torch.inference_mode():  # some hundred small operations: what autograd adds to each would show
        return _measure(explanation, frequency, references, garbage_index)


def _measure(explanation: Explanation, frequency: Tensor, references: References, garbage_index: int) -> Tensor:
    probabilities = explanation.logits.double().softmax(1).float()
    structure = torch.stack([structure_map(grid) for grid in explanation.early])
    statistics = [channel_statistics(grid) for grid in explanation.early]
    values = explanation.maps.new_full((len(probabilities), len(MEASUREMENTS)), torch.nan)
    frequency = frequency.to(values.device)
    targets = explanation.targets.tolist()
    for index in sorted(set(targets)):
        alike = [i for i, target in enumerate(targets) if target == index]
        rows = slice(None) if len(alike) == len(targets) else torch.tensor(alike, device=values.device)
        reference = references.classes[index]
        columns = [
            probabilities[rows, garbage_index],
            probabilities[rows, index],
            mahalanobis(explanation.features[rows], reference.feature_mean, references.feature_whitening),
            *compare(explanation.maps[rows], reference.attention_maps).values(),
            *_compare_depths(structure[:, rows], reference.early_maps),
            _channel_distance([s[rows] for s in statistics], reference, references),
            frequency_distance(frequency[rows], reference.frequency, references.frequency_whitening),
        ]
        values[rows] = torch.stack(columns, 1)
    return values


def _compare_depths(maps: Tensor, prototypes: PreparedMaps) -> list[Tensor]:
    """Every similarity of structure maps (L, N, G, G) at the depth where it is worst; depths are compared at once."""
    depths, images = maps.shape[:2]
    at = torch.arange(depths, device=maps.device)
    of = at.repeat_interleave(len(prototypes.maps) // depths)
    allowed = at.repeat_interleave(images)[:, None] == of
    together = compare(maps.flatten(0, 1), prototypes, allowed)
    by_depth = {name: value.view(depths, images) for name, value in together.items()}
    return [v.amin(0) if name in HIGHER_IS_BETTER else v.amax(0) for name, v in by_depth.items()]


def _channel_distance(statistics: Sequence[Tensor], reference: ClassReference, references: References) -> Tensor:
    """The Mahalanobis distance of the channel statistics at the depth where it is largest, (N,)."""
    depths = zip(statistics, reference.channel_mean, references.channel_whitening, strict=True)
    return torch.stack([mahalanobis(*depth) for depth in depths]).amax(0)


def build_references(
    explanations: Sequence[Explanation], frequency: Tensor, labels: Sequence[Tensor], prototypes: int
) -> References:
    """References from explanations of reference images and their true class indices (N,), batch by batch.

    The caller passes correctly classified images of real classes only, explained for their own class, and their
    frequency statistics (ΣN, F).
    """
    maps = torch.cat([e.maps for e in explanations]).cpu()
    features = torch.cat([e.features for e in explanations]).cpu()
    grids = [torch.cat(depth).cpu() for depth in zip(*(e.early for e in explanations), strict=True)]
    structure = torch.stack([structure_map(grid) for grid in grids])
    statistics = [channel_statistics(grid) for grid in grids]
    usable = ~torch.cat([e.degenerate for e in explanations]).cpu()
    label = torch.cat(list(labels)).cpu()
    frequency_whitening = whitening_matrix(_residuals(frequency, label))
    classes: dict[int, ClassReference] = {}
    for index in torch.unique(label).tolist():
        rows = label == index
        classes[index] = ClassReference(
            prototype_maps(maps[rows & usable], prototypes),
            torch.stack([prototype_maps(depth[rows], prototypes) for depth in structure]),
            tuple(s[rows].mean(0) for s in statistics),
            features[rows].mean(0),
            prototype_vectors(frequency[rows], frequency_whitening, FREQUENCY_PROTOTYPES),
        )
    channel_whitening = tuple(whitening_matrix(_residuals(s, label)) for s in statistics)
    return References(classes, channel_whitening, whitening_matrix(_residuals(features, label)), frequency_whitening)


def _residuals(vectors: Tensor, label: Tensor) -> Tensor:
    """Vectors (n, D) less the mean of their class."""
    residuals = torch.empty_like(vectors)
    for index in torch.unique(label).tolist():
        rows = label == index
        residuals[rows] = vectors[rows] - vectors[rows].mean(0)
    return residuals

"""The table of measurements, the references they are taken against, and taking them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dicom_gam.core.attention import Explanation
from dicom_gam.core.early import channel_statistics, mahalanobis, structure_map, whitening_matrix
from dicom_gam.core.similarity import HIGHER_IS_BETTER, SIMILARITIES, nearest_prototype, similarities
from dicom_gam.records import CheckName

SMALLEST_PROBABILITY = 1e-9  # probabilities are kept this far from 0 and 1 before the logit


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
)
CHECKS: tuple[CheckName, ...] = ("input", "attention", "early")


@dataclass(frozen=True, slots=True, eq=False)
class ClassReference:
    """What one class normally looks like to this network.

    `attention` (P, h, w) and `early` (P, G, G) are prototype maps, the mean map first; the means are of the channel
    statistics (D,) and of the attention layer's features (C,).
    """

    attention: Tensor
    early: Tensor
    channel_mean: Tensor
    feature_mean: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The references of every real class, by the class's index in the bundle; the whitenings are shared by all."""

    classes: dict[int, ClassReference]
    channel_whitening: Tensor
    feature_whitening: Tensor

    def to(self, device: torch.device) -> References:
        """The same references on another device."""
        moved = {
            i: ClassReference(*(getattr(c, name).to(device) for name in ClassReference.__slots__))
            for i, c in self.classes.items()
        }
        return References(moved, self.channel_whitening.to(device), self.feature_whitening.to(device))


def real_targets(garbage_index: int) -> Callable[[Tensor], Tensor]:
    """A function from logits (N, K) to the most probable class that is not garbage.

    That class would be reported if the image were accepted, so it is the one to be explained and checked.
    """

    def targets(logits: Tensor) -> Tensor:
        masked = logits.clone()
        masked[:, garbage_index] = -torch.inf
        return masked.argmax(1)

    return targets


def measure(explanation: Explanation, references: References, garbage_index: int) -> Tensor:
    """Take every measurement of a batch against its target classes: (N, M) in the order of MEASUREMENTS."""
    with torch.inference_mode():  # some hundred small operations: what autograd adds to each would show
        return _measure(explanation, references, garbage_index)


def _measure(explanation: Explanation, references: References, garbage_index: int) -> Tensor:
    probabilities = explanation.logits.double().softmax(1).float()
    structure = structure_map(explanation.early[0])
    statistics = channel_statistics(explanation.early)
    values = explanation.maps.new_full((len(probabilities), len(MEASUREMENTS)), torch.nan)
    targets = explanation.targets.tolist()
    for index in sorted(set(targets)):
        alike = [i for i, target in enumerate(targets) if target == index]
        rows = slice(None) if len(alike) == len(targets) else torch.tensor(alike, device=values.device)
        reference = references.classes[index]
        columns = [
            probabilities[rows, garbage_index],
            probabilities[rows, index],
            mahalanobis(explanation.features[rows], reference.feature_mean, references.feature_whitening),
            *_compare(explanation.maps[rows], reference.attention),
            *_compare(structure[rows], reference.early),
            mahalanobis(statistics[rows], reference.channel_mean, references.channel_whitening),
        ]
        values[rows] = torch.stack(columns, 1)
    return values


def _compare(maps: Tensor, prototypes: Tensor) -> list[Tensor]:
    nearest = prototypes[nearest_prototype(maps, prototypes)]
    return list(similarities(maps, nearest).values())


def build_references(explanations: Sequence[Explanation], labels: Sequence[Tensor], prototypes: int) -> References:
    """References from explanations of reference images and their true class indices (N,), batch by batch.

    The caller passes correctly classified images of real classes only, explained for their own class.
    """
    maps = torch.cat([e.maps for e in explanations]).cpu()
    features = torch.cat([e.features for e in explanations]).cpu()
    structure = torch.cat([structure_map(e.early[0]) for e in explanations]).cpu()
    statistics = torch.cat([channel_statistics(e.early) for e in explanations]).cpu()
    usable = ~torch.cat([e.degenerate for e in explanations]).cpu()
    label = torch.cat(list(labels)).cpu()
    classes: dict[int, ClassReference] = {}
    feature_residuals, statistic_residuals = torch.zeros_like(features), torch.zeros_like(statistics)
    for index in torch.unique(label).tolist():
        rows = label == index
        feature_mean, statistic_mean = features[rows].mean(0), statistics[rows].mean(0)
        feature_residuals[rows] = features[rows] - feature_mean
        statistic_residuals[rows] = statistics[rows] - statistic_mean
        classes[index] = ClassReference(
            prototype_maps(maps[rows & usable], prototypes),
            prototype_maps(structure[rows], prototypes),
            statistic_mean,
            feature_mean,
        )
    return References(classes, whitening_matrix(statistic_residuals), whitening_matrix(feature_residuals))


def prototype_maps(maps: Tensor, count: int) -> Tensor:
    """The mean map (scaled to maximum 1) and up to `count` medoids of maps (n, h, w), by k-medoids under 1 - cosine."""
    mean = maps.mean(0)
    unit = torch.nn.functional.normalize(maps.flatten(1).double(), dim=1, eps=1e-12)
    distance = 1 - unit @ unit.T
    medoids = [int(distance.sum(1).argmin())]
    while len(medoids) < min(count, len(maps)):  # farthest-first start: deterministic, no seed needed
        medoids.append(int(distance[:, medoids].amin(1).argmax()))
    for _ in range(50):
        owner = distance[:, medoids].argmin(1)
        updated = []
        for k, medoid in enumerate(medoids):
            members = (owner == k).nonzero()[:, 0]
            inner = distance[members][:, members].sum(1)
            updated.append(int(members[inner.argmin()]) if len(members) else medoid)
        if updated == medoids:
            break
        medoids = updated
    return torch.cat([(mean / mean.max().clamp_min(1e-12))[None], maps[medoids]])

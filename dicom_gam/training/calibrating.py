"""Make a network's references and calibration sample from labelled images it got right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.attention import Explanation, explain
from dicom_gam.core.calibration import (
    ClassCalibration,
    Sample,
    calibrate_class,
    needed_size,
    score_threshold,
    smallest_alpha,
)
from dicom_gam.core.measure import MEASUREMENTS, References, build_references, measure, real_targets
from dicom_gam.core.network import SplitNetwork
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import TrainingError
from dicom_gam.training.fitting import Labelled

BATCH = 64


def calibrate(
    manifest: Manifest, network: SplitNetwork, folds: Mapping[str, Labelled], prototypes: int, device: torch.device
) -> tuple[References, dict[int, ClassCalibration]]:
    """References from fold "reference", spreads and tails from "scaling", the conformal sample from "calibration".

    The folds hold real classes only and share no group. Raises TrainingError when a class has too few images for
    the manifest's alpha, saying how many are needed and which alpha the sample would support.
    """
    references = _references(manifest, network, folds["reference"], prototypes, device)
    scaling = _samples(manifest, network, references, folds["scaling"], device)
    calibration_fold = _samples(manifest, network, references, folds["calibration"], device)
    calibration, problems = {}, []
    for index, entry in enumerate(manifest.classes):
        usual, sample = scaling[index], calibration_fold[index]
        try:
            made = calibrate_class(usual.values[usual.right & ~usual.alarmed], sample, manifest.checks)
        except ValueError as error:
            problems.append(f"{entry.name} has {error}")
            continue
        calibration[index] = made
        if score_threshold(made.combined, manifest.alpha) is None:
            garbage = f", {int(sample.alarmed.sum())} of them taken for garbage," if sample.alarmed.any() else ""
            problems.append(
                f"{entry.name} has {made.size} calibration images{garbage} which support a false-alarm rate of "
                f"{smallest_alpha(made.combined):.3f}; {manifest.alpha:g} needs at least {needed_size(manifest.alpha)}"
            )
    if problems:
        raise TrainingError("; ".join(problems) + ". Add images of other patients, or raise alpha.")
    return references, calibration


def _references(
    manifest: Manifest, network: SplitNetwork, fold: Labelled, prototypes: int, device: torch.device
) -> References:
    explanations: list[Explanation] = []
    labels: list[Tensor] = []
    kept: list[Tensor] = []
    spec = manifest.preprocessing.record()
    for start, content, label in _parts(fold):
        x = to_input(content.to(device), spec)
        with torch.inference_mode():
            right = explain(network, x).logits.argmax(1).cpu() == label
        if right.any():
            explanations.append(explain(network, x[right.to(device)], manifest.attention_method, label[right]))
            labels.append(label[right])
            kept.append(right.nonzero()[:, 0] + start)
    counts = torch.bincount(torch.cat(labels), minlength=len(manifest.classes)) if labels else torch.zeros(1)
    for index, entry in enumerate(manifest.classes):
        if index >= len(counts) or counts[index] < prototypes:
            raise TrainingError(
                f"the network gets fewer than {prototypes} reference images of {entry.name} right: "
                "check the labels, add images, or train longer"
            )
    return build_references(explanations, fold.prepared.frequency[torch.cat(kept)], labels, prototypes)


def _samples(
    manifest: Manifest, network: SplitNetwork, references: References, fold: Labelled, device: torch.device
) -> dict[int, Sample]:
    """What the network makes of the images of each class."""
    spec = manifest.preprocessing.record()
    on_device, frequency = references.to(device), fold.prepared.frequency
    values, right, alarmed = [], [], []
    for start, content, label in _parts(fold):
        x = to_input(content.to(device), spec)
        explanation = explain(network, x, manifest.attention_method, real_targets(manifest.garbage_index))
        own = frequency[start : start + len(label)]
        values.append(measure(explanation, own, on_device, manifest.garbage_index).double().cpu())
        right.append(explanation.targets.cpu() == label)
        alarmed.append(((explanation.logits.argmax(1) == manifest.garbage_index) | explanation.degenerate).cpu())
    if not values:
        return {i: _sample(torch.empty(0, len(MEASUREMENTS)), *[torch.empty(0).bool()] * 2) for i in on_device.classes}
    every = torch.cat(values), torch.cat(right), torch.cat(alarmed)
    return {i: _sample(*(part[fold.labels == i] for part in every)) for i in range(len(manifest.classes))}


def _sample(values: Tensor, right: Tensor, alarmed: Tensor) -> Sample:
    return Sample(values.numpy(), right.numpy(), alarmed.numpy())


def _parts(fold: Labelled) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Batches of a fold: where each starts, its contents and its labels."""
    for start in range(0, len(fold.labels), BATCH):
        yield start, fold.contents[start : start + BATCH], fold.labels[start : start + BATCH]

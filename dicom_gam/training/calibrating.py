"""Make a network's references and calibration sample from labelled images it got right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.attention import Explanation, explain
from dicom_gam.core.calibration import ClassCalibration, calibrate_class, needed_size, smallest_alpha
from dicom_gam.core.measure import References, build_references, measure, real_targets
from dicom_gam.core.network import SplitNetwork
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import TrainingError
from dicom_gam.training.fitting import Labelled

BATCH = 64


def calibrate(
    manifest: Manifest, network: SplitNetwork, folds: Mapping[str, Labelled], prototypes: int, device: torch.device
) -> tuple[References, dict[int, ClassCalibration]]:
    """References from fold "reference", scales from "scaling", the conformal sample from "calibration".

    The folds hold real classes only and share no group. Raises TrainingError when a class has too few images for
    the manifest's alpha, saying how many are needed and which alpha the sample would support.
    """
    references = _references(manifest, network, folds["reference"], prototypes, device)
    scaling = _measurements(manifest, network, references, folds["scaling"], device)
    sample = _measurements(manifest, network, references, folds["calibration"], device)
    calibration, problems = {}, []
    for index, entry in enumerate(manifest.classes):
        size = len(sample[index])
        if len(scaling[index]) < 5:
            problems.append(
                f"{entry.name} has {len(scaling[index])} images to learn its usual spread from, 5 are needed"
            )
        elif size < needed_size(manifest.alpha):
            problems.append(
                f"{entry.name} has {size} calibration images, a false-alarm rate of {manifest.alpha:g} needs "
                f"{needed_size(manifest.alpha)} (these support {smallest_alpha(size):.3f})"
            )
        else:
            calibration[index] = calibrate_class(scaling[index], sample[index])
    if problems:
        raise TrainingError("; ".join(problems) + ". Add images of other patients, or raise alpha.")
    return references, calibration


def _references(
    manifest: Manifest, network: SplitNetwork, fold: Labelled, prototypes: int, device: torch.device
) -> References:
    explanations: list[Explanation] = []
    labels: list[Tensor] = []
    spec = manifest.preprocessing.record()
    for content, label in zip(torch.split(fold.contents, BATCH), torch.split(fold.labels, BATCH), strict=True):
        x = to_input(content.to(device), spec)
        with torch.inference_mode():
            right = explain(network, x, manifest.attention_method).logits.argmax(1).cpu() == label
        if right.any():
            explanations.append(explain(network, x[right.to(device)], manifest.attention_method, label[right]))
            labels.append(label[right])
    counts = torch.bincount(torch.cat(labels), minlength=len(manifest.classes)) if labels else torch.zeros(1)
    for index, entry in enumerate(manifest.classes):
        if index >= len(counts) or counts[index] < prototypes:
            raise TrainingError(
                f"the network gets fewer than {prototypes} reference images of {entry.name} right: "
                "check the labels, add images, or train longer"
            )
    return build_references(explanations, labels, prototypes)


def _measurements(
    manifest: Manifest, network: SplitNetwork, references: References, fold: Labelled, device: torch.device
) -> dict[int, NDArray[np.float64]]:
    """Measurements (n, M) of the images of each class that the network takes for that class."""
    spec = manifest.preprocessing.record()
    on_device = references.to(device)
    rows: dict[int, list[NDArray[np.float64]]] = {index: [] for index in range(len(manifest.classes))}
    for content, label in zip(torch.split(fold.contents, BATCH), torch.split(fold.labels, BATCH), strict=True):
        explanation = explain(
            network,
            to_input(content.to(device), spec),
            manifest.attention_method,
            real_targets(manifest.garbage_index),
        )
        values = measure(explanation, on_device, manifest.garbage_index).double().cpu().numpy()
        for value, target, truth in zip(values, explanation.targets.tolist(), label.tolist(), strict=True):
            if target == truth:
                rows[truth].append(value)
    return {index: np.stack(found) if found else np.empty((0, 0)) for index, found in rows.items()}

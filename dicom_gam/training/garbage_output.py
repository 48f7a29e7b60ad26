"""Learn a garbage output beside a trained network whose every other answer stays as it is.

The network's features f at its last layer and its logits z are taken as given. A new logit g = w·f + b is added, and
softmax gives garbage the probability σ(g - log Σ exp z): a logistic regression of "negative or not" with known offset.
It is convex, so images and seed settle the answer. The ratios among the real classes' probabilities stay the network's.

Then b is lowered until garbage wins outright only beyond what real images of other patients reach. Nothing is lost by
that: the garbage probability is a measurement of the check "input", whose limit is calibrated whatever b is, while an
image that is taken for garbage is an alarm that no calibration can take back.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from scipy.optimize import minimize
from torch import Tensor, nn

from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.calibration import Array
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import TrainingError
from dicom_gam.training.fitting import Labelled, batches
from dicom_gam.training.specification import Schedule
from dicom_gam.training.weights import TrainedNetwork, output_features, output_layer

BATCHES = 24  # of augmented images and negatives, besides every image as it is
_RIDGE = 1e-2  # the weight of ‖w‖² on standardised features: some hundred features, few patients
_BATCH = 64
_MARGIN = 0.5  # how much further the oddest of all patients may be than the oddest of those seen, from the usual on


def learn_garbage_output(
    trained: TrainedNetwork,
    manifest: Manifest,
    schedule: Schedule,
    images: Labelled,
    others: Labelled,
    device: torch.device,
) -> None:
    """Fill in the garbage row of a network without one, from real images against negatives; change nothing else.

    The negatives are those of `images` that are of the garbage class, and those that `schedule` has generated from the
    real ones. `others` are real images of other patients. Raises TrainingError when there are no negatives.
    """
    if schedule.synthetic_share == 0 and not bool((images.labels == manifest.garbage_index).any()):
        raise TrainingError(
            f"there are no negatives to learn the garbage output from: list images of {manifest.garbage_class} in the "
            "CSV, or leave out training.synthetic_share = 0"
        )
    network, name = trained.network.to(device), trained.output_layer
    layer = output_layer(network, name)
    assert layer.bias is not None  # place_weights saw to it
    with torch.no_grad():  # forward passes and a generator of its own: nothing here is left to chance
        evidence = _evidence(network, name, manifest, schedule, images, device)
        weight, bias = _regress(*evidence)
        layer.weight[-1], layer.bias[-1] = weight.view_as(layer.weight[-1]), bias
        layer.bias[-1] -= _excess(network, manifest, others, device)


def _evidence(
    network: nn.Module, layer: str, manifest: Manifest, schedule: Schedule, images: Labelled, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, F), log Σ exp of the real logits (N,) and which are negatives (N,), in float64."""
    spec, garbage = manifest.preprocessing.record(), manifest.garbage_index
    plain = zip(
        torch.split(images.contents, schedule.batch_size), torch.split(images.labels, schedule.batch_size), strict=True
    )
    varied = ((batch.contents, batch.labels) for batch in islice(batches(manifest, schedule, images), BATCHES))
    features, offsets, negatives = [], [], []
    for content, labels in [*plain, *track(varied, "looking at real images and negatives", BATCHES)]:
        seen, logits = output_features(network, layer, to_input(content.to(device), spec))
        features.append(seen.double().cpu())
        offsets.append(logits[:, :garbage].double().logsumexp(1).cpu())
        negatives.append(labels == garbage)
    return torch.cat(features), torch.cat(offsets), torch.cat(negatives)


def _excess(network: nn.Module, manifest: Manifest, others: Labelled, device: torch.device) -> float:
    """How far the garbage logit must come down to stay below the real ones of every class, with a margin."""
    spec, garbage = manifest.preprocessing.record(), manifest.garbage_index
    lead = [torch.empty(0)]
    for content in torch.split(others.contents, _BATCH):
        logits = network(to_input(content.to(device), spec)).float().cpu()
        lead.append(logits[:, garbage] - logits[:, :garbage].amax(1))
    every = torch.cat(lead)
    by_class = [every[others.labels == index] for index in range(garbage)]
    return max(0.0, *(float(own.max() + _MARGIN * (own.max() - own.median())) for own in by_class))


def _regress(features: Tensor, offset: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (F,) and bias () of the garbage logit: real images and negatives count the same, all in all."""
    mean, deviation = features.mean(0), features.std(0)
    alive = deviation > 1e-9  # a feature that never varies says nothing here
    scale = torch.where(alive, deviation, torch.ones_like(deviation))
    standard, target = (features - mean) / scale * alive, negative.double()
    share = torch.where(negative, 0.5 / target.sum(), 0.5 / (1 - target).sum())

    def loss(parameters: Array) -> tuple[float, Array]:
        weight, bias = torch.from_numpy(parameters[:-1]), parameters[-1]
        odds = standard @ weight + bias - offset
        error = share * (odds.sigmoid() - target)
        value = (share * (F.softplus(odds) - target * odds)).sum() + _RIDGE * weight.square().sum()
        return float(value), torch.cat([error @ standard + 2 * _RIDGE * weight, error.sum()[None]]).numpy()

    start = np.append(np.zeros(features.shape[1]), float(offset.mean()))
    found = torch.from_numpy(minimize(loss, start, jac=True, method="L-BFGS-B").x)
    weight = found[:-1] / scale * alive
    return weight, found[-1] - weight @ mean

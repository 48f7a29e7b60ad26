"""What is compared: one function per contender that takes a batch and does the whole of its job."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.models
from torch import Tensor, nn

from dicom_gam.core.attention import explain
from dicom_gam.core.authenticity import FREQUENCY_STATISTICS
from dicom_gam.core.calibration import ClassCalibration, calibrate_class
from dicom_gam.core.measure import FREQUENCY_PROTOTYPES, ClassReference, References, measure, real_targets
from dicom_gam.core.network import SplitNetwork
from dicom_gam.core.verdict import decide, judge
from tests.core.simulated import sample_of, simulated

CLASSES = 5
GARBAGE = CLASSES - 1
PROTOTYPES = 5
ALPHA = 0.05
BARE, OURS = "bare forward", "dicom_gam"


@dataclass(frozen=True)
class Model:
    attention_layer: str
    early_layers: tuple[str, ...]  # the stem and the first stage


MODELS = {
    "resnet18": Model("layer4", ("relu", "layer1")),
    "resnet50": Model("layer4", ("relu", "layer1")),
    "densenet121": Model("features", ("features.relu0", "features.denseblock1")),
    "efficientnet_b0": Model("features", ("features.0", "features.1")),
}
Run = Callable[[Tensor], object]


def build(name: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES)
    return network.eval().to(device)


def contender(which: str, name: str, network: nn.Module, size: int) -> Run:
    """A contender on its own copy of the network: some leave hooks on it that would slow the others down.

    Every one has run its copy once on one image of `size` when it comes back.
    """
    own = copy.deepcopy(network)
    run = CONTENDERS[which](own, MODELS[name])
    one = torch.rand(1, 3, size, size, device=next(own.parameters()).device)
    small = torch.rand(1, 3, 64, 64, device=one.device)
    if isinstance(run, Verified):
        run.refer_to(small)
        run.refer_to(one)
    run(small)
    with torch.inference_mode():
        own(one)
    return run


def _bare(network: nn.Module, model: Model) -> Run:
    def run(x: Tensor) -> object:
        with torch.inference_mode():
            return network(x).cpu()

    return run


class Verified:
    """The whole verified result: class, map, every measurement, the three checks, the verdict and its reasons."""

    def __init__(self, network: nn.Module, model: Model) -> None:
        self.split = SplitNetwork(network, model.attention_layer, model.early_layers)
        self.calibration = calibrate_class(simulated(40, seed=0), sample_of(simulated(400, seed=1)))
        self.references: dict[tuple[int, ...], References] = {}

    def refer_to(self, x: Tensor) -> None:
        """Make up references of the right shapes; a bundle brings its own."""
        explanation = explain(self.split, x)
        shape = tuple(explanation.maps.shape[1:])
        self.references[shape] = _random_references(explanation.features.shape[1], shape, explanation.early, x.device)

    def __call__(self, x: Tensor) -> object:
        explanation = explain(self.split, x, targets=real_targets(GARBAGE))
        references = self.references[tuple(explanation.maps.shape[1:])]
        frequency = torch.zeros(len(x), len(FREQUENCY_STATISTICS))  # taken once, where the image is decoded
        values = measure(explanation, frequency, references, GARBAGE).double().cpu().numpy()
        labels, degenerate = explanation.logits.argmax(1).tolist(), explanation.degenerate.tolist()
        return _verdicts(values, labels, degenerate, self.calibration), explanation.maps.cpu()


def _verdicts(
    values: np.ndarray, labels: list[int], degenerate: list[bool], calibration: ClassCalibration
) -> list[object]:
    return [
        decide(label == GARBAGE, flat, judge(row, calibration, ALPHA).checks, "chest, hand, knee or spine")
        for row, label, flat in zip(values, labels, degenerate, strict=True)
    ]


def _random_references(
    channels: int, shape: tuple[int, ...], early: tuple[Tensor, ...], device: torch.device
) -> References:
    g = torch.Generator().manual_seed(1)
    sizes = [2 * grid.shape[1] for grid in early]
    own = len(FREQUENCY_STATISTICS)
    classes = {
        i: ClassReference(
            torch.rand(PROTOTYPES, *shape, generator=g),
            torch.rand(len(early), PROTOTYPES, *early[0].shape[2:], generator=g),
            tuple(torch.randn(size, generator=g) for size in sizes),
            torch.randn(channels, generator=g),
            torch.randn(FREQUENCY_PROTOTYPES, own, generator=g),
        )
        for i in range(GARBAGE)
    }
    channel_whitening = tuple(torch.randn(size, size, generator=g) for size in sizes)
    feature_whitening, frequency_whitening = torch.randn(channels, channels, generator=g), torch.eye(own)
    return References(classes, channel_whitening, feature_whitening, frequency_whitening).to(device)


def _pytorch_grad_cam(network: nn.Module, model: Model) -> Run:
    from pytorch_grad_cam import HiResCAM  # noqa: PLC0415 (so that a child that measures memory loads only its own)
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415

    cam = HiResCAM(network, [network.get_submodule(model.attention_layer)])
    return lambda x: cam(x, [ClassifierOutputTarget(0)] * len(x))


def _captum(network: nn.Module, model: Model) -> Run:
    from captum.attr import LayerGradCam  # noqa: PLC0415

    cam = LayerGradCam(network, network.get_submodule(model.attention_layer))
    return lambda x: cam.attribute(x, target=0, relu_attributions=True).detach().cpu()


def _torchcam(network: nn.Module, model: Model) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchcam.methods import GradCAM  # noqa: PLC0415

    extractor = GradCAM(network, model.attention_layer)

    def run(x: Tensor) -> object:
        scores = network(x)
        return [cam.cpu() for cam in extractor([0] * len(x), scores)]

    return run


CONTENDERS: dict[str, Callable[[nn.Module, Model], Run]] = {
    BARE: _bare,
    OURS: Verified,
    "pytorch-grad-cam HiResCAM": _pytorch_grad_cam,
    "captum LayerGradCam": _captum,
    "torchcam GradCAM": _torchcam,
}

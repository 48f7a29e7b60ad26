"""Our maps against pytorch-grad-cam's and against plain autograd through the whole network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    ShapleyCAM,
    XGradCAM,
    eigen_cam,
)
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST, ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn

from dicom_gam.bundle.architectures import compact_resnet
from dicom_gam.core.attention import explain
from dicom_gam.core.network import SplitNetwork
from tests.core.networks import ATTENTION_LAYER, MlpHead, autograd_map, images, random_network, seeded

pytestmark = pytest.mark.requirement("VER-01")

THEIRS: dict[str, Callable[..., BaseCAM]] = {
    "hirescam": HiResCAM,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "layercam": LayerCAM,
    "shapleycam": ShapleyCAM,
    "ablationcam": AblationCAM,
    "scorecam": ScoreCAM,
    "eigencam": EigenCAM,
}


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def their_map(network: nn.Module, layer: str, x: Tensor, targets: Tensor, method: str) -> np.ndarray:
    """pytorch-grad-cam's own activations, gradients, formula and scaling, before it resizes to the image."""
    wanted = [ClassifierOutputTarget(int(target)) for target in targets]
    with THEIRS[method](network, [network.get_submodule(layer)]) as cam:
        cam(x, wanted)
        inner = cam.activations_and_grads
        activations, gradients = inner.activations[0].numpy(), inner.gradients[0].numpy()
        evidence = cam.get_cam_image(x, cam.target_layers[0], wanted, activations, gradients, False)
    return scale_cam_image(np.maximum(evidence, 0))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("resnet18", "hirescam"),
        ("resnet18", "gradcam"),
        ("resnet50", "hirescam"),
        ("resnet50", "gradcam"),
        ("efficientnet_b0", "hirescam"),
        ("efficientnet_b0", "gradcam"),
        ("densenet121", "hirescam"),  # its in-place ReLU changes A under pytorch-grad-cam's Grad-CAM
        ("mobilenet_v3_small", "hirescam"),
        ("mobilenet_v3_small", "gradcam"),
    ],
)
def test_map_equals_that_of_pytorch_grad_cam(name: str, method: str) -> None:
    network, layer, x = random_network(name), ATTENTION_LAYER[name], images()
    explanation = explain(SplitNetwork(network, layer), x, method)
    assert not explanation.degenerate.any()
    theirs = their_map(network, layer, x, explanation.targets, method)
    np.testing.assert_allclose(explanation.maps, theirs, atol=1e-4)


def their_whole_map(network: nn.Module, layer: str, x: Tensor, targets: Tensor, method: str) -> np.ndarray:
    """What pytorch-grad-cam returns, less the last step, which enlarges the map. It gets a network of its own."""
    own = copy.deepcopy(network)
    target = ClassifierOutputReST if method == "shapleycam" else ClassifierOutputTarget
    with THEIRS[method](own, [own.get_submodule(layer)]) as cam:
        cam.get_target_width_height = lambda _: None
        return cam(x, [target(int(wanted)) for wanted in targets])


NEVER_NEGATIVE = {  # layers behind a ReLU: elsewhere pytorch-grad-cam's Ablation-CAM sets channels to -10⁷ and not to 0
    "resnet18": [("layer4", "closed form"), ("layer3", "autograd")],
    "small": [("layer3", "closed form"), ("layer2", "autograd")],
}


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    if name == "resnet18":
        return random_network(name), images()
    network = seeded(lambda: compact_resnet(5, (6, 8, 12), 1)).double()
    with torch.no_grad():
        network.classifier.weight.normal_(0, 3, generator=torch.Generator().manual_seed(0))
    return network, images(3, 32, channels=1)


@pytest.mark.parametrize(
    ("name", "layer", "path"), [(name, *row) for name in NEVER_NEGATIVE for row in NEVER_NEGATIVE[name]]
)
@pytest.mark.parametrize("method", ["gradcam++", "xgradcam", "layercam", "shapleycam"])
def test_map_of_another_method_equals_that_of_pytorch_grad_cam(name: str, layer: str, path: str, method: str) -> None:
    network, x = network_of(name)
    if method == "gradcam++":  # theirs adds 1e-6 to twice the squared gradient: large gradients make that nothing
        network = copy.deepcopy(network)
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        linear.weight.data *= 300
    split = SplitNetwork(network, layer)
    assert (split.linear_head is not None) == (path == "closed form")
    explanation = explain(split, x, method)
    assert not explanation.degenerate.any()
    theirs = their_whole_map(network, layer, x, explanation.targets, method)
    np.testing.assert_allclose(explanation.maps, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer"), [("small", "layer3"), ("small", "layer2"), ("resnet18", "layer1")]
)  # resnet18's layer1 has 64 channels, layer4 512: that many passes of the whole network
@pytest.mark.parametrize("method", ["ablationcam", "scorecam"])
def test_map_by_changing_something_equals_that_of_pytorch_grad_cam(
    name: str, layer: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = network_of(name)
    x = x[:1, ..., :64, :64]
    # Theirs aligns the corners when it enlarges a mask; the authors' own code does not, and nor do we.
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))
    explanation = explain(SplitNetwork(network, layer), x, method)
    assert float(explanation.logits.max()) > 0  # theirs divides by it
    theirs = their_whole_map(network, layer, x, explanation.targets, method)
    np.testing.assert_allclose(explanation.maps, theirs, atol=1e-4)


def test_eigencam_of_centred_channels_equals_that_of_pytorch_grad_cam_up_to_the_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Theirs centres every channel, which the paper does not; behind an instance normalisation they are centred anyway.
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.InstanceNorm2d(6), nn.ReLU(), nn.Flatten(2), Mean(), nn.Linear(6, 3)
        )
    ).double()
    x = images(4, 12, channels=1)
    ours = explain(SplitNetwork(network, "1"), x, "eigencam")
    theirs = [their_whole_map(network, "1", x, ours.targets, "eigencam")]
    monkeypatch.setattr(eigen_cam, "get_2d_projection", lambda a: -get_2d_projection(a))
    theirs.append(their_whole_map(network, "1", x, ours.targets, "eigencam"))
    for one, *either in zip(ours.maps.numpy(), *theirs, strict=True):
        assert min(np.abs(one - their).max() for their in either) < 1e-4


@pytest.mark.parametrize("target", range(5))
def test_map_equals_that_of_pytorch_grad_cam_for_every_class_with_evidence(target: int) -> None:
    network, x, targets = random_network("resnet18"), images(), torch.tensor([target, target])
    explanation = explain(SplitNetwork(network, "layer4"), x, "hirescam", targets)
    theirs = their_map(network, "layer4", x, targets, "hirescam")
    np.testing.assert_allclose(explanation.maps, theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_closed_form_equals_the_autograd_path(name: str, method: str) -> None:
    split = SplitNetwork(random_network(name), ATTENTION_LAYER[name])
    assert split.linear_head is not None
    closed = explain(split, images(), method)
    split.linear_head = None
    by_autograd = explain(split, images(), method)
    assert not closed.degenerate.any()
    torch.testing.assert_close(closed.maps, by_autograd.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(closed.logits, by_autograd.logits)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4.1.conv2"),  # its input skips past it
        ("resnet18", "layer4.1.bn2"),  # and is added in place
        ("resnet18", "layer3"),
        ("resnet18", "layer4.0.downsample"),
        ("densenet121", "features.denseblock4"),
        ("mobilenet_v3_small", "features"),
        ("mobilenet_v3_small", "features.8"),
    ],
)
@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_layer_in_the_middle_agrees_with_autograd_through_the_whole_network(name: str, layer: str, method: str) -> None:
    network, x = random_network(name), images(side=64)
    explanation = explain(SplitNetwork(network, layer), x, method)
    assert not explanation.degenerate.any()
    expected = autograd_map(network, layer, x, explanation.targets, method)
    torch.testing.assert_close(explanation.maps.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_head_that_is_not_linear_agrees_with_autograd(method: str) -> None:
    network, x = seeded(MlpHead).double(), images(4, 16, channels=1)
    split = SplitNetwork(network, "body")
    assert split.linear_head is None
    explanation = explain(split, x, method)
    expected = autograd_map(network, "body", x, explanation.targets, method)
    assert not explanation.degenerate.all()
    torch.testing.assert_close(explanation.maps.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_in_place_relu_at_the_start_of_the_head_leaves_the_activations_as_they_were_received(method: str) -> None:
    network, x = random_network("densenet121"), images()
    split = SplitNetwork(network, "features")
    explanation = explain(split, x, method)
    before = split.trunk(x).activations
    assert (before < 0).any(), "the layer's output must be the one before the ReLU for this test to mean anything"
    torch.testing.assert_close(explanation.features.double(), before.mean((2, 3)), rtol=1e-5, atol=1e-5)
    expected = autograd_map(network, "features", x, explanation.targets, method)
    torch.testing.assert_close(explanation.maps.double(), expected, atol=1e-5, rtol=0)

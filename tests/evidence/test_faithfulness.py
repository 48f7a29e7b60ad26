"""Insertion, deletion and ROAD by hand and against pytorch-grad-cam; parameter randomisation on a small network."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import Tensor, nn

from dicom_gam.bundle.architectures import CompactResNet
from dicom_gam.core.attention import METHODS
from dicom_gam.core.network import SplitNetwork
from dicom_gam.evidence.faithfulness import (
    blurred,
    deletion,
    faithfulness,
    impute,
    insertion,
    predictor,
    randomisation,
    randomised,
    road,
    saliency_ranks,
    spearman,
)

# pytorch-grad-cam hands tensors to NumPy functions in a way that NumPy 2 means to drop
NUMPY_2 = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
WEIGHTS = torch.tensor([[3.0, -1.0], [1.0, 0.0]])


def linear(x: Tensor) -> Tensor:
    """Two classes; the first one's logit is Σ w·x, the other's is 0."""
    score = (x[:, 0] * WEIGHTS).sum((1, 2))
    return torch.stack([score, torch.zeros_like(score)], 1)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


X = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])  # mean 3/4
RANKS = torch.tensor([[[0, 3], [1, 2]]])  # the largest weight first, the negative one last
FIRST = torch.zeros(1, dtype=torch.long)


@pytest.mark.requirement("EVD-03")
def test_deletion_is_the_area_worked_by_hand():
    # Σ w·x while the pixels 3, 1, 0 and -1 one after the other become 3/4
    logits = [3.0, 3 * 0.75 + 1 - 1, 3 * 0.75 + 0.75 - 1, 3 * 0.75 + 0.75 - 1, 3 * 0.75]
    p = [sigmoid(z) for z in logits]
    by_hand = (p[0] / 2 + p[1] + p[2] + p[3] + p[4] / 2) / 4
    assert deletion(linear, X, RANKS, FIRST, steps=4).item() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.requirement("EVD-03")
def test_insertion_is_the_area_worked_by_hand():
    start = blurred(X)
    curve = []
    for known in range(5):
        mixed = start.clone()
        for place in ((0, 0), (1, 0), (1, 1), (0, 1))[:known]:
            mixed[0, 0][place] = X[0, 0][place]
        curve.append(sigmoid((mixed[0, 0] * WEIGHTS).sum().item()))
    by_hand = (curve[0] / 2 + curve[1] + curve[2] + curve[3] + curve[4] / 2) / 4
    assert insertion(linear, X, RANKS, FIRST, steps=4).item() == pytest.approx(by_hand, abs=1e-6)


def test_blurring_keeps_the_mean_grey_of_a_symmetric_image_and_flattens_it():
    x = torch.zeros(1, 2, 40, 40)
    x[:, :, 19:21, 19:21] = 1
    soft = blurred(x)
    assert soft.sum().item() == pytest.approx(x.sum().item(), rel=0.02)
    assert soft.max() < 0.1
    assert torch.allclose(soft, soft.flip(2), atol=1e-6)


def test_ranks_follow_the_map_and_ties_prefer_no_corner():
    ranks = saliency_ranks(torch.tensor([[[0.2, 0.9], [0.1, 0.5]]]), (2, 2))
    assert ranks.tolist() == [[[2, 0], [3, 1]]]
    flat = saliency_ranks(torch.zeros(1, 4, 4), (32, 32))[0].float()
    assert sorted(flat.flatten().tolist()) == list(range(1024))
    assert abs(flat[:16].mean() - flat[16:].mean()) < 60  # in order of position the halves would differ by 512


@NUMPY_2
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_the_solution_of_roads_linear_system(share):
    g = torch.Generator().manual_seed(4)
    x = torch.rand(3, 2, 24, 20, generator=g)
    ranks = saliency_ranks(torch.rand(3, 6, 5, generator=g), (24, 20))
    mask = ranks < share * 480
    ours, usual = impute(x, mask, tolerance=1e-5), impute(x, mask)
    assert torch.allclose(ours, usual, atol=0.01)  # less than the noise that ROAD adds
    for image, hole, filled in zip(x, mask, ours, strict=True):
        theirs = NoisyLinearImputer(noise=0)(image, (~hole).float())
        assert torch.allclose(filled, theirs, atol=2e-3)


def test_imputation_leaves_known_pixels_alone_and_an_image_without_any_becomes_its_mean():
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0] = True
    filled = impute(x, mask)
    assert torch.equal(filled[1], x[1])
    assert torch.allclose(filled[0], x[0].mean().expand(1, 8, 8), atol=1e-5)


class SoftLinear(nn.Module):
    """Probabilities of a network that looks at a few pixels in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).softmax(1)

    def logits(self, x: Tensor) -> Tensor:
        score = 4 * (x[:, 0, 8:16, 6:14].mean((1, 2)) - 0.5)
        return torch.stack([score, -score], 1)


@pytest.mark.requirement("EVD-03")
@NUMPY_2
def test_road_agrees_with_pytorch_grad_cam():
    g = torch.Generator().manual_seed(6)
    x = torch.rand(3, 1, 24, 20, generator=g)
    x[:, :, 8:16, 6:14] += 1
    maps = torch.rand(3, 24, 20, generator=g)
    maps[0, 8:16, 6:14] += 1  # one that is right, one that is wrong, one that is noise
    maps[1, 8:16, 6:14] -= 1
    network = SoftLinear()
    targets = torch.zeros(3, dtype=torch.long)
    wanted = [ClassifierOutputTarget(0)] * 3
    theirs = ROADCombined(percentiles=[20, 50, 80])(x, maps.numpy(), wanted, network)
    ours = road(network.logits, x, saliency_ranks(maps, (24, 20)), targets, removed=(0.2, 0.5, 0.8))
    assert np.allclose(ours.numpy(), theirs, atol=5e-3)
    assert ours[0] > 0.03 > abs(ours[2]) > -0.03 > ours[1]


def test_all_three_prefer_the_right_map_and_do_not_change_from_call_to_call():
    g = torch.Generator().manual_seed(7)
    x = 0.3 * torch.rand(2, 1, 24, 20, generator=g)
    x[:, :, 8:16, 6:14] += 1
    right = torch.zeros(2, 24, 20)
    right[:, 8:16, 6:14] = 1
    targets = torch.zeros(2, dtype=torch.long)
    logits = SoftLinear().logits
    good, bad = faithfulness(logits, x, right, targets), faithfulness(logits, x, 1 - right, targets)
    assert (good.insertion > bad.insertion).all()
    assert (good.deletion < bad.deletion).all()
    assert (good.road > 0).all()
    assert (bad.road < 0).all()
    assert torch.equal(good.road, faithfulness(logits, x, right, targets).road)


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = CompactResNet(3, (4, 8, 8), 1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def changed(a: nn.Module, b: nn.Module) -> set[str]:
    other = dict(b.named_parameters())
    return {name for name, parameter in a.named_parameters() if not torch.equal(parameter, other[name])}


@pytest.mark.requirement("EVD-03")
def test_randomisation_goes_from_the_head_towards_the_input_and_spares_the_original():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stages = [(name, changed(network, altered)) for name, altered in randomised(network, seed=0)]
    assert stages[0] == ("head", {"classifier.weight", "classifier.bias"})
    for (_, fewer), (_, more) in pairwise(stages):
        assert fewer < more
    convolutions = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert {f"{name}.weight" for name in convolutions} <= stages[-1][1]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_randomisation_is_repeatable_and_does_not_disturb_the_global_generator():
    network = small_network()
    torch.manual_seed(1)
    first = [a.state_dict()["stem.0.weight"].clone() for _, a in randomised(network, seed=3)]
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    second = [a.state_dict()["stem.0.weight"] for _, a in randomised(network, seed=3)]
    assert torch.equal(first[-1], second[-1])


def test_every_method_is_compared_at_every_stage():
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(9))
    found = randomisation(small_network(), "layer3", x, torch.tensor([0, 1, 2, 0]), tuple(METHODS))
    assert set(found) == set(METHODS)
    for stages in found.values():
        assert next(s.stage for s in stages) == "head"
        assert len(stages) == 4
        assert all(-1 <= s.spearman <= 1 for s in stages if s.n)
    assert found["hirescam"][0].pearson < 0.95  # another head, another map


def test_spearman_is_scipys():
    g = torch.Generator().manual_seed(10)
    a, r = torch.rand(3, 6, 5, generator=g).round(decimals=1), torch.rand(3, 6, 5, generator=g).round(decimals=1)
    theirs = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a.numpy(), r.numpy(), strict=True)]
    assert np.allclose(spearman(a, r).numpy(), theirs)


def test_the_predictor_is_the_network():
    network, x = small_network(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(predictor(SplitNetwork(network, "layer2"))(x), network(x), atol=1e-6)

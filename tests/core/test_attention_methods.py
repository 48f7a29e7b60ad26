"""Each method on numbers small enough to work out by hand, and the clusters of CF-CAM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN
from torch import Tensor, nn

from dicom_gam.core.attention import METHODS, explain
from dicom_gam.core.attention_methods import FusedMultiClassGradCAM, shapleycam
from dicom_gam.core.cluster_filter import ClusterFilterCAM, dbscan
from dicom_gam.core.head_case import HeadCase
from dicom_gam.core.network import SplitNetwork
from tests.core.networks import MlpHead, Reluctant, Skipping, images, seeded


@dataclass
class Given:
    """A head case of which only the activations, gradients and logits are known."""

    activations: Tensor
    by_class: dict[int, Tensor]
    logits: Tensor
    targets: Tensor

    def gradients(self, targets: Tensor | None = None) -> Tensor:
        return torch.stack([self.by_class[int(target)] for target in (self.targets if targets is None else targets)])


def case(activations: object, gradients: object) -> Given:
    """One image; activations and gradients are (C, h, w)."""
    a, g = torch.tensor(activations, dtype=torch.float32), torch.tensor(gradients, dtype=torch.float32)
    return Given(a[None], {0: g}, torch.zeros(1, 1), torch.tensor([0]))


def evidence(method: str, activations: object, gradients: object) -> list[object]:
    found: list[object] = METHODS[method](case(activations, gradients))[0].tolist()  # type: ignore[arg-type]
    return found


def test_hirescam_and_gradcam_differ_where_the_gradient_varies_over_space() -> None:
    activations, gradients = [[[1.0, 2.0]], [[3.0, 4.0]]], [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert evidence("hirescam", activations, gradients) == [[1.0, 4.0]]
    assert evidence("gradcam", activations, gradients) == [[2.0, 3.0]]  # both weights are 1/2


def test_gradcam_plus_plus_weighs_positive_gradients_by_alpha() -> None:
    # channel 0: sum 4, alpha = 1 / (2 + 2·4) = 0.1 where g = 2, weight 0.2; channel 1: g < 0, no weight
    activations, gradients = [[[1.0, 3.0]], [[5.0, 7.0]]], [[[2.0, 0.0]], [[-1.0, -1.0]]]
    assert evidence("gradcam++", activations, gradients) == [[pytest.approx(0.2), pytest.approx(0.6)]]


def test_gradcam_plus_plus_survives_a_denominator_of_zero() -> None:
    assert evidence("gradcam++", [[[-1.0, -1.0]]], [[[1.0, 1.0]]]) == [[-2.0, -2.0]]  # 2 + 1·(-2) = 0 becomes 1


def test_xgradcam_weighs_gradients_by_the_share_of_the_activation() -> None:
    # channel 0: (2·1 + 0·3) / 4 = 0.5; channel 1 is silent and has no weight
    activations, gradients = [[[1.0, 3.0]], [[0.0, 0.0]]], [[[2.0, 0.0]], [[9.0, 9.0]]]
    assert evidence("xgradcam", activations, gradients) == [[0.5, 1.5]]


def test_layercam_takes_positive_gradients_only_at_their_own_place() -> None:
    assert evidence("layercam", [[[1.0, 3.0]], [[5.0, 7.0]]], [[[2.0, -4.0]], [[-1.0, 1.0]]]) == [[2.0, 7.0]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("channels", [2, 9])  # fewer and more than there are locations
def test_eigencam_of_a_rank_one_layer_is_its_pattern_whatever_its_sign(channels: int, sign: float) -> None:
    pattern = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    strengths = torch.linspace(1, 2, channels)
    activations = sign * strengths.view(-1, 1, 1) * pattern
    found = torch.tensor(evidence("eigencam", activations.tolist(), torch.zeros_like(activations).tolist()))
    torch.testing.assert_close(found, pattern * strengths.norm())


def test_fmgcam_keeps_at_each_location_the_class_with_most_evidence() -> None:
    # Grad-CAM of class 0: [4, 1, -1], of class 1: [1, 3, -2]; kept: [4, 0, -1] and [0, 3, 0], divided by √17 and 3
    activations = torch.tensor([[[4.0, 1.0, -1.0]], [[1.0, 3.0, -2.0]]])
    gradients = {0: torch.tensor([[[1.0]], [[0.0]]]), 1: torch.tensor([[[0.0]], [[1.0]]])}
    given = Given(activations[None], gradients, torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    fused = FusedMultiClassGradCAM(classes=3)(given)  # type: ignore[arg-type]
    torch.testing.assert_close(fused, torch.tensor([[[4 / 17**0.5, 1.0, -1 / 17**0.5]]]))


def test_fmgcam_of_one_class_is_gradcam_of_the_target_even_where_it_is_not_the_most_probable() -> None:
    gradients = {0: torch.tensor([[[1.0]]]), 1: torch.tensor([[[5.0]]])}
    given = Given(torch.tensor([[[[3.0, 4.0]]]]), gradients, torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    fused = FusedMultiClassGradCAM(classes=1)(given)  # type: ignore[arg-type]
    torch.testing.assert_close(fused, torch.tensor([[[0.6, 0.8]]]))  # [3, 4] / 5


NETWORKS = {"linear behind a ReLU": Reluctant, "two linear layers": MlpHead, "skip connection": Skipping}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_ablationcam_is_the_fall_of_the_logit_for_each_channel_set_to_zero(build: type[nn.Module]) -> None:
    split, x = SplitNetwork(seeded(build), "body"), images(3, 16, channels=1).float()
    trunk = split.trunk(x)
    targets = split.head(trunk.activations, trunk.carried).argmin(1)
    whole = split.head(trunk.activations, trunk.carried).gather(1, targets[:, None])
    total = torch.zeros_like(trunk.activations[:, 0])
    for channel in range(trunk.activations.shape[1]):
        ablated = trunk.activations.clone()
        ablated[:, channel] = 0
        fall = whole - split.head(ablated, trunk.carried).gather(1, targets[:, None])
        total += fall[:, :, None] * trunk.activations[:, channel]
    expected = total.clamp_min(0)
    found = explain(split, x, "ablationcam", targets)
    assert (whole < 0).any(), "a negative logit must not turn the map upside down"
    torch.testing.assert_close(found.maps, _scaled(expected).detach(), atol=1e-4, rtol=0)


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


@pytest.mark.parametrize("method", METHODS)
def test_closed_form_behind_a_relu_equals_the_path_by_autograd(method: str) -> None:
    split, x = SplitNetwork(seeded(Reluctant), "body"), images(3, 16, channels=1).float()
    assert split.linear_head is not None
    closed, split.linear_head = explain(split, x, method), None
    assert not closed.degenerate.any()
    torch.testing.assert_close(closed.maps, explain(split, x, method).maps, atol=1e-5, rtol=0)


def test_shapleycam_counts_half_of_the_curvature() -> None:
    # One location, A = [2, 1], logits y = A. U = y_0 + ln p_0, so ∂U/∂A = [2 - p_0, -p_1] and H = -(diag p - p pᵀ);
    # with p = softmax(2, 1) = [0.7311, 0.2689]: H·A = [-0.1966, 0.1966], weights [1.3672, -0.3672], evidence 2.3672
    network = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    network[3].weight.data = torch.eye(2)
    split = SplitNetwork(network, "0")
    closed, x = split.linear_head, torch.tensor([[[[2.0]], [[1.0]]]])
    trunk = split.trunk(x)
    leaf = trunk.activations.detach().requires_grad_()
    for head in (closed, None):
        split.linear_head = head
        tracked = None if head else (leaf, split.head(leaf))
        case = HeadCase(split, x, trunk, trunk.activations, x[:, :, 0, 0], torch.tensor([0]), tracked)
        with torch.no_grad():
            found = shapleycam(case)
        assert float(found) == pytest.approx(2.3672, abs=1e-4)


@dataclass(frozen=True)
class Clustered:
    """Channels of three patterns with a little noise on each, a few strong ones and a few like no other."""

    seed: int
    side: int = 5

    def activations(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        patterns = torch.rand(3, self.side, self.side, generator=generator)
        alike = patterns.repeat(6, 1, 1) + 0.02 * torch.rand(18, self.side, self.side, generator=generator)
        lonely = 1.2 * torch.rand(3, self.side, self.side, generator=generator)
        strong = 3 * torch.rand(6, self.side, self.side, generator=generator)
        return torch.cat([strong, alike, lonely])[None]


def by_the_book(a: np.ndarray, g: np.ndarray, weights: str, sigma: float) -> np.ndarray:
    """CF-CAM with scikit-learn's DBSCAN and SciPy's Gaussian filter, channel by channel."""
    flat = a.reshape(len(a), -1)
    norms = np.linalg.norm(flat, axis=1)
    strong = norms >= np.percentile(norms, 75)
    rest = np.flatnonzero(~strong)
    between = cdist(flat[rest], flat[rest])
    radius = np.percentile(between[np.triu_indices(len(rest), 1)], 25)
    labels = DBSCAN(eps=radius, min_samples=max(2, int(0.05 * len(rest)))).fit_predict(flat[rest])
    w = np.where(strong, g.mean((1, 2)), np.nan)
    for label in set(labels) - {-1}:
        members = rest[labels == label]
        w[members] = gaussian_filter(g[members].mean(0), sigma, mode="constant", truncate=4).mean()
    if weights == "softmax":
        exponent = np.where(np.isnan(w), -np.inf, w)
        w = np.exp(exponent) / np.exp(exponent).sum()
    assert {-1, 0, 1} <= set(labels), "the test needs clusters and noise"
    return np.nansum(w[:, None, None] * a, axis=0)


@pytest.mark.parametrize("weights", ["linear", "softmax"])
@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_cfcam_is_what_scikit_learn_and_scipy_make_of_the_published_steps(
    seed: int, sigma: float, weights: str
) -> None:
    a = Clustered(seed).activations()
    g = torch.randn(a.shape[1:], generator=torch.Generator().manual_seed(seed + 10))
    given = Given(a, {0: g}, torch.zeros(1, 1), torch.tensor([0]))
    found = ClusterFilterCAM(weights, sigma)(given)[0]  # type: ignore[arg-type]
    expected = by_the_book(a[0].double().numpy(), g.double().numpy(), weights, sigma)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_softmax_weights_make_cfcam_blind_to_the_class_and_linear_ones_do_not() -> None:
    # A channel for each half of the image; class 0 wants the left and not the right, class 1 the reverse.
    left = torch.zeros(7, 7)
    left[:, :3] = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    halves = torch.stack([left, left.flip(1)])
    gradients = {0: torch.tensor([1.0, -1.0]).view(2, 1, 1) / 49, 1: torch.tensor([-1.0, 1.0]).view(2, 1, 1) / 49}
    correlation = {}
    for weights in ("linear", "softmax"):
        maps = []
        for target in (0, 1):
            given = Given(halves[None], gradients, torch.zeros(1, 2), torch.tensor([target]))
            maps.append(ClusterFilterCAM(weights)(given).clamp_min(0).flatten())  # type: ignore[arg-type]
        correlation[weights] = float(torch.corrcoef(torch.stack(maps))[0, 1])
    assert correlation["linear"] < 0
    assert correlation["softmax"] > 0.99


def test_cfcam_of_channels_that_are_all_alike_or_all_silent_says_so_and_does_not_fail() -> None:
    alike = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).repeat(8, 1, 1)
    for activations in (alike, torch.zeros(8, 4, 4), alike[:1], torch.stack([alike[0], 2 * alike[0]])):
        given = Given(activations[None], {0: torch.ones_like(activations)}, torch.zeros(1, 1), torch.tensor([0]))
        for weights in ("linear", "softmax"):
            found = ClusterFilterCAM(weights)(given)  # type: ignore[arg-type]
            assert found.shape == (1, 4, 4)
            assert found.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30),
    st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    st.integers(1, 5),
)
def test_clusters_are_those_of_scikit_learn(points: list[tuple[int, int]], radius: float, min_samples: int) -> None:
    between = cdist(np.array(points), np.array(points))
    expected = DBSCAN(eps=radius, min_samples=min_samples, metric="precomputed").fit_predict(between)
    np.testing.assert_array_equal(dbscan(between, radius, min_samples), expected)

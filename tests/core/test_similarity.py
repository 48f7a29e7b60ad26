"""The similarities against other people's code, by hand, and in general."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cosine as cosine_distance
from scipy.stats import entropy, pearsonr, wasserstein_distance
from skimage.metrics import structural_similarity
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from dicom_gam.core.similarity import (
    DIRECTIONS,
    HIGHER_IS_BETTER,
    REGION,
    SIMILARITIES,
    SMOOTHING,
    cosine,
    dice,
    iou,
    kl,
    nearest_prototype,
    pearson,
    similarities,
    soft_iou,
    ssim,
    wasserstein,
    wasserstein_intensity,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # POT's docstrings hold invalid escapes, which Python remarks on when it compiles
    import ot

Map = NDArray[np.float32]


def random_maps(count: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Maps as `normalise` gives them: about half of it zero, the maximum one."""
    raw = (torch.rand(count, h, w, generator=torch.Generator().manual_seed(seed)) - 0.4).clamp_min(0)
    return raw / raw.amax((1, 2), keepdim=True)


def _positions(h: int, w: int) -> NDArray[np.float64]:
    """(h·w, 2) cells as (column, row), in units of the diagonal."""
    rows, columns = np.mgrid[:h, :w]
    return np.stack([columns.ravel(), rows.ravel()], 1) / math.hypot(h - 1, w - 1)


def _directions() -> NDArray[np.float64]:
    angles = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    return np.stack([np.cos(angles), np.sin(angles)])


def _weights(x: Map) -> NDArray[np.float64]:
    flat = x.ravel().astype(np.float64)
    return flat / flat.sum()


def _sliced_by_scipy(a: Map, r: Map) -> float:
    along = _positions(*a.shape) @ _directions()
    return float(np.mean([wasserstein_distance(line, line, _weights(a), _weights(r)) for line in along.T]))


def _sliced_by_pot(a: Map, r: Map) -> float:
    x = _positions(*a.shape)
    return float(ot.sliced_wasserstein_distance(x, x, _weights(a), _weights(r), projections=_directions(), p=1))


ORACLES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Map, Map], float]]] = {
    "iou by scikit-learn": (iou, lambda a, r: jaccard_score((r >= REGION).ravel(), (a >= REGION).ravel())),
    "dice by scikit-learn": (dice, lambda a, r: f1_score((r >= REGION).ravel(), (a >= REGION).ravel())),
    "ssim by skimage": (ssim, lambda a, r: structural_similarity(a, r, win_size=7, data_range=1)),
    "cosine by scipy": (cosine, lambda a, r: 1 - cosine_distance(a.ravel(), r.ravel())),
    "pearson by scipy": (pearson, lambda a, r: pearsonr(a.ravel(), r.ravel()).statistic),
    "kl by scipy": (kl, lambda a, r: entropy(r.ravel() + SMOOTHING, a.ravel() + SMOOTHING)),
    "wasserstein by scipy": (wasserstein, _sliced_by_scipy),
    "wasserstein by POT": (wasserstein, _sliced_by_pot),
    "wasserstein_intensity by POT": (
        wasserstein_intensity,
        lambda a, r: float(ot.wasserstein_1d(a.ravel(), r.ravel(), p=1)),
    ),
}


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("shape", [(7, 7), (12, 12), (9, 16)])
def test_similarity_equals_the_oracle_s(oracle: str, shape: tuple[int, int]) -> None:
    ours, theirs = ORACLES[oracle]
    a, r = random_maps(5, *shape, seed=1), random_maps(5, *shape, seed=2)
    expected = [theirs(x, y) for x, y in zip(a.numpy(), r.numpy(), strict=True)]
    np.testing.assert_allclose(ours(a, r), expected, atol=2e-5)


def test_one_direction_s_distance_is_pot_s_one_dimensional_distance() -> None:
    # A map of one row lies along direction 0; the other directions see it shortened by their cosine.
    a, r = random_maps(1, 1, 9, seed=1), random_maps(1, 1, 9, seed=2)
    line = np.arange(9) / 8
    exact = ot.wasserstein_1d(line, line, _weights(a[0].numpy()), _weights(r[0].numpy()), p=1)
    shortened = np.abs(np.cos(np.arange(DIRECTIONS) * np.pi / DIRECTIONS)).mean()
    assert wasserstein(a, r).item() == pytest.approx(exact * shortened, abs=1e-6)


def test_sliced_distance_is_never_above_the_exact_earth_mover_s() -> None:
    a, r = random_maps(10, 7, 7, seed=3), random_maps(10, 7, 7, seed=4)
    x = _positions(7, 7)
    exact = [
        ot.emd2(_weights(i), _weights(j), ot.dist(x, x, "euclidean")) for i, j in zip(a.numpy(), r.numpy(), strict=True)
    ]
    sliced = wasserstein(a, r).numpy()
    assert (sliced <= np.array(exact) + 1e-6).all()
    assert (sliced > 0.3 * np.array(exact)).all()


A = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
R = torch.tensor([[[1.0, 0.0], [0.5, 0.25]]])


@pytest.mark.parametrize(
    ("function", "by_hand"),
    [
        (iou, 1 / 3),  # {00, 01} and {00, 10} share one of three
        (dice, 2 / 4),
        (soft_iou, 1 / (1 + 0.5 + 0.5 + 0.25)),
        (cosine, 1 / math.sqrt(1.25 * 1.3125)),
        # centred: a = (.625, .125, -.375, -.375), r = (.5625, -.4375, .0625, -.1875)
        (pearson, 0.34375 / math.sqrt(0.6875 * 0.546875)),
        (wasserstein_intensity, 0.25 / 4),  # sorted (0, 0, .5, 1) against (0, .25, .5, 1)
    ],
)
def test_two_by_two_maps_by_hand(function: Callable[[Tensor, Tensor], Tensor], by_hand: float) -> None:
    assert function(A, R).item() == pytest.approx(by_hand, abs=1e-6)


def test_kl_of_two_cells_by_hand() -> None:
    a, r = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    big, small = 1.001 / 1.002, 0.001 / 1.002
    assert kl(a, r).item() == pytest.approx((big - small) * math.log(big / small), rel=1e-5)


def test_wasserstein_between_opposite_corners_is_the_mean_projection_of_the_diagonal() -> None:
    a, r = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    a[0, 0, 0] = r[0, 2, 2] = 1
    angles = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    assert wasserstein(a, r).item() == pytest.approx(np.abs(np.cos(angles - np.pi / 4)).mean(), abs=1e-6)


def test_ssim_of_three_by_three_maps_uses_one_three_by_three_window() -> None:
    a, r = random_maps(4, 3, 3, seed=5), random_maps(4, 3, 3, seed=6)
    expected = [
        structural_similarity(x, y, win_size=3, data_range=1) for x, y in zip(a.numpy(), r.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(a, r), expected, atol=1e-5)


def test_ssim_of_seven_by_seven_maps_is_one_window() -> None:
    a, r = random_maps(1, 7, 7, seed=5).double(), random_maps(1, 7, 7, seed=6).double()
    x, y = a.numpy().ravel(), r.numpy().ravel()
    (vx, cxy), (_, vy) = np.cov(x, y)
    top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cxy + 9e-4)
    bottom = (x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (vx + vy + 9e-4)
    assert ssim(a, r).item() == pytest.approx(top / bottom, abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 5), (4, 4), (6, 6)])
def test_maps_smaller_than_the_window_still_have_every_similarity(shape: tuple[int, int]) -> None:
    a, r = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)), torch.rand(3, *shape)
    assert all(torch.isfinite(value).all() for value in similarities(a, r).values())


def test_rotated_map_is_far_in_position_and_the_same_in_intensity() -> None:
    a = torch.zeros(1, 8, 8)
    a[0, :3, :3] = torch.tensor([[0.2, 0.4, 0.6], [0.4, 1.0, 0.4], [0.1, 0.4, 0.2]])
    rotated = a.rot90(2, (1, 2))
    assert wasserstein_intensity(a, rotated).item() == 0
    assert wasserstein(a, rotated).item() > 0.4


def test_all_zero_map_agrees_with_nothing_and_counts_as_spread_evenly() -> None:
    zero, even = torch.zeros(1, 5, 5), torch.ones(1, 5, 5)
    values = similarities(zero, random_maps(1, 5, 5))
    assert values["iou"].item() == values["dice"].item() == values["soft_iou"].item() == values["cosine"].item() == 0
    assert wasserstein(zero, even).item() == pytest.approx(0, abs=1e-6)


def test_two_empty_regions_do_not_agree() -> None:
    faint = torch.full((1, 4, 4), 0.4)
    assert iou(faint, faint).item() == 0


PERFECT = dict.fromkeys(SIMILARITIES, 1.0) | {"kl": 0.0, "wasserstein": 0.0}
RANGES = {"ssim": (-1, 1), "pearson": (-1, 1), "kl": (0, math.inf), "wasserstein": (0, 1)}
SYMMETRIC = sorted(SIMILARITIES.keys() - {"kl"})


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    h, w, seed = draw(st.integers(2, 12)), draw(st.integers(2, 12)), draw(st.integers(0, 10_000))
    g = torch.Generator().manual_seed(seed)
    sharpness = draw(st.sampled_from([0.2, 1.0, 5.0, 30.0]))
    raw = torch.rand(2, 1, h, w, generator=g) ** sharpness
    raw = raw - raw.amin((2, 3), keepdim=True)
    a, r = raw / raw.amax((2, 3), keepdim=True).clamp_min(1e-12)
    return a, r


@given(pairs())
@settings(max_examples=40, deadline=None)
def test_map_is_perfectly_similar_to_itself(pair: tuple[Tensor, Tensor]) -> None:
    for name, value in similarities(pair[0], pair[0].clone()).items():
        assert value.item() == pytest.approx(PERFECT[name], abs=2e-5), name


@given(pairs())
@settings(max_examples=40, deadline=None)
def test_every_similarity_stays_in_its_range(pair: tuple[Tensor, Tensor]) -> None:
    for name, value in similarities(*pair).items():
        low, high = RANGES.get(name, (0, 1))
        assert low - 1e-5 <= value.item() <= high + 1e-5, name


@given(pairs())
@settings(max_examples=40, deadline=None)
def test_all_but_kl_are_symmetric(pair: tuple[Tensor, Tensor]) -> None:
    a, r = pair
    for name in SYMMETRIC:
        assert SIMILARITIES[name](a, r).item() == pytest.approx(SIMILARITIES[name](r, a).item(), abs=1e-5), name


def test_kl_is_not_symmetric() -> None:
    narrow, wide = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[1.0, 0.5, 0.5]]])
    assert kl(narrow, wide).item() > 2 * kl(wide, narrow).item()


@given(pairs())
@settings(max_examples=40, deadline=None)
def test_dice_follows_from_iou(pair: tuple[Tensor, Tensor]) -> None:
    overlap = iou(*pair).item()
    assert dice(*pair).item() == pytest.approx(2 * overlap / (1 + overlap), abs=1e-6)


@given(st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_shift_by_more_cells_is_a_larger_wasserstein_distance(shift: int) -> None:
    a, near, far = torch.zeros(1, 4, 9), torch.zeros(1, 4, 9), torch.zeros(1, 4, 9)
    a[0, 1, 0] = near[0, 1, shift] = far[0, 1, shift + 1] = 1
    assert wasserstein(a, far).item() > wasserstein(a, near).item()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_batch_equals_one_by_one(name: str) -> None:
    a, r = random_maps(6, 12, 12, seed=7), random_maps(6, 12, 12, seed=8)
    batch = SIMILARITIES[name](a, r)
    single = torch.cat([SIMILARITIES[name](a[i : i + 1], r[i : i + 1]) for i in range(6)])
    assert batch.shape == (6,)
    torch.testing.assert_close(batch, single, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(HIGHER_IS_BETTER))
def test_better_overlap_is_a_higher_value(name: str) -> None:
    r = torch.zeros(1, 8, 8)
    r[0, 2:6, 2:6] = 1
    assert SIMILARITIES[name](r.roll(1, 2), r).item() > SIMILARITIES[name](r.roll(3, 2), r).item()


def test_nearest_prototype_is_the_one_of_highest_cosine() -> None:
    prototypes = torch.eye(4).view(4, 2, 2)
    maps = torch.tensor([[[0.1, 0.9], [0.2, 0.0]], [[0.0, 0.0], [0.1, 0.5]]])
    assert nearest_prototype(maps, prototypes).tolist() == [1, 3]

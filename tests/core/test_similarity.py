"""The similarities against other people's code, by hand, and in general."""

from __future__ import annotations

import doctest
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

from dicom_gam.core import similarity
from dicom_gam.core.similarity import (
    DIRECTIONS,
    HIGHER_IS_BETTER,
    REGION,
    SIMILARITIES,
    SMOOTHING,
    compare,
    cosine,
    dice,
    iou,
    kl,
    nearest_prototype,
    pearson,
    prepare,
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


def random_maps(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Maps as `normalise` gives them: about half of it zero, the maximum one."""
    raw = (torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) - 0.4).clamp_min(0)
    return raw / raw.flatten(1).amax(1).view(-1, *[1] * len(shape))


def _positions(*shape: int) -> NDArray[np.float64]:
    """(cells, axes) cells in units of the diagonal."""
    cells = np.stack([axis.ravel() for axis in np.mgrid[tuple(slice(side) for side in shape)]], 1)
    return cells / math.hypot(*(side - 1 for side in shape))


def _directions(axes: int) -> NDArray[np.float64]:
    """(axes, directions): as the docstring of `wasserstein` says it, in the order of the map's axes."""
    if axes == 2:
        angles = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
        return np.stack([np.sin(angles), np.cos(angles)])
    steps = np.array([(0, 0, 1), (0, 1, 0), (1, 0, 0)] + [(0, 1, s) for s in (-1, 1)] + [(1, 0, s) for s in (-1, 1)]
                     + [(1, s, 0) for s in (-1, 1)] + [(1, s, t) for s in (-1, 1) for t in (-1, 1)])  # fmt: skip
    return (steps / np.linalg.norm(steps, axis=1, keepdims=True)).T


def _weights(x: Map) -> NDArray[np.float64]:
    flat = x.ravel().astype(np.float64)
    return flat / flat.sum()


def _sliced_by_scipy(a: Map, r: Map) -> float:
    along = _positions(*a.shape) @ _directions(a.ndim)
    return float(np.mean([wasserstein_distance(line, line, _weights(a), _weights(r)) for line in along.T]))


def _sliced_by_pot(a: Map, r: Map) -> float:
    x = _positions(*a.shape)
    return float(ot.sliced_wasserstein_distance(x, x, _weights(a), _weights(r), projections=_directions(a.ndim), p=1))


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


@pytest.mark.requirement("VER-04")
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("shape", [(7, 7), (12, 12), (9, 16), (7, 7, 7), (8, 9, 10)])
def test_similarity_equals_the_oracle_s(oracle: str, shape: tuple[int, ...]) -> None:
    ours, theirs = ORACLES[oracle]
    a, r = random_maps(5, *shape, seed=1), random_maps(5, *shape, seed=2)
    expected = [theirs(x, y) for x, y in zip(a.numpy(), r.numpy(), strict=True)]
    np.testing.assert_allclose(ours(a, r), expected, atol=2e-5)


@pytest.mark.requirement("VER-04")
def test_one_direction_s_distance_is_pot_s_one_dimensional_distance() -> None:
    # A map of one row lies along direction 0; the other directions see it shortened by their cosine.
    a, r = random_maps(1, 1, 9, seed=1), random_maps(1, 1, 9, seed=2)
    line = np.arange(9) / 8
    exact = ot.wasserstein_1d(line, line, _weights(a[0].numpy()), _weights(r[0].numpy()), p=1)
    shortened = np.abs(np.cos(np.arange(DIRECTIONS) * np.pi / DIRECTIONS)).mean()
    assert wasserstein(a, r).item() == pytest.approx(exact * shortened, abs=1e-6)


@pytest.mark.requirement("VER-04")
@pytest.mark.parametrize("shape", [(7, 7), (3, 4, 5)])
def test_sliced_distance_is_never_above_the_exact_earth_mover_s(shape: tuple[int, ...]) -> None:
    a, r = random_maps(10, *shape, seed=3), random_maps(10, *shape, seed=4)
    x = _positions(*shape)
    exact = [
        ot.emd2(_weights(i), _weights(j), ot.dist(x, x, "euclidean")) for i, j in zip(a.numpy(), r.numpy(), strict=True)
    ]
    sliced = wasserstein(a, r).numpy()
    assert (sliced <= np.array(exact) + 1e-6).all()
    assert (sliced > 0.25 * np.array(exact)).all()


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


def test_ssim_of_a_flat_volume_uses_the_largest_odd_length_of_every_axis() -> None:
    a, r = random_maps(1, 2, 4, 8, seed=5).double(), random_maps(1, 2, 4, 8, seed=6).double()
    indices = []
    for z, y, x in [(z, y, x) for z in range(2) for y in range(2) for x in range(2)]:
        box = np.s_[z : z + 1, y : y + 3, x : x + 7]
        p, q = a[0].numpy()[box].ravel(), r[0].numpy()[box].ravel()
        (vp, cpq), (_, vq) = np.cov(p, q)
        top = (2 * p.mean() * q.mean() + 1e-4) * (2 * cpq + 9e-4)
        indices.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (vp + vq + 9e-4)))
    assert ssim(a, r).item() == pytest.approx(np.mean(indices), abs=1e-7)


def test_ssim_of_seven_by_seven_maps_is_one_window() -> None:
    a, r = random_maps(1, 7, 7, seed=5).double(), random_maps(1, 7, 7, seed=6).double()
    x, y = a.numpy().ravel(), r.numpy().ravel()
    (vx, cxy), (_, vy) = np.cov(x, y)
    top = (2 * x.mean() * y.mean() + 1e-4) * (2 * cxy + 9e-4)
    bottom = (x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (vx + vy + 9e-4)
    assert ssim(a, r).item() == pytest.approx(top / bottom, abs=1e-7)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 5), (4, 4), (6, 6), (1, 1, 1), (2, 7, 7), (4, 3, 2)])
def test_maps_smaller_than_the_window_still_have_every_similarity(shape: tuple[int, ...]) -> None:
    a, r = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)), torch.rand(3, *shape)
    assert all(torch.isfinite(value).all() for value in similarities(a, r).values())


@pytest.mark.requirement("VER-05")
@pytest.mark.parametrize("shape", [(8, 8), (6, 7, 8)])
def test_rotated_map_is_far_in_position_and_the_same_in_intensity(shape: tuple[int, ...]) -> None:
    a = torch.zeros(1, *shape)
    a[0, ..., :3, :3] = torch.tensor([[0.2, 0.4, 0.6], [0.4, 1.0, 0.4], [0.1, 0.4, 0.2]])
    rotated = a.rot90(2, (-2, -1))
    assert wasserstein_intensity(a, rotated).item() <= 1e-6
    assert wasserstein(a, rotated).item() > 0.2


@pytest.mark.requirement("VER-05")
def test_the_documentation_s_example_of_a_rotated_map_is_true() -> None:
    found = doctest.DocTestFinder().find(wasserstein, globs=vars(similarity))
    (example,) = [test for test in found if test.examples]
    outcome = doctest.DocTestRunner().run(example)
    assert (outcome.attempted > 4, outcome.failed) == (True, 0)


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
    shape = draw(st.lists(st.integers(2, 12), min_size=2, max_size=3))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    sharpness = draw(st.sampled_from([0.2, 1.0, 5.0, 30.0]))
    raw = torch.rand(2, math.prod(shape), generator=g) ** sharpness
    raw = raw - raw.amin(1, keepdim=True)
    a, r = (raw / raw.amax(1, keepdim=True).clamp_min(1e-12)).view(2, 1, *shape)
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


def test_nearest_prototype_of_a_volume_is_the_one_of_highest_cosine() -> None:
    prototypes = torch.eye(8).view(8, 2, 2, 2)
    maps = torch.zeros(2, 2, 2, 2)
    maps[0, 1, 0, 1], maps[1, 0, 1, 0] = 0.7, 0.2
    assert nearest_prototype(maps, prototypes).tolist() == [5, 2]


def test_nearest_prototype_is_only_looked_for_among_the_allowed_ones() -> None:
    prototypes = torch.eye(4).view(4, 2, 2)
    maps = torch.tensor([[[0.1, 0.9], [0.2, 0.0]]] * 2)
    allowed = torch.tensor([[True, False, True, False], [False, True, True, True]])
    assert nearest_prototype(maps, prototypes, allowed).tolist() == [2, 1]


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (7, 7), (12, 12), (8, 9, 10)])
def test_prepared_references_give_the_same_similarities(shape: tuple[int, ...]) -> None:
    a, prototypes = random_maps(9, *shape, seed=1), random_maps(4, *shape, seed=2)
    nearest = nearest_prototype(a, prototypes)
    expected = similarities(a, prototypes[nearest])
    prepared = prepare(prototypes)
    with torch.inference_mode():
        ways = [
            similarities(a, prepared.take(nearest)),
            compare(a, prepared),
            compare(a, prepared.to(torch.device("cpu"))),
            {name: function(a, prepared.take(nearest)) for name, function in SIMILARITIES.items()},
        ]
    for way in ways:
        assert list(way) == list(SIMILARITIES)
        for name, value in way.items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6)


def test_one_comparison_serves_a_batch_of_several_classes() -> None:
    a, owner = random_maps(5, 7, 7, seed=3), torch.tensor([0, 0, 0, 1, 1, 2])
    prototypes, target = random_maps(6, 7, 7, seed=4), torch.tensor([1, 0, 2, 1, 0])
    together = compare(a, prepare(prototypes), allowed=target[:, None] == owner)
    for i in range(5):
        alone = compare(a[i : i + 1], prepare(prototypes[owner == target[i]]))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i : i + 1], value, atol=1e-6, rtol=1e-6)


def test_prepared_references_do_not_change_when_their_source_does() -> None:
    a, prototypes = random_maps(3, 7, 7, seed=3), random_maps(2, 7, 7, seed=4)
    prepared, before = prepare(prototypes), compare(a, prepare(prototypes))
    prototypes.zero_()
    for name, value in compare(a, prepared).items():
        assert torch.equal(value, before[name]), name


def test_similarities_with_prepared_references_have_gradients() -> None:
    a = random_maps(2, 7, 7, seed=3).requires_grad_()
    with torch.inference_mode():
        prepared = prepare(random_maps(2, 7, 7, seed=4))
    sum(value.sum() for value in similarities(a, prepared).values()).backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().sum() > 0

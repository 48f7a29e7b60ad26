"""Early features against numpy, scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as mahalanobis_distance
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf

from dicom_gam.core.early import channel_statistics, ledoit_wolf, mahalanobis, structure_map, whitening_matrix


def correlated(n: int, d: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64)
    return x - x.mean(0)


@pytest.mark.requirement("VER-06")
@pytest.mark.parametrize(("n", "d"), [(200, 6), (20, 6), (5, 12), (2, 3)])
def test_covariance_is_scikit_learn_s(n: int, d: int) -> None:
    x = correlated(n, d)
    expected, _ = sklearn_ledoit_wolf(x.numpy(), assume_centered=True)
    np.testing.assert_allclose(ledoit_wolf(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 6), (5, 12)])
def test_whitening_times_its_transpose_is_the_inverse_covariance(n: int, d: int) -> None:
    x = correlated(n, d)
    whitening = whitening_matrix(x).double()
    identity = whitening @ whitening.T @ ledoit_wolf(x)
    torch.testing.assert_close(identity, torch.eye(d, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.requirement("VER-06")
def test_distance_is_scipy_s_over_the_root_of_the_dimension() -> None:
    x, mean = correlated(100, 5), torch.arange(5.0)
    inverse = np.linalg.inv(ledoit_wolf(x).numpy())
    points = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    found = mahalanobis(points, mean, whitening_matrix(x))
    expected = [mahalanobis_distance(p, mean.numpy(), inverse) / np.sqrt(5) for p in points.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_distance_of_a_typical_vector_is_about_one() -> None:
    x = correlated(500, 8)
    distances = mahalanobis(x.float(), torch.zeros(8), whitening_matrix(x))
    assert distances.mean().item() == pytest.approx(1, abs=0.2)


def test_vectors_that_never_vary_still_have_a_finite_whitening() -> None:
    assert torch.isfinite(whitening_matrix(torch.zeros(10, 4))).all()


@pytest.mark.requirement("VER-06")
def test_structure_map_is_the_root_mean_square_over_channels_scaled_to_one() -> None:
    grid = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]], [[[1.0, 3.0]], [[1.0, -3.0]]]])
    assert structure_map(grid).tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]


def test_structure_map_of_an_even_grid_is_zero() -> None:
    assert not structure_map(torch.full((1, 3, 4, 4), 2.0)).any()


@pytest.mark.requirement("VER-06")
def test_channel_statistics_are_a_layer_s_means_then_its_spreads() -> None:
    grid = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    torch.testing.assert_close(channel_statistics(grid), torch.tensor([[2.0, 2.0, 2**0.5, 0.0]]))


def test_volumes_have_structure_maps_and_statistics_too() -> None:
    volume = torch.rand(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert structure_map(volume).shape == (3, 4, 4, 4)
    flat = volume.reshape(3, 2, 8, 8)  # the same cells in a plane
    torch.testing.assert_close(channel_statistics(volume), channel_statistics(flat))
    torch.testing.assert_close(structure_map(volume).flatten(1), structure_map(flat).flatten(1))

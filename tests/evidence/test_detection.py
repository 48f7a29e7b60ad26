"""AUROC, FPR at 95 % TPR and their intervals, against scikit-learn, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from dicom_gam.evidence.detection import acceptance_threshold, auroc, separation

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda values: np.array(values, float))


@pytest.mark.requirement("EVD-02")
@given(scores, scores)
def test_the_area_is_sklearns_with_ties_counting_one_half(expected, odd):
    truth = np.r_[np.zeros(len(expected)), np.ones(len(odd))]
    assert auroc(expected, odd)[0] == pytest.approx(roc_auc_score(truth, np.r_[expected, odd]))


@given(scores, scores)
def test_the_interval_holds_the_area_and_stays_within_0_and_1(expected, odd):
    area, (low, high) = auroc(expected, odd)
    assert 0 <= low <= area <= high <= 1


def test_delongs_variance_is_that_of_the_structural_components():
    g = np.random.default_rng(0)
    expected, odd = g.normal(0, 1, 40), g.normal(0.8, 1.5, 25)
    psi = (odd[:, None] > expected[None]).astype(float)
    area = psi.mean()
    error = np.sqrt(psi.mean(1).var(ddof=1) / 25 + psi.mean(0).var(ddof=1) / 40)
    half = 1.959964 * error / (area * (1 - area))
    logit = np.log(area / (1 - area))
    low, high = auroc(expected, odd)[1]
    assert low == pytest.approx(1 / (1 + np.exp(half - logit)), abs=1e-6)
    assert high == pytest.approx(1 / (1 + np.exp(-half - logit)), abs=1e-6)


def test_twelve_perfectly_separated_images_prove_only_so_much():
    area, (low, high) = auroc(np.arange(500.0), np.arange(1000.0, 1012.0))
    assert (area, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025 ** (1 / 12))


def test_an_almost_perfect_separation_never_proves_more_than_a_perfect_one():
    expected = np.arange(500.0)
    almost = np.r_[np.arange(1000.0, 1011.0), 498.5]
    assert auroc(expected, almost)[1][0] <= auroc(expected, np.arange(1000.0, 1012.0))[1][0]


@pytest.mark.requirement("EVD-02")
@pytest.mark.parametrize(("shift", "n", "m"), [(0.5, 60, 30), (1.5, 200, 15), (2.5, 200, 40)])
def test_the_interval_covers_the_true_area_at_least_about_95_times_in_100(shift, n, m):
    g = np.random.default_rng(1)
    truth = (g.normal(shift, 1, 2_000_000) > g.normal(0, 1, 2_000_000)).mean()
    covered = 0
    for _ in range(500):
        low, high = auroc(g.normal(0, 1, n), g.normal(shift, 1, m))[1]
        covered += low <= truth <= high
    assert covered / 500 >= 0.925


def test_the_threshold_accepts_95_of_100_and_ties_with_it():
    assert acceptance_threshold(np.arange(100.0)) == 94.0
    assert acceptance_threshold(np.arange(20.0)) == 18.0
    found = separation(np.arange(100.0), np.array([94.0, 94.5, 200.0, 10.0]))
    assert found.fpr_at_95_tpr == 0.5


@pytest.mark.requirement("EVD-02")
@given(scores, scores)
def test_fpr_at_95_tpr_is_where_sklearns_curve_first_reaches_95(expected, odd):
    truth = np.r_[np.ones(len(expected)), np.zeros(len(odd))]  # the expected images are the positives
    fpr, tpr, _ = roc_curve(truth, -np.r_[expected, odd], drop_intermediate=False)
    assert separation(expected, odd).fpr_at_95_tpr == pytest.approx(fpr[tpr >= 0.95 - 1e-9].min())


def test_an_infinite_score_is_the_oddest_of_all():
    assert auroc(np.array([0.0, 1.0]), np.array([np.inf, 2.0]))[0] == 1.0


@pytest.mark.parametrize(("expected", "odd"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_an_empty_sample_or_a_nan_is_refused(expected, odd):
    with pytest.raises(ValueError, match="nothing can be said"):
        separation(np.array(expected), np.array(odd))

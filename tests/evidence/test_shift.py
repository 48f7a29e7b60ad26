"""Effect sizes, p-values, intervals and power of the comparison with a site."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu, norm

from dicom_gam.evidence.detection import auroc
from dicom_gam.evidence.shift import (
    Shift,
    Stratum,
    holm,
    images_for_auc,
    images_for_share,
    power,
    shifts,
)
from dicom_gam.training.evaluation import interval


def column(values: list[float]) -> np.ndarray:
    return np.array(values, float)[:, None]


def test_the_effect_is_the_share_of_pairs_in_which_the_site_image_is_odder():
    found = shifts([Stratum(column([2, 3]), column([1, 2, 4]))])[0]
    assert found.auc == pytest.approx((1 + 0.5 + 0 + 1 + 1 + 0) / 6)


def test_each_image_is_ranked_inside_its_own_class():
    high, low = [101, 102, 103, 104], [1, 2, 3, 4]
    found = shifts([Stratum(column(high), column(high)), Stratum(column([2.5]), column(low))])[0]
    assert found.auc == pytest.approx(0.5)


def test_a_class_without_site_images_does_not_count():
    present = Stratum(column([2, 3, 5]), column([1, 2, 4]))
    absent = Stratum(np.empty((0, 1)), column([9, 9, 8]))
    assert shifts([present, absent]) == shifts([present])


@pytest.mark.parametrize("digits", [0, 1, 8])  # many ties, some, none
def test_with_one_class_the_p_value_is_mann_and_whitneys(digits):
    g = np.random.default_rng(digits)
    site, reference = g.normal(0.4, 1, (35, 1)).round(digits), g.normal(0, 1, (60, 1)).round(digits)
    found = shifts([Stratum(site, reference)])[0]
    expected = mannwhitneyu(
        site[:, 0], reference[:, 0], alternative="greater", use_continuity=False, method="asymptotic"
    )
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.auc == pytest.approx(expected.statistic / (35 * 60))


def test_with_several_classes_the_p_value_is_that_of_permuting_within_classes():
    g = np.random.default_rng(5)
    sizes = [(4, 20), (15, 50), (11, 30)]
    strata = [
        Stratum(g.normal(3 * k + 0.3, 1, (m, 1)).round(1), g.normal(3 * k, 1, (n, 1)).round(1))
        for k, (m, n) in enumerate(sizes)
    ]
    found = shifts(strata)[0]
    total = sum(m for m, _ in sizes)
    draws = np.zeros(4000)
    for stratum, (m, n) in zip(strata, sizes, strict=True):
        pooled = np.concatenate([stratum.site, stratum.reference])[:, 0]
        larger = (pooled[:, None] > pooled).astype(float) + 0.5 * (pooled[:, None] == pooled)
        for i in range(len(draws)):
            order = g.permutation(m + n)
            draws[i] += larger[np.ix_(order[:m], order[m:])].mean() * m / total
    assert found.p_value == pytest.approx((draws >= found.auc - 1e-12).mean(), abs=0.02)


def test_p_values_of_exchangeable_images_are_uniform():
    g = np.random.default_rng(1)
    strata = [Stratum(g.normal(size=(m, 3000)), g.normal(size=(n, 3000))) for m, n in ((20, 25), (10, 60))]
    p_values = np.array([s.p_value for s in shifts(strata)])
    for level in (0.01, 0.05, 0.5):
        low, high = binom.ppf([0.0005, 0.9995], 3000, level)
        assert low <= (p_values <= level).sum() <= high


@pytest.mark.parametrize("shift", [0.0, 0.8, 1.8])
def test_the_interval_covers_the_true_effect_as_often_as_it_says(shift):
    g = np.random.default_rng(2)
    strata = [Stratum(g.normal(shift, 1, (m, 2000)), g.normal(0, 1, (n, 2000))) for m, n in ((25, 30), (25, 80))]
    truth = norm.cdf(shift / math.sqrt(2))
    covered = [s.interval[0] <= truth <= s.interval[1] for s in shifts(strata)]
    assert 0.93 <= np.mean(covered) <= 0.98


def test_with_one_class_the_interval_is_that_of_the_evaluation():
    g = np.random.default_rng(3)
    site, reference = g.normal(1, 1, 40), g.normal(0, 1, 70)
    found = shifts([Stratum(site[:, None], reference[:, None])])[0]
    area, bounds = auroc(reference, site)
    assert (found.auc, *found.interval) == pytest.approx((area, *bounds))


def test_what_is_not_a_number_is_odder_than_every_number_and_as_odd_as_its_like():
    found = shifts([Stratum(column([math.inf, math.inf]), column([1, 2, 3, math.inf]))])[0]
    assert found.auc == pytest.approx(3.5 / 4)


def test_a_measurement_that_never_varies_is_no_evidence():
    assert shifts([Stratum(column([1] * 30), column([1] * 30))])[0].p_value == 1


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_p_is_never_smaller_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    assert sorted(range(len(p_values)), key=lambda i: (p_values[i], adjusted[i])) == sorted(
        range(len(p_values)), key=lambda i: (adjusted[i], p_values[i])
    )


def test_so_many_images_part_a_share_from_its_limit():
    needed = images_for_share(20, 50, 0.3)
    assert needed is not None
    assert interval(round(0.4 * needed), needed)[0] > 0.3
    assert interval(20, 50)[0] < 0.3
    assert images_for_share(30, 100, 0.3) is None


def test_so_many_images_part_an_effect_from_its_limit_unless_the_calibration_is_too_small():
    found = Shift(0.65, (0.55, 0.75), 0.01, site_variance=0.08, reference_variance=0.0004)
    needed = images_for_auc(found, 0.75)
    assert needed is not None
    for images, parted in ((needed, True), (needed - 1, False)):
        error = math.sqrt(0.08 / images + 0.0004) / (0.65 * 0.35)
        upper = 1 / (1 + math.exp(-(math.log(0.65 / 0.35) + norm.ppf(0.975) * error)))
        assert (upper < 0.75) == parted
    assert images_for_auc(Shift(0.65, (0.4, 0.8), 0.1, 0.08, reference_variance=0.01), 0.75) is None


def test_the_power_that_is_told_is_the_power_there_is():
    sizes, tests, n = [(25, 60), (25, 60)], 19, 50
    told = power(sizes, tests, 0.75, 0.3)
    enough = next(k for k in range(n) if interval(k, n)[0] > 0.3)
    assert binom.sf(enough - 1, n, told.unsuitable_share) >= 0.8 > binom.sf(enough - 1, n, told.unsuitable_share - 0.01)
    g = np.random.default_rng(4)
    shift = math.sqrt(2) * norm.ppf(told.detected_auc)
    strata = [Stratum(g.normal(shift, 1, (m, 1000)), g.normal(0, 1, (r, 1000))) for m, r in sizes]
    noticed = np.mean([s.p_value * tests <= 0.05 for s in shifts(strata)])
    assert 0.75 <= noticed <= 0.9
    shift = math.sqrt(2) * norm.ppf(told.unsuitable_auc)
    strata = [Stratum(g.normal(shift, 1, (m, 1000)), g.normal(0, 1, (r, 1000))) for m, r in sizes]
    assert np.mean([s.interval[0] > 0.75 for s in shifts(strata)]) >= 0.8


def test_a_sample_too_small_for_any_conclusion_says_so():
    told = power([(3, 3)], 19, 0.75, 0.3)
    assert told.detected_auc is None
    assert told.unsuitable_auc is None

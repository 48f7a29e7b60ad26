"""p-values by hand, thresholds against p-values, and the promised false-alarm rate on simulated images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from dicom_gam.core.calibration import (
    calibrate_class,
    check_score,
    conformal_p,
    needed_size,
    oddness,
    own_p_values,
    score_threshold,
    smallest_alpha,
    value_at,
)
from dicom_gam.core.measure import CHECKS, MEASUREMENTS, SMALLEST_PROBABILITY
from tests.core.simulated import COLUMN, simulated

SAMPLE = np.array([1.0, 2.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("score", "p"), [(0.5, 5 / 5), (1.0, 5 / 5), (1.5, 4 / 5), (2.0, 4 / 5), (2.5, 2 / 5), (3.0, 2 / 5), (3.5, 1 / 5)]
)
def test_p_value_counts_the_sample_at_least_as_odd_and_the_image_itself(score: float, p: float) -> None:
    assert conformal_p(SAMPLE, score) == p


def test_each_measurement_has_the_p_value_of_its_own_column() -> None:
    sample = np.sort(simulated(30, seed=3), axis=0)
    odd = np.append(simulated(1, seed=4)[0][:-2], [np.inf, sample[12, -1]])
    expected = [conformal_p(sample[:, i], odd[i]) for i in range(len(odd))]
    assert own_p_values(sample, odd).tolist() == expected


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_score_that_is_not_a_number_gets_the_smallest_p_value(score: float) -> None:
    assert conformal_p(np.array([1.0, 2.0, np.inf, np.inf]), score) == 1 / 5


@pytest.mark.parametrize(("level", "threshold"), [(0.2, 3.0), (0.39, 3.0), (0.4, 2.0), (0.6, 2.0), (0.8, 1.0)])
def test_threshold_is_the_largest_score_that_still_passes(level: float, threshold: float) -> None:
    assert score_threshold(SAMPLE, level) == threshold
    assert conformal_p(SAMPLE, threshold) > level
    assert conformal_p(SAMPLE, threshold + 1e-9) <= level


def test_sample_too_small_for_the_level_has_no_threshold() -> None:
    assert score_threshold(SAMPLE, 0.19) is None


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(-4, 4),
)
@settings(max_examples=200, deadline=None)
def test_p_value_is_at_most_the_level_exactly_above_the_threshold(scores: list[int], level: float, score: int) -> None:
    sample = np.sort(np.array(scores, float))
    threshold = score_threshold(sample, level)
    if threshold is None:
        assert conformal_p(sample, math.inf) > level
    else:
        assert (conformal_p(sample, score) <= level) == (score > threshold)


@pytest.mark.parametrize(("alpha", "size"), [(0.05, 59), (0.01, 299), (0.1, 29), (0.3, 9)])
def test_needed_size_by_hand(alpha: float, size: int) -> None:
    # the smallest p-value, 1 / (n + 1), must reach alpha / 3
    assert needed_size(alpha) == size
    assert smallest_alpha(size) == pytest.approx(alpha)


@given(st.integers(2, 3000))
@settings(deadline=None)
def test_smallest_alpha_of_a_size_needs_just_that_size(size: int) -> None:
    assert needed_size(smallest_alpha(size)) == size


@given(st.integers(3, 2000))
@settings(deadline=None)
def test_needed_size_is_enough_for_a_threshold_and_one_less_is_not(size: int) -> None:
    level = smallest_alpha(size) / len(CHECKS)
    assert score_threshold(np.arange(float(size)), level) is not None
    assert score_threshold(np.arange(float(size - 1)), level) is None


def test_oddness_turns_good_sides_round() -> None:
    odd = oddness(np.full(len(MEASUREMENTS), 0.25))
    assert odd[COLUMN["attention.iou"]] == -0.25
    assert odd[COLUMN["attention.kl"]] == 0.25
    assert odd[COLUMN["input.garbage_probability"]] == pytest.approx(math.log(0.25 / 0.75))


def test_value_that_is_not_a_number_is_infinitely_odd() -> None:
    assert np.isposinf(oddness(np.full(len(MEASUREMENTS), np.nan))).all()


def test_probabilities_of_zero_and_one_have_a_finite_oddness() -> None:
    odd = oddness(np.stack([np.zeros(len(MEASUREMENTS)), np.ones(len(MEASUREMENTS))]))
    limit = math.log((1 - SMALLEST_PROBABILITY) / SMALLEST_PROBABILITY)
    np.testing.assert_allclose(odd[:, COLUMN["input.garbage_probability"]], [-limit, limit])


@given(st.integers(0, len(MEASUREMENTS) - 1), st.floats(0.001, 0.999))
@settings(deadline=None)
def test_value_at_undoes_oddness(index: int, value: float) -> None:
    values = np.full(len(MEASUREMENTS), value)
    assert value_at(float(oddness(values)[index]), MEASUREMENTS[index]) == pytest.approx(value)


def test_centre_is_the_median_and_scale_the_upper_spread() -> None:
    scaling = simulated(11, seed=0)
    scaling[:, COLUMN["attention.kl"]] = np.arange(11)
    calibration = calibrate_class(scaling, simulated(9, seed=1))
    assert calibration.centre[COLUMN["attention.kl"]] == 5
    assert calibration.scale[COLUMN["attention.kl"]] == 4


def test_measurement_that_never_varies_has_a_scale_above_zero() -> None:
    calibration = calibrate_class(np.full((10, len(MEASUREMENTS)), 0.5), simulated(9, seed=1))
    assert (calibration.scale > 0).all()


def test_score_of_a_check_is_its_oddest_measurement_in_units_of_the_spread() -> None:
    calibration = calibrate_class(simulated(50, seed=0), simulated(50, seed=1))
    column = COLUMN["early.kl"]
    odd = calibration.centre.copy()
    odd[column] += 7 * calibration.scale[column]
    result = check_score(odd, calibration, "early")
    assert result.oddest == column
    assert result.score == pytest.approx(7)
    assert check_score(odd, calibration, "attention").score == 0


def test_dice_does_not_count_twice() -> None:
    calibration = calibrate_class(simulated(50, seed=0), simulated(50, seed=1))
    odd = calibration.centre.copy()
    odd[COLUMN["attention.dice"]] = 1e6
    assert check_score(odd, calibration, "attention").score == 0


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_false_alarm_rate_on_exchangeable_images_is_at_most_alpha(alpha: float) -> None:
    """Over many calibrations, each with one new image: the guarantee is about the average over both."""
    trials, n = 1500, needed_size(alpha) + 7
    rng = np.random.default_rng(20240701)
    alarms = dict.fromkeys(CHECKS, 0)
    any_alarm = 0
    for _ in range(trials):
        drawn = simulated(n + 12 + 1, rng)
        calibration = calibrate_class(drawn[:12], drawn[12:-1])
        odd = oddness(drawn[-1])
        failed = [c for c in CHECKS if check_score(odd, calibration, c).p_value <= alpha / len(CHECKS)]
        any_alarm += bool(failed)
        for check in failed:
            alarms[check] += 1
    assert any_alarm <= binom.ppf(0.999, trials, alpha)
    level = alpha / len(CHECKS)
    exact = math.floor(level * (n + 1) + 1e-9) / (n + 1)  # without ties the p-value's distribution is known exactly
    for count in alarms.values():
        assert binom.ppf(0.0005, trials, exact) <= count <= binom.ppf(0.9995, trials, exact)


def test_false_alarm_rate_holds_with_ties_everywhere() -> None:
    trials, level, n = 2000, 0.2, 14
    rng = np.random.default_rng(7)
    samples = rng.integers(0, 3, (trials, n + 1)).astype(float)
    alarms = sum(conformal_p(np.sort(row[:-1]), row[-1]) <= level for row in samples)
    assert alarms <= binom.ppf(0.999, trials, level)

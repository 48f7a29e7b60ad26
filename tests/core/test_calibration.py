"""p-values by hand, thresholds against p-values, and the promised false-alarm rate on simulated images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom, kstest

from dicom_gam.core.calibration import (
    FEWEST_SCALING,
    Sample,
    TailFunction,
    alarms_allowed,
    calibrate_class,
    check_score,
    conformal_p,
    needed_size,
    oddness,
    own_p_values,
    rank,
    realised_interval,
    score_threshold,
    smallest_alpha,
    value_at,
)
from dicom_gam.core.measure import CHECKS, MEASUREMENTS, SMALLEST_PROBABILITY
from tests.core.simulated import COLUMN, sample_of, simulated

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


def test_infinite_scores_tie_with_the_infinite_ones_of_the_sample() -> None:
    assert conformal_p(np.array([1.0, 2.0, np.inf, np.inf]), math.inf) == 3 / 5
    assert conformal_p(SAMPLE, math.inf) == 1 / 5


def test_rank_counts_the_odder_and_the_equal() -> None:
    assert rank(SAMPLE, 2.0) == (1, 2)
    assert rank(SAMPLE, 0.0) == (4, 0)
    assert rank(SAMPLE, 9.0) == (0, 0)


@pytest.mark.parametrize(("level", "threshold"), [(0.2, 3.0), (0.39, 3.0), (0.4, 2.0), (0.6, 2.0), (0.8, 1.0)])
def test_threshold_is_the_largest_score_that_still_passes(level: float, threshold: float) -> None:
    assert score_threshold(SAMPLE, level) == threshold
    assert conformal_p(SAMPLE, threshold) > level
    assert conformal_p(SAMPLE, threshold + 1e-9) <= level


@pytest.mark.requirement("VER-09")
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


def test_level_that_the_sample_s_own_alarms_exceed_has_no_threshold() -> None:
    sample = np.array([1.0, 2.0, 3.0, np.inf])  # 1 of 4 is always alarmed: 40 % of 5 allows it and one more
    assert score_threshold(sample, 0.2) is None
    assert score_threshold(sample, 0.4) == 3.0
    assert smallest_alpha(sample) == 0.4


@pytest.mark.parametrize(("alpha", "size"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.3, 3)])
def test_needed_size_by_hand(alpha: float, size: int) -> None:
    # the smallest p-value, 1 / (n + 1), must reach alpha
    assert needed_size(alpha) == size
    assert score_threshold(np.arange(float(size)), alpha) == size - 1
    assert score_threshold(np.arange(float(size - 1)), alpha) is None


@given(st.integers(1, 3000))
@settings(deadline=None)
def test_smallest_alpha_of_a_size_needs_just_that_size(size: int) -> None:
    assert needed_size(smallest_alpha(np.arange(float(size)))) == size


def test_oddness_turns_good_sides_round() -> None:
    odd = oddness(np.full(len(MEASUREMENTS), 0.25))
    assert odd[COLUMN["attention.iou"]] == -0.25
    assert odd[COLUMN["attention.kl"]] == 0.25
    assert odd[COLUMN["input.garbage_probability"]] == pytest.approx(math.log(0.25 / 0.75))


@pytest.mark.requirement("VER-11")
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


# ---------------------------------------------------------------- tail functions


def tail_of(*scores: float) -> TailFunction:
    return TailFunction(np.sort(np.array(scores)), 2.0)


def test_tail_at_the_sorted_scores_is_the_conformal_share() -> None:
    tail = tail_of(1.0, 2.0, 4.0)
    assert [math.exp(-tail(s)) for s in (1.0, 2.0, 4.0)] == pytest.approx([3 / 4, 2 / 4, 1 / 4])
    assert math.exp(-tail(3.0)) == pytest.approx(1.5 / 4)


def test_tail_beyond_the_largest_score_is_exponential() -> None:
    assert math.exp(-tail_of(1.0, 2.0, 4.0)(5.0)) == pytest.approx(math.exp(-2) / 4)


def test_tail_of_what_is_not_finite_is_infinitely_seldom() -> None:
    assert tail_of(1.0, 2.0)(math.inf) == math.inf
    assert tail_of(1.0, 2.0)(math.nan) == math.inf


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30, unique=True), st.floats(-80, 5000))
@settings(deadline=None)
def test_score_at_undoes_the_tail_function_and_both_increase(scores: list[float], score: float) -> None:
    scores = sorted(scores)
    tail = TailFunction(np.array(scores), 0.7)
    assert tail(score) > 0
    assert tail(score) <= tail(score + 1)
    if score >= scores[0] and min(np.diff(scores)) > 1e-6:  # far below all scores the share rounds to 1
        assert tail.score_at(tail(score)) == pytest.approx(score, abs=1e-5, rel=1e-6)


# ---------------------------------------------------------------- calibrating a class


def test_centre_is_the_median_and_scale_the_upper_spread() -> None:
    scaling = simulated(11, seed=0)
    scaling[:, COLUMN["attention.kl"]] = np.arange(11)
    calibration = calibrate_class(scaling, sample_of(simulated(9, seed=1)))
    assert calibration.centre[COLUMN["attention.kl"]] == 5
    assert calibration.scale[COLUMN["attention.kl"]] == 4


def test_measurement_that_never_varies_has_a_scale_above_zero() -> None:
    calibration = calibrate_class(np.full((10, len(MEASUREMENTS)), 0.5), sample_of(simulated(9, seed=1)))
    assert (calibration.scale > 0).all()


def test_score_of_a_check_is_its_oddest_measurement_in_units_of_the_spread() -> None:
    calibration = calibrate_class(simulated(50, seed=0), sample_of(simulated(50, seed=1)))
    column = COLUMN["early.kl"]
    odd = calibration.centre.copy()
    odd[column] += 7 * calibration.scale[column]
    result = check_score(odd, calibration, "early")
    assert result.oddest == column
    assert result.score == pytest.approx(7)
    assert check_score(odd, calibration, "attention").score == 0


def test_dice_does_not_count_twice() -> None:
    calibration = calibrate_class(simulated(50, seed=0), sample_of(simulated(50, seed=1)))
    odd = calibration.centre.copy()
    odd[COLUMN["attention.dice"]] = 1e6
    assert check_score(odd, calibration, "attention").score == 0


def test_too_few_scaling_images_are_refused() -> None:
    with pytest.raises(ValueError, match=f"4 images .* {FEWEST_SCALING} are needed"):
        calibrate_class(simulated(4, seed=0), sample_of(simulated(50, seed=1)))


def test_combined_score_is_the_most_seldom_of_the_deciding_checks() -> None:
    values = simulated(60, seed=1)
    values[7, COLUMN["authenticity.frequency_distance"]] = 1e4
    everything = calibrate_class(simulated(50, seed=0), sample_of(values))
    without = calibrate_class(simulated(50, seed=0), sample_of(values), ("input", "attention", "early"))
    odd = oddness(values[7])
    seldom = {check: check_score(odd, everything, check).seldom for check in CHECKS}
    assert everything.combined[-1] == seldom["authenticity"] == max(seldom.values())
    del seldom["authenticity"]
    assert max(seldom.values()) in without.combined
    assert everything.scores["authenticity"][-1] == without.scores["authenticity"][-1]


def test_images_taken_for_garbage_are_infinitely_odd_and_those_of_another_class_never() -> None:
    n = 40
    right, alarmed = np.ones(n, bool), np.zeros(n, bool)
    right[:3] = False
    alarmed[2:4] = True  # one wrong, one right
    made = calibrate_class(simulated(50, seed=0), Sample(simulated(n, seed=1), right, alarmed))
    assert made.size == n
    assert np.isinf(made.combined).sum() == 2
    assert (made.combined == 0).sum() == 2
    assert len(made.oddness) == len(made.scores["input"]) == n - 4


def alarms(drawn: NDArray[np.float64], scaling: int, alpha: float) -> bool:
    """Whether the last image is alarmed when the first are the scaling fold and the others the calibration fold."""
    calibration = calibrate_class(drawn[:scaling], sample_of(drawn[scaling:-1]))
    odd = oddness(drawn[-1])
    combined = max(check_score(odd, calibration, check).seldom for check in CHECKS)
    return conformal_p(calibration.combined, combined) <= alpha


@pytest.mark.requirement("VER-08")
@pytest.mark.parametrize(("alpha", "n"), [(0.05, 26), (0.1, 19), (0.3, 12)])
def test_false_alarm_rate_on_exchangeable_images_is_exactly_what_was_promised(alpha: float, n: int) -> None:
    """Over many calibrations, each with one new image: the guarantee is about the average over both."""
    trials = 1500
    rng = np.random.default_rng(20240701)
    count = sum(alarms(simulated(12 + n + 1, rng), 12, alpha) for _ in range(trials))
    exact = math.floor(alpha * (n + 1) + 1e-9) / (n + 1)
    assert exact <= alpha
    assert binom.ppf(0.0005, trials, exact) <= count <= binom.ppf(0.9995, trials, exact)


@pytest.mark.requirement("VER-08")
def test_realised_false_alarm_rates_of_2000_calibrations_follow_beta_theory() -> None:
    """Each calibration has a false-alarm rate of its own; over calibrations it is Beta(k, n + 1 - k)."""
    n, alpha, calibrations = 59, 0.05, 2000
    rng = np.random.default_rng(7)
    scaling = simulated(30, rng)
    pool = np.sort(combined_scores(scaling, simulated(60_000, rng)))  # so large that it is the distribution itself
    realised = []
    for _ in range(calibrations):
        sample = np.sort(rng.choice(pool, n, replace=False))
        threshold = score_threshold(sample, alpha)
        assert threshold is not None
        realised.append(1 - np.searchsorted(pool, threshold, side="right") / len(pool))
    k = alarms_allowed(n, alpha)
    assert kstest(realised, beta(k, n + 1 - k).cdf).pvalue > 0.01
    low, high = realised_interval(n, alpha)
    inside = sum(low <= rate <= high for rate in realised)
    assert binom.ppf(0.0005, calibrations, 0.95) <= inside <= binom.ppf(0.9995, calibrations, 0.95)


def combined_scores(scaling: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return calibrate_class(scaling, sample_of(values)).combined


def test_realised_interval_by_hand() -> None:
    # n = 1, alpha = 1/2: k = 1, Beta(1, 1) is uniform
    assert realised_interval(1, 0.5) == pytest.approx((0.025, 0.975))
    with pytest.raises(ValueError, match="18 calibration images can't support"):
        realised_interval(18, 0.05)


@pytest.mark.requirement("VER-08")
def test_false_alarm_rate_holds_with_ties_everywhere() -> None:
    trials, level, n = 2000, 0.2, 14
    rng = np.random.default_rng(7)
    samples = rng.integers(0, 3, (trials, n + 1)).astype(float)
    alarms = sum(conformal_p(np.sort(row[:-1]), row[-1]) <= level for row in samples)
    assert alarms <= binom.ppf(0.999, trials, level)

"""The drift martingale: exact by hand, fair in the long run, quick when something happens."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import beta, binom, kstest

from dicom_gam.core.drift import BETS, DriftState, alarm, chance_of, log_density, smoothed_p_value, update

Generator = np.random.Generator


def run(p_values: list[float] | np.ndarray) -> DriftState:
    state = DriftState()
    for p_value in p_values:
        state = update(state, float(p_value))
    return state


def images_until_alarm(p_values: np.ndarray, rate: float = 0.001) -> int:
    """How many p-values it takes; one more than there are when they don't suffice."""
    state = DriftState()
    for number, p_value in enumerate(p_values, 1):
        state = update(state, float(p_value))
        if alarm(state, rate):
            return number
    return len(p_values) + 1


@pytest.mark.parametrize(("a", "b"), BETS)
def test_every_bet_is_a_density(a: float, b: float) -> None:
    # p = u⁵ takes the pole at 0 away; the pole at 1 is that of the mirrored bet at 0
    halves = [
        quad(lambda u, bet=bet: math.exp(log_density(u**5, *bet)) * 5 * u**4, 0, 0.5**0.2) for bet in ((a, b), (b, a))
    ]
    assert halves[0][0] + halves[1][0] == pytest.approx(1, abs=1e-6)


@given(st.floats(1e-6, 1 - 1e-6), st.sampled_from(BETS))
def test_every_bet_is_scipy_s_beta_density(p_value: float, bet: tuple[float, float]) -> None:
    assert log_density(p_value, *bet) == pytest.approx(beta.logpdf(p_value, *bet), abs=1e-9)


@pytest.mark.requirement("DRF-01")
@given(st.lists(st.floats(0.001, 0.999), max_size=30))
@settings(max_examples=20, deadline=None)
def test_expected_evidence_after_the_next_image_is_today_s_whatever_came_before(past: list[float]) -> None:
    state = run(past)

    def ahead(p_value: float) -> float:
        return math.exp(update(state, p_value).log_evidence - state.log_evidence)

    low = quad(lambda u: ahead(max(u**5, 1e-300)) * 5 * u**4, 0, 0.5**0.2)[0]
    high = quad(lambda u: ahead(1 - max(u**5, 1e-15)) * 5 * u**4, 0, 0.5**0.2)[0]
    assert low + high == pytest.approx(1, abs=1e-5)


def test_first_image_by_hand() -> None:
    # before it ln 2 / (1 + ln 2) of the wealth bets, with it what the reserve gives up more: 1 - 1 / (1 + ln 3)
    betting = 1 - 1 / (1 + math.log(3))
    wins = (0.5 * 0.04**-0.5 + 0.2 * 0.04**-0.8 + 0.5 * 0.96**-0.5) / 3
    state = update(DriftState(), 0.04)
    assert math.exp(state.log_evidence) == pytest.approx(betting * wins + 1 - betting, rel=1e-12)
    assert state.log_maximum == state.log_evidence


def test_evidence_starts_at_one() -> None:
    assert DriftState().log_evidence == pytest.approx(0, abs=1e-12)
    assert not alarm(DriftState(), 0.999)


def test_maximum_stays_when_the_evidence_falls() -> None:
    high = run([0.001] * 6)
    later = run([0.001] * 6 + [0.6] * 30)
    assert later.log_maximum == high.log_maximum == high.log_evidence > later.log_evidence
    assert alarm(later, 0.001)


def test_alarm_is_where_the_evidence_reaches_one_over_the_rate() -> None:
    state = run([0.01] * 4)
    rate = math.exp(-state.log_maximum)
    assert alarm(state, rate * 1.000001)
    assert not alarm(state, rate * 0.999999)


Streams = NDArray[np.float64]  # (streams, images)


def log_evidence(p_values: Streams) -> Streams:
    """The martingale of many streams at once, from its definition: a mixture over bets and over when each begins."""
    count = p_values.shape[1]
    reserve = 1 / (1 + np.log(2 + np.arange(count + 1)))
    begins = np.concatenate([[0.0], reserve[:-1] - reserve[1:]])
    total = np.tile(reserve, (len(p_values), 1))
    total[:, 0] = 1
    for a, b in BETS:
        won = np.full(len(p_values), 1 - reserve[0])
        densities = beta.pdf(p_values, a, b)
        for image in range(1, count + 1):
            won = (won + begins[image]) * densities[:, image - 1]
            total[:, image] += won / len(BETS)
    return np.log(total)


def ranked(scores: Streams, calibration: int, rng: Generator) -> Streams:
    """Smoothed p-values of streams as the service makes them: of the past only its places between calibration scores.

    The first scores of each row are its calibration images; higher is odder.
    """
    odd = np.sort(-scores[:, :calibration])
    stream = -scores[:, calibration:]
    odder = np.array([np.searchsorted(row, line, "left") for row, line in zip(odd, stream, strict=True)])
    at_least = np.array([np.searchsorted(row, line, "right") for row, line in zip(odd, stream, strict=True)])
    place = (odder + at_least).astype(np.uint16)
    p_values = np.empty(stream.shape)
    for image in range(stream.shape[1]):
        past, now = place[:, :image], place[:, image, None]
        p_values[:, image] = smoothed_p_value(
            odder[:, image] + (past < now).sum(1),
            (at_least - odder)[:, image] + (past == now).sum(1),
            calibration + image,
            rng.uniform(1e-9, 1 - 1e-9, len(scores)),
        )
    return p_values


def uniform(count: int, rng: Generator) -> Streams:
    return rng.uniform(size=(count, 1000))


def discrete(count: int, rng: Generator) -> Streams:
    """Of scores that are themselves p-values k / 21, so full of ties, against 50 calibration images."""
    return ranked(rng.integers(1, 22, size=(count, 1050)) / 21, 50, rng)


def continuous(count: int, rng: Generator) -> Streams:
    return ranked(rng.normal(size=(count, 1050)), 50, rng)


def test_evidence_is_the_mixture_over_bets_and_over_when_they_begin() -> None:
    p_values = np.random.default_rng(19).beta(0.8, 1, size=(5, 60))
    expected = log_evidence(p_values)
    for row, line in zip(p_values, expected, strict=True):
        assert [run(row[:images]).log_evidence for images in range(61)] == pytest.approx(line)
        assert run(row).log_maximum == pytest.approx(line.max())


@pytest.mark.requirement("DRF-01")
@pytest.mark.parametrize("stream", [uniform, discrete, continuous])
def test_undrifted_streams_raise_the_alarm_no_more_often_than_promised(
    stream: Callable[[int, Generator], Streams],
) -> None:
    highest = log_evidence(stream(2000, np.random.default_rng(20))).max(1)
    for rate in (0.2, 0.05, 0.01, 0.001):
        once_in_ten_thousand = binom.ppf(0.9999, 2000, rate)
        assert (highest >= -math.log(rate)).sum() <= once_in_ten_thousand, rate
    assert (highest >= math.log(5)).any()  # it isn't safe by never betting


@pytest.mark.requirement("DRF-01")
@pytest.mark.parametrize("stream", [discrete, continuous])
def test_ranks_against_a_small_calibration_sample_and_the_past_are_uniform(
    stream: Callable[[int, Generator], Streams],
) -> None:
    streams = stream(300, np.random.default_rng(21))
    assert kstest(streams.ravel(), "uniform").pvalue > 0.001
    assert kstest(streams[:, -1], "uniform").pvalue > 0.001
    # one calibration sample's luck would show as streams whose means lie too far apart
    assert streams.mean(1).std() == pytest.approx(math.sqrt(1 / 12 / streams.shape[1]), rel=0.15)


def test_shift_after_two_hundred_calm_images_is_found_in_nearly_all_streams() -> None:
    rng = np.random.default_rng(22)
    calm = rng.uniform(size=(100, 200))
    shifted = rng.beta(0.5, 1, size=(100, 200))
    delays = [images_until_alarm(np.concatenate(pair)) - 200 for pair in zip(calm, shifted, strict=True)]
    assert np.median(delays) < 70
    assert np.quantile(delays, 0.97) < 150


def test_long_calm_costs_few_images_more() -> None:
    rng = np.random.default_rng(23)
    delays = []
    for _ in range(15):
        state = run(rng.uniform(size=3_000))
        found = 0
        while not alarm(state, 0.001):
            state = update(state, float(rng.beta(0.2, 1)))
            found += 1
        delays.append(found)
    assert np.quantile(delays, 0.9) < 30


def test_grossly_odd_images_are_found_within_a_dozen() -> None:
    rng = np.random.default_rng(24)
    p_values = ranked(np.concatenate([rng.normal(size=(20, 600)), np.full((20, 12), np.inf)], 1), 400, rng)
    for row in p_values:
        assert not alarm(run(row[:200]), 0.001)
        assert alarm(run(row), 0.001)


def test_images_that_are_too_usual_are_found_too() -> None:
    rng = np.random.default_rng(25)
    assert images_until_alarm(1 - rng.beta(0.3, 1, size=200)) < 100


@given(st.lists(st.floats(1e-9, 1 - 1e-9), max_size=20))
@settings(deadline=None)
def test_state_is_the_same_after_a_round_trip_through_json(p_values: list[float]) -> None:
    state = run(p_values)
    assert DriftState.from_json(state.to_json()) == state


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"images": 1, "log_wealths": [0.0], "log_maximum": 0.0}',
                                  '{"images": 1, "log_wealths": [0.0, 0.0, NaN], "log_maximum": 0.0}'])  # fmt: skip
def test_text_that_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a drift state"):
        DriftState.from_json(text)


@pytest.mark.parametrize("p_value", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_p_value_outside_of_its_range_is_refused(p_value: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        update(DriftState(), p_value)


def test_smoothed_p_value_by_hand() -> None:
    # 3 of 9 others are odder, 2 are tied: somewhere in the tie of 3, from 3/10 to 6/10
    assert smoothed_p_value(3, 2, 9, 0.5) == pytest.approx(0.45)
    assert 0.3 < smoothed_p_value(3, 2, 9, 1e-6) < smoothed_p_value(3, 2, 9, 1 - 1e-6) < 0.6


def test_chance_is_fixed_by_the_text_and_uniform_over_texts() -> None:
    chances = [chance_of(f"1.2.840.{number}") for number in range(2000)]
    assert chances[:5] == [chance_of(f"1.2.840.{number}") for number in range(5)]
    assert 0 < min(chances) < max(chances) < 1
    assert kstest(chances, "uniform").pvalue > 0.001

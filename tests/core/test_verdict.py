"""From measurements to checks, and from checks to a verdict with its reasons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicom_gam.core.calibration import ClassCalibration, calibrate_class, score_threshold
from dicom_gam.core.measure import CHECKS, MEASUREMENTS
from dicom_gam.core.verdict import decide, judge
from dicom_gam.records import Check, CheckName, Measurement, Verdict
from tests.core.simulated import COLUMN, sample_of, simulated

COUNTED = {spec.name for spec in MEASUREMENTS if spec.counted}
CALIBRATION = calibrate_class(simulated(40, seed=0), sample_of(simulated(99, seed=1)))


def measurement(checks: tuple[Check, ...], name: str) -> Measurement:
    return next(m for check in checks for m in check.measurements if m.name == name)


def checks_of(
    values: NDArray[np.float64], calibration: ClassCalibration = CALIBRATION, alpha: float = 0.05
) -> tuple[Check, ...]:
    return judge(values, calibration, alpha).checks


def typical() -> NDArray[np.float64]:
    return np.median(simulated(400, seed=2), axis=0)


def test_typical_image_passes_every_check() -> None:
    checks = checks_of(typical())
    assert [check.name for check in checks] == list(CHECKS)
    assert all(check.passed and not check.reason for check in checks)


def test_checks_share_alpha_so_that_each_threshold_is_equally_seldom() -> None:
    bound = score_threshold(CALIBRATION.combined, 0.06)
    for check in checks_of(typical(), alpha=0.06):
        assert CALIBRATION.tails[check.name](check.threshold) == pytest.approx(bound)


@given(st.integers(0, 5000), st.sampled_from([0.03, 0.05, 0.1, 0.5]))
@settings(max_examples=60, deadline=None)
def test_image_has_a_p_value_of_at_most_alpha_exactly_when_a_check_fails(seed: int, alpha: float) -> None:
    values = simulated(1, seed=seed)[0] * (1 + np.random.default_rng(seed).normal(size=len(MEASUREMENTS)))
    values[COLUMN["input.garbage_probability"]] = np.clip(values[COLUMN["input.garbage_probability"]], 0, 1)
    judgement = judge(values, CALIBRATION, alpha)
    p_value = (1 + judgement.odder + judgement.equal) / (CALIBRATION.size + 1)
    assert (p_value <= alpha) == any(not check.passed for check in judgement.checks)


def test_alarmed_image_has_the_smallest_p_value_and_comes_after_all_others() -> None:
    worst = typical()
    worst[:] = math.nan
    alarmed, odd = judge(typical(), CALIBRATION, 0.05, alarmed=True), judge(worst, CALIBRATION, 0.05)
    assert (alarmed.odder, alarmed.equal) == (0, 0)
    assert math.isfinite(odd.score)
    assert alarmed.score > odd.score > judge(typical(), CALIBRATION, 0.05).score


def test_advisory_check_fails_at_alpha_of_its_own_and_leaves_the_others_alone() -> None:
    values = typical()
    values[COLUMN["authenticity.frequency_distance"]] = 50
    three = ("input", "attention", "early")
    calibration = calibrate_class(simulated(40, seed=0), sample_of(simulated(99, seed=1)), three)
    judgement = judge(values, calibration, 0.05, deciding=three)
    assert judgement.odder > 5
    failed = [check for check in judgement.checks if not check.passed]
    assert [(check.name, check.advisory) for check in failed] == [("authenticity", True)]
    assert failed[0].threshold == score_threshold(calibration.scores["authenticity"], 0.05)


@pytest.mark.requirement("VER-10")
def test_every_measurement_is_reported_once_in_the_order_of_the_table() -> None:
    checks = checks_of(typical())
    assert [m.name for check in checks for m in check.measurements] == [spec.name for spec in MEASUREMENTS]


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_one_odd_measurement_fails_its_check_and_no_other(name: str) -> None:
    values = typical()
    spec = MEASUREMENTS[COLUMN[name]]
    values[COLUMN[name]] = -50.0 if spec.bound == "min" else 1 - 1e-9 if spec.logit else 50.0
    failed = [check for check in checks_of(values) if not check.passed]
    assert [check.name for check in failed] == [spec.check]
    assert not measurement(tuple(failed), name).passed
    assert failed[0].p_value == 1 / 100


@pytest.mark.requirement("VER-10")
@given(st.integers(0, 5000), st.sampled_from([0.03, 0.05, 0.1, 0.5, 0.9]), st.floats(0, 3), st.booleans())
@settings(max_examples=150, deadline=None)
def test_check_fails_exactly_when_a_counted_measurement_passes_its_threshold(
    seed: int, alpha: float, spread: float, coarse: bool
) -> None:
    values = simulated(1, seed=seed)[0] * (1 + spread * np.random.default_rng(seed).normal(size=len(MEASUREMENTS)))
    if coarse:
        values = np.round(values, 1)
    values[COLUMN["input.garbage_probability"]] = np.clip(values[COLUMN["input.garbage_probability"]], 0, 1)
    for check in checks_of(values, alpha=alpha):
        beyond = [m.name for m in check.measurements if m.name in COUNTED and not m.passed]
        assert check.passed == (check.score <= check.threshold or bool(not beyond)) == (not beyond)


@pytest.mark.parametrize("alpha", [0.03, 0.05, 0.1, 0.5])
def test_image_of_the_calibration_sample_itself_is_judged_without_contradiction(alpha: float) -> None:
    """Its scores tie with the thresholds, where rounding could make a check and its measurement disagree."""
    sample = simulated(99, seed=1)
    for values in sample:
        for check in checks_of(values, alpha=alpha):
            beyond = [m.name for m in check.measurements if m.name in COUNTED and not m.passed]
            assert check.passed == (not beyond)


def test_probability_nearer_to_zero_than_any_is_judged_without_contradiction() -> None:
    low = simulated(99, seed=1)
    low[:, COLUMN["input.garbage_probability"]] = 1e-9
    values = typical()
    values[COLUMN["input.garbage_probability"]] = 0.0
    check = checks_of(values, calibrate_class(low, sample_of(low)))[0]
    assert check.passed == all(m.passed for m in check.measurements)


@pytest.mark.requirement("VER-11")
@pytest.mark.parametrize("name", [spec.name for spec in MEASUREMENTS if spec.counted])
def test_measurement_that_is_not_a_number_never_passes(name: str) -> None:
    values = typical()
    values[COLUMN[name]] = math.nan
    checks = checks_of(values)
    own = next(check for check in checks if check.name == MEASUREMENTS[COLUMN[name]].check)
    assert not measurement(checks, name).passed
    assert not own.passed
    assert own.reason.endswith("could not be measured")


@pytest.mark.requirement("VER-10")
def test_measurements_have_their_own_p_values() -> None:
    values = typical()
    values[COLUMN["attention.kl"]] = 1e6
    checks = checks_of(values)
    assert measurement(checks, "attention.kl").p_value == 1 / 100
    assert (measurement(checks, "attention.iou").p_value or 0) > 0.2


@given(st.floats(-2, 2), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_dice_passes_its_threshold_exactly_when_iou_does(shift: float, seed: int) -> None:
    values = simulated(1, seed=seed)[0]
    overlap = float(np.clip(values[COLUMN["early.iou"]] + 0.3 * shift, 0, 1))
    values[COLUMN["early.iou"]], values[COLUMN["early.dice"]] = overlap, np.float32(2 * overlap / (1 + overlap))
    checks = checks_of(values, alpha=0.3)
    assert measurement(checks, "early.dice").passed == measurement(checks, "early.iou").passed


def test_dice_threshold_is_that_of_iou_on_dice_s_scale() -> None:
    checks = checks_of(typical(), alpha=0.3)
    overlap = measurement(checks, "attention.iou").threshold
    assert overlap > 0
    assert measurement(checks, "attention.dice").threshold == pytest.approx(2 * overlap / (1 + overlap))


def test_threshold_that_every_overlap_reaches_is_a_finite_number_for_dice_too() -> None:
    wild = simulated(99, seed=1)
    wild[:5, COLUMN["attention.kl"]] = 1e4
    checks = checks_of(typical(), calibrate_class(simulated(40, seed=0), sample_of(wild)), 0.03)
    assert measurement(checks, "attention.iou").threshold < -1
    assert math.isfinite(measurement(checks, "attention.dice").threshold)


@pytest.mark.requirement("VER-09")
def test_too_small_a_calibration_sample_is_refused() -> None:
    small = calibrate_class(simulated(40, seed=0), sample_of(simulated(18, seed=1)))
    with pytest.raises(ValueError, match="18 calibration images can't support level"):
        judge(typical(), small, 0.05)


@pytest.mark.requirement("VER-10")
def test_reason_names_the_measurement_its_value_and_its_threshold() -> None:
    values = typical()
    values[COLUMN["attention.iou"]] = -3.0
    reason = checks_of(values)[1].reason
    threshold = measurement(checks_of(values), "attention.iou").threshold
    assert reason == f"attention: IoU -3 < {threshold:.3g} (p = 0.01)"


def checks(*failed: CheckName) -> list[Check]:
    return [
        Check(c, (), 9.0 if c in failed else 0.5, 3.0, 0.02, c not in failed, f"{c} is odd" * (c in failed))
        for c in CHECKS
    ]


ODD_ATTENTION, ODD_EARLY, ODD_INPUT = "attention is odd", "early is odd", "input is odd"
NOT_TAKEN = "the network does not recognise chest or hand"
DEGENERATE = "attention is degenerate: no location in the image speaks for the predicted class"


@pytest.mark.requirement("VER-12")
@pytest.mark.parametrize(
    ("garbage", "degenerate", "failed", "verdict", "reasons"),
    [
        (False, False, (), Verdict.PASS, ()),
        (False, False, ("attention",), Verdict.FAIL, (ODD_ATTENTION,)),
        (False, False, ("early",), Verdict.FAIL, (ODD_EARLY,)),
        (False, False, ("early", "attention"), Verdict.FAIL, (ODD_ATTENTION, ODD_EARLY)),
        (False, False, ("input",), Verdict.REJECT, (ODD_INPUT,)),
        (False, True, ("input", "early"), Verdict.REJECT, (ODD_INPUT, ODD_EARLY)),
        (False, True, (), Verdict.FAIL, (DEGENERATE,)),
        (False, True, ("attention",), Verdict.FAIL, (DEGENERATE, ODD_ATTENTION)),
        (True, False, (), Verdict.REJECT, (NOT_TAKEN,)),
        (True, True, ("attention", "input"), Verdict.REJECT, (NOT_TAKEN, ODD_INPUT, ODD_ATTENTION)),
    ],
)
def test_verdict_and_its_reasons_in_order(
    garbage: bool, degenerate: bool, failed: tuple[CheckName, ...], verdict: Verdict, reasons: tuple[str, ...]
) -> None:
    assert decide(garbage, degenerate, checks(*failed), "chest or hand") == (verdict, reasons)


def test_calibration_reports_its_size() -> None:
    assert isinstance(CALIBRATION, ClassCalibration)
    assert CALIBRATION.size == 99

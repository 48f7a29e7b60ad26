"""From scores to PASS, FAIL or REJECT, with the reason in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dicom_gam.core.calibration import (
    Array,
    ClassCalibration,
    check_score,
    oddness,
    own_p_values,
    rank,
    score_threshold,
    value_at,
)
from dicom_gam.core.measure import CHECKS, MEASUREMENTS
from dicom_gam.records import Check, CheckName, Measurement, Verdict

WORDS = {
    "garbage_probability": "probability of not being such an image",
    "class_probability": "probability of the class",
    "feature_distance": "feature distance",
    "channel_distance": "channel distance",
    "frequency_distance": "frequency distance",
    "iou": "IoU",
    "dice": "Dice",
    "soft_iou": "soft IoU",
    "ssim": "SSIM",
    "cosine": "cosine",
    "pearson": "Pearson",
    "kl": "KL divergence",
    "wasserstein": "Wasserstein",
}
_INDEX = {spec.name: i for i, spec in enumerate(MEASUREMENTS)}
_DICE_OF_IOU = {"attention.dice": "attention.iou", "early.dice": "early.iou"}


HIGHEST_SCORE = 1e6  # of a check with a measurement that is not a number: reports hold finite numbers only
ALARMED_SCORE = 1e6  # added to the score of an image that never passes, so that it comes after all that might


@dataclass(frozen=True, slots=True)
class Judgement:
    """The checks of one image, its place in the calibration sample, and a finite score, higher is odder."""

    checks: tuple[Check, ...]
    odder: int
    equal: int
    score: float


def judge(
    values: Array,
    calibration: ClassCalibration,
    alpha: float,
    alarmed: bool = False,
    deciding: Sequence[CheckName] = CHECKS,
) -> Judgement:
    """Judge one image from its measurements (M,) against its class's calibration at total level `alpha`.

    `alarmed` says that the image does not pass whatever its scores (taken for garbage, degenerate attention). Otherwise
    p ≤ alpha exactly when a deciding check fails, and a check fails exactly when one of its counted measurements passes
    its threshold. An advisory check has the level `alpha` to itself.
    Raises ValueError when the calibration sample can't support the level.
    """
    bound = score_threshold(calibration.combined, alpha)
    if bound is None:
        raise ValueError(f"{calibration.size} calibration images can't support level {alpha:g}")
    odd = oddness(values)
    p_values = own_p_values(calibration.oddness, odd)
    results = {check: check_score(odd, calibration, check) for check in CHECKS}
    checks = []
    for check, result in results.items():
        if check in deciding:
            passed = result.seldom <= bound
            threshold = _agreeing_bound(result.score, calibration.tails[check].score_at(bound), passed)
        else:
            own = score_threshold(calibration.scores[check], alpha)
            threshold = math.inf if own is None else own
            passed = result.score <= threshold
        measurements = _measurements(values, odd, p_values, calibration, check, threshold)
        reason = "" if passed else _reason(check, _find(measurements, MEASUREMENTS[result.oddest].name), result.p_value)
        score = min(result.score, HIGHEST_SCORE)
        checks.append(
            Check(check, measurements, score, threshold, result.p_value, passed, reason, check not in deciding)
        )
    combined = max(results[check].seldom for check in deciding)
    odder, equal = rank(calibration.combined, math.inf if alarmed else combined)
    return Judgement(tuple(checks), odder, equal, min(combined, ALARMED_SCORE) + ALARMED_SCORE * alarmed)


def decide(
    label_is_garbage: bool, degenerate: bool, checks: Sequence[Check], expected: str
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons. `expected` names what the bundle is for, as in "chest, hand, knee or spine".

    An image is rejected when the network does not know it, or when its input is not the class's or not an exposure; it
    fails when only what the network did with it is odd.
    """
    failed: Mapping[CheckName, Check] = {c.name: c for c in checks if not c.passed and not c.advisory}
    reasons = [check.reason for check in failed.values()]
    if label_is_garbage:
        return Verdict.REJECT, (f"the network does not recognise {expected}", *reasons)
    if failed.keys() & {"input", "authenticity"}:
        return Verdict.REJECT, tuple(reasons)
    if degenerate:
        reasons.insert(0, "attention is degenerate: no location in the image speaks for the predicted class")
    return (Verdict.FAIL, tuple(reasons)) if reasons else (Verdict.PASS, ())


def _measurements(
    values: Array, odd: Array, p_values: Array, calibration: ClassCalibration, check: CheckName, bound: float
) -> tuple[Measurement, ...]:
    return tuple(
        _measurement(i, values, odd, float(p_values[i]), calibration, bound)
        for i, spec in enumerate(MEASUREMENTS)
        if spec.check == check
    )


def _measurement(
    i: int, values: Array, odd: Array, p_value: float, calibration: ClassCalibration, bound: float
) -> Measurement:
    spec = MEASUREMENTS[i]
    source = i if spec.counted else _INDEX[_DICE_OF_IOU[spec.name]]
    centre, scale = calibration.centre[source], calibration.scale[source]
    threshold = value_at(float(centre + bound * scale), MEASUREMENTS[source])
    if source != i and threshold > 0:  # below 0 every IoU passes, and so must every Dice
        threshold = 2 * threshold / (1 + threshold)
    threshold = _agreeing(float(values[i]), threshold, spec.bound, within=bool((odd[source] - centre) / scale <= bound))
    return Measurement(spec.name, float(values[i]), threshold, spec.bound, p_value)


def _agreeing(value: float, threshold: float, bound: Literal["min", "max"], *, within: bool) -> float:
    """The threshold, moved by its rounding error where a tie would otherwise contradict what the check concludes."""
    if math.isnan(value) or (value >= threshold if bound == "min" else value <= threshold) == within:
        return threshold
    return value if within else math.nextafter(value, math.inf if bound == "min" else -math.inf)


def _agreeing_bound(score: float, threshold: float, passed: bool) -> float:
    """The threshold, moved by the rounding error of the tail function where a tie would contradict the check."""
    return max(threshold, score) if passed else min(threshold, math.nextafter(score, -math.inf))


def _find(measurements: Sequence[Measurement], name: str) -> Measurement:
    return next(m for m in measurements if m.name == name)


def _reason(check: CheckName, oddest: Measurement, p_value: float) -> str:
    words = WORDS[oddest.name.partition(".")[2]]
    title = {"input": "input", "attention": "attention", "early": "early features"}.get(check, check)
    if not np.isfinite(oddest.value):
        return f"{title}: {words} could not be measured"
    relation = "<" if oddest.bound == "min" else ">"
    return f"{title}: {words} {oddest.value:.3g} {relation} {oddest.threshold:.3g} (p = {p_value:.2g})"

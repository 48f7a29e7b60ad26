"""From scores to PASS, FAIL or REJECT, with the reason in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from dicom_gam.core.calibration import (
    Array,
    ClassCalibration,
    check_score,
    oddness,
    own_p_values,
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


def judge(values: Array, calibration: ClassCalibration, alpha: float) -> tuple[Check, ...]:
    """The three checks of one image from its measurements (M,) against its class's calibration at total level `alpha`.

    A check fails exactly when one of its counted measurements passes its threshold.
    Raises ValueError when the calibration sample is too small for the level.
    """
    odd = oddness(values)
    p_values = own_p_values(calibration.oddness, odd)
    level = alpha / len(CHECKS)
    return tuple(_check(values, odd, p_values, calibration, check, level) for check in CHECKS)


def decide(
    label_is_garbage: bool, degenerate: bool, checks: Sequence[Check], expected: str
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict and its reasons. `expected` names what the bundle is for, as in "chest, hand, knee or spine"."""
    failed: Mapping[CheckName, Check] = {check.name: check for check in checks if not check.passed}
    reasons = [check.reason for check in failed.values()]
    if label_is_garbage:
        return Verdict.REJECT, (f"the network does not recognise {expected}", *reasons)
    if "input" in failed:
        return Verdict.REJECT, tuple(reasons)
    if degenerate:
        reasons.insert(0, "attention is degenerate: no location in the image speaks for the predicted class")
    return (Verdict.FAIL, tuple(reasons)) if reasons else (Verdict.PASS, ())


def _check(
    values: Array, odd: Array, p_values: Array, calibration: ClassCalibration, check: CheckName, level: float
) -> Check:
    bound = score_threshold(calibration.scores[check], level)
    if bound is None:
        raise ValueError(f"{calibration.size} calibration images can't support level {level:g}")
    result = check_score(odd, calibration, check)
    measurements = tuple(
        _measurement(i, values, odd, float(p_values[i]), calibration, bound)
        for i, spec in enumerate(MEASUREMENTS)
        if spec.check == check
    )
    passed = result.p_value > level
    reason = "" if passed else _reason(check, _find(measurements, MEASUREMENTS[result.oddest].name), result.p_value)
    return Check(check, measurements, result.p_value, level, passed, reason)


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


def _find(measurements: Sequence[Measurement], name: str) -> Measurement:
    return next(m for m in measurements if m.name == name)


def _reason(check: CheckName, oddest: Measurement, p_value: float) -> str:
    words = WORDS[oddest.name.partition(".")[2]]
    title = {"input": "input", "attention": "attention", "early": "early features"}[check]
    if not np.isfinite(oddest.value):
        return f"{title}: {words} could not be measured"
    relation = "<" if oddest.bound == "min" else ">"
    return f"{title}: {words} {oddest.value:.3g} {relation} {oddest.threshold:.3g} (p = {p_value:.2g})"

"""What the overlay's banner says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dicom_gam.dicom.result.codes import VERDICT_WORDS, measurement_code
from dicom_gam.records import BundleIdentity, Measurement, Prediction, Verdict, Verification

NO_BREAK = "\u00a0"
_MOST_FAILURES = 3  # figures spelled out; the report has them all
_LONGEST_NOTE = 300  # characters
_SHOWN_ON_PASS = ("input.garbage_probability", "attention.iou", "early.iou")
_REPEATS = {"attention.dice": "attention.iou", "early.dice": "early.iou"}  # Dice is a function of IoU


@dataclass(frozen=True, slots=True)
class Banner:
    """`title` and `outcome` are always shown; the others go, last first, where there is no room."""

    title: str
    outcome: str
    others: tuple[str, ...]

    @property
    def summary(self) -> str:
        """All of it as one text, on one line."""
        return _plain(". ".join((self.title, self.outcome, *self.others)))


def banner(prediction: Prediction, verification: Verification, bundle: BundleIdentity) -> Banner:
    """The words for one verdict.

    Only a PASS names the predicted class; a REJECT leaves out the notes too, for they may name one.
    """
    verdict = verification.verdict
    title = VERDICT_WORDS[verdict]
    made_by = f"{bundle.name} {bundle.version}, {verification.attention_method}"
    notes = tuple(f"Note: {_shortened(note)}" for note in verification.notes)
    if verdict is Verdict.PASS:
        outcome = f"{prediction.label}, probability {prediction.probability:.2f}"
        return Banner(title, outcome, tuple(part for part in (*notes, _figures(verification), made_by) if part))
    failures = _failures(prediction, verification)
    if verdict is Verdict.REJECT:
        return Banner(title, f"Rejected: {failures}", (made_by,))
    return Banner(title, f"Failed: {failures}", (*notes, made_by))


def comparison(measurement: Measurement) -> str:
    """A failed figure beside its threshold, with as many digits as it takes to see the difference."""
    label = measurement_code(measurement.name).label
    value, threshold = measurement.value, measurement.threshold
    if not math.isfinite(value):
        return _kept(f"{label} could not be measured")
    sign = "<" if measurement.bound == "min" else ">"
    return _kept(f"{label} {_apart(value, threshold)} {sign} {_apart(threshold, value)}")


def _apart(value: float, other: float) -> str:
    """`value` to two decimals, or to as many more as tell it from `other`, and at least two significant digits."""
    for digits in range(2, 7):
        text = f"{value:.{digits}f}"
        small = 0 < min(abs(value), abs(other)) < 10.0 ** (1 - digits)
        if text != f"{other:.{digits}f}" and not small:
            return text
    return f"{value:.3g}"


def _failures(prediction: Prediction, verification: Verification) -> str:
    checks = [check for check in verification.checks if not check.passed and not check.advisory]
    failed = [m for check in checks for m in check.measurements if not m.passed]
    names = {m.name for m in failed}
    failed = [m for m in failed if _REPEATS.get(m.name) not in names]
    failed.sort(key=lambda m: 1.0 if m.p_value is None else m.p_value)  # stable: then as in the report
    parts = [comparison(measurement) for measurement in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
        parts.append(_kept(f"and {len(failed) - _MOST_FAILURES} more"))
    if not failed:
        parts += [
            f"{check.name} check {_apart(check.score, check.threshold)} > {_apart(check.threshold, check.score)}"
            for check in checks
        ]
    if verification.attention_status == "degenerate" and verification.verdict is Verdict.FAIL:
        parts.insert(0, "no location speaks for the predicted class")
    if not parts and verification.verdict is Verdict.REJECT:
        parts.append(f"garbage probability {prediction.garbage_probability:.2f}, more than any class")
    return ", ".join(parts) or "see the report"


def _figures(verification: Verification) -> str:
    """A few figures that passed, with what they had to meet."""
    shown = {m.name: m for m in verification.measurements}
    parts = []
    for name in _SHOWN_ON_PASS:
        if name in shown and math.isfinite(shown[name].value):
            m = shown[name]
            reachable = math.isfinite(m.threshold) and m.threshold > 0  # an overlap of less than nothing can't be shown
            limit = f" ({m.bound} {_apart(m.threshold, m.value)})" if reachable else ""
            parts.append(_kept(f"{measurement_code(name).label} {_apart(m.value, m.threshold)}{limit}"))
    return ", ".join(parts)


def _kept(text: str) -> str:
    """The same with no-break spaces: a figure and its threshold belong on one line."""
    return text.replace(" ", NO_BREAK)


def _shortened(note: str) -> str:
    text = _plain(note)
    return text if len(text) <= _LONGEST_NOTE else f"{text[: _LONGEST_NOTE - 3]}..."


def _plain(text: str) -> str:
    return " ".join(text.split())

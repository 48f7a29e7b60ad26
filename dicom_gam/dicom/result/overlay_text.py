"""What the overlay's banner says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dicom_gam.dicom.result.codes import measurement_code
from dicom_gam.records import BundleIdentity, Check, Measurement, Prediction, Verdict, Verification
from dicom_gam.wording import DEFAULT_LABELS, LabelSettings, drawable

NO_BREAK = "\u00a0"
_MOST_FAILURES = 3  # figures spelled out; the report has them all
_LONGEST_NOTE = 300  # characters
_LEAST = 0.0001
_SHOWN_ON_PASS = ("input.garbage_probability", "attention.iou", "early.iou")
_REPEATS = {"attention.dice": "attention.iou", "early.dice": "early.iou"}  # Dice is a function of IoU
_NAMED_BY_LABEL: Mapping[str, str] = MappingProxyType(  # the others are a check's label and a standard name, as IoU
    {
        "input.garbage_probability": "garbage_probability",
        "input.class_probability": "class_probability",
        "input.feature_distance": "feature_distance",
        "early.channel_distance": "channel_distance",
        "authenticity.frequency_distance": "frequency_distance",
    }
)
_SIGNS = MappingProxyType({("min", True): "≥", ("min", False): "<", ("max", True): "≤", ("max", False): ">"})
_IN_ASCII = str.maketrans({"≥": ">=", "≤": "<="})


@dataclass(frozen=True, slots=True)
class Banner:
    """`title` and `outcome` are always shown; the others go, last first, where there is no room."""

    title: str
    outcome: str
    others: tuple[str, ...]

    @property
    def summary(self) -> str:
        """All of it as one text, on one line, with signs that every character set has."""
        return _plain(". ".join((self.title, self.outcome, *self.others))).translate(_IN_ASCII)


def banner(
    prediction: Prediction,
    verification: Verification,
    bundle: BundleIdentity,
    labels: LabelSettings = DEFAULT_LABELS,
) -> Banner:
    """The words for one verdict.

    Only a PASS names the predicted class; the others leave out the notes too, for they may name one.
    """
    made_by = f"{bundle.name} {bundle.version}, {verification.attention_method}"
    if verification.verdict is Verdict.PASS:
        notes = tuple(f"{labels.note} {_shortened(note)}" for note in verification.notes)
        outcome = f"{prediction.label}, {labels.probability} {prediction.probability:.2f}"
        others = tuple(part for part in (*notes, _figures(verification, labels), made_by) if part)
        return Banner(labels.pass_title, outcome, others)
    failures = _failures(prediction, verification, labels)
    if verification.verdict is Verdict.REJECT:
        return Banner(labels.reject_title, f"{labels.rejected} {failures}", (made_by,))
    return Banner(labels.fail_title, f"{labels.failed} {failures}", (made_by,))


def comparison(measurement: Measurement, labels: LabelSettings = DEFAULT_LABELS) -> str:
    """A figure beside its threshold, with as many digits as it takes to see the difference."""
    name = figure_name(measurement.name, labels)
    value, threshold = measurement.value, measurement.threshold
    if not math.isfinite(value):
        return _kept(f"{name} {labels.not_measured}")
    sign = _SIGNS[measurement.bound, measurement.passed]
    return _kept(f"{name} {_apart(value, threshold)} {sign} {_apart(threshold, value)}")


def figure_name(name: str, labels: LabelSettings) -> str:
    """How a measurement is called on the overlay. Raises EncodingError for a name without a code."""
    known = measurement_code(name).label
    if name in _NAMED_BY_LABEL:
        return str(getattr(labels, _NAMED_BY_LABEL[name]))
    check = name.partition(".")[0]
    return f"{getattr(labels, check)} {known.removeprefix(check).strip()}"


def _apart(value: float, other: float) -> str:
    """`value` to two decimals, or to as many more as tell it from `other`, and at least two significant digits.

    What is next to nothing beside `other` is said to be less than so much, for nobody reads 1.96e-08 at a glance.
    """
    if 0 < value < _LEAST <= other / 10:
        return f"<{_LEAST}"
    for digits in range(2, 7):
        text = f"{value:.{digits}f}"
        small = 0 < min(abs(value), abs(other)) < 10.0 ** (1 - digits)
        if text != f"{other:.{digits}f}" and not small:
            return text
    return f"{value:.3g}"


def _failures(prediction: Prediction, verification: Verification, labels: LabelSettings) -> str:
    checks = [check for check in verification.checks if not check.passed and not check.advisory]
    failed = [m for check in checks for m in check.measurements if not m.passed]
    names = {m.name for m in failed}
    failed = [m for m in failed if _REPEATS.get(m.name) not in names]
    failed.sort(key=lambda m: 1.0 if m.p_value is None else m.p_value)  # stable: then as in the report
    parts = [comparison(measurement, labels) for measurement in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
        parts.append(_kept(f"+{len(failed) - _MOST_FAILURES} {labels.more}"))
    if not failed:
        parts += [_as_a_whole(check, labels) for check in checks]
    if verification.attention_status == "degenerate" and verification.verdict is Verdict.FAIL:
        parts.insert(0, labels.no_attention)
    if not parts and verification.verdict is Verdict.REJECT:
        name = labels.garbage_probability
        parts.append(f"{name} {prediction.garbage_probability:.2f}, {labels.more_than_any_class}")
    return ", ".join(parts) or labels.see_report


def _as_a_whole(check: Check, labels: LabelSettings) -> str:
    figures = f"{_apart(check.score, check.threshold)} > {_apart(check.threshold, check.score)}"
    return _kept(f"{getattr(labels, check.name)} {labels.check} {figures}")


def _figures(verification: Verification, labels: LabelSettings) -> str:
    """A few figures that passed, with what they had to meet."""
    shown = {m.name: m for m in verification.measurements}
    parts = []
    for m in (shown[name] for name in _SHOWN_ON_PASS if name in shown and math.isfinite(shown[name].value)):
        if math.isfinite(m.threshold) and m.threshold > 0:
            parts.append(comparison(m, labels))
        else:  # an overlap of less than nothing can't be shown
            parts.append(_kept(f"{figure_name(m.name, labels)} {m.value:.2f}"))
    return ", ".join(parts)


def _kept(text: str) -> str:
    """The same with no-break spaces: a figure and its threshold belong on one line."""
    return text.replace(" ", NO_BREAK)


def _shortened(note: str) -> str:
    text = drawable(note)
    return text if len(text) <= _LONGEST_NOTE else f"{text[: _LONGEST_NOTE - 3]}..."


def _plain(text: str) -> str:
    return " ".join(text.split())

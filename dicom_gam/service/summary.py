"""All figures of a result as plain JSON, for the job's record and the audit log. No patient data."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dicom_gam import __version__
from dicom_gam.dicom.result.result_file import series_of
from dicom_gam.storage.rows import SIMILARITIES, JobFigures

if TYPE_CHECKING:
    from dicom_gam.records import AIResult, Check, Measurement, Prediction, Verification


def result_summary(result: AIResult) -> dict[str, Any]:
    """Return probabilities, scores, thresholds, p-values, verdict, reasons, digests and output UIDs, JSON-ready.

    A number that JSON can't hold becomes the text "nan", "inf" or "-inf".
    """
    summary: dict[str, Any] = {
        "outcome": result.outcome,
        "input": {
            "sop_class_uid": result.instance.sop_class_uid,
            "sop_instance_uid": result.instance.sop_instance_uid,
            "study_instance_uid": result.study_instance_uid,
            "file_blake3": result.instance.digest,
            "pixel_sha256": result.radiograph_pixel_sha256,
        },
        "bundle": {"name": result.bundle.name, "version": result.bundle.version, "digest": result.bundle.digest},
        "settings_digest": result.settings_digest,
        "made_with": f"dicom_gam {__version__}",
        "outputs": [
            {
                "role": item.role,
                "series_instance_uid": series_of(item.content),
                "sop_class_uid": item.sop_class_uid,
                "sop_instance_uid": item.sop_instance_uid,
                "sha256": hashlib.sha256(item.content).hexdigest(),
                "size_bytes": len(item.content),
            }
            for item in result.objects
        ],
    }
    if result.rule:
        summary["rule"] = result.rule
    if result.error is not None:
        summary["error"] = result.error
    if result.skipped is not None:
        summary["skipped"] = result.skipped
    if result.rejection is not None:
        summary["rejection"] = {"reason": result.rejection.reason.value, "message": result.rejection.message}
    if result.prediction is not None:
        summary["prediction"] = _prediction(result.prediction)
    if result.verification is not None:
        summary["verification"] = _verification(result.verification)
    return summary


def result_figures(result: AIResult) -> JobFigures:
    """The few figures that are shown over time."""
    bundle = (result.bundle.name, result.bundle.version, result.bundle.digest)
    verification = result.verification
    if verification is None:
        return JobFigures(*bundle)
    measured = {item.name: _finite(item.value) for item in verification.measurements}
    similarities = {name: measured.get(f"attention.{name}") for name in SIMILARITIES}
    return JobFigures(*bundle, verification.rank.class_name, _finite(verification.p_value), similarities)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _prediction(prediction: Prediction) -> dict[str, Any]:
    return {
        "label": prediction.label,
        "probabilities": {
            name: _number(value)
            for name, value in zip(prediction.class_names, prediction.probabilities, strict=True)
        },
        "garbage_class": prediction.garbage_class,
    }  # fmt: skip


def _verification(verification: Verification) -> dict[str, Any]:
    return {
        "verdict": verification.verdict.value,
        "alpha": _number(verification.alpha),
        "p_value": _number(verification.p_value),
        "score": _number(verification.score),
        "rank": asdict(verification.rank),
        "attention_method": verification.attention_method,
        "attention_status": verification.attention_status,
        "reasons": list(verification.reasons),
        "notes": list(verification.notes),
        "checks": [_check(check) for check in verification.checks],
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": check.passed,
        "p_value": _number(check.p_value),
        "score": _number(check.score),
        "threshold": _number(check.threshold),
        "advisory": check.advisory,
        "reason": check.reason,
        "measurements": [_measurement(measurement) for measurement in check.measurements],
    }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        "name": measurement.name,
        "value": _number(measurement.value),
        "threshold": _number(measurement.threshold),
        "bound": measurement.bound,
        "p_value": None if measurement.p_value is None else _number(measurement.p_value),
        "passed": bool(measurement.passed),
    }


def _number(value: float) -> float | str:
    plain = float(value)
    return plain if math.isfinite(plain) else str(plain)

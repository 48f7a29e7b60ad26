"""An evaluation summed up: the few figures that matter most, and everything as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dicom_gam import __version__
from dicom_gam.evidence.cases import Case
from dicom_gam.evidence.evaluate import PROVENANCE, Evaluation, Rate


def accepted_accuracy(evaluation: Evaluation) -> Rate:
    """Accuracy on the expected images of every source that were passed."""
    return _summed(row.accuracy_accepted for row in evaluation.sources)


def own_false_alarms(evaluation: Evaluation, alpha: float | None = None) -> Rate:
    """False alarms at `alpha`, the bundle's own by default, on sources that the calibration knows."""
    level = evaluation.alpha if alpha is None else alpha
    unseen = PROVENANCE["unseen"]
    return _summed(r.rate for r in evaluation.false_fails if r.alpha == level and r.provenance != unseen)


def foreign_not_passed(evaluation: Evaluation) -> Rate:
    """The share of expected images from sources never used that were not passed: what awaits a new site."""
    rows = [row for row in evaluation.sources if row.provenance == PROVENANCE["unseen"]]
    n = sum(row.accuracy.n for row in rows)
    return Rate.of(n - sum(row.verdicts["PASS"] for row in rows), n)


def wrongly_passed(evaluation: Evaluation) -> dict[str, Rate]:
    """The share of odd images that were passed, by kind."""
    kinds = dict.fromkeys(row.kind for row in evaluation.detections)
    return {k: _summed(r.wrongly_passed for r in evaluation.detections if r.kind == k) for k in kinds}


def report_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the pictures, in types that JSON has; what could not be measured is null."""
    summary: dict[str, Any] = {"format": 1, "dicom_gam": __version__}
    for field in dataclasses.fields(evaluation):
        summary[field.name] = _plain(getattr(evaluation, field.name))
    for name in ("examples", "example_maps"):
        del summary["methods"][name]
    return summary


def _summed(rates: Iterable[Rate]) -> Rate:
    counted = list(rates)
    return Rate.of(sum(r.count for r in counted), sum(r.n for r in counted))


def _plain(value: Any) -> Any:
    if isinstance(value, Case):
        return _plain_case(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else None


def _plain_case(case: Case) -> dict[str, Any]:
    return {
        "path": str(case.image.path),
        "label": case.image.label,
        "kind": case.kind,
        "family": case.family,
        "predicted": case.prediction.label,
        "verdict": case.verification.verdict.value,
        "p_value": case.verification.p_value,
        "score": _plain(case.verification.score),
        "checks": {c.name: {"score": _plain(c.score), "p_value": c.p_value} for c in case.verification.checks},
        "reasons": list(case.verification.reasons),
    }

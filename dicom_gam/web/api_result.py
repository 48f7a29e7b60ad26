"""What the API says of a result. Only an image that passed verification has a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicom_gam.records import Verdict
from dicom_gam.web.api_models import PASSED, WARNING, Analysis, Finding, Verified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.storage.rows import Job


def finding_of(job: Job) -> Finding | None:
    """The finding of an image that passed; None for every other, whatever the network says."""
    prediction = _part(job, "prediction")
    if not _passed(job) or not prediction:
        return None
    label = prediction["label"]
    return Finding(label=label, probability=prediction["probabilities"][label])


def verification_of(job: Job) -> Verified | None:
    """The verdict and its figures; None where there was no verification."""
    verification = _part(job, "verification")
    if not verification:
        return None
    figures = {key: value for key, value in verification.items() if key != "verdict"}
    return Verified(warning=_warning(job), verdict=verification["verdict"], figures=figures)


def analysis_of(job: Job) -> Analysis | None:
    """The network's output for review; None where there is none."""
    prediction = _part(job, "prediction")
    if not prediction:
        return None
    probabilities = dict(prediction["probabilities"])
    return Analysis(warning=_warning(job), bundle=dict(_part(job, "bundle")), probabilities=probabilities)


def told(keys: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit record says, without the network's output, which is told with its warning or not at all."""
    return {key: value for key, value in keys.items() if key not in ("prediction", "verification")}


def _part(job: Job, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (job.result or {}).get(name) or {}
    return found


def _passed(job: Job) -> bool:
    return job.outcome == Verdict.PASS.value and _part(job, "verification").get("verdict") == Verdict.PASS.value


def _warning(job: Job) -> str:
    return PASSED if _passed(job) else WARNING

"""What happened to an image, step by step: the audit log's records of one job, in the words of the dossier."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from dicom_gam.service.dossier_words import said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dicom_gam.storage.audit_reader import AuditRecord

LOOKED = "access.looked"
_TONES: Mapping[str, str] = MappingProxyType(
    {
        "instance.quarantined": "warn",
        "instance.refused": "bad",
        "job.rejected": "warn",
        "job.retried": "warn",
        "job.failed": "bad",
        "job.recovered": "warn",
        "job.lease_lost": "warn",
        "delivery.sent": "good",
        "delivery.stored": "good",
        "delivery.postponed": "warn",
        "delivery.dead": "bad",
        "destination.dismissed": "warn",
        "result.overridden": "warn",
    }
)
_OUTCOME_TONES = MappingProxyType({"PASS": "good", "FAIL": "bad", "REJECT": "warn"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `time` is in seconds since the epoch, `tone` is good, bad, warn or empty.

    `of_job` is another job of the same image that the step belongs to, if it does.
    """

    number: int
    time: float
    words: str
    tone: str
    by: str
    of_job: str


def timeline(records: Iterable[AuditRecord], job_id: str) -> list[Step]:
    """Every step that the records tell of a job, oldest first; events that have no words are shown by their names."""
    return [_step(record, job_id) for record in records]


def _step(record: AuditRecord, job_id: str) -> Step:
    keys = record.keys
    words, tone = said(record), _TONES.get(record.event, "")
    if record.event == LOOKED and keys.get("part"):
        words += f" of the {keys['part']}"
    if record.event == "job.result":
        tone = _OUTCOME_TONES.get(str(keys.get("outcome")), "")
    named = str(keys.get("job_id") or job_id)
    return Step(
        number=record.number,
        time=datetime.fromisoformat(record.time).timestamp(),
        words=words,
        tone=tone,
        by=" from ".join(str(keys[key]) for key in ("by", "address") if keys.get(key)),
        of_job="" if named == job_id else named,
    )

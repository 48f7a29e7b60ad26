"""The dossier: all that the audit log and the storage know about a study, a job or a span of time, in one record.

It is assembled here and rendered elsewhere (`dossier_document` for HTML and PDF, `dossier_tables` for CSV and JSON).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dicom_gam import __version__
from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.service.audit_review import chain_state
from dicom_gam.service.dossier_pictures import pictures_of
from dicom_gam.service.evidence import kept_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dicom_gam.service.audit_review import ChainState
    from dicom_gam.service.dossier_pictures import Picture
    from dicom_gam.service.store import Store
    from dicom_gam.storage.audit_index import AuditIndex
    from dicom_gam.storage.audit_reader import AuditRecord
    from dicom_gam.storage.rows import Delivery, Job, Review

ARRIVALS = frozenset({"instance.stored", "job.reprocess_requested", "instance.quarantined"})
CONCLUSIONS = frozenset({"job.result", "job.rejected", "job.skipped", "job.failed"})
PICTURED_JOBS = 20  # of a larger study only so many jobs are pictured, or the document could not be opened
ACTS_SHOWN = 2000  # of a span of time; the tables hold all of them
CIRCUMSTANCES = 500  # events of the destinations while the study's results were under way


class ScopeKind(StrEnum):
    """What a dossier is about."""

    STUDY = "study"
    JOB = "job"
    PERIOD = "period"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a dossier is about: a Study Instance UID, a job, or the time [since, until), None for an open end."""

    kind: ScopeKind
    name: str = ""
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class ImageStory:
    """One job: what came, what was decided, what was sent. A record is None where the log has none."""

    job_id: str
    arrival: AuditRecord | None
    conclusion: AuditRecord | None
    records: Sequence[AuditRecord]
    job: Job | None = None
    deliveries: Sequence[Delivery] = ()
    reviews: Sequence[Review] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job in a span of time, as far as it fell into it."""

    job_id: str
    received: str = ""
    sender: str = ""
    sop_instance_uid: str = ""
    outcome: str = ""
    why: str = ""
    bundle: str = ""
    sent: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Dossier:
    """All of it. `records` walks over the records anew at each call; `settings` are texts by their digest."""

    scope: Scope
    made_at: float
    made_by: str
    version: str
    chain: ChainState
    count: int
    first: int
    last: int
    events: Mapping[str, int]
    records: Callable[[], Iterator[AuditRecord]]
    images: Sequence[ImageStory] = ()
    lines: Sequence[JobLine] = ()
    acts: Sequence[AuditRecord] = ()
    acts_left_out: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


def assemble(store: Store, index: AuditIndex, scope: Scope, by: str) -> Dossier:
    """Assemble a dossier. Raises ConfigError when there is nothing about it, AuditError, StorageError."""
    if scope.kind is ScopeKind.PERIOD:
        if scope.since is not None and scope.until is not None and scope.since >= scope.until:
            raise ConfigError("this span of time ends before it begins: exchange its ends")
        return _of_period(store, index, scope, by)
    records = _records_about(store, index, scope)
    if not records:
        msg = (
            f"nothing is on record about the {scope.kind.value} {scope.name!r}: look it up on the page Studies, or "
            "export a span of time"
        )
        raise ConfigError(msg)
    images = _stories(store, records)
    return Dossier(
        scope=scope,
        made_at=time.time(),
        made_by=by,
        version=__version__,
        chain=chain_state(store),
        count=len(records),
        first=records[0].number,
        last=records[-1].number,
        events=Counter(record.event for record in records),
        records=lambda: iter(records),
        images=images,
        acts=[record for record in records if is_act(record)],
        settings=_settings_texts(store, records),
    )


def is_act(record: AuditRecord) -> bool:
    """Whether a person (or a program in a person's name) did it."""
    return any(isinstance(record.keys.get(key), str) and record.keys.get(key) for key in ("by", "user"))


def _records_about(store: Store, index: AuditIndex, scope: Scope) -> list[AuditRecord]:
    """The records, with the storage commitments of what was sent and what befell its destinations meanwhile."""
    names = {scope.name}
    if scope.kind is ScopeKind.STUDY:  # a refused image's study stands in the database alone
        names.update(store.jobs.instances(study_instance_uid=scope.name))
    records = index.mentioning(names)
    jobs = _job_ids(records)
    if not jobs:
        return records
    deliveries = [delivery for job_id in jobs for delivery in store.outbox.deliveries(job_id)]
    transactions = {delivery.transaction_uid for delivery in deliveries} - {""}
    found = {record.number: record for record in records}
    found |= {record.number: record for record in index.mentioning(transactions)}
    span = (records[0].number, records[-1].number)
    for destination in {delivery.what.destination for delivery in deliveries}:
        for record in index.search(event="destination.", text=destination, before=span[1] + 1, limit=CIRCUMSTANCES):
            if record.number > span[0] and not record.keys.get("job_id"):
                found.setdefault(record.number, record)
    return [found[number] for number in sorted(found)]


def _job_ids(records: Iterable[AuditRecord]) -> list[str]:
    """The jobs in the order in which they appear."""
    named = (record.keys.get("job_id") for record in records if record.event not in ("retention.purged",))
    return list(dict.fromkeys(job_id for job_id in named if isinstance(job_id, str) and job_id))


def _stories(store: Store, records: Sequence[AuditRecord]) -> list[ImageStory]:
    by_job: dict[str, list[AuditRecord]] = {job_id: [] for job_id in _job_ids(records)}
    for record in records:
        job_id = record.keys.get("job_id")
        if isinstance(job_id, str) and job_id in by_job:
            by_job[job_id].append(record)
    stories = []
    for place, (job_id, own) in enumerate(by_job.items()):
        conclusion = next((record for record in reversed(own) if record.event in CONCLUSIONS), None)
        pictured = conclusion is not None and place < PICTURED_JOBS
        stories.append(
            ImageStory(
                job_id=job_id,
                arrival=next((record for record in own if record.event in ARRIVALS), None),
                conclusion=conclusion,
                records=own,
                job=store.jobs.get(job_id),
                deliveries=store.outbox.deliveries(job_id),
                reviews=store.reviews.of_job(job_id),
                pictures=pictures_of(store, conclusion.keys) if pictured and conclusion is not None else (),
            )
        )
    return stories


def _settings_texts(store: Store, records: Iterable[AuditRecord]) -> dict[str, str]:
    digests = {
        record.keys["settings_digest"]
        for record in records
        if record.event in CONCLUSIONS and isinstance(record.keys.get("settings_digest"), str)
    }
    texts = {}
    for digest in sorted(digests):
        try:
            texts[digest] = kept_settings(digest, store.evidence)
        except StorageError as error:
            texts[digest] = f"not kept: {error}"
    return texts


def _of_period(store: Store, index: AuditIndex, scope: Scope, by: str) -> Dossier:
    newest = index.search(limit=1)
    end = newest[0].number if newest else 0  # what is logged from now on, such as this export, is not part of it

    def records() -> Iterator[AuditRecord]:
        return (record for record in index.between(scope.since, scope.until) if record.number <= end)

    events: Counter[str] = Counter()
    lines: dict[str, dict[str, Any]] = {}
    acts: list[AuditRecord] = []
    first = last = left_out = 0
    for record in records():
        first, last = first or record.number, record.number
        events[record.event] += 1
        _note(lines, record)
        if is_act(record):
            if len(acts) < ACTS_SHOWN:
                acts.append(record)
            else:
                left_out += 1
    if not events:
        raise ConfigError("nothing is on record for this span of time: give another --from and --to")
    return Dossier(
        scope=scope,
        made_at=time.time(),
        made_by=by,
        version=__version__,
        chain=chain_state(store),
        count=events.total(),
        first=first,
        last=last,
        events=events,
        records=records,
        lines=[JobLine(job_id, **facts) for job_id, facts in lines.items()],
        acts=acts,
        acts_left_out=left_out,
    )


def _note(lines: dict[str, dict[str, Any]], record: AuditRecord) -> None:
    """Take a record into the line of its job."""
    keys, event = record.keys, record.event
    job_id = keys.get("job_id")
    if not isinstance(job_id, str) or not job_id or not event.startswith(("instance.", "job.", "delivery.")):
        return
    line = lines.setdefault(job_id, {})
    if event in ARRIVALS:
        line |= {"received": record.time, "sender": str(keys.get("calling_ae_title", "")),
                 "sop_instance_uid": str(keys.get("sop_instance_uid", ""))}  # fmt: skip
    elif event in CONCLUSIONS:
        bundle, source = keys.get("bundle"), keys.get("input")
        line |= {"outcome": outcome_of(record), "why": why_of(record)}
        if isinstance(bundle, dict):
            line["bundle"] = f"{bundle.get('name')} {bundle.get('version')}"
        if isinstance(source, dict):
            line["sop_instance_uid"] = str(source.get("sop_instance_uid", ""))
    elif event == "delivery.sent":
        line["sent"] = line.get("sent", 0) + 1
    elif event == "delivery.dead":
        line["failed"] = line.get("failed", 0) + 1


def outcome_of(record: AuditRecord) -> str:
    """PASS, FAIL, REJECT, UNUSABLE, SKIPPED or ERROR."""
    by_event = {"job.failed": "ERROR", "job.skipped": "SKIPPED", "job.rejected": "UNUSABLE"}
    return str(record.keys.get("outcome") or by_event.get(record.event, "unknown"))


def why_of(record: AuditRecord) -> str:
    """Why it came to the outcome, in plain words; empty when every check passed."""
    keys = record.keys
    verification, rejection = keys.get("verification"), keys.get("rejection")
    if isinstance(verification, dict):
        return "; ".join(str(reason) for reason in verification.get("reasons", []))
    if isinstance(rejection, dict):
        return str(rejection.get("message", ""))
    return str(keys.get("skipped") or keys.get("message") or "")

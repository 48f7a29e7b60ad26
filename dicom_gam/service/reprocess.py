"""Processing images again: with another bundle, other settings or other rules, from the files that are still here.

A reprocessing is a job of its own with the same bytes, by a second name of the same file (a hard link), so that each
job's file is kept and deleted by itself. Its `predecessor` is the latest job of the image. New results have new UIDs
when the bundle or the settings have changed, and their report points to the one before it; when neither has, they
would be the very objects that exist already, and these are never made twice (`unchanged`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dicom_gam.dicom.result.result_file import series_of
from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.records import ResultReference
from dicom_gam.service.store import LOCK_WAIT_S, hold_intake, lock, open_store
from dicom_gam.storage.rows import NewDelivery, NewJob
from dicom_gam.storage.states import OPEN_JOB_STATES, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dicom_gam.config import Settings
    from dicom_gam.records import AIResult
    from dicom_gam.service.store import Store
    from dicom_gam.storage.protocols import Blobs, JobQueue, Outbox
    from dicom_gam.storage.rows import Job

_log = logging.getLogger(__name__)
EVENT = "job.reprocess_requested"


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be processed again: exactly one of these. `since` is in seconds since the epoch."""

    study_instance_uid: str = ""
    sop_instance_uid: str = ""
    job_ids: tuple[str, ...] = ()
    since: float | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        given = (self.study_instance_uid, self.sop_instance_uid, self.job_ids, self.since is not None, self.everything)
        if sum(bool(item) for item in given) != 1:
            msg = "say what to process again, in one way: a study, an instance, jobs, a time to begin at, or everything"
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class Requeued:
    """An image that is processed again, as the job `job_id`; empty when it was only asked what would happen."""

    job_id: str
    predecessor: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something selected that is not processed again, and why; `what` is a job or an instance."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Reprocessing:
    """What was queued, oldest image first, and what was not."""

    queued: tuple[Requeued, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A reprocessing made the very objects that the job `made_by` made.

    They are not sent again. `deliveries` are the old files, for destinations that were never given them.
    """

    made_by: str
    message: str
    deliveries: tuple[NewDelivery, ...] = ()


def reprocess(
    settings: Settings, selection: Selection, *, bundle: str = "", again: bool = False, dry_run: bool = False
) -> Reprocessing:
    """Queue images for processing once more, also while the node runs; one that stands still does it when it starts.

    `bundle` is one of `settings.bundles`; without it the rules decide. With `again` also images whose latest result
    was asked for with the same `bundle` are queued. Each is audited. Raises ConfigError, StorageError or AuditError;
    what was queued before an error stays queued, and is left out when the command is given again.
    """
    bundle = _known_bundle(settings, bundle)
    queued: list[Requeued] = []
    left_out: list[LeftOut] = []
    with ExitStack() as stack:
        store = stack.enter_context(open_store(settings))
        if not dry_run:
            stack.callback(os.close, _only_one(store))
        for item in _chosen(store, selection, bundle, again):
            if isinstance(item, LeftOut):
                left_out.append(item)
            else:
                latest, source = item
                job_id = "" if dry_run else _queue(store, latest, source, bundle)
                queued.append(Requeued(job_id, latest.job_id, latest.instance.sop_instance_uid))
    return Reprocessing(tuple(queued), tuple(left_out))


def predecessors(job: Job, jobs: JobQueue, results: Blobs) -> tuple[ResultReference, ...]:
    """The report that a reprocessing supersedes: of the nearest job before it that made one; empty when none did."""
    name = job.predecessor
    while name:
        before = jobs.get(name)
        if before is None:
            break
        for output in _outputs(before):
            series = output.get("series_instance_uid") or _series_in_file(output, results)
            if output["role"] == "sr" and series:
                uids = (output["sop_class_uid"], output["sop_instance_uid"])
                return (ResultReference(before.study_instance_uid, series, *uids),)
        name = before.predecessor
    return ()


def unchanged(
    job: Job, result: AIResult, destinations: Sequence[str], jobs: JobQueue, outbox: Outbox, results: Blobs
) -> Unchanged | None:
    """Whether the objects of a reprocessing exist already; None when they are new, or `job` is no reprocessing.

    `destinations` are those that the result is for. One that was never given the objects gets the old files, byte for
    byte: two files with one SOP Instance UID must never differ.
    """
    if not job.predecessor:
        return None
    family = [other for other in jobs.of_instance(job.instance.sop_instance_uid) if other.job_id != job.job_id]
    wanted = {item.sop_instance_uid for item in result.objects}
    makers = (other for other in reversed(family) if wanted & {o["sop_instance_uid"] for o in _outputs(other)})
    maker = next(makers, None)  # the oldest: a later one made nothing itself
    if maker is None:
        return None
    given = _given(family, outbox)
    missing = [name for name in destinations if any((name, uid) not in given for uid in wanted)]
    files = _old_files(maker, results) if missing else {}
    deliveries = tuple(
        NewDelivery(name, result.study_instance_uid, item.role, item.sop_class_uid, item.sop_instance_uid,
                    item.transfer_syntax_uid, files[item.sop_instance_uid])
        for item in result.objects
        for name in missing
        if (name, item.sop_instance_uid) not in given and item.sop_instance_uid in files
    )  # fmt: skip
    return Unchanged(maker.job_id, _told(maker, missing, whole=len(files) == len(wanted)), deliveries)


def _given(family: Sequence[Job], outbox: Outbox) -> set[tuple[str, str]]:
    """Which destination was given which object, by any job of the image."""
    rows = (row.what for job in family for row in outbox.deliveries(job.job_id))
    return {(what.destination, what.sop_instance_uid) for what in rows}


def _told(maker: Job, missing: Sequence[str], *, whole: bool) -> str:
    names = ", ".join(missing)
    if not missing:
        what = "they are not sent again"
    elif whole:
        what = f"they go only to {names}, which did not have them"
    else:
        what = f"their files have been deleted since (retention.results_days), so {names} can't be given all of them"
    return f"nothing has changed: job {maker.job_id} made these very objects, by the same bundle and settings; {what}"


def _chosen(store: Store, selection: Selection, bundle: str, again: bool) -> Iterator[LeftOut | tuple[Job, Job]]:
    """For each selected image its latest job and the job whose file is still here, or why it is left out."""
    for uid in _instances(store, selection):
        if isinstance(uid, LeftOut):
            yield uid
            continue
        family = [job for job in store.jobs.of_instance(uid) if job.state is not JobState.QUARANTINED]
        source = next((job for job in family if job.purged_at is None and job.instance.path.exists()), None)
        why = _reason_against(family, source, bundle, again)
        if why or source is None:
            yield LeftOut(uid, why)
        else:
            yield family[0], source


def _instances(store: Store, selection: Selection) -> Iterator[str | LeftOut]:
    if selection.sop_instance_uid:
        yield selection.sop_instance_uid
    elif not selection.job_ids:
        yield from store.jobs.instances(study_instance_uid=selection.study_instance_uid or None, since=selection.since)
    seen: set[str] = set()
    for job_id in selection.job_ids:
        job = store.jobs.get(job_id)
        if job is None:
            yield LeftOut(job_id, "there is no such job: see the job_id in the audit log")
        elif job.state is JobState.QUARANTINED:
            yield LeftOut(job_id, "it is quarantined, because other bytes came under the same UID, and never processed")
        elif job.instance.sop_instance_uid not in seen:
            seen.add(job.instance.sop_instance_uid)
            yield job.instance.sop_instance_uid


def _reason_against(family: Sequence[Job], source: Job | None, bundle: str, again: bool) -> str:
    if not family:
        return "this node has never received it"
    latest = family[0]
    if latest.state in OPEN_JOB_STATES:
        return f"its job {latest.job_id} is not finished yet: wait for it"
    if bundle and not again and latest.bundle == bundle and latest.state is JobState.DONE:
        return f"job {latest.job_id} has done so with this bundle already (--again does it all the same)"
    if source is None:
        return "its file has been deleted (see [retention]): have it sent again or fetch it"
    return ""


def _queue(store: Store, latest: Job, source: Job, bundle: str) -> str:
    """Second name of the file, then the job, then the audit record: as an arrival is committed."""
    job_id = uuid.uuid4().hex
    with ExitStack() as stack:
        # Held for one image at a time, so that a node can start in between.
        stack.callback(os.close, hold_intake(store.folder))
        path = store.inbox.link(source.instance.path.stem, job_id)
        instance = replace(source.instance, path=path)
        try:
            store.jobs.add(NewJob(job_id, job_id, instance, time.time(), bundle, latest.job_id))
        except StorageError:
            store.inbox.remove(job_id)
            raise
    uid = instance.sop_instance_uid
    store.audit.append(EVENT, job_id=job_id, predecessor=latest.job_id, bundle=bundle, sop_instance_uid=uid)
    return job_id


def _known_bundle(settings: Settings, bundle: str) -> str:
    """The bundle as the settings name it. Raises ConfigError when the node would not load it."""
    for name in settings.bundles if bundle else ():
        if bundle == name or os.path.abspath(bundle) == os.path.abspath(name):
            return name
    if bundle:
        msg = (
            f"the bundle {bundle!r} is none that this node loads ({', '.join(settings.bundles)}): name it in a rule or "
            "as processing.bundle, start the node again, then reprocess"
        )
        raise ConfigError(msg)
    return ""


def _only_one(store: Store) -> int:
    """Two commands at once would queue an image twice."""
    why = "another reprocess command is at work: wait for it to end"
    return lock(store.folder / "reprocess.lock", fcntl.LOCK_EX, LOCK_WAIT_S, why)


def _outputs(job: Job) -> Sequence[Mapping[str, str]]:
    return [] if job.result is None else job.result.get("outputs", [])


def _series_in_file(output: Mapping[str, str], results: Blobs) -> str:
    """For results from before their summary named the series."""
    try:
        return series_of(results.read(output["sha256"]))
    except StorageError:  # deleted since
        return ""


def _old_files(maker: Job, results: Blobs) -> dict[str, str]:
    """The names of the objects that are still here, by SOP Instance UID; written anew, so that they are kept."""
    files = {}
    for output in _outputs(maker):
        try:
            results.write(output["sha256"], (results.read(output["sha256"]),))
        except StorageError as error:
            _log.info("reprocess.file_gone job_id=%s %s", maker.job_id, error)
        else:
            files[output["sop_instance_uid"]] = output["sha256"]
    return files

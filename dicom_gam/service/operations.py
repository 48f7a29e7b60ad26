"""What people decide on the page Attention: send again, do without, close, override, process again.

Each decision is put on record first and then carried out, with who, why and from where. What has been decided already
is left out, so that a form sent twice does nothing twice. Nothing here changes an object that was sent, or sends one
that was not made before: an override is a note about a result, and no finding goes anywhere.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.errors import DicomGamError
from dicom_gam.service.feedback import known_classes, names_patient
from dicom_gam.service.reprocess import LeftOut, Selection, reprocess
from dicom_gam.service.store import LOCK_WAIT_S, lock
from dicom_gam.storage import sqlite_attention
from dicom_gam.storage.rows import CLOSING_REVIEWS, Review, ReviewKind
from dicom_gam.storage.sqlite_attention import ATTENTION_OUTCOMES, dead_counts, has_dead_letter, needs_attention
from dicom_gam.storage.sqlite_oversight import header_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store
    from dicom_gam.storage.rows import Job

MOST_AT_ONCE = 200
SHORTEST_REASON, LONGEST_REASON = 3, 500
RETRIED, DISMISSED = "destination.retried", "destination.dismissed"  # as `delivery_review` calls them


class OrderError(DicomGamError):
    """What was asked for can't be done as it was asked; nothing of it was done."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants it, why, and from which address (empty for this machine). No patient's data."""

    by: str
    why: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """How many of the things asked for were done, and what was not and why."""

    count: int
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """The dead letters of one job for one destination."""

    job_id: str
    destination: str


def retry_letters(store: Store, letters: Sequence[Letter], order: Order) -> Done:
    """Send these dead letters again as if never tried. Raises OrderError; the reason may be left out."""
    _check(letters, order, need_reason=False)
    return _settle_letters(store, letters, order, RETRIED)


def dismiss_letters(store: Store, letters: Sequence[Letter], order: Order) -> Done:
    """Do without these dead letters for good. Raises OrderError."""
    _check(letters, order)
    _refuse_identity(store, [letter.job_id for letter in letters], order.why)
    return _settle_letters(store, letters, order, DISMISSED)


def retry_destination(store: Store, destination: str, order: Order) -> Done:
    """Send all dead letters of a destination again. Raises OrderError; the reason may be left out."""
    _check((destination,), order, need_reason=False)
    return _settle_destination(store, destination, order, RETRIED)


def dismiss_destination(store: Store, destination: str, order: Order) -> Done:
    """Do without all dead letters of a destination for good. Raises OrderError."""
    _check((destination,), order)
    return _settle_destination(store, destination, order, DISMISSED)


def dismiss_results(store: Store, job_ids: Sequence[str], order: Order) -> Done:
    """Take results off the list of what needs attention. Raises OrderError."""
    _check(job_ids, order)
    _refuse_identity(store, job_ids, order.why)
    with _alone(store):
        jobs, left_out = _still_open(store, job_ids)
        store.audit.extend([("result.dismissed", _about(job, order)) for job in jobs])
        for job in jobs:
            _close(store, job, ReviewKind.DISMISSED, order)
    return Done(len(jobs), left_out)


def override(store: Store, job_id: str, order: Order, class_name: str = "") -> Done:
    """Note that the reader's own judgement counts instead of a result's verdict.

    What was sent stays as it is, and nothing is sent. `class_name` is what the reader sees, one of
    `feedback.known_classes` or empty. Raises OrderError.
    """
    _check((job_id,), order)
    _refuse_identity(store, (job_id,), order.why)
    with _alone(store):
        jobs, left_out = _still_open(store, (job_id,))
        for job in jobs:
            if class_name and class_name not in known_classes(job):
                msg = f"{class_name!r} is no class of the bundle that made this result: choose one that the page offers"
                raise OrderError(msg)
            store.audit.append("result.overridden", **_about(job, order), class_name=class_name)
            _close(store, job, ReviewKind.OVERRIDDEN, order, class_name)
    return Done(len(jobs), left_out)


def process_again(store: Store, settings: Settings, job_ids: Sequence[str], order: Order) -> Done:
    """Queue the images of these jobs once more. Raises OrderError, StorageError; the reason may be left out.

    A job that is not the latest of its image any more is left out: that has been processed again since.
    """
    _check(job_ids, order, need_reason=False)
    _refuse_identity(store, job_ids, order.why)
    with _alone(store):
        latest, left_out = _latest(store, job_ids)
        if not latest:
            return Done(0, left_out)
        store.audit.extend([("job.reprocess_ordered", _about(job, order)) for job in latest])
        answer = reprocess(settings, Selection(job_ids=tuple(job.job_id for job in latest)))
    return Done(len(answer.queued), (*left_out, *answer.left_out))


def can_be_closed(store: Store, job_id: str) -> bool:
    """Whether this job's result waits for a person."""
    return needs_attention(store.database, job_id)


def _settle_letters(store: Store, letters: Sequence[Letter], order: Order, event: str) -> Done:
    wanted = list(dict.fromkeys(letters))
    with _alone(store):
        dead = [letter for letter in wanted if has_dead_letter(store.database, letter.job_id, letter.destination)]
        if dead:
            who = _who(order)
            store.audit.extend([(event, {"destination": one.destination, "job_id": one.job_id, **who}) for one in dead])
            settle = sqlite_attention.revive_letters if event == RETRIED else sqlite_attention.dismiss_letters
            settle(store.database, [(letter.job_id, letter.destination) for letter in dead], time.time())
    why = "is no dead letter any more: somebody has seen to it already"
    gone = [letter for letter in wanted if letter not in set(dead)]
    return Done(len(dead), tuple(LeftOut(f"job {letter.job_id} for {letter.destination}", why) for letter in gone))


def _settle_destination(store: Store, destination: str, order: Order, event: str) -> Done:
    with _alone(store):
        if destination not in dead_counts(store.database):
            why = "has no dead letters (any more): somebody has seen to them already"
            return Done(0, (LeftOut(destination, why),))
        store.audit.append(event, **_who(order), destination=destination, job_id=None)
        settle = store.outbox.revive if event == RETRIED else store.outbox.dismiss
        return Done(len(settle(destination, time.time())))


def _still_open(store: Store, job_ids: Sequence[str]) -> tuple[list[Job], tuple[LeftOut, ...]]:
    jobs: list[Job] = []
    left_out: list[LeftOut] = []
    for job_id in dict.fromkeys(job_ids):
        job = store.jobs.get(job_id)
        if job is None:
            left_out.append(LeftOut(job_id, "there is no such job"))
        elif needs_attention(store.database, job_id):
            jobs.append(job)
        else:
            left_out.append(LeftOut(job_id, _why_closed(store, job)))
    return jobs, tuple(left_out)


def _why_closed(store: Store, job: Job) -> str:
    closing = [review for review in store.reviews.of_job(job.job_id) if review.kind in CLOSING_REVIEWS]
    if closing:
        return f"{closing[-1].reviewer} has closed it already ({closing[-1].kind})"
    if job.outcome not in ATTENTION_OUTCOMES:
        return f"it is {job.outcome or 'not finished'}, so it needs no decision"
    return "it was processed again since: look at its latest job"


def _latest(store: Store, job_ids: Sequence[str]) -> tuple[list[Job], tuple[LeftOut, ...]]:
    jobs: list[Job] = []
    left_out: list[LeftOut] = []
    for job_id in dict.fromkeys(job_ids):
        job = store.jobs.get(job_id)
        family = [] if job is None else store.jobs.of_instance(job.instance.sop_instance_uid)
        newer = [other for other in family if other.predecessor == job_id]
        if job is None:
            left_out.append(LeftOut(job_id, "there is no such job"))
        elif newer:
            left_out.append(LeftOut(job_id, f"it was processed again already, as job {newer[0].job_id}"))
        else:
            jobs.append(job)
    return jobs, tuple(left_out)


def _close(store: Store, job: Job, kind: ReviewKind, order: Order, class_name: str = "") -> None:
    store.reviews.add(Review(job.job_id, kind, order.by, time.time(), class_name, order.why))


def _about(job: Job, order: Order) -> Mapping[str, Any]:
    return {
        "job_id": job.job_id,
        "sop_instance_uid": job.instance.sop_instance_uid,
        "study_instance_uid": job.study_instance_uid,
        "outcome": job.outcome,
    } | _who(order)


def _who(order: Order) -> dict[str, Any]:
    return {"by": order.by, "why": order.why, "address": order.address}


def _check(things: Sequence[object], order: Order, *, need_reason: bool = True) -> None:
    if not things:
        raise OrderError("nothing was chosen: tick what it is about, then try again")
    if len(things) > MOST_AT_ONCE:
        raise OrderError(f"{len(things)} are too many at once: choose {MOST_AT_ONCE} at most")
    length = len(order.why.strip())
    if (need_reason or length) and not SHORTEST_REASON <= length <= LONGEST_REASON:
        msg = f"say why, in {SHORTEST_REASON} to {LONGEST_REASON} characters (found {length}), without a patient's data"
        raise OrderError(msg)


def _refuse_identity(store: Store, job_ids: Sequence[str], why: str) -> None:
    """Reasons go into the audit log, which holds no patient's data: refuse what is plainly this patient's."""
    headers = (header_of(store.database, job_id) for job_id in dict.fromkeys(job_ids))
    if any(names_patient(why, header) for header in headers if header is not None):
        msg = "the reason names the patient, and it is kept in the audit log: say it without name and numbers"
        raise OrderError(msg)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One decision after the other: what was looked at is still so when it is carried out. Raises StorageError."""
    why = "another person's decision is being carried out: try again in a moment"
    held = lock(store.folder / "operations.lock", fcntl.LOCK_EX, LOCK_WAIT_S, why)
    try:
        yield
    finally:
        os.close(held)

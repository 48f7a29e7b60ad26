"""The job queue in SQLite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dicom_gam.records import ReceivedInstance
from dicom_gam.storage.rows import Job, Lease, Receipt, ReceiptKind
from dicom_gam.storage.sqlite import CLOCK_SLACK_S
from dicom_gam.storage.sqlite_drift import record_drift
from dicom_gam.storage.sqlite_outbox import insert_deliveries
from dicom_gam.storage.sqlite_oversight import record_oversight
from dicom_gam.storage.states import JOB_TRANSITIONS, JobEvent, JobState, next_state

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dicom_gam.storage.protocols import DriftRule
    from dicom_gam.storage.rows import Conclusion, DriftSample, NewDelivery, NewJob
    from dicom_gam.storage.sqlite import Database

# Ready: not told to wait, or told so by a clock that has gone back since.
_READY = f"state = '{JobState.RECEIVED}' AND (not_before <= :now OR leased_at > :now + {CLOCK_SLACK_S})"
_LOST = f"state = '{JobState.PROCESSING}' AND (lease_until <= :now OR leased_at > :now + {CLOCK_SLACK_S})"


class SqliteJobQueue:
    """`protocols.JobQueue` over a `Database`; `locate` tells where a blob of the inbox lies.

    Drift samples are recorded by the `drift_rule`; without one they are ignored.
    """

    def __init__(self, database: Database, locate: Callable[[str], Path], drift_rule: DriftRule | None = None) -> None:
        self._database = database
        self._locate = locate
        self._drift_rule = drift_rule

    def add(self, job: NewJob) -> Receipt:
        """Commit a job, or find that its data set is known. On return it survives a power cut."""
        with self._database.transaction() as connection:
            known = connection.execute(
                "SELECT job_id, digest FROM jobs WHERE sop_instance_uid = ? AND predecessor = ''",
                (job.instance.sop_instance_uid,),
            ).fetchall()
            for row in known if not job.predecessor else ():
                if row["digest"] == job.instance.digest:  # of the whole file, which names the transfer syntax
                    return Receipt(ReceiptKind.DUPLICATE, row["job_id"])
            conflict = bool(known) and not job.predecessor
            state = JobState.QUARANTINED if conflict else JobState.RECEIVED
            _insert(connection, job, state, known[0]["job_id"] if conflict else "")
        return Receipt(ReceiptKind.CONFLICT if conflict else ReceiptKind.NEW, job.job_id)

    def claim(self, worker: str, limit: int, lease_s: float, now: float) -> list[Job]:
        """Lease the oldest ready jobs and count an attempt of each; one attempted before comes alone."""
        state = next_state(JOB_TRANSITIONS, JobState.RECEIVED, JobEvent.CLAIM)
        with self._database.transaction() as connection:
            rows = connection.execute(
                f"SELECT job_id, attempts FROM jobs WHERE {_READY} ORDER BY predecessor != '', number LIMIT :limit",  # noqa: S608
                {"now": now, "limit": limit},
            ).fetchall()
            alone = bool(rows) and rows[0]["attempts"] > 0
            names = [row["job_id"] for row in (rows[:1] if alone else rows) if alone or row["attempts"] == 0]
            connection.executemany(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, token = token + 1, worker = ?, leased_at = ?,"
                " lease_until = ? WHERE job_id = ?",
                [(state.value, worker, now, now + lease_s, name) for name in names],
            )
            return [self._one(connection, name) for name in names]

    def renew(self, leases: Sequence[Lease], lease_s: float, now: float) -> int:
        """Lengthen the leases that still hold; return how many do."""
        with self._database.transaction() as connection:
            return sum(
                connection.execute(
                    "UPDATE jobs SET leased_at = ?, lease_until = ? WHERE job_id = ? AND token = ? AND state = ?",
                    (now, now + lease_s, lease.job_id, lease.token, JobState.PROCESSING.value),
                ).rowcount
                for lease in leases
            )

    def finish(
        self,
        lease: Lease,
        conclusion: Conclusion,
        deliveries: Sequence[NewDelivery],
        now: float,
        drift: DriftSample | None = None,
    ) -> bool:
        """Commit the end of a job, its deliveries and its drift sample in one transaction; False: the lease is lost."""
        state = next_state(JOB_TRANSITIONS, JobState.PROCESSING, conclusion.event)
        with self._database.transaction() as connection:
            held = connection.execute(
                "UPDATE jobs SET state = ?, outcome = ?, reason = ?, message = ?, study_instance_uid = ?, result = ?,"
                " finished_at = ?, rule = ? WHERE job_id = ? AND token = ? AND state = ?",
                (state.value, conclusion.outcome, conclusion.reason, conclusion.message,
                 conclusion.study_instance_uid, json.dumps(conclusion.result, sort_keys=True, allow_nan=False), now,
                 conclusion.rule, lease.job_id, lease.token, JobState.PROCESSING.value),
            ).rowcount  # fmt: skip
            if held:
                record_oversight(connection, lease.job_id, conclusion, now)
                insert_deliveries(connection, lease.job_id, deliveries)
                if drift is not None and self._drift_rule is not None:
                    record_drift(connection, self._drift_rule, drift, now)
        return bool(held)

    def retry(self, lease: Lease, message: str, not_before: float, *, counted: bool = True) -> bool:
        """Give a job back for another attempt; False when the lease is lost. Not `counted`: this one was none."""
        state = next_state(JOB_TRANSITIONS, JobState.PROCESSING, JobEvent.RETRY)
        with self._database.transaction() as connection:
            held = connection.execute(
                "UPDATE jobs SET state = ?, message = ?, not_before = ?, attempts = attempts - ?"
                " WHERE job_id = ? AND token = ? AND state = ?",
                (
                    state.value,
                    message,
                    not_before,
                    0 if counted else 1,
                    lease.job_id,
                    lease.token,
                    JobState.PROCESSING.value,
                ),
            ).rowcount
        return bool(held)

    def recover(self, maximum_attempts: int, now: float, *, everything: bool = False) -> list[Job]:
        """Take back expired leases (or, at start, all of them); a job without an attempt left becomes failed."""
        which = f"state = '{JobState.PROCESSING}'" if everything else _LOST
        with self._database.transaction() as connection:
            rows = connection.execute(
                f"SELECT job_id, attempts FROM jobs WHERE {which} ORDER BY number",  # noqa: S608
                {"now": now},
            ).fetchall()
            for row in rows:
                spent = row["attempts"] >= maximum_attempts
                event = JobEvent.GIVE_UP if spent else JobEvent.LOSE
                message = f"the service ended or fell silent while working on this image (attempt {row['attempts']})"
                connection.execute(
                    "UPDATE jobs SET state = ?, token = token + 1, message = ?, outcome = ?, finished_at = ?"
                    " WHERE job_id = ?",
                    (next_state(JOB_TRANSITIONS, JobState.PROCESSING, event).value, message,
                     "ERROR" if spent else "", now if spent else None, row["job_id"]),
                )  # fmt: skip
            return [self._one(connection, row["job_id"]) for row in rows]

    def waiting(self, now: float) -> int:
        """How many jobs could be claimed."""
        with self._database.reading() as connection:
            row = connection.execute(f"SELECT count(*) FROM jobs WHERE {_READY}", {"now": now}).fetchone()  # noqa: S608
        return int(row[0])

    def get(self, job_id: str) -> Job | None:
        """Return one job."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else self._job(row)

    def jobs(self, limit: int = 100, state: JobState | None = None) -> list[Job]:
        """Return the latest jobs, newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM jobs WHERE :state IS NULL OR state = :state ORDER BY number DESC LIMIT :limit",
                {"state": None if state is None else state.value, "limit": limit},
            ).fetchall()
        return [self._job(row) for row in rows]

    def of_instance(self, sop_instance_uid: str) -> list[Job]:
        """Return every job of an instance, newest first: reprocessings, the first, and conflicts in quarantine."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM jobs WHERE sop_instance_uid = ? ORDER BY number DESC", (sop_instance_uid,)
            ).fetchall()
        return [self._job(row) for row in rows]

    def instances(self, *, study_instance_uid: str | None = None, since: float | None = None) -> list[str]:
        """SOP Instance UIDs of a study, or of what was received from `since` on, oldest first; without both of all."""
        # Each image's first job says when it was received; the study may be known from a later one only.
        of_study = study_instance_uid is not None
        condition = "study_instance_uid = :study" if of_study else "predecessor = '' AND received_at >= :since"
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT sop_instance_uid FROM jobs WHERE {condition} GROUP BY sop_instance_uid ORDER BY min(number)",  # noqa: S608
                {"study": study_instance_uid, "since": since or 0.0},
            ).fetchall()
        return [row["sop_instance_uid"] for row in rows]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; every state is a key."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}

    def knows_blob(self, blob: str) -> bool:
        """Whether a job refers to this blob of the inbox."""
        with self._database.reading() as connection:
            return connection.execute("SELECT 1 FROM jobs WHERE blob = ?", (blob,)).fetchone() is not None

    def _one(self, connection: sqlite3.Connection, job_id: str) -> Job:
        return self._job(connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone())

    def _job(self, row: sqlite3.Row) -> Job:
        instance = ReceivedInstance(
            path=self._locate(row["blob"]),
            sop_class_uid=row["sop_class_uid"],
            sop_instance_uid=row["sop_instance_uid"],
            transfer_syntax_uid=row["transfer_syntax_uid"],
            digest=row["digest"],
            size_bytes=row["size_bytes"],
            calling_ae_title=row["calling_ae_title"],
            called_ae_title=row["called_ae_title"],
            peer_address=row["peer_address"],
        )
        same = ("job_id", "received_at", "attempts", "token", "worker", "lease_until", "outcome",
                "reason", "message", "study_instance_uid", "finished_at",
                "bundle", "predecessor", "rule", "purged_at")  # fmt: skip
        return Job(
            state=JobState(row["state"]),
            instance=instance,
            result=None if row["result"] is None else json.loads(row["result"]),
            **{name: row[name] for name in same},
        )


def _insert(connection: sqlite3.Connection, job: NewJob, state: JobState, conflicts_with: str) -> None:
    instance = job.instance
    quarantined = state is JobState.QUARANTINED
    message = (
        f"another data set with the same SOP Instance UID came earlier (job {conflicts_with}): "
        "find out which of the two is right"
        if quarantined
        else ""
    )
    row = {
        "job_id": job.job_id,
        "state": state.value,
        "blob": job.blob,
        "sop_class_uid": instance.sop_class_uid,
        "sop_instance_uid": instance.sop_instance_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "digest": instance.digest,
        "size_bytes": instance.size_bytes,
        "calling_ae_title": instance.calling_ae_title,
        "called_ae_title": instance.called_ae_title,
        "peer_address": instance.peer_address,
        "received_at": job.received_at,
        "finished_at": job.received_at if quarantined else None,
        "bundle": job.bundle,
        "predecessor": job.predecessor,
        "reason": "same-uid-other-bytes" if quarantined else "",
        "message": message,
        "outcome": "QUARANTINED" if quarantined else "",
    }
    columns = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO jobs ({columns}) VALUES ({places})", row)  # noqa: S608 (constants only)

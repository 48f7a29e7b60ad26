"""A look at a node's database that changes nothing in it, also while the node runs: for whoever looks for a fault."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from dicom_gam.errors import StorageError
from dicom_gam.storage.rows import HeadMark
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, DeliveryState, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class JobReport:
    """Where the jobs stand. Times are seconds since the epoch; None where there is no such job."""

    counts: dict[JobState, int]
    ended_lately: dict[JobState, int]
    oldest_waiting_at: float | None
    lapsed: int  # in work, but the worker has been silent for longer than its lease
    newest_at: float | None


@dataclass(frozen=True, slots=True)
class DestinationReport:
    """Where the deliveries to one destination stand; `causes` are those of its dead letters, commonest first."""

    name: str
    counts: dict[DeliveryState, int]
    oldest_open_at: float | None
    causes: tuple[tuple[str, int], ...]
    last_cause: str
    paused: str | None


@dataclass(frozen=True, slots=True)
class JobEnd:
    """What became of one job, and of its deliveries."""

    job_id: str
    state: JobState
    outcome: str
    message: str
    deliveries: dict[DeliveryState, int]


def layout(path: Path) -> int:
    """The layout of the database; `layouts.SCHEMA_VERSION` is what this version of ours writes. Raises StorageError."""
    with _open(path) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def faults(path: Path, limit: int = 3) -> list[str]:
    """What SQLite finds wrong with the database file; empty when it is whole. Reads all of it. Raises StorageError."""
    with _open(path) as connection:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({int(limit)})")]
    return [] if found == ["ok"] else found


def log_bytes(path: Path) -> int:
    """The size of the write-ahead log beside the database."""
    with suppress(OSError):
        return os.stat(f"{path}-wal").st_size
    return 0


def audit_head(path: Path) -> HeadMark | None:
    """How far the audit log goes, as the database knows it. Raises StorageError."""
    with _open(path) as connection:
        row = connection.execute("SELECT number, sha256, first_byte, end_byte FROM audit_head").fetchone()
    return None if row is None else HeadMark(*row)


def job_report(path: Path, now: float, lately_s: float) -> JobReport:
    """Where the jobs stand, and how those of the latest `lately_s` have ended. Raises StorageError."""
    with _open(path) as connection:
        states = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        lately = connection.execute(
            "SELECT state, count(*) FROM jobs WHERE purged_at IS NULL AND finished_at > ? GROUP BY state",
            (now - lately_s,),
        ).fetchall()
        waiting = connection.execute("SELECT min(received_at) FROM jobs WHERE state = ?", (JobState.RECEIVED,))
        oldest = waiting.fetchone()[0]
        lapsed = connection.execute(
            "SELECT count(*) FROM jobs WHERE state = ? AND lease_until < ?", (JobState.PROCESSING, now)
        ).fetchone()[0]
        newest = connection.execute("SELECT received_at FROM jobs ORDER BY number DESC LIMIT 1").fetchone()
    return JobReport(_counts(states), _counts(lately), oldest, lapsed, None if newest is None else newest[0])


def destination_reports(path: Path) -> list[DestinationReport]:
    """Where the deliveries stand, destination by destination. Raises StorageError."""
    with _open(path) as connection:
        names = [row[0] for row in connection.execute("SELECT DISTINCT destination FROM deliveries ORDER BY 1")]
        return [_destination(connection, name) for name in names]


def find_job(path: Path, sop_instance_uid: str) -> JobEnd | None:
    """The latest job of an instance. Raises StorageError."""
    with _open(path) as connection:
        row = connection.execute(
            "SELECT job_id, state, outcome, message FROM jobs WHERE sop_instance_uid = ? ORDER BY number DESC LIMIT 1",
            (sop_instance_uid,),
        ).fetchone()
        if row is None:
            return None
        states = connection.execute("SELECT state, count(*) FROM deliveries WHERE job_id = ? GROUP BY 1", (row[0],))
        deliveries = {DeliveryState(state): count for state, count in states}
    return JobEnd(row[0], JobState(row[1]), row[2], row[3], deliveries)


def _counts(rows: Iterable[tuple[str, int]]) -> dict[JobState, int]:
    return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}


def _destination(connection: sqlite3.Connection, name: str) -> DestinationReport:
    states = connection.execute("SELECT state, count(*) FROM deliveries WHERE destination = ? GROUP BY state", (name,))
    counts = dict.fromkeys(DeliveryState, 0) | {DeliveryState(state): count for state, count in states}
    open_states = ", ".join(f"'{state}'" for state in sorted(OPEN_DELIVERY_STATES))
    oldest, last_cause = connection.execute(
        "SELECT finished_at, cause FROM deliveries JOIN jobs USING (job_id) WHERE destination = ?"  # noqa: S608
        f" AND deliveries.state IN ({open_states}) ORDER BY delivery_id LIMIT 1",
        (name,),
    ).fetchone() or (None, "")
    causes = connection.execute(
        "SELECT cause, count(*) AS many FROM deliveries WHERE destination = ? AND state = ? GROUP BY cause"
        " ORDER BY many DESC, cause LIMIT 2",
        (name, DeliveryState.DEAD),
    ).fetchall()
    paused = connection.execute("SELECT why FROM paused_destinations WHERE destination = ?", (name,)).fetchone()
    why = None if paused is None else str(paused[0])
    return DestinationReport(name, counts, oldest, tuple((c, n) for c, n in causes), last_cause, why)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5.0)) as connection:
            yield connection
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        msg = f"the database {path} can't be read ({name}: {error}): see to the disk, or restore it from a backup"
        raise StorageError(msg) from error

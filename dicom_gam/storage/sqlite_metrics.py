"""The figures of one look at the database for metrics: grouped counts, by indexes wherever the table is large."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dicom_gam.storage.states import OPEN_JOB_STATES, DeliveryState, JobState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from dicom_gam.storage.sqlite import Database

_AT_ONCE = 500  # numbers in one query, below SQLite's limit of variables


class SenderFigures(NamedTuple):
    """What one calling AE title has sent; `last_at` is when its latest image came."""

    sender: str
    jobs: int
    last_at: float


class ResultKind(NamedTuple):
    """What results are counted by."""

    outcome: str
    sender: str
    bundle_name: str
    bundle_version: str


@dataclass(frozen=True, slots=True)
class MetricsFigures:
    """One look at the database. `senders` come in the order in which each was first seen.

    `oldest_open_at` is when the oldest job that is not finished was received; None when there is none.
    `unreachable` and `paused` say since when, by destination.
    """

    job_states: Mapping[JobState, int]
    outcomes: Mapping[str, int]
    senders: Sequence[SenderFigures]
    results: Mapping[ResultKind, int]
    deliveries: Mapping[tuple[str, DeliveryState], int]
    oldest_open_at: float | None
    unreachable: Mapping[str, float]
    paused: Mapping[str, float]
    audit_records: int


class SqliteMetrics:
    """Looks at a database again and again. Safe from any thread.

    A result never changes once its job is final, so each is counted once; jobs that were open then are looked at again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[ResultKind] = Counter()
        self._counted_to = 0
        self._open: frozenset[int] = frozenset()  # those up to there whose results are not among them

    def read(self, database: Database) -> MetricsFigures:
        """Count. Raises StorageError."""
        with self._lock, database.reading() as connection:
            connection.execute("BEGIN")  # one state of the database for all figures
            try:
                return self._read(connection)
            finally:
                connection.execute("ROLLBACK")

    def _read(self, connection: sqlite3.Connection) -> MetricsFigures:
        states = dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        outcomes = connection.execute("SELECT outcome, count(*) FROM jobs WHERE outcome != '' GROUP BY outcome")
        senders = connection.execute(
            "SELECT calling_ae_title, count(*), max(received_at) FROM jobs GROUP BY calling_ae_title"
            " ORDER BY min(number)"
        )
        deliveries = connection.execute("SELECT destination, state, count(*) FROM deliveries GROUP BY 1, 2")
        open_jobs = _open_jobs(connection)
        oldest = _received_at(connection, min(open_jobs)) if open_jobs else None
        return MetricsFigures(
            job_states={state: states.get(state.value, 0) for state in JobState},
            outcomes=dict(outcomes.fetchall()),
            senders=[SenderFigures(*row) for row in senders],
            results=self._results(connection, open_jobs),
            deliveries={(name, DeliveryState(state)): count for name, state, count in deliveries},
            oldest_open_at=oldest,
            unreachable=dict(connection.execute("SELECT destination, since FROM unreachable_destinations").fetchall()),
            paused=dict(connection.execute("SELECT destination, since FROM paused_destinations").fetchall()),
            audit_records=int(connection.execute("SELECT coalesce(max(number), 0) FROM audit_head").fetchone()[0]),
        )

    def _results(self, connection: sqlite3.Connection, open_jobs: frozenset[int]) -> Counter[ResultKind]:
        newest = int(connection.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()[0])
        ended = sorted(self._open - open_jobs)
        counted = self._counted + _count(connection, self._counted_to, newest)
        for start in range(0, len(ended), _AT_ONCE):
            counted += _count_of(connection, ended[start : start + _AT_ONCE])
        self._counted, self._counted_to, self._open = counted, newest, open_jobs
        return counted.copy()


def check_writable(database: Database) -> None:
    """Write and take it back. Raises StorageError when the database can't be written or is held by somebody."""
    try:
        with database.transaction() as connection:
            connection.execute("UPDATE audit_head SET number = number")
            raise _TakenBackError
    except _TakenBackError:
        return


class _TakenBackError(Exception):
    """Ends a transaction without a change."""


def _open_jobs(connection: sqlite3.Connection) -> frozenset[int]:
    states = ", ".join(f"'{state}'" for state in sorted(OPEN_JOB_STATES))
    rows = connection.execute(f"SELECT number FROM jobs WHERE state IN ({states})")  # noqa: S608 (constants only)
    return frozenset(row["number"] for row in rows)


def _received_at(connection: sqlite3.Connection, number: int) -> float:
    return float(connection.execute("SELECT received_at FROM jobs WHERE number = ?", (number,)).fetchone()[0])


def _count(connection: sqlite3.Connection, after: int, up_to: int) -> Counter[ResultKind]:
    rows = connection.execute(
        "SELECT outcome, sender, bundle_name, bundle_version, count(*) FROM job_figures"
        " WHERE number > ? AND number <= ? GROUP BY 1, 2, 3, 4",
        (after, up_to),
    )
    return Counter({ResultKind(*row[:4]): row[4] for row in rows})


def _count_of(connection: sqlite3.Connection, numbers: Sequence[int]) -> Counter[ResultKind]:
    places = ", ".join("?" for _ in numbers)
    rows = connection.execute(
        "SELECT outcome, sender, bundle_name, bundle_version, count(*) FROM job_figures"  # noqa: S608 (places only)
        f" WHERE number IN ({places}) GROUP BY 1, 2, 3, 4",
        numbers,
    )
    return Counter({ResultKind(*row[:4]): row[4] for row in rows})

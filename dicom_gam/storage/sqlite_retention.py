"""What may be deleted, as the SQLite database knows it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from dicom_gam.storage.rows import PurgedImage, ResultUse
from dicom_gam.storage.sqlite_oversight import forget_headers
from dicom_gam.storage.states import DeliveryState, JobState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from dicom_gam.storage.rows import Horizon
    from dicom_gam.storage.sqlite import Database

_USUAL = (JobState.DONE, JobState.SKIPPED)
_QUARANTINE = (JobState.FAILED, JobState.REJECTED, JobState.QUARANTINED)
# By what is settled and not by what is open: a state that is added later keeps its files until someone decides.
_SETTLED = (DeliveryState.SENT, DeliveryState.DISMISSED)


def _listed(states: Iterable[str]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_DELIVERY = "SELECT 1 FROM deliveries WHERE deliveries.job_id = jobs.job_id AND deliveries.state"
_UNSETTLED = f"EXISTS ({_DELIVERY} NOT IN ({_listed(_SETTLED)}))"
_SENT = f"EXISTS ({_DELIVERY} = '{DeliveryState.SENT}')"


class SqliteRetention:
    """`protocols.Retention` over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest_number(self) -> int:
        """The number of the latest job, 0 when there was none."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()[0])

    def purge(self, images: Horizon, quarantine: Horizon, limit: int, now: float) -> list[PurgedImage]:
        """Mark up to `limit` images as purged, oldest first; the marks are durable when it returns."""
        purged: list[PurgedImage] = []
        for states, horizon in ((_USUAL, images), (_QUARANTINE, quarantine)):
            with self._database.transaction() as connection:
                rows = connection.execute(
                    "SELECT number, job_id, blob, size_bytes FROM jobs INDEXED BY ended_jobs WHERE purged_at IS NULL"  # noqa: S608 (constants)
                    f" AND finished_at <= ? AND number <= ? AND state IN ({_listed(states)}) AND NOT {_UNSETTLED}"
                    " ORDER BY finished_at LIMIT ?",
                    (horizon.time, horizon.number, limit - len(purged)),
                ).fetchall()
                purged += _mark(connection, rows, now)
        return purged

    def purge_delivered(self, wanted_bytes: int, limit: int, now: float) -> list[PurgedImage]:
        """Mark images of delivered jobs, oldest first, whatever their age, until they come to `wanted_bytes`."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT number, job_id, blob, size_bytes FROM jobs INDEXED BY ended_jobs WHERE purged_at IS NULL"  # noqa: S608 (constants)
                f" AND finished_at IS NOT NULL AND state = '{JobState.DONE}' AND {_SENT} AND NOT {_UNSETTLED}"
                " ORDER BY finished_at LIMIT ?",
                (limit,),
            ).fetchall()
            chosen = []
            for row in rows:
                if wanted_bytes <= 0:
                    break
                chosen.append(row)
                wanted_bytes -= row["size_bytes"]
            return _mark(connection, chosen, now)

    def purged_among(self, blobs: Sequence[str]) -> list[PurgedImage]:
        """Which of these blobs of the inbox are marked as purged."""
        with self._database.reading() as connection:
            return [
                PurgedImage(row["job_id"], blob, row["size_bytes"])
                for blob in blobs
                for row in connection.execute(
                    "SELECT job_id, size_bytes FROM jobs WHERE blob = ? AND purged_at IS NOT NULL", (blob,)
                )
            ]

    def result_uses(self, blobs: Sequence[str], horizon: Horizon) -> dict[str, ResultUse]:
        """What each of these results is needed for."""
        with self._database.reading() as connection:
            return {blob: _use(connection, blob, horizon) for blob in blobs}

    def release_result(self, blob: str, horizon: Horizon, remove: Callable[[], bool]) -> bool:
        """Call `remove` unless the result is needed, while no delivery of it can come about; return its answer."""
        with self._database.transaction() as connection:  # deliveries are committed by writers, who wait meanwhile
            return _use(connection, blob, horizon) is not ResultUse.NEEDED and remove()

    def shorten_log(self, above_bytes: int) -> int:
        """Give back the space of the write-ahead log when it has grown above so much; return its size before.

        SQLite itself starts the log anew only in a moment without readers, which a busy node may never have.
        """
        with self._database.reading() as connection:
            path = connection.execute("PRAGMA database_list").fetchone()["file"]
            size = 0
            with suppress(FileNotFoundError):
                size = os.stat(f"{path}-wal").st_size
            if size > above_bytes:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # busy readers: the next one will do
        return size


def _mark(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row], now: float) -> list[PurgedImage]:
    forget_headers(connection, [row["number"] for row in rows])
    connection.executemany("UPDATE jobs SET purged_at = ? WHERE number = ?", [(now, row["number"]) for row in rows])
    return [PurgedImage(row["job_id"], row["blob"], row["size_bytes"]) for row in rows]


def _use(connection: sqlite3.Connection, blob: str, horizon: Horizon) -> ResultUse:
    row = connection.execute(
        "SELECT count(*) AS deliveries, max(tried_at) AS latest, max(number) AS number,"  # noqa: S608 (constants only)
        f" count(*) FILTER (WHERE deliveries.state NOT IN ({_listed(_SETTLED)})) AS unsettled"
        " FROM deliveries JOIN jobs USING (job_id) WHERE deliveries.blob = ?",
        (blob,),
    ).fetchone()
    if row["deliveries"] == 0:
        return ResultUse.UNKNOWN
    young = row["latest"] > horizon.time or row["number"] > horizon.number
    return ResultUse.NEEDED if row["unsettled"] or young else ResultUse.EXPIRED

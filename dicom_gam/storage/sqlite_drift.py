"""The drift of every stream in SQLite.

Of past images only their places between the calibration images are kept, as counts: a place is `odder` + `odder` +
`equal`, which grows from the oddest gap (0) over every calibration score and gap between to the most usual (2·size).
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from dicom_gam.storage.rows import DriftReading, PastImages

if TYPE_CHECKING:
    import sqlite3

    from dicom_gam.storage.protocols import DriftRule
    from dicom_gam.storage.rows import DriftSample
    from dicom_gam.storage.sqlite import Database

_READING = ", ".join(field.name for field in fields(DriftReading))


def record_drift(connection: sqlite3.Connection, rule: DriftRule, sample: DriftSample, now: float) -> None:
    """Move a stream on by one image within the caller's transaction, which also commits the job's result."""
    connection.execute(
        "INSERT INTO drift_streams (sender, bundle_name, bundle_version, bundle_digest, started_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sender, bundle_digest) DO NOTHING",
        (sample.sender, sample.bundle_name, sample.bundle_version, sample.bundle_digest, now, now),
    )
    stream_id, state = connection.execute(
        "SELECT stream_id, state FROM drift_streams WHERE sender = ? AND bundle_digest = ?",
        (sample.sender, sample.bundle_digest),
    ).fetchone()
    step = rule(state, sample, _past(connection, stream_id, sample))
    connection.execute(
        "UPDATE drift_streams SET images = images + 1, state = ?, log10_evidence = ?, log10_maximum = ?,"
        " updated_at = ?, alarm_at = coalesce(alarm_at, ?) WHERE stream_id = ?",
        (step.state, step.log10_evidence, step.log10_maximum, now, now if step.alarm else None, stream_id),
    )
    connection.execute(
        "INSERT INTO drift_places VALUES (?, ?, ?, 1)"
        " ON CONFLICT (stream_id, class_name, place) DO UPDATE SET images = images + 1",
        (stream_id, sample.class_name, _place(sample)),
    )


def _place(sample: DriftSample) -> int:
    return 2 * sample.odder + sample.equal


def _past(connection: sqlite3.Connection, stream_id: int, sample: DriftSample) -> PastImages:
    figures = connection.execute(
        "SELECT coalesce(sum(images), 0), coalesce(sum(images) FILTER (WHERE place < :place), 0),"
        " coalesce(sum(images) FILTER (WHERE place = :place), 0)"
        " FROM drift_places WHERE stream_id = :stream_id AND class_name = :class_name",
        {"place": _place(sample), "stream_id": stream_id, "class_name": sample.class_name},
    ).fetchone()
    return PastImages(*figures)


class SqliteDrift:
    """`protocols.DriftStore` over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def readings(self) -> list[DriftReading]:
        """Return every stream, by sender, the latest bundle first."""
        with self._database.reading() as connection:
            return _readings(connection)

    def unannounced(self) -> list[DriftReading]:
        """Return the streams whose alarm nobody has been told of yet."""
        with self._database.reading() as connection:
            return _readings(connection, "WHERE alarm_at IS NOT NULL AND alarm_announced = 0")

    def announced(self, reading: DriftReading) -> None:
        """Remember that the alarm of this stream has been told."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE drift_streams SET alarm_announced = 1 WHERE sender = ? AND bundle_digest = ? AND alarm_at = ?",
                (reading.sender, reading.bundle_digest, reading.alarm_at),
            )

    def reset(self, sender: str) -> list[DriftReading]:
        """Forget all streams of a sender, so that they start anew; return what they were."""
        with self._database.transaction() as connection:
            forgotten = _readings(connection, "WHERE sender = ?", sender)
            connection.execute("DELETE FROM drift_streams WHERE sender = ?", (sender,))
        return forgotten


def _readings(connection: sqlite3.Connection, which: str = "", *values: str) -> list[DriftReading]:
    rows = connection.execute(
        f"SELECT {_READING} FROM drift_streams {which} ORDER BY sender, updated_at DESC",  # noqa: S608 (constants only)
        values,
    ).fetchall()
    return [DriftReading(*row) for row in rows]

"""What the node is doing at this moment: senders, the queue, today's outcomes, what waits for each destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.storage.sqlite_attention import known_destinations
from dicom_gam.storage.states import UNDELIVERED_STATES, DeliveryState, JobState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from dicom_gam.storage.sqlite import Database

MAXIMUM_SENDERS = 200
HISTORY_S = 14 * 86400.0  # what "usual" is learned from
_SHORTEST_SILENCE_S = 3600.0  # below it nobody need be told, and the walk below stays short
_HISTORY_PER_SILENCE = 3.0  # a silence is compared with at least so many times its own length
# Jumps from title to title in the index (calling_ae_title, received_at), so that it costs as many steps as senders.
_SENDERS = """
WITH RECURSIVE titles (title) AS (
  SELECT min(calling_ae_title) FROM jobs
  UNION ALL
  SELECT (SELECT min(calling_ae_title) FROM jobs WHERE calling_ae_title > titles.title) FROM titles
    WHERE title IS NOT NULL
) SELECT title, (SELECT max(received_at) FROM jobs WHERE calling_ae_title = title) FROM titles
WHERE title IS NOT NULL LIMIT ?
"""
_OLDEST = """
SELECT received_at FROM jobs WHERE state = ? AND (predecessor != '') = ? ORDER BY number LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class SenderReading:
    """When a sender's last image came. `unusual`: it was never silent for so long in the two weeks before."""

    ae_title: str
    last_at: float
    unusual: bool


@dataclass(frozen=True, slots=True)
class QueueReading:
    """How many images wait and how many are being worked on; `oldest_at` is when the longest waiting one came."""

    waiting: int
    processing: int
    oldest_at: float | None


def read_senders(database: Database, now: float) -> list[SenderReading]:
    """Every sender, the latest first; at most `MAXIMUM_SENDERS`."""
    with database.reading() as connection:
        rows = connection.execute(_SENDERS, (MAXIMUM_SENDERS,)).fetchall()
        found = [SenderReading(title, last_at, _unusual(connection, title, last_at, now)) for title, last_at in rows]
    return sorted(found, key=lambda sender: sender.last_at, reverse=True)


def known_senders(database: Database) -> list[str]:
    """The AE titles of every sender, in order; at most `MAXIMUM_SENDERS`."""
    with database.reading() as connection:
        return [row[0] for row in connection.execute(_SENDERS, (MAXIMUM_SENDERS,)).fetchall()]


def read_queue(database: Database) -> QueueReading:
    """How the queue stands."""
    with database.reading() as connection:
        waiting, processing = (
            int(connection.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0])
            for state in (JobState.RECEIVED, JobState.PROCESSING)
        )
        oldest = [
            row[0]
            for again in (0, 1)  # first arrivals and reprocessings are apart in the index
            for row in connection.execute(_OLDEST, (JobState.RECEIVED, again)).fetchall()
        ]
    return QueueReading(waiting, processing, min(oldest, default=None))


def count_outcomes(database: Database, since: float) -> dict[str, int]:
    """How many jobs have ended since then, by outcome."""
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT outcome, count(*) FROM job_figures WHERE finished_at >= ? GROUP BY outcome", (since,)
        ).fetchall()
        counts = {str(outcome): int(count) for outcome, count in rows}
        for outcome in ("ERROR", "QUARANTINED"):  # no result, so no figures
            row = connection.execute(
                # By time, not by outcome: a day has few jobs. Such images are kept long, so none of them is purged yet.
                "SELECT count(*) FROM jobs WHERE +outcome = ? AND finished_at >= ? AND purged_at IS NULL",
                (outcome, since),
            ).fetchone()
            counts[outcome] = int(row[0])
    return counts


def count_undelivered(database: Database, names: Iterable[str]) -> Mapping[str, Mapping[DeliveryState, int]]:
    """What is not delivered to each of these destinations and to those that only the outbox knows, by state."""
    found: dict[str, dict[DeliveryState, int]] = {}
    with database.reading() as connection:
        for name in dict.fromkeys([*names, *known_destinations(connection)]):
            found[name] = {
                state: int(
                    connection.execute(
                        "SELECT count(*) FROM deliveries WHERE destination = ? AND state = ?", (name, state)
                    ).fetchone()[0]
                )
                for state in sorted(UNDELIVERED_STATES)
            }
    return found


def _unusual(connection: sqlite3.Connection, title: str, last_at: float, now: float) -> bool:
    """Whether the silence since `last_at` is longer than each in the two weeks before it.

    Goes from image to image in jumps no longer than the silence, so that it takes few steps however many images came.
    """
    silence = now - last_at
    if not _SHORTEST_SILENCE_S < silence < HISTORY_S:
        return False
    begin = connection.execute(
        "SELECT min(received_at) FROM jobs WHERE calling_ae_title = ? AND received_at >= ?",
        (title, last_at - HISTORY_S),
    ).fetchone()[0]
    if last_at - begin < _HISTORY_PER_SILENCE * silence:
        return False
    at = begin
    while at < last_at:
        (reached,) = connection.execute(
            "SELECT max(received_at) FROM jobs WHERE calling_ae_title = ? AND received_at <= ?", (title, at + silence)
        ).fetchone()
        if reached <= at:
            return False
        at = reached
    return True

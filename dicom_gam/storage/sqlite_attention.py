"""What waits for a person: results that nobody has closed, and dead letters. Newest first, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from dicom_gam.storage.rows import CLOSING_REVIEWS
from dicom_gam.storage.states import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState, next_state

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from dicom_gam.storage.sqlite import Database

ATTENTION_OUTCOMES = ("FAIL", "REJECT", "UNUSABLE", "QUARANTINED", "ERROR")
_NEWEST = 2**62  # above every number that SQLite gives
_CLOSING = ", ".join(f"'{kind}'" for kind in sorted(CLOSING_REVIEWS))
# A job that was processed again hands its place on the list to its successor, which has its own outcome.
_OPEN = f"""
  NOT EXISTS (SELECT 1 FROM reviews AS r WHERE r.job_id = j.job_id AND r.kind IN ({_CLOSING}))
  AND NOT EXISTS (SELECT 1 FROM jobs AS s WHERE s.sop_instance_uid = j.sop_instance_uid AND s.number > j.number
    AND s.predecessor = j.job_id)
"""  # noqa: S608 (constants only)
# One query for each outcome: each is a walk along its own part of the index, which ends as soon as a page is full.
_RESULTS = f"""
SELECT j.number, j.job_id, j.outcome, j.reason, j.message, j.calling_ae_title, j.received_at, j.sop_instance_uid,
  j.study_instance_uid, coalesce(h.body_part_examined, '')
FROM jobs AS j LEFT JOIN job_headers AS h ON h.number = j.number
WHERE j.outcome = :outcome AND j.number < :before AND j.number > :floor
  AND (:sender = '' OR j.calling_ae_title = :sender) AND {_OPEN}
ORDER BY j.number DESC LIMIT :limit
"""  # noqa: S608 (constants only)
# The objects of one job for one destination share their fate, so they make one line, in the place of the latest.
# The plus signs have the inner queries use the index by job: by destination and state they would read all dead letters.
_LETTERS = """
SELECT d.delivery_id, d.job_id, d.destination, d.tried_at, d.cause, d.attempts, j.calling_ae_title, j.received_at,
  j.sop_instance_uid, j.study_instance_uid, j.outcome,
  (SELECT count(*) FROM deliveries AS o WHERE o.job_id = d.job_id AND +o.destination = d.destination
    AND +o.state = 'dead')
FROM deliveries AS d JOIN jobs AS j ON j.job_id = d.job_id
WHERE d.destination = :destination AND d.state = 'dead' AND d.delivery_id < :before AND d.delivery_id > :floor
  AND (:sender = '' OR j.calling_ae_title = :sender)
  AND NOT EXISTS (SELECT 1 FROM deliveries AS l WHERE l.job_id = d.job_id AND +l.destination = d.destination
    AND +l.state = 'dead' AND l.delivery_id > d.delivery_id)
ORDER BY d.delivery_id DESC LIMIT :limit
"""
# So that a page takes no longer where nearly everything is closed, or of other senders, it looks at so many at most.
_WALK = 2000
_RESULTS_FLOOR = """
SELECT number FROM jobs WHERE outcome = :outcome AND number < :before ORDER BY number DESC LIMIT 1 OFFSET :walk
"""
_LETTERS_FLOOR = """
SELECT delivery_id FROM deliveries WHERE destination = :destination AND state = 'dead' AND delivery_id < :before
ORDER BY delivery_id DESC LIMIT 1 OFFSET :walk
"""
# `SELECT DISTINCT` would read the whole index; this jumps from name to name.
_DESTINATIONS = """
WITH RECURSIVE names (name) AS (
  SELECT min(destination) FROM deliveries
  UNION ALL
  SELECT (SELECT min(destination) FROM deliveries WHERE destination > names.name) FROM names WHERE name IS NOT NULL
) SELECT name FROM names WHERE name IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class OpenResult:
    """A job that a person should look at. `number` is where the next page begins."""

    number: int
    job_id: str
    outcome: str
    reason: str
    message: str
    sender: str
    received_at: float
    sop_instance_uid: str
    study_instance_uid: str
    body_part: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What was given up of one job for one destination: `objects` of its results. `number` begins the next page."""

    number: int
    job_id: str
    destination: str
    died_at: float
    cause: str
    attempts: int
    sender: str
    received_at: float
    sop_instance_uid: str
    study_instance_uid: str
    outcome: str
    objects: int


_Row = TypeVar("_Row", OpenResult, DeadLetter)


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """Part of a list. What follows lies `before` this number; None at the end. A page may be short, or even empty."""

    rows: list[_Row]
    before: int | None


def open_results(
    database: Database,
    *,
    outcomes: Sequence[str] = ATTENTION_OUTCOMES,
    sender: str = "",
    before: int | None = None,
    limit: int = 50,
) -> Page[OpenResult]:
    """Jobs of these outcomes that no review has closed and that were not processed again since, newest first."""
    keys = {"before": before or _NEWEST, "sender": sender, "limit": limit + 1, "walk": _WALK}
    with database.reading() as connection:
        floors = [_floor(connection, _RESULTS_FLOOR, keys | {"outcome": outcome}) for outcome in outcomes]
        floor = max(floors, default=0)
        found = [
            OpenResult(*row)
            for outcome in outcomes
            for row in connection.execute(_RESULTS, keys | {"outcome": outcome, "floor": floor}).fetchall()
        ]
    return _page(sorted(found, key=lambda result: result.number, reverse=True), limit, floor)


def count_open_results(database: Database, outcome: str, most: int = 100) -> int:
    """How many results of this outcome are open among the latest; counting stops at `most`."""
    return len(open_results(database, outcomes=(outcome,), limit=most).rows)


def needs_attention(database: Database, job_id: str) -> bool:
    """Whether this job is among the open results."""
    places = ", ".join("?" for _ in ATTENTION_OUTCOMES)
    with database.reading() as connection:
        query = f"SELECT 1 FROM jobs AS j WHERE j.job_id = ? AND j.outcome IN ({places}) AND {_OPEN}"  # noqa: S608
        return connection.execute(query, (job_id, *ATTENTION_OUTCOMES)).fetchone() is not None


def dead_letters(
    database: Database, destination: str, *, sender: str = "", before: int | None = None, limit: int = 50
) -> Page[DeadLetter]:
    """The dead letters of a destination, those of a job together, newest first."""
    keys = {"destination": destination, "before": before or _NEWEST, "sender": sender, "limit": limit + 1,
            "walk": _WALK}  # fmt: skip
    with database.reading() as connection:
        floor = _floor(connection, _LETTERS_FLOOR, keys)
        found = [DeadLetter(*row) for row in connection.execute(_LETTERS, keys | {"floor": floor}).fetchall()]
    return _page(found, limit, floor)


def common_causes(database: Database, destination: str) -> list[str]:
    """The commonest causes among the latest dead letters of a destination, at most three."""
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT cause FROM (SELECT cause FROM deliveries WHERE destination = ? AND state = 'dead'"
            " ORDER BY delivery_id DESC LIMIT 200) GROUP BY cause ORDER BY count(*) DESC, cause LIMIT 3",
            (destination,),
        ).fetchall()
    return [row[0] for row in rows]


def dead_counts(database: Database) -> dict[str, int]:
    """How many objects each destination has among its dead letters; destinations without any are left out."""
    with database.reading() as connection:
        names = known_destinations(connection)
        counts = {name: _count_in_state(connection, name, "dead") for name in names}
    return {name: count for name, count in counts.items() if count}


def has_dead_letter(database: Database, job_id: str, destination: str) -> bool:
    """Whether something of this job is a dead letter for this destination."""
    with database.reading() as connection:
        row = connection.execute(
            "SELECT 1 FROM deliveries WHERE job_id = ? AND destination = ? AND +state = 'dead'", (job_id, destination)
        ).fetchone()
    return row is not None


def revive_letters(database: Database, letters: Iterable[tuple[str, str]], now: float) -> int:
    """Send the dead letters of these jobs and destinations again as if never tried; return how many of them had any."""
    pending = next_state(DELIVERY_TRANSITIONS, DeliveryState.DEAD, DeliveryEvent.REVIVE)
    change = "state = ?, next_at = ?, attempts = 0, status = NULL"
    return _change_letters(database, change, (pending, now), letters, now)


def dismiss_letters(database: Database, letters: Iterable[tuple[str, str]], now: float) -> int:
    """Do without the dead letters of these jobs and destinations for good; return how many of them had any."""
    dismissed = next_state(DELIVERY_TRANSITIONS, DeliveryState.DEAD, DeliveryEvent.DISMISS)
    return _change_letters(database, "state = ?, tried_at = ?", (dismissed, now), letters, None)


def _change_letters(
    database: Database,
    change: str,
    values: tuple[str, float],
    letters: Iterable[tuple[str, str]],
    reach_at: float | None,
) -> int:
    """Change what is still dead; have the destinations tried at `reach_at`, when there is such a time."""
    count = 0
    with database.transaction() as connection:
        for job_id, destination in letters:
            rows = connection.execute(
                f"UPDATE deliveries SET {change} WHERE job_id = ? AND destination = ? AND +state = 'dead'",  # noqa: S608
                (*values, job_id, destination),
            )
            count += rows.rowcount > 0
            if reach_at is not None:
                connection.execute(
                    "UPDATE unreachable_destinations SET next_at = ? WHERE destination = ?", (reach_at, destination)
                )
    return count


def _floor(connection: sqlite3.Connection, query: str, keys: Mapping[str, object]) -> int:
    """The number down to which a page looks, itself left out; 0 for all."""
    row = connection.execute(query, keys).fetchone()
    return 0 if row is None else int(row[0])


def _page(found: list[_Row], limit: int, floor: int) -> Page[_Row]:
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1].number)
    return Page(found, floor + 1 if floor else None)


def known_destinations(connection: sqlite3.Connection) -> list[str]:
    """Every destination that the outbox knows."""
    return [row[0] for row in connection.execute(_DESTINATIONS).fetchall()]


def _count_in_state(connection: sqlite3.Connection, destination: str, state: str) -> int:
    row = connection.execute(
        "SELECT count(*) FROM deliveries WHERE destination = ? AND state = ?", (destination, state)
    ).fetchone()
    return int(row[0])

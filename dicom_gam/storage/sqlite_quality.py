"""What is counted and drawn over time, from the few figures that are kept of every finished job."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from dicom_gam.storage.rows import SIMILARITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_gam.storage.sqlite import Database

# A sample is drawn by the jobs' numbers alone: multiplied so, they spread evenly over 32 bits (Knuth, TAOCP 6.4), and
# every part of a day and every sender gets its share.
_SPREAD, _BITS = 2654435761, 2**32 - 1
_SETTLED_S = 3600.0  # a day that ended so long ago gets no more results
_MOST_REMEMBERED = 1000

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Day:
    """From `first` until before `end`, in seconds since the epoch."""

    first: float
    end: float


@dataclass(frozen=True, slots=True)
class Count:
    """How many results of one outcome one sender's images had from one bundle, on one day."""

    day: Day
    sender: str
    bundle_digest: str
    outcome: str
    images: int
    bundle: str  # its name and version


@dataclass(frozen=True, slots=True)
class Sampled:
    """The figures of one result. It stands for `weight` results of its day. Similarities in the order of rows."""

    day: Day
    weight: float
    p_value: float | None
    similarities: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A bundle that has made results, and how many images it has judged; images that were unusable don't count."""

    name: str
    version: str
    images: int


class Figures:
    """Counts and samples by day. A day that is over does not change, so each is read once; threads may share it."""

    def __init__(self) -> None:
        self._counts: dict[Day, tuple[Count, ...]] = {}
        self._samples: dict[tuple[Day, int, str, str], tuple[Sampled, ...]] = {}
        self._judged: tuple[float, dict[str, Judged]] = (0.0, {})

    def counts(self, database: Database, days: Sequence[Day], now: float) -> list[Count]:
        """Return the counts of these days."""
        found: list[Count] = []
        for day in days:
            counts = self._counts.get(day)
            if counts is None:
                counts = _count(database, day)
                if day.end + _SETTLED_S <= now:
                    _remember(self._counts, day, counts)
            found += counts
        return found

    def sample(
        self, database: Database, counts: Sequence[Count], per_day: int, now: float, which: tuple[str, str] = ("", "")
    ) -> list[Sampled]:
        """Draw about `per_day` of the counted results of each day, always the same; all of them on a day with fewer.

        `which` is the sender and the bundle's digest that the counts are of; empty for all.
        """
        of_days: Counter[Day] = Counter()
        for count in counts:
            of_days[count.day] += count.images
        found: list[Sampled] = []
        for day, images in of_days.items():
            key = (day, per_day, *which)
            drawn = self._samples.get(key)
            if drawn is None:
                drawn = _sample(database, day, images, per_day, which)
                if day.end + _SETTLED_S <= now:
                    _remember(self._samples, key, drawn)
            found += drawn
        return found

    def judged(self, database: Database, now: float) -> dict[str, Judged]:
        """Every bundle that has ever made a result, by its digest. What has settled is counted once."""
        until, settled = self._judged
        if now - _SETTLED_S > until + _SETTLED_S:
            settled = _added(settled, _judged(database, Day(until, now - _SETTLED_S)))
            until = now - _SETTLED_S
            self._judged = (until, settled)
        return _added(settled, _judged(database, Day(until, math.inf)))


def jobs_with_results(database: Database) -> list[str]:
    """The job IDs of every job that has a result, oldest first."""
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT job_id FROM jobs WHERE result IS NOT NULL AND finished_at IS NOT NULL ORDER BY number"
        ).fetchall()
    return [row["job_id"] for row in rows]


def _count(database: Database, day: Day) -> tuple[Count, ...]:
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT sender, bundle_digest, outcome, count(*), max(bundle_name || ' ' || bundle_version)"
            " FROM job_figures WHERE finished_at >= ? AND finished_at < ? GROUP BY sender, bundle_digest, outcome",
            (day.first, day.end),
        ).fetchall()
    return tuple(Count(day, *row) for row in rows)


def _sample(database: Database, day: Day, images: int, per_day: int, which: tuple[str, str]) -> tuple[Sampled, ...]:
    share = min(1.0, per_day / images)
    with database.reading() as connection:
        rows = connection.execute(
            f"SELECT p_value, {', '.join(SIMILARITIES)} FROM job_figures"  # noqa: S608 (constants only)
            " WHERE finished_at >= :first AND finished_at < :end AND ((number * :spread) & :bits) <= :bound"
            " AND (:sender = '' OR sender = :sender) AND (:bundle = '' OR bundle_digest = :bundle)",
            {"first": day.first, "end": day.end, "spread": _SPREAD, "bits": _BITS, "bound": round(share * _BITS),
             "sender": which[0], "bundle": which[1]},
        ).fetchall()  # fmt: skip
    weight = images / len(rows) if rows else 0.0
    return tuple(Sampled(day, weight, row[0], tuple(row[1:])) for row in rows)


def _judged(database: Database, day: Day) -> dict[str, Judged]:
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT bundle_digest, bundle_name, bundle_version, count(p_value) FROM job_figures"
            " WHERE finished_at >= ? AND finished_at < ? GROUP BY bundle_digest",
            (day.first, day.end),
        ).fetchall()
    return {row[0]: Judged(*row[1:]) for row in rows}


def _added(before: dict[str, Judged], more: dict[str, Judged]) -> dict[str, Judged]:
    nothing = Judged("", "", 0)
    return before | {
        digest: replace(found, images=found.images + before.get(digest, nothing).images)
        for digest, found in more.items()
    }


def _remember(known: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value

"""Pages of the list of jobs, newest first, by indexes also for rare states among many jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_gam.storage.states import JobState

if TYPE_CHECKING:
    from dicom_gam.storage.sqlite import Database

_COLUMNS = (
    "number, job_id, state, outcome, reason, calling_ae_title, sop_class_uid, sop_instance_uid, study_instance_uid,"
    " received_at, finished_at"
)

_COLUMN_OF = {  # the most telling first
    "study": "study_instance_uid",
    "outcome": "outcome",
    "sender": "calling_ae_title",
    "state": "state",
}
_OF_STATE = (  # by a half of the index of open jobs, which tells reprocessings apart
    "SELECT * FROM (SELECT number FROM jobs WHERE state = :state AND (predecessor != '') = {} AND number < :before"
    " ORDER BY number DESC LIMIT :limit)"
)
_BY_INDEX = {  # so that no row is read that is not wanted: their results are long
    "state": f"number IN ({_OF_STATE.format(0)} UNION ALL {_OF_STATE.format(1)})",
    "sender": "number IN (SELECT number FROM jobs WHERE calling_ae_title = :sender AND number < :before"
    " ORDER BY number DESC LIMIT :limit)",
}
_LAST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What is wanted; what is empty or None does not matter. `study` is known of a job from when it has ended."""

    state: JobState | None = None
    outcome: str = ""
    sender: str = ""
    study: str = ""


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job without its result. `number` is its place in the list: later jobs have higher ones."""

    number: int
    job_id: str
    state: JobState
    outcome: str
    reason: str
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    received_at: float
    finished_at: float | None


def list_jobs(database: Database, wanted: JobFilter, before: int | None, limit: int) -> list[ListedJob]:
    """Return up to `limit` jobs with numbers below `before` (all when None), newest first."""
    values: dict[str, Any] = {
        "study": wanted.study,
        "outcome": wanted.outcome,
        "sender": wanted.sender,
        "state": "" if wanted.state is None else wanted.state.value,
    }
    given = [key for key in _COLUMN_OF if values[key]]
    if len(given) == 1:
        conditions = [_BY_INDEX.get(given[0], f"{_COLUMN_OF[given[0]]} = :{given[0]}")]
    else:  # the first and most telling one may choose an index; `+` keeps the others from doing so
        conditions = [f"{'+' if place else ''}{_COLUMN_OF[key]} = :{key}" for place, key in enumerate(given)]
    where = " AND ".join(["number < :before", *conditions])
    sql = f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY number DESC LIMIT :limit"  # noqa: S608 (constants only)
    with database.reading() as connection:
        rows = connection.execute(sql, values | {"before": _LAST if before is None else before, "limit": limit})
        return [ListedJob(**{**dict(row), "state": JobState(row["state"])}) for row in rows.fetchall()]

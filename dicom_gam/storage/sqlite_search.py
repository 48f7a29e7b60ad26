"""Finding jobs by what people know of an image: page by page, newest first, and never more than a page at once.

What is typed is compared as it is: no character of it is a wildcard. Every question is answered from indexes alone, as
the rows of `jobs` are wide (they hold whole results).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_gam.records import ImageHeader
from dicom_gam.storage.states import JobState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from dicom_gam.storage.sqlite import Database

WAITING = "WAITING"  # as an outcome: there is none yet
_LAST = "\U0010ffff"  # sorts after every other character
_BETWEEN_PARTS = re.compile(r"[\s^,=]+")
_MAXIMUM_SENDERS = 200


@dataclass(frozen=True, slots=True)
class JobQuery:
    """What to look for; what is empty does not count, the rest holds together.

    `patient_name` is the beginning of it, whatever stands between its parts. `uid` is that of a study or of an image.
    `outcome` may be `WAITING`. `since` and `until` bound when it was received: since <= t < until.
    """

    patient_name: str = ""
    patient_id: str = ""
    accession_number: str = ""
    uid: str = ""
    job_id: str = ""
    sender: str = ""
    outcome: str = ""
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job as a list shows it. `number` is its place in the order of arrival; `header` is None when there is none."""

    number: int
    job_id: str
    state: JobState
    outcome: str
    reason: str
    message: str
    sop_instance_uid: str
    study_instance_uid: str
    sender: str
    received_at: float
    purged_at: float | None
    reprocessed: bool
    header: ImageHeader | None


class SqliteSearch:
    """Searches over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, query: JobQuery, before: int | None = None, limit: int = 50) -> list[FoundJob]:
        """Return up to `limit` jobs that came before job number `before`, newest first. Raises StorageError."""
        statement, values = numbers_statement(query, before, limit)
        with self._database.reading() as connection:
            numbers = [row["number"] for row in connection.execute(statement, values)]
            rows = connection.execute(
                "SELECT jobs.number, job_id, state, outcome, reason, message, sop_instance_uid,"  # noqa: S608 (places)
                " study_instance_uid, calling_ae_title, received_at, purged_at, predecessor, job_headers.*"
                " FROM jobs LEFT JOIN job_headers ON job_headers.number = jobs.number"
                f" WHERE jobs.number IN ({', '.join('?' for _ in numbers)}) ORDER BY jobs.number DESC",
                numbers,
            ).fetchall()
        return [_found(row) for row in rows]

    def senders(self) -> list[str]:
        """Return the calling AE titles that have sent something, in order; at most 200 of them."""
        with self._database.reading() as connection:
            rows = connection.execute(  # jumps from title to title: DISTINCT would walk over every job
                "WITH RECURSIVE titles (title) AS (SELECT min(calling_ae_title) FROM jobs UNION ALL"
                " SELECT (SELECT min(calling_ae_title) FROM jobs WHERE calling_ae_title > title) FROM titles"
                " WHERE title IS NOT NULL) SELECT title FROM titles WHERE title IS NOT NULL LIMIT ?",
                (_MAXIMUM_SENDERS,),
            ).fetchall()
        return [row["title"] for row in rows]


def numbers_statement(query: JobQuery, before: int | None, limit: int) -> tuple[str, dict[str, Any]]:
    """The SELECT that finds the numbers of a page, and its values."""
    values: dict[str, Any] = {"limit": limit}
    conditions = [*_header_conditions(query, values), *_key_conditions(query, values), *_plain(query, values)]
    if before is not None:
        conditions.append("number < :before")
        values["before"] = min(before, 2**63 - 1)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT number FROM jobs INDEXED BY jobs_listed{where} ORDER BY number DESC LIMIT :limit", values  # noqa: S608


def _header_conditions(query: JobQuery, values: dict[str, Any]) -> Iterator[str]:
    name = _BETWEEN_PARTS.sub(" ", query.patient_name).strip()
    if name:
        # NOCASE knows the letters A to Z only, so the other ways to write the rest are asked for one by one.
        ways = sorted({name, name.lower(), name.upper(), name.title()}) if not name.isascii() else [name]
        parts = []
        for place, way in enumerate(ways):
            values |= {f"from{place}": way, f"to{place}": way + _LAST}
            parts.append(
                "SELECT number FROM job_headers INDEXED BY headers_by_name"  # noqa: S608 (places)
                " WHERE replace(patient_name, '^', ' ') COLLATE NOCASE"
                f" BETWEEN :from{place} AND :to{place}"
            )
        yield f"number IN ({' UNION ALL '.join(parts)})"
    for column, index in (("patient_id", "headers_by_id"), ("accession_number", "headers_by_accession")):
        text = getattr(query, column).strip()
        if text:
            values[column] = text
            yield (
                f"number IN (SELECT number FROM job_headers INDEXED BY {index}"  # noqa: S608 (constants)
                f" WHERE {column} = :{column} COLLATE NOCASE)"
            )


def _key_conditions(query: JobQuery, values: dict[str, Any]) -> Iterator[str]:
    if query.uid.strip():
        values["uid"] = query.uid.strip()
        yield (
            "number IN (SELECT number FROM jobs INDEXED BY studies WHERE study_instance_uid = :uid"
            " UNION ALL SELECT number FROM jobs INDEXED BY instances WHERE sop_instance_uid = :uid)"
        )
    if query.job_id.strip():
        values["job_id"] = query.job_id.strip()
        yield "number IN (SELECT number FROM jobs WHERE job_id = :job_id)"


def _plain(query: JobQuery, values: dict[str, Any]) -> Iterator[str]:
    if query.sender.strip():
        values["sender"] = query.sender.strip()
        yield "calling_ae_title = :sender"
    if query.outcome:
        values["outcome"] = "" if query.outcome == WAITING else query.outcome
        yield "outcome = :outcome"
    if query.since is not None:
        values["since"] = query.since
        yield "received_at >= :since"
    if query.until is not None:
        values["until"] = query.until
        yield "received_at < :until"


def _found(row: sqlite3.Row) -> FoundJob:
    header = None
    if row["patient_name"] is not None:
        names = ("patient_name", "patient_id", "accession_number", "study_instance_uid", "study_date",
                 "study_description", "modality", "body_part_examined")  # fmt: skip
        header = ImageHeader(**{name: row[name] for name in names})
    same = ("job_id", "outcome", "reason", "message", "sop_instance_uid", "study_instance_uid", "received_at",
            "purged_at")  # fmt: skip
    return FoundJob(
        number=row[0],  # job_headers has a column of the same name, empty where there is no header
        state=JobState(row["state"]),
        sender=row["calling_ae_title"],
        reprocessed=bool(row["predecessor"]),
        header=header,
        **{name: row[name] for name in same},
    )

"""The search of the page Studies: what was typed, as a query for the storage, and as the address of a page.

A patient's name, ID or accession number never becomes part of an address: addresses stay in histories and logs. Such a
search is posted, and so is the way to its next page.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError
from dicom_gam.storage.sqlite_search import WAITING, JobQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENT_FIELDS = ("patient_name", "patient_id", "accession_number")
OTHER_FIELDS = ("uid", "job_id", "sender", "outcome", "since", "until")
FIELDS = (*PATIENT_FIELDS, *OTHER_FIELDS)
OUTCOMES = ("PASS", "FAIL", "REJECT", "UNUSABLE", "SKIPPED", "ERROR", "QUARANTINED", WAITING)
_LONGEST = 200
_LAST_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Search:
    """What was typed, by field, and before which job number the page begins."""

    typed: Mapping[str, str]
    before: int | None

    @property
    def of_patient(self) -> bool:
        """Whether it holds what must not stand in an address."""
        return any(self.typed[name] for name in PATIENT_FIELDS)

    @property
    def empty(self) -> bool:
        """Whether nothing was typed."""
        return not any(self.typed.values())

    def address(self, before: int | None = None) -> dict[str, str | int]:
        """The arguments of the address of this search, without a patient's data."""
        found: dict[str, str | int] = {name: self.typed[name] for name in OTHER_FIELDS if self.typed[name]}
        return found if before is None else found | {"before": before}


def read_search(values: Mapping[str, str]) -> Search:
    """Take up what was typed. Raises ConfigError, in words for who typed it."""
    typed = {name: values.get(name, "").strip() for name in FIELDS}
    for name, text in typed.items():
        if len(text) > _LONGEST or "\0" in text:
            raise ConfigError(f"{name.replace('_', ' ')}: this is no such thing; type at most {_LONGEST} characters")
    if typed["outcome"] and typed["outcome"] not in OUTCOMES:
        raise ConfigError(f"there is no such outcome: choose one of {', '.join(OUTCOMES)}")
    before = values.get("before", "")
    if before and not (before.isascii() and before.isdigit() and 0 < int(before) <= _LAST_NUMBER):
        raise ConfigError("the page can't be found: begin the search anew")
    return Search(typed, int(before) if before else None)


def job_query(search: Search) -> JobQuery:
    """What the storage is asked. Raises ConfigError for what is no date."""
    typed = search.typed
    return JobQuery(
        **{name: typed[name] for name in (*PATIENT_FIELDS, "uid", "job_id", "sender", "outcome")},
        since=_day(typed["since"], 0),
        until=_day(typed["until"], 1),  # that day and all of it
    )


def _day(text: str, later: int) -> float | None:
    """The local midnight at which a day begins, or so many days later."""
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d")
        return (day + timedelta(days=later)).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError("this is no date: write it as 2026-11-20") from error

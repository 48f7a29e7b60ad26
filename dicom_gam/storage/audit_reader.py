"""Reading the audit log on and on: for its index, for audit messages, for notifications. The chain is not checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record begins: its number, the number of its file's first record, and the byte within that file."""

    number: int
    segment: int
    offset: int


START = Place(1, 1, 0)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record. `time` is ISO 8601 in UTC with milliseconds, `length` counts its bytes with the line's end."""

    number: int
    time: str
    event: str
    keys: Mapping[str, Any]
    place: Place
    length: int


class AuditReader:
    """Reads records in order, across the log's files; several readers and the writers don't disturb each other."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def read(self, place: Place, limit: int) -> tuple[list[AuditRecord], Place]:
        """Return up to `limit` records from `place` on, and the place after them.

        A record that is half written is left for the next time. Raises AuditError when the log can't be read there.
        """
        found: list[AuditRecord] = []
        with self._log.open("rb") as file:
            file.seek(place.offset)
            while len(found) < limit:
                line = file.readline()
                if not line.endswith(b"\n"):
                    break
                record = json.loads(line)
                found.append(
                    AuditRecord(record["number"], record["time"], record["event"], record["keys"], place, len(line))
                )
                place = Place(place.number + 1, place.segment, place.offset + len(line))
        return found, place

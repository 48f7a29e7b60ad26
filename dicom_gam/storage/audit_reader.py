"""Reading the audit log on and on: for its index, for audit messages, for notifications. The chain is not checked."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from dicom_gam.errors import AuditError
from dicom_gam.storage.audit_chain import CHECKPOINT_START, LONGEST_BYTES
from dicom_gam.storage.audit_segments import files_now, identity, segment_path

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


def latest_checkpoint(log: Path) -> str:
    """When the log was last signed, empty when it never was or its files can't be read."""
    try:
        with files_now(log) as files:
            for file in reversed(files[-2:]):  # a closed file ends with a signature
                time = file.latest(CHECKPOINT_START)
                if time:
                    return time
    except OSError:
        return ""
    return ""


class AuditReader:
    """Reads records in order, across the log's files; several readers and the writers don't disturb each other."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def read(self, place: Place, limit: int) -> tuple[list[AuditRecord], Place]:
        """Return up to `limit` records from `place` on, and the place after them.

        A record that is half written is left for the next time. Raises AuditError when the log can't be read there.
        """
        found: list[AuditRecord] = []
        on = True
        while on and len(found) < limit:
            try:
                place, on = self._read_file(place, limit, found)
            except OSError as error:
                msg = (
                    f"the audit log can't be read from record {place.number} on ({error.filename or self._log}: "
                    f"{error.strerror}): restore it from a backup"
                )
                raise AuditError(msg, place.number) from error
        return found, place

    def _read_file(self, place: Place, limit: int, found: list[AuditRecord]) -> tuple[Place, bool]:
        """Read on in the file of `place`; tell whether another file comes after it. Raises OSError."""
        file, closed = self._opened(place.segment)
        with file:
            end = _whole_bytes(file)
            if place.offset > end:
                raise _unreadable(file.name, place.number, "the file is shorter than it was")
            file.seek(place.offset)
            while len(found) < limit:
                line = file.readline(min(LONGEST_BYTES, end - place.offset))
                if not line.endswith(b"\n"):
                    if line and (closed or len(line) == LONGEST_BYTES):
                        raise _unreadable(file.name, place.number, "it is cut in the middle")
                    if not closed:
                        return place, False
                    if place.number == place.segment:
                        raise _unreadable(file.name, place.number, "the file is empty")
                    return Place(place.number, place.number, 0), True
                found.append(_record(file.name, line, place))
                place = Place(place.number + 1, place.segment, place.offset + len(line))
        return place, False

    def _opened(self, segment: int) -> tuple[BinaryIO, bool]:
        """The file that begins with record `segment`, and whether it is closed: nothing is added to it any more.

        A file gets its second name before it loses its first, and closing it may be given up in between.
        """
        path = segment_path(self._log, segment)
        while True:
            if identity(path) is None:
                file = self._log.open("rb")
                if identity(path) is None:
                    return file, False
                file.close()  # closed between the two looks: it may have been the next file that was opened
                continue
            with suppress(FileNotFoundError):
                file = path.open("rb")
                return file, identity(file.fileno()) != identity(self._log)


def _whole_bytes(file: BinaryIO) -> int:
    """How long the file is while nobody writes: what is taken back when a disk is full is never seen."""
    fcntl.flock(file, fcntl.LOCK_SH)
    try:
        return os.fstat(file.fileno()).st_size
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _record(path: str, line: bytes, place: Place) -> AuditRecord:
    try:
        record = json.loads(line)
        number, time, event, keys = (record[name] for name in ("number", "time", "event", "keys"))
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise _unreadable(path, place.number, "it is not in the form in which dicom_gam writes records") from error
    if number != place.number or not (isinstance(time, str) and isinstance(event, str) and isinstance(keys, dict)):
        raise _unreadable(path, place.number, f"what stands in its place carries the number {number}")
    return AuditRecord(number, time, event, keys, place, len(line))


def _unreadable(path: str, number: int, why: str) -> AuditError:
    return AuditError(f"{path}: record {number} can't be read: {why}. Run: dicom-gam audit verify", number)

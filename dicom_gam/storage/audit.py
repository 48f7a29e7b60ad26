"""The audit log: one JSON record a line, append-only, fsynced, each record holding the previous line's SHA-256.

How far the log goes is also kept in a second place, the *head* (`protocols.AuditHead`, in the database), written after
the log. So the log may be ahead of the head after a crash, never behind it: a log that ends before its head was cut.
Records hold UIDs, digests, figures and AE titles, never a patient's name or ID.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import AuditError, StorageError
from dicom_gam.storage.blobs import sync_folder, write_all
from dicom_gam.storage.rows import HeadMark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dicom_gam.storage.protocols import AuditHead

GENESIS = "0" * 64  # what the first record holds as its previous digest
_FIELDS = {"number", "time", "event", "previous", "keys"}


@dataclass(slots=True)
class _Request:
    """Events of one caller that wait to be written together with those of others."""

    events: Sequence[tuple[str, Mapping[str, Any]]]
    last_number: int = 0
    failure: StorageError | AuditError | None = None
    done: bool = False


class AuditLog:
    """Appends to the log. Safe from any thread, and, by a lock on the file, from several processes.

    Threads that arrive while one writes share the next write and its fsync.
    """

    def __init__(self, path: Path, head: AuditHead, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._head = head
        self._clock = clock
        self._waiting: list[_Request] = []
        self._waiting_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._mark = HeadMark(0, GENESIS, 0, 0)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, flags, 0o600)
            sync_folder(path.parent)
        except OSError as error:
            msg = f"the audit log {path} can't be opened ({error.strerror}): give the service's user the right to write"
            raise StorageError(msg) from error
        try:
            with self._locked():
                recovered = self._catch_up()
            if recovered:
                self.append("audit.recovered", **recovered)
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, event: str, **keys: Any) -> int:
        """Record one event and return its number; on return it survives a power cut.

        Raises StorageError when it can't be written, AuditError when the log was tampered with.
        """
        return self.extend([(event, keys)])

    def extend(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Record several events, one after the other, and return the last one's number."""
        for _, keys in events:
            _canonical(keys)  # what JSON can't hold fails here, and not for the callers that share a write
        request = _Request(events)
        with self._waiting_lock:
            self._waiting.append(request)
        with self._write_lock:
            if not request.done:
                with self._waiting_lock:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        if request.failure is not None:
            raise request.failure
        return request.last_number

    def close(self) -> None:
        """Close the file."""
        with self._write_lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _commit(self, group: list[_Request]) -> None:
        try:
            if self._descriptor < 0:
                msg = f"the audit log {self._path} is closed: the node has stopped"
                raise StorageError(msg)
            with self._locked():
                self._catch_up()
                self._write(group)
        except (StorageError, AuditError) as error:
            for request in group:
                request.failure = error
        finally:
            for request in group:
                request.done = True
                if request.last_number == 0 and request.failure is None:  # an error that is not ours is on its way up
                    request.failure = StorageError(f"the audit log {self._path} was not written")

    def _write(self, group: list[_Request]) -> None:
        before = mark = self._mark
        text = bytearray()
        for request in group:
            for event, keys in request.events:
                line = _line(mark.number + 1, self._clock(), event, mark.sha256, keys)
                start, end = mark.end, mark.end + len(line) + 1
                mark = HeadMark(mark.number + 1, hashlib.sha256(line).hexdigest(), start, end)
                text += line + b"\n"
            request.last_number = mark.number
        try:
            write_all(self._descriptor, memoryview(text))
            os.fsync(self._descriptor)
            self._head.write(mark)
        except (OSError, StorageError) as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, before.end)
            why = error.strerror if isinstance(error, OSError) else error
            msg = (
                f"the audit log {self._path} can't be written ({why}): see to the disk, nothing is accepted until then"
            )
            raise StorageError(msg) from error
        self._mark = mark

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _catch_up(self) -> dict[str, Any]:
        """Bring `_mark` to the end of the file; return what had to be repaired after a crash, empty for nothing."""
        size = os.fstat(self._descriptor).st_size
        if size == self._mark.end and self._mark.number > 0:
            return {}
        promised = self._head.read() or HeadMark(0, GENESIS, 0, 0)
        self._check_promised(promised, size)
        tail = os.pread(self._descriptor, size - promised.end, promised.end)
        mark, used = promised, 0
        for line in tail.splitlines(keepends=True):
            if not line.endswith(b"\n") or _fault(line[:-1], mark.number + 1, mark.sha256):
                break
            start, used = mark.end, used + len(line)
            mark = HeadMark(mark.number + 1, hashlib.sha256(line[:-1]).hexdigest(), start, start + len(line))
        torn = tail[used:]
        repaired: dict[str, Any] = {}
        if torn:
            repaired |= {"torn_file": self._move_aside(torn, mark), "torn_bytes": len(torn)}
        if mark.number > promised.number:
            repaired["records_ahead_of_head"] = mark.number - promised.number
        self._mark = mark
        return repaired

    def _check_promised(self, promised: HeadMark, size: int) -> None:
        whole = size >= promised.end
        line = os.pread(self._descriptor, promised.end - promised.start, promised.start)
        if whole and (promised.number == 0 or hashlib.sha256(line[:-1]).hexdigest() == promised.sha256):
            return
        _walk(self._path, promised, size)  # names the first bad record
        msg = f"the audit log {self._path} does not agree with its head, though its chain is whole: restore both"
        raise AuditError(msg, promised.number)

    def _move_aside(self, torn: bytes, mark: HeadMark) -> str:
        """Keep what a power cut left of a record, for whoever wants to look at it, and cut it off the log."""
        aside = self._path.with_name(f"{self._path.name}.torn-{mark.number + 1}-{hashlib.sha256(torn).hexdigest()[:8]}")
        try:
            aside.write_bytes(torn)
            os.ftruncate(self._descriptor, mark.end)
            os.fsync(self._descriptor)
        except OSError as error:
            msg = f"the audit log {self._path} can't be repaired after a crash ({error.strerror}): see to the disk"
            raise StorageError(msg) from error
        return aside.name


def verify(path: Path, head: HeadMark | None) -> int:
    """Walk the whole log and return the number of its records.

    Raises AuditError whose `record` is the first bad one: edited, deleted, reordered, inserted, or (by the head) cut
    off. Records after the head are allowed, as a crash between log and head leaves them.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # not in the middle of a write
            end = os.fstat(file.fileno()).st_size
    except OSError as error:
        msg = f"{path}: the audit log can't be read ({error.strerror}): restore it from a backup"
        raise AuditError(msg, 1 if head else None) from error
    return _walk(path, head, end)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Walk over the records without checking the chain (`verify` does). A half-written last line is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _walk(path: Path, head: HeadMark | None, end: int) -> int:
    number, previous = 0, GENESIS
    with path.open("rb") as file:
        while file.tell() < end:
            line = file.readline()
            fault = _fault(line[:-1], number + 1, previous) if line.endswith(b"\n") else "it is cut in the middle"
            if fault:
                msg = f"{path}: record {number + 1} is bad: {fault}. Compare with a backup of the log."
                raise AuditError(msg, number + 1)
            number, previous = number + 1, hashlib.sha256(line[:-1]).hexdigest()
            if head is not None and number == head.number and previous != head.sha256:
                msg = f"{path}: record {number} is not the one that was written: compare with a backup of the log"
                raise AuditError(msg, number)
    if head is not None and number < head.number:
        msg = f"{path}: the log ends after record {number}, but {head.number} were written: its end was cut off"
        raise AuditError(msg, number + 1)
    return number


def _line(number: int, time: datetime, event: str, previous: str, keys: Mapping[str, Any]) -> bytes:
    record = {
        "number": number,
        "time": time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event": event,
        "previous": previous,
        "keys": keys,
    }
    return _canonical(record)


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _fault(line: bytes, number: int, previous: str) -> str:
    """Say what is wrong with a line that should be record `number`, empty when nothing is."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(record, dict) or set(record) != _FIELDS or _canonical_or_none(record) != line:
        return "it is not in the form in which dicom_gam writes records"
    if record["number"] != number:
        return f"it carries the number {record['number']}: records are missing, inserted or out of order"
    if record["previous"] != previous:
        return "it does not follow the record before it, which was edited or replaced"
    return ""


def _canonical_or_none(record: Mapping[str, Any]) -> bytes | None:
    try:
        return _canonical(record)
    except (ValueError, RecursionError):  # NaN has no place in JSON
        return None

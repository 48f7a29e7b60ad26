"""The audit log: one JSON record a line, append-only, fsynced, each record holding the previous line's SHA-256.

How far the log goes is also kept in a second place, the *head* (`protocols.AuditHead`, in the database), written after
the log. So the log may be ahead of the head after a crash, never behind it: a log that ends before its head was cut.
Records hold UIDs, digests, figures and AE titles, never a patient's name or ID.
"""

from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import AuditError, StorageError
from dicom_gam.storage.audit_chain import (
    CHECKPOINT,
    GENESIS,
    LONGEST_BYTES,
    canonical,
    digest,
    moment,
    record_line,
    seconds_between,
)
from dicom_gam.storage.audit_recovery import NOTHING, End, recover
from dicom_gam.storage.audit_segments import ActiveFile, closed_segments, identity
from dicom_gam.storage.audit_verification import verify_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dicom_gam.storage.audit_signing import Signer
    from dicom_gam.storage.protocols import AuditHead
    from dicom_gam.storage.rows import HeadMark

__all__ = ["GENESIS", "AuditLog", "records", "verify"]

_log = logging.getLogger(__name__)

CLOCK_SLACK_S = 1.0  # a clock that steps back by less than this is only being kept right
_RETRY_BYTES = 1024**2  # after a file could not be closed it grows by this much before the next try
_Event = tuple[str, "Mapping[str, Any]"]


@dataclass(slots=True)
class _Request:
    """Events of one caller that wait to be written together with those of others."""

    events: Sequence[_Event]
    last_number: int = 0
    failure: StorageError | AuditError | None = None
    done: bool = False


class AuditLog:
    """Appends to the log. Safe from any thread, and, by a lock on the file, from several processes.

    Threads that arrive while one writes share the next write and its fsync. Only the log that was given a key
    (`sign_with`) signs and begins new files; all others go on wherever it does.
    """

    def __init__(self, path: Path, head: AuditHead, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._head = head
        self._clock = clock
        self._waiting: list[_Request] = []
        self._waiting_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._signer: Signer | None = None
        self._segment_bytes = 0
        self._rotate_at = 0
        self._end = End(NOTHING, "")
        self._file = ActiveFile(path)
        try:
            with self._file.locked():
                repaired = self._catch_up(anew=True)
                if repaired:
                    self._write([_Request([("audit.recovered", repaired)])])
        except BaseException:
            self._file.close()
            raise

    def sign_with(self, signer: Signer, segment_bytes: int) -> None:
        """Sign from now on, and begin a new file when one has grown beyond `segment_bytes`."""
        with self._write_lock:
            self._signer, self._segment_bytes, self._rotate_at = signer, segment_bytes, segment_bytes

    def append(self, event: str, **keys: Any) -> int:
        """Record one event and return its number; on return it survives a power cut.

        Raises StorageError when it can't be written, AuditError when the log was tampered with.
        """
        return self.extend([(event, keys)])

    def checkpoint(self) -> int:
        """Sign the log as it stands, and return the number of the record that holds the signature. Raises as `append`.

        Only after `sign_with`.
        """
        if self._signer is None:
            msg = f"the audit log {self._path} has no key here: only the node signs it"
            raise StorageError(msg)
        return self.extend([(CHECKPOINT, {})])

    def extend(self, events: Sequence[_Event]) -> int:
        """Record several events, one after the other, and return the last one's number."""
        for event, keys in events:
            if len(canonical(keys)) > LONGEST_BYTES // 2:  # what can't be held fails here, and not for those who share
                msg = f"a record of {event} is too long for the audit log"
                raise ValueError(msg)
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
            self._file.close()

    def _commit(self, group: list[_Request]) -> None:
        try:
            if self._file.closed:
                msg = f"the audit log {self._path} is closed: the node has stopped"
                raise StorageError(msg)
            with self._file.locked() as another:
                repaired = self._catch_up(anew=another)
                if self._signer is not None and self._end.mark.end >= self._rotate_at:
                    self._rotate()
                self._write([*([_Request([("audit.recovered", repaired)])] if repaired else []), *group])
        except (StorageError, AuditError) as error:
            for request in group:
                request.failure = error
        finally:
            for request in group:
                request.done = True
                if request.last_number == 0 and request.failure is None:  # an error that is not ours is on its way up
                    request.failure = StorageError(f"the audit log {self._path} was not written")

    def _catch_up(self, *, anew: bool) -> dict[str, Any]:
        """Bring `_end` to the end of the file; return what had to be repaired after a crash, empty for nothing."""
        if not anew and self._end.mark.number > 0 and self._file.size() == self._end.mark.end:
            return {}
        self._end, repaired = recover(self._path, self._file, self._head.read())
        return repaired

    def _write(self, group: list[_Request]) -> None:
        before = end = self._end
        text = bytearray()
        for request in group:
            for event, keys in request.events:
                end = self._add(end, text, event, keys)
            request.last_number = end.mark.number
        try:
            self._file.append(text)
            self._head.write(end.mark)
        except (OSError, StorageError) as error:
            with suppress(OSError):
                self._file.cut(before.mark.end)
            why = error.strerror if isinstance(error, OSError) else error
            msg = (
                f"the audit log {self._path} can't be written ({why}): see to the disk, nothing is accepted until then"
            )
            raise StorageError(msg) from error
        self._end = end

    def _add(self, end: End, text: bytearray, event: str, keys: Mapping[str, Any]) -> End:
        """Put a record at the end of `text`, and before it, when the clock went back, one that says so."""
        time = moment(self._clock())
        if time < end.time:
            by_s = seconds_between(time, end.time)
            if by_s > CLOCK_SLACK_S:
                end = self._add_line(end, text, time, "audit.clock_went_back", {"by_s": round(by_s, 3)})
        if event == CHECKPOINT and self._signer is not None:
            keys = self._signer.keys(end.mark.number, end.mark.sha256, time)
        return self._add_line(end, text, time, event, keys)

    @staticmethod
    def _add_line(end: End, text: bytearray, time: str, event: str, keys: Mapping[str, Any]) -> End:
        mark = end.mark
        line = record_line(mark.number + 1, time, event, mark.sha256, keys)
        text += line + b"\n"
        after = mark.end + len(line) + 1
        return End(replace(mark, number=mark.number + 1, sha256=digest(line), start=mark.end, end=after), time)

    def _rotate(self) -> None:
        """Close the file with a signature and begin the next; where the disk won't have it, go on with this one.

        The order makes each step one that `recover` can go on from: second name, signature, head, new file.
        """
        first = self._end.mark.segment
        try:
            self._file.prepare_successor(first)
        except OSError as error:
            self._put_off(error)
            return
        try:
            self._write([_Request([(CHECKPOINT, {})])])
            self._file.switch()
        except OSError as error:
            self._file.abandon_successor(first)
            self._put_off(error)
            return
        except BaseException:
            self._file.abandon_successor(first)
            raise
        mark = self._end.mark
        self._end = replace(self._end, mark=replace(mark, start=0, end=0, segment=mark.number + 1))
        self._rotate_at = self._segment_bytes

    def _put_off(self, error: OSError) -> None:
        self._rotate_at = self._end.mark.end + _RETRY_BYTES
        _log.warning("audit.rotation failed, %s goes on growing: %s", self._path, error.strerror)


def verify(path: Path, head: HeadMark | None) -> int:
    """Walk the whole log, signatures aside, and return the number of its records; raises as `verify_log`."""
    return verify_log(path, head).records


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Walk over the records without checking the chain (`verify` does). A half-written last line is left out."""
    with path.open("rb") as active:
        closed = [file for _, file in closed_segments(path) if identity(file) != identity(active.fileno())]
        for earlier in closed:
            with earlier.open("rb") as file:
                yield from (json.loads(line) for line in file)
        yield from (json.loads(line) for line in active if line.endswith(b"\n"))

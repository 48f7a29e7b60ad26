"""Finding the end of the audit log before something is written to it, and putting right what a crash left there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import AuditError, StorageError
from dicom_gam.storage.audit_chain import GENESIS, digest, fault, tail_of
from dicom_gam.storage.audit_segments import ActiveFile, closed_segments, identity, segment_path
from dicom_gam.storage.audit_verification import verify_log
from dicom_gam.storage.rows import HeadMark

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = HeadMark(0, GENESIS, 0, 0, 1)


@dataclass(frozen=True, slots=True)
class End:
    """Where the log ends: its last record, and when that was written (empty when there is none)."""

    mark: HeadMark
    time: str


def recover(log: Path, file: ActiveFile, head: HeadMark | None) -> tuple[End, dict[str, Any]]:
    """The end of the log, and what had to be repaired (keys of `audit.recovered`), empty for nothing.

    Only while the file is locked. Raises AuditError when the log is not what the head says it was, StorageError when
    the disk fails.
    """
    try:
        end = _promised(log, file, head)
        return _go_on(log, file, end)
    except OSError as error:
        msg = f"the audit log {log} can't be read or repaired after a crash ({error.strerror}): see to the disk"
        raise StorageError(msg) from error


def _promised(log: Path, file: ActiveFile, head: HeadMark | None) -> End:
    """What the head promises, checked, as seen from the file that grows: after a change of files at its beginning."""
    if head is None or head.number == 0:
        if closed_segments(log):
            raise AuditError(_other_database(log, 0))
        return End(NOTHING, "")
    closed = segment_path(log, head.segment)
    closed_as = identity(closed)
    if closed_as is not None and closed_as == identity(log):
        file.drop_second_name(head.segment)
        closed_as = None
    if closed_as is None:
        line = file.read(head.start, head.end)
        _check_promised(log, head, line, file.size() >= head.end)
        return End(head, _time(line))
    with closed.open("rb") as before:
        before.seek(head.start)
        line = before.read(head.end - head.start)
        size = closed.stat().st_size
    _check_promised(log, head, line, size >= head.end)
    if size > head.end or segment_path(log, head.number + 1).exists():
        raise AuditError(_other_database(log, head.number))
    return End(HeadMark(head.number, head.sha256, 0, 0, head.number + 1), _time(line))


def _go_on(log: Path, file: ActiveFile, end: End) -> tuple[End, dict[str, Any]]:
    """Take up the whole records after the promised one, and move aside what is not whole."""
    promised, size = end.mark, file.size()
    tail = file.read(promised.end, size)
    mark, time, used = promised, end.time, 0
    for line in tail.split(b"\n")[:-1]:
        if fault(line, mark.number + 1, mark.sha256):
            break
        start, after = mark.end, mark.end + len(line) + 1
        mark, time = HeadMark(mark.number + 1, digest(line), start, after, mark.segment), _time(line + b"\n")
        used += len(line) + 1
    torn = tail[used:]
    repaired: dict[str, Any] = {}
    if torn:
        repaired |= {"torn_file": _move_aside(log, file, torn, mark), "torn_bytes": len(torn)}
    if mark.number > promised.number:
        repaired["records_ahead_of_head"] = mark.number - promised.number
    return End(mark, time), repaired


def _check_promised(log: Path, promised: HeadMark, line: bytes, whole: bool) -> None:
    if whole and digest(line[:-1]) == promised.sha256:
        return
    verify_log(log, promised, lock=False)  # names the first bad record
    msg = f"the audit log {log} does not agree with its head, though its chain is whole: restore both"
    raise AuditError(msg, promised.number)


def _move_aside(log: Path, file: ActiveFile, torn: bytes, mark: HeadMark) -> str:
    """Keep what a power cut left of a record, for whoever wants to look at it, and cut it off the log."""
    aside = log.with_name(f"{log.name}.torn-{mark.number + 1}-{hashlib.sha256(torn).hexdigest()[:8]}")
    aside.write_bytes(torn)
    file.cut(mark.end)
    return aside.name


def _time(line: bytes) -> str:
    tail = tail_of(line[:-1])
    return "" if tail is None else tail.time


def _other_database(log: Path, number: int) -> str:
    return (
        f"the database knows of {number} records of the audit log {log}, but whole files come after them: it is older "
        "than the log. Restore the database and the audit log from the same moment."
    )

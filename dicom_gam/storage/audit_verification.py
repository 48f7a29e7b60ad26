"""Walking the whole audit log, to see whether each record is the one that was written.

The fast path compares a record's fixed tail with what must stand there and hashes it. Only where something does not
fit, and after the last record that the head knows, is a record looked at closely, with its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dicom_gam.errors import AuditError
from dicom_gam.storage.audit_chain import (
    CHECKPOINT_START,
    GENESIS,
    TIME_BYTES,
    digest,
    first_bad,
    form_fault,
    tail_of,
    tail_start,
)
from dicom_gam.storage.audit_segments import LogFile, files_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dicom_gam.storage.audit_signing import PublicKeys
    from dicom_gam.storage.rows import HeadMark

    Progress = Callable[[int, int], None]
    """Hears how many bytes of how many are done."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An unbroken log. `signed_to` is the last record with a good signature, which vouches for all before it.

    `ahead` counts records after the head, and `torn_bytes` what there is of one more: a crash leaves them, and the
    next writer says so in the log.
    """

    records: int
    files: int
    signed_to: int = 0
    signed_at: str = ""
    fingerprints: tuple[str, ...] = ()
    unchecked_signatures: int = 0
    ahead: int = 0
    torn_bytes: int = 0


def verify_log(
    log: Path, head: HeadMark | None, trusted: PublicKeys | None = None, progress: Progress | None = None,
    *, lock: bool = True,
) -> Verified:  # fmt: skip
    """Walk the whole log; signatures are checked by the `trusted` keys, not at all without them.

    `head` must have been read before. Raises AuditError whose `record` is the first bad one: edited, deleted,
    reordered, inserted, or (by the head) cut off; for a rewritten log the first signature after the change. With
    `lock=False` it is for whoever holds the log's lock.
    """
    walk = _Walk(log, head, trusted, progress)
    try:
        with files_now(log, lock=lock) as files:
            if not files:
                msg = f"{log}: the audit log is not there: restore it from a backup"
                raise AuditError(msg, 1 if head else None)
            return walk.run(files)
    except OSError as error:
        msg = f"{error.filename or log}: the audit log can't be read ({error.strerror}): restore it from a backup"
        raise AuditError(msg, walk.number + 1 if head else None) from error


class _Walk:
    """One walk over all files. `number`, `line` and `digest` are those of the last record that was right so far."""

    def __init__(self, log: Path, head: HeadMark | None, trusted: PublicKeys | None, progress: Progress | None) -> None:
        self._log, self._head, self._trusted, self._progress = log, head, trusted, progress
        self._head_number = 0 if head is None else head.number
        self.number = 0
        self._line = b""
        self._digest = GENESIS.encode()
        self._path = log
        self._signed_to, self._signed_at = 0, ""
        self._fingerprints: dict[str, None] = {}
        self._unchecked = 0
        self._unsigned_end = 0  # the last record of a closed file that is no signature
        self._torn_bytes = 0
        self._done_bytes = self._all_bytes = 0

    def run(self, files: list[LogFile]) -> Verified:
        self._all_bytes = sum(file.size for file in files)
        for place, file in enumerate(files):
            self._path = file.path
            self._check_first(file)
            self._walk(file, files[place + 1 :])
            self._unsigned_end = 0
            if file.first is not None and self._trusted is not None and self._signed_to != self.number:
                self._unsigned_end = self.number
        if self.number < self._head_number:
            written = self._head_number
            self._bad(
                self.number + 1,
                f"the log ends after record {self.number}, but {written} were written: its end was cut off",
            )
        self._check_file_was_signed()
        return Verified(
            self.number,
            len(files),
            self._signed_to,
            self._signed_at,
            tuple(self._fingerprints),
            self._unchecked,
            self.number - self._head_number,
            self._torn_bytes,
        )

    def _walk(self, file: LogFile, rest: list[LogFile]) -> None:
        number, line, previous = self.number, self._line, self._digest
        head_number, sha256, cut = self._head_number, hashlib.sha256, -TIME_BYTES - 1
        lines = file.lines(self._tell)
        for raw in lines:
            number += 1
            if (
                raw.endswith(b',"number":%d,"previous":"%b","time":"' % (number, previous), 0, cut)
                and number < head_number
                and not raw.startswith(CHECKPOINT_START)
                and not self._unsigned_end
            ):
                line = raw
                previous = sha256(raw[:-1]).hexdigest().encode()
                continue
            self.number, self._line, self._digest = number - 1, line, previous
            if not self._look_closely(raw, lines, rest, grows=file.first is None):
                return
            line, previous = self._line, self._digest
        self.number, self._line, self._digest = number, line, previous

    def _look_closely(self, raw: bytes, lines: Iterator[bytes], rest: list[LogFile], *, grows: bool) -> bool:
        """Check a record in full; False when it is the unfinished last one. Raises AuditError."""
        number, line = self.number + 1, raw[:-1]
        if not raw.endswith(b"\n"):
            if grows and number > self._head_number and next(lines, None) is None:
                self._torn_bytes = len(raw)
                return False
            self._bad(number, "it is cut in the middle")
        fits = raw.endswith(tail_start(number, self._digest), 0, -TIME_BYTES - 1)
        if not fits or (number > self._head_number and form_fault(line)):
            self._name_first_bad(line, _next_line(lines, rest))
        own = digest(line)
        if self._head is not None and number == self._head_number and own != self._head.sha256:
            self._bad(number, "it is not the one that was written")
        self._check_file_was_signed()
        if raw.startswith(CHECKPOINT_START):
            self._check_signature(number, line)
        self.number, self._line, self._digest = number, raw, own.encode()
        return True

    def _name_first_bad(self, line: bytes, after: bytes | None) -> NoReturn:
        number = self.number + 1
        sure = self.number == 0 or self.number == self._head_number  # the record before is what was written
        promised = self._head.sha256 if self._head is not None and number == self._head_number else None
        record, why = first_bad(number, None if sure else self._line[:-1], line, after, promised)
        self._bad(record, why)

    def _check_signature(self, number: int, line: bytes) -> None:
        if self._trusted is None:
            self._unchecked += 1
            return
        wrong, tail = form_fault(line), tail_of(line)
        if not wrong and tail is not None:
            keys = json.loads(line)["keys"]
            wrong = self._trusted.fault(keys, number - 1, tail.previous, tail.time)
            if not wrong:
                self._signed_to, self._signed_at = number, tail.time
                self._fingerprints[keys["fingerprint"]] = None
        if wrong:
            self._bad(number, wrong)

    def _check_first(self, file: LogFile) -> None:
        expected = self.number + 1
        if file.first is None or file.first == expected:
            return
        if file.first > expected:
            self._bad(expected, f"it is missing, as all are up to {file.first - 1}, before {file.path.name}")
        self._bad(file.first, f"it stands there twice, in {file.path.name} and in a file before")

    def _check_file_was_signed(self) -> None:
        if self._unsigned_end:
            self._bad(self._unsigned_end, "it is the last of a closed file, and should be a signature")

    def _bad(self, record: int, why: str) -> NoReturn:
        told = f"{self._path}: record {record} is bad: {why}. Compare with a backup of the log."
        if self._trusted is not None:
            good = min(self._signed_to, record - 1)
            told += f" Signatures vouch for the records up to {good}." if good else " No signature comes before it."
        raise AuditError(told, record)

    def _tell(self, count: int) -> None:
        self._done_bytes += count
        if self._progress is not None:
            self._progress(self._done_bytes, self._all_bytes)


def _next_line(lines: Iterator[bytes], rest: list[LogFile]) -> bytes | None:
    """The line after the one in hand, also when it stands in the next file."""
    raw = next(lines, None)
    for file in rest:
        if raw is not None:
            break
        raw = next(file.lines(), None)
    return None if raw is None else raw.removesuffix(b"\n")

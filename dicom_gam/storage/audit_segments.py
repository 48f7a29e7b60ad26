"""The files of the audit log: `audit.jsonl`, which grows, and `audit-<number of the first record>.jsonl`, closed ones.

A file is closed by a second name for it and by putting a new, empty file in the place of `audit.jsonl` in one step:
there is no moment without a file that records may go to. Whoever holds the lock on the file that bears the name
`audit.jsonl` may write; so after the lock is got, one looks whether it still bears it.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from dicom_gam.errors import StorageError
from dicom_gam.storage.audit_chain import LONGEST_BYTES, tail_of
from dicom_gam.storage.blobs import sync_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DIGITS = 12
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_BUFFER_BYTES = 1024**2
_TELL_BYTES = 4 * 1024**2


def segment_path(log: Path, first: int) -> Path:
    """The name of the closed file that begins with record `first`."""
    return log.with_name(f"{log.stem}-{first:0{_DIGITS}d}{log.suffix}")


def closed_segments(log: Path) -> list[tuple[int, Path]]:
    """All closed files in order, each with the number of its first record. Raises OSError."""
    form = re.compile(rf"{re.escape(log.stem)}-(\d{{{_DIGITS}}}){re.escape(log.suffix)}")
    names = ((form.fullmatch(name), name) for name in os.listdir(log.parent))
    found = sorted((int(match[1]), log.with_name(name)) for match, name in names if match)
    now = identity(log)
    return [(first, path) for first, path in found if identity(path) != now]


def identity(file: Path | int) -> tuple[int, int] | None:
    """What tells a file from all others, whatever its name; None where there is none. Raises OSError."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class ActiveFile:
    """`audit.jsonl`, open for appending, by this process among others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._successor = path.with_name(f"{path.name}.next")
        self._next = -1
        self._name_is_durable = True
        try:
            self._descriptor = os.open(path, _FLAGS, 0o600)
            sync_folder(path.parent)
        except OSError as error:
            msg = f"the audit log {path} can't be opened ({error.strerror}): give the service's user the right to write"
            raise StorageError(msg) from error

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor < 0

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock; tells whether the file is another one than before. Raises StorageError."""
        try:
            another = self._lock()
        except OSError as error:
            msg = f"the audit log {self._path} can't be opened again ({error.strerror}): see to the disk and its rights"
            raise StorageError(msg) from error
        try:
            yield another
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        another = False
        while True:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if identity(self._descriptor) == identity(self._path):
                return another
            fresh = os.open(self._path, _FLAGS, 0o600)  # it was closed by someone else, and a new one put in its place
            os.close(self._descriptor)
            self._descriptor, another, self._name_is_durable = fresh, True, False

    def size(self) -> int:
        """How long the file is."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end), fewer where the file ends before."""
        return os.pread(self._descriptor, end - start, start)

    def append(self, text: bytes | bytearray) -> None:
        """Write at the end, durably. Raises OSError; part of it may be there then."""
        if not self._name_is_durable:
            sync_folder(self._path.parent)
            self._name_is_durable = True
        write_all(self._descriptor, memoryview(text))
        os.fsync(self._descriptor)

    def cut(self, end: int) -> None:
        """Take back all from `end` on, durably. Raises OSError."""
        os.ftruncate(self._descriptor, end)
        os.fsync(self._descriptor)

    def prepare_successor(self, first: int) -> None:
        """Give the file its second name, and make the next one, empty and locked. Raises OSError, with nothing done."""
        try:
            self._next = os.open(self._successor, _FLAGS | os.O_TRUNC, 0o600)
            fcntl.flock(self._next, fcntl.LOCK_EX)
            os.link(self._path, segment_path(self._path, first))
            sync_folder(self._path.parent)
        except OSError:
            self.abandon_successor(first)
            raise

    def switch(self) -> None:
        """Put the next file in the place of this one, which keeps its second name only. Raises OSError, undone."""
        os.replace(self._successor, self._path)
        os.close(self._descriptor)
        self._descriptor, self._next, self._name_is_durable = self._next, -1, False

    def abandon_successor(self, first: int) -> None:
        """Go on with this file: what `prepare_successor` made is taken back."""
        if self._next >= 0:
            os.close(self._next)
            self._next = -1
        with suppress(OSError):
            self._successor.unlink(missing_ok=True)
        self.drop_second_name(first)

    def drop_second_name(self, first: int) -> None:
        """Remove the name of a closed file from this one, as a crash in the middle of closing it leaves it."""
        second = segment_path(self._path, first)
        with suppress(OSError):
            if identity(second) == identity(self._descriptor):
                second.unlink()
                sync_folder(self._path.parent)


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of the log as it was at one moment. `first` is None for the one that still grows.

    `descriptor` is open when the file might be renamed meanwhile.
    """

    path: Path
    first: int | None
    size: int
    descriptor: int | None = None

    def lines(self, tell: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
        """Walk over its lines, each with its end; `tell` hears now and then of bytes read. Raises OSError."""
        with self._opened() as file:
            left, told = self.size, self.size
            while left > 0:
                line = file.readline(LONGEST_BYTES + 1)
                if not line:
                    break
                line = line if len(line) <= left else line[:left]
                left -= len(line)
                yield line
                if told - left >= _TELL_BYTES:
                    tell(told - left)
                    told = left
            tell(told - left)

    def latest(self, start: bytes) -> str:
        """The time of the last whole record that begins with `start`, empty for none. Raises OSError."""
        with self._opened() as file:
            end, after = self.size, b""
            while end > 0:
                begin = max(0, end - _BUFFER_BYTES)
                file.seek(begin)
                text = file.read(end - begin) + after
                place = len(text)
                while (place := text.rfind(start, 0, place)) >= 0:
                    whole = text.find(b"\n", place)
                    tail = None if whole < 0 else tail_of(text[place:whole])
                    if tail is not None and (begin + place == 0 or text[place - 1 : place] in (b"\n", b"")):
                        return tail.time
                end, after = begin, text[: _BUFFER_BYTES // 4]
        return ""

    def _opened(self) -> BinaryIO:
        if self.descriptor is None:
            return self.path.open("rb", buffering=_BUFFER_BYTES)
        file = os.fdopen(os.dup(self.descriptor), "rb", buffering=_BUFFER_BYTES)
        file.seek(0)
        return file


@contextmanager
def files_now(log: Path, *, lock: bool = True) -> Iterator[list[LogFile]]:
    """All files of the log at one moment at which nobody wrote; what comes later is not seen. Raises OSError.

    `lock=False` is for whoever holds the lock.
    """
    descriptor = _opened(log, lock)
    try:
        found = [LogFile(path, first, path.stat().st_size) for first, path in closed_segments(log)]
        if descriptor is not None:
            found.append(LogFile(log, None, os.fstat(descriptor).st_size, descriptor))
            if lock:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        yield found
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(log: Path, lock: bool) -> int | None:
    while True:
        try:
            descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        if lock:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if identity(descriptor) == identity(log):
            return descriptor
        os.close(descriptor)

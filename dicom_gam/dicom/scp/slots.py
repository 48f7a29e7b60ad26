"""Limits that hold across processes, without shared memory and without a server that counts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_PLACES = 65536  # bytes that belong to one key, and so the highest limit


class Slot:
    """One taken place; `release` gives it back, and may be called again."""

    def __init__(self, slots: Slots, place: int) -> None:
        self._slots, self._place = slots, place

    def release(self) -> None:
        """Give the place back."""
        place, self._place = self._place, -1
        if place >= 0:
            self._slots._give_back(place)


class Slots:
    """Places under keys, such as `host 10.1.2.3`: as many per key as the limit says, over all processes.

    A place is one byte of `path` with a POSIX record lock on it, which the kernel frees when its process dies, however
    it dies. A process does not see its own locks, hence the set; and it loses them all when it closes the file once,
    so there is one Slots per process and file, for its whole life. Without a path only this process counts.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._taken: set[int] = set()
        self._descriptor = -1
        if path is None:
            return
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            msg = f"{path} can't be opened ({error.strerror}): give the service's user the right to write there"
            raise ConfigError(msg) from error

    def take(self, key: str, limit: int) -> Slot | None:
        """Take a place under `key`, None when `limit` places are taken."""
        digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=5).digest()
        first = int.from_bytes(digest, "big") * _PLACES
        with self._lock:
            for place in range(first, first + min(limit, _PLACES)):
                if place not in self._taken and self._try(place):
                    self._taken.add(place)
                    return Slot(self, place)
        return None

    def close(self) -> None:
        """Give every place back."""
        with self._lock:
            self._taken.clear()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _try(self, place: int) -> bool:
        if self._descriptor < 0:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:  # another process has it; or no locks are left, and then there is no place either
            return False
        return True

    def _give_back(self, place: int) -> None:
        with self._lock:
            if place not in self._taken:
                return
            self._taken.discard(place)
            if self._descriptor >= 0:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)

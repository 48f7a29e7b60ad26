"""What the doctor's checks share: the node in question, and the form of a finding."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.service.store import DATABASE_FILE, has_database

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_gam.config import Settings

NODE_LOCK = "node.lock"


class Level(IntEnum):
    """How bad it is; the worst one is the command's exit status."""

    OK = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, naming what was looked at, and what to do about it."""

    level: Level
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """The node that is looked at."""

    settings: Settings

    @property
    def folder(self) -> Path:
        """Its storage folder."""
        return self.settings.node.storage

    @property
    def database(self) -> Path | None:
        """Its database; None when it has none yet. Raises StorageError when this user may not look."""
        return self.folder / DATABASE_FILE if has_database(self.folder) else None

    @property
    def runs(self) -> bool:
        """Whether it runs: then it holds its lock. Raises StorageError."""
        try:
            descriptor = os.open(self.folder / NODE_LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            msg = f"{self.folder / NODE_LOCK} can't be opened ({error.strerror}): run this as the service's user"
            raise StorageError(msg) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment; a node that starts waits for longer
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, found)


def warn(found: str, remedy: str) -> Finding:
    """It works, but not for ever or not as it should."""
    return Finding(Level.WARN, found, remedy)


def fail(found: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Level.FAIL, found, remedy)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """A span of time for people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"

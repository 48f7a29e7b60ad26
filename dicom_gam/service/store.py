"""The storage folder of one node, opened: by the node itself, its receivers, or a command beside them.

Two locks keep them apart. The *owner* (a running node) holds `node.lock`. Whoever writes into the inbox holds
`intake.lock` shared, from before its first file until after its last job row; the owner takes it alone while it puts
right what a crash has left, so that no file of a living writer is taken for a stray.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dicom_gam.errors import StorageError
from dicom_gam.service.drift import drift_rule
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.blobs import FolderBlobs, sync_folder
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_drift import SqliteDrift
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.sqlite_oversight import SqliteReviews

if TYPE_CHECKING:
    from dicom_gam.config import Settings

DATABASE_FILE = "node.sqlite"
AUDIT_FILE = "audit.jsonl"
LOCK_WAIT_S = 10.0  # receivers of a killed node need a moment to notice


class Store:
    """An open storage folder; also a context manager. Make it with `open_store`."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        node, drift = settings.node, settings.drift
        self.folder: Path = node.storage
        self.database = Database(self.folder / DATABASE_FILE)
        stack.callback(self.database.close)
        self.audit = AuditLog(self.folder / AUDIT_FILE, SqliteAuditHead(self.database))
        stack.callback(self.audit.close)
        self.inbox = FolderBlobs(self.folder / "inbox", node.minimum_free_bytes)
        self.results = FolderBlobs(self.folder / "results")
        self.evidence = FolderBlobs(self.folder / "evidence")
        rule = drift_rule(drift.false_alarm_rate) if drift.enabled else None
        self.jobs = SqliteJobQueue(self.database, self.inbox.path, rule)
        self.drift = SqliteDrift(self.database)
        self.outbox = SqliteOutbox(self.database)
        self.reviews = SqliteReviews(self.database)
        self.closing = ExitStack()

    def close(self) -> None:
        """Close everything and give the locks free."""
        self.closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(settings: Settings, *, create: bool = False) -> Store:
    """Open a node's storage folder, also while its node runs. Raises StorageError or AuditError.

    Without `create` a folder that is no node's storage is refused.
    """
    folder = settings.node.storage
    if create:
        make_folder(folder)
    else:
        database_of(folder)
    with ExitStack() as stack:
        store = Store(settings, stack)
        store.closing = stack.pop_all()
    return store


def database_of(folder: Path) -> Path:
    """The database of a storage folder. Raises StorageError when the folder is none."""
    if not has_database(folder):
        msg = f"{folder} is not the storage folder of a node: give the path that node.storage names"
        raise StorageError(msg)
    return folder / DATABASE_FILE


def has_database(folder: Path) -> bool:
    """Whether a folder holds a node's database. Raises StorageError when this user may not look."""
    try:
        return stat.S_ISREG((folder / DATABASE_FILE).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        msg = f"{folder} can't be looked into ({error.strerror}): run this as the user that the node runs as"
        raise StorageError(msg) from error


def lock(path: Path, kind: int, wait_s: float, why: str) -> int:
    """Lock a file (`fcntl.LOCK_EX` or `LOCK_SH`); the system gives it free when the process ends, however it does.

    Raises StorageError when it can't be opened, or, saying `why`, when someone else still holds it after `wait_s`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        msg = f"{path} can't be opened ({error.strerror}): run this as the user that the folder belongs to"
        raise StorageError(msg) from error
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            in_use = error.errno in (errno.EWOULDBLOCK, errno.EAGAIN)
            if not in_use or time.monotonic() >= deadline:
                os.close(descriptor)
                raise StorageError(f"{path} can't be locked: {why if in_use else error.strerror}") from error
            time.sleep(0.02)
        else:
            return descriptor


def own(folder: Path) -> int:
    """Take the folder for the one node that runs on it. Raises StorageError."""
    return lock(
        folder / "node.lock",
        fcntl.LOCK_EX,
        0.0,
        "another node runs on it: stop that one, or give this one its own node.storage",
    )


def hold_intake(folder: Path, *, alone: bool = False) -> int:
    """The right to write into the inbox (shared), or to be sure that nobody does (`alone`). Raises StorageError."""
    return lock(
        folder / "intake.lock",
        fcntl.LOCK_EX if alone else fcntl.LOCK_SH,
        LOCK_WAIT_S,
        "another process of dicom_gam is writing into the inbox: wait for it to end (dicom-gam fetch, a receiver)",
    )


def make_folder(folder: Path) -> None:
    """Make a folder durably. Raises StorageError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        msg = f"{folder} can't be made ({error.strerror}): set node.storage to a folder that the service may write to"
        raise StorageError(msg) from error

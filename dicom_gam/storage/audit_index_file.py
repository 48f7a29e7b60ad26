"""The file of the audit log's index: opened, laid out, and thrown away when it is damaged."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.storage.audit_index_layout import LAYOUT, LAYOUT_NUMBER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeVar

    _T = TypeVar("_T")

_BUSY_S = 30.0  # another process may be filling a batch


class IndexFile:
    """One SQLite file that anybody may delete. One connection and one lock for all threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    def tried(self, action: Callable[[], _T]) -> _T:
        """Do it; once more with a new file when this one is damaged. Raises StorageError."""
        with self._lock:
            try:
                with self._translated():
                    return action()
            except _DamagedError:
                self.remove()
                try:
                    with self._translated():
                        return action()
                except _DamagedError as error:
                    raise StorageError(str(error)) from error

    def open(self) -> sqlite3.Connection:
        """The connection, only within `tried`. Raises StorageError when it is closed."""
        if self._closed:
            msg = f"{self._path} is closed: the node has stopped"
            raise StorageError(msg)
        if self._connection is None:
            with self._alone():
                connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
                try:
                    self._path.chmod(0o600)
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut costs records, not the file
                    if connection.execute("PRAGMA user_version").fetchone()[0] != LAYOUT_NUMBER:
                        connection.executescript(LAYOUT)
                except BaseException:
                    connection.close()
                    raise
            self._connection = connection
        return self._connection

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process opens, lays out or removes the file meanwhile."""
        with self._path.with_suffix(".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """Close it; later calls raise StorageError."""
        with self._lock:
            self._closed = True
            self._forget()

    def remove(self) -> None:
        """Throw the file away, only within `tried`; the next `open` makes a new one. Raises StorageError."""
        self._forget()
        try:
            with self._alone():
                for suffix in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            msg = f"the damaged index {self._path} can't be removed ({error.strerror}): delete it, nothing is lost"
            raise StorageError(msg) from error

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            msg = f"the audit log's index {self._path} can't be used ({name}: {error}): see to the disk and its rights"
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_MISMATCH", "SQLITE_CONSTRAINT")) or (
                name == "SQLITE_ERROR"  # a table or column that is not there
            ):
                raise _DamagedError(msg) from error
            raise StorageError(msg) from error
        except OSError as error:
            msg = (
                f"the audit log or its index {self._path} can't be read or written ({error.strerror}): see to the disk"
            )
            raise StorageError(msg) from error


class _DamagedError(Exception):
    """The index is not what this program has made."""

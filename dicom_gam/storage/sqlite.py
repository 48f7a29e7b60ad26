"""One SQLite database: WAL, `synchronous=FULL`, so that what is committed survives a power cut.

One connection and one lock for all threads of the process: SQLite has a single writer anyway, and commits of other
processes are waited for (`busy_timeout`).
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.storage.layouts import LAYOUTS, SCHEMA_VERSION
from dicom_gam.storage.rows import HeadMark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLOCK_SLACK_S = 60.0  # a clock that went back further than this makes waiting rows due at once


class Database:
    """The connection, its transactions, and the translation of SQLite's errors."""

    def __init__(self, path: Path, busy_timeout_s: float = 2.0) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._closed = False
        with self._translated():
            self._connection = sqlite3.connect(
                path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when the block has ended. Raises StorageError, such as for a locked database."""
        with self._lock, self._translated():
            self._check_open()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection for single SELECTs."""
        with self._lock, self._translated():
            self._check_open()
            yield self._connection

    def close(self) -> None:
        """Close the connection; later calls raise StorageError."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._connection.close()

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if 0 <= version < SCHEMA_VERSION:
            missing = " ".join(LAYOUTS[version:])
            connection.executescript(f"BEGIN IMMEDIATE; {missing} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            msg = (
                f"{self._path} has the layout {version}, this dicom_gam knows {SCHEMA_VERSION}: "
                "run the version that wrote it, or start with another node.storage"
            )
            raise StorageError(msg)

    def _check_open(self) -> None:
        if self._closed:
            msg = f"{self._path} is closed: the node has stopped"
            raise StorageError(msg)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            remedy = {
                "SQLITE_BUSY": "another program holds it: stop that program",
                "SQLITE_FULL": "free some space",
                "SQLITE_NOTADB": "it is not a database: move it aside",
                "SQLITE_CORRUPT": "it is damaged: restore it from a backup",
                "SQLITE_CANTOPEN": "give the service's user the right to write there, or run this as that user",
                "SQLITE_READONLY": "give the service's user the right to write there",
            }.get(name, "see to the disk and the file")
            msg = f"the database {self._path} can't be used ({name}: {error}): {remedy}"
            raise StorageError(msg) from error


class SqliteAuditHead:
    """How far the audit log goes, as the database knows it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> HeadMark | None:
        """Return the mark, None when nothing was ever logged."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT number, sha256, first_byte, end_byte, segment FROM audit_head").fetchone()
        return None if row is None else HeadMark(*row)

    def write(self, mark: HeadMark) -> None:
        """Replace the mark durably."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO audit_head (one, number, sha256, first_byte, end_byte, segment)"
                " VALUES (1, ?, ?, ?, ?, ?)",
                (mark.number, mark.sha256, mark.start, mark.end, mark.segment),
            )

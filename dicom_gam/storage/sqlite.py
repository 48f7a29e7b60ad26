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
from dicom_gam.storage.protocols import HeadMark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLOCK_SLACK_S = 60.0  # a clock that went back further than this makes waiting rows due at once

_JOBS = """
CREATE TABLE jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  blob TEXT NOT NULL UNIQUE,
  sop_class_uid TEXT NOT NULL,
  sop_instance_uid TEXT NOT NULL,
  transfer_syntax_uid TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  dataset_sha256 TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  calling_ae_title TEXT NOT NULL,
  called_ae_title TEXT NOT NULL,
  peer_address TEXT NOT NULL,
  received_at REAL NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  token INTEGER NOT NULL DEFAULT 0,
  worker TEXT NOT NULL DEFAULT '',
  leased_at REAL NOT NULL DEFAULT 0,
  lease_until REAL NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0,
  outcome TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  study_instance_uid TEXT NOT NULL DEFAULT '',
  result TEXT,
  finished_at REAL
) STRICT;
CREATE UNIQUE INDEX one_job_per_instance ON jobs (sop_instance_uid) WHERE state != 'quarantined';
CREATE INDEX data_sets ON jobs (sop_instance_uid, dataset_sha256);
CREATE INDEX open_jobs ON jobs (state, number);
CREATE TABLE deliveries (
  delivery_id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL REFERENCES jobs (job_id),
  destination TEXT NOT NULL,
  role TEXT NOT NULL,
  sop_class_uid TEXT NOT NULL,
  sop_instance_uid TEXT NOT NULL,
  transfer_syntax_uid TEXT NOT NULL,
  blob TEXT NOT NULL,
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  tried_at REAL NOT NULL DEFAULT 0,
  next_at REAL NOT NULL DEFAULT 0,
  status INTEGER,
  cause TEXT NOT NULL DEFAULT '',
  UNIQUE (job_id, destination, sop_instance_uid)
) STRICT;
CREATE INDEX open_deliveries ON deliveries (destination, state, next_at);
CREATE TABLE audit_head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  number INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  first_byte INTEGER NOT NULL,
  end_byte INTEGER NOT NULL
) STRICT;
"""
_DRIFT = """
CREATE TABLE drift_streams (
  stream_id INTEGER PRIMARY KEY,
  sender TEXT NOT NULL,
  bundle_name TEXT NOT NULL,
  bundle_version TEXT NOT NULL,
  bundle_digest TEXT NOT NULL,
  images INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT '',
  log10_evidence REAL NOT NULL DEFAULT 0,
  log10_maximum REAL NOT NULL DEFAULT 0,
  started_at REAL NOT NULL,
  updated_at REAL NOT NULL,
  alarm_at REAL,
  alarm_announced INTEGER NOT NULL DEFAULT 0,
  UNIQUE (sender, bundle_digest)
) STRICT;
CREATE TABLE drift_places (
  stream_id INTEGER NOT NULL REFERENCES drift_streams (stream_id) ON DELETE CASCADE,
  class_name TEXT NOT NULL,
  place INTEGER NOT NULL,
  images INTEGER NOT NULL,
  PRIMARY KEY (stream_id, class_name, place)
) STRICT, WITHOUT ROWID;
"""
_LAYOUTS = (_JOBS, _DRIFT)  # each adds to the one before; a database of an earlier layout gets what it lacks
SCHEMA_VERSION = len(_LAYOUTS)


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
            missing = " ".join(_LAYOUTS[version:])
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
                "SQLITE_CANTOPEN": "give the service's user the right to write there",
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
            row = connection.execute("SELECT number, sha256, first_byte, end_byte FROM audit_head").fetchone()
        return None if row is None else HeadMark(*row)

    def write(self, mark: HeadMark) -> None:
        """Replace the mark durably."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO audit_head VALUES (1, ?, ?, ?, ?)",
                (mark.number, mark.sha256, mark.start, mark.end),
            )

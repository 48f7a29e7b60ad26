"""Looking at the drift of a node's senders, and starting anew once its cause is removed, also while the node runs."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.service.store import AUDIT_FILE, database_of
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_drift import SqliteDrift

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_gam.storage.rows import DriftReading


def read_drift(storage: Path) -> list[DriftReading]:
    """The drift of every sender of a node's storage folder. Raises StorageError when there is no such storage."""
    with closing(_open(storage)) as database:
        return SqliteDrift(database).readings()


def reset_drift(storage: Path, sender: str) -> list[DriftReading]:
    """Forget what a sender's images were like, and put it in the audit log; return what is forgotten.

    Raises StorageError that names the known senders when this one isn't.
    """
    with closing(_open(storage)) as database:
        drift = SqliteDrift(database)
        readings = drift.readings()
        streams = [reading for reading in readings if reading.sender == sender]
        if not streams:
            known = ", ".join(sorted({reading.sender for reading in readings})) or "none yet"
            msg = f"no images of {sender!r} have been seen: give a sender that `dicom-gam drift` shows ({known})"
            raise StorageError(msg)
        with closing(AuditLog(storage / AUDIT_FILE, SqliteAuditHead(database))) as audit:
            # The record comes first, as with results.
            audit.append("drift-reset", sender=sender, streams=[_summary(reading) for reading in streams])
        return drift.reset(sender)


def _summary(reading: DriftReading) -> dict[str, object]:
    return {
        "digest": reading.bundle_digest,
        "images": reading.images,
        "log10_maximum": reading.log10_maximum,
        "alarm_at": reading.alarm_at,
    }


def _open(storage: Path) -> Database:
    return Database(database_of(storage))

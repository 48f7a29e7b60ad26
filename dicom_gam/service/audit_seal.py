"""Signing the audit log: at the node's first start, from time to time, and when it stops."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING

from dicom_gam.service.loop import Loop
from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.audit_reader import latest_checkpoint
from dicom_gam.storage.audit_signing import open_signer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dicom_gam.oversight_sections import AuditSettings
    from dicom_gam.storage.audit import AuditLog

_log = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0  # the clock may be set meanwhile


class Sealer:
    """Gives the log its key and signs it when that is due; only for the node that owns the folder.

    Raises ConfigError for a key that can't be used, StorageError when none can be made.
    """

    def __init__(
        self, settings: AuditSettings, folder: Path, audit: AuditLog, clock: Callable[[], float] = time.time
    ) -> None:
        self._interval_s, self._audit, self._clock = settings.checkpoint_interval_s, audit, clock
        self._latest = _seconds(latest_checkpoint(folder / AUDIT_FILE))
        signer, before = open_signer(folder, settings.key)
        audit.sign_with(signer, settings.segment_bytes)
        if before:
            _log.warning("audit.key_changed: the log is signed by another key from now on, %s", signer.fingerprint)
            audit.append("audit.key_changed", fingerprint=signer.fingerprint, before=before)
        self.loop = Loop("audit-seal", self.sign_if_due, self._failed, pause_s=60.0)

    def sign_if_due(self) -> float:
        """Sign if the latest signature is older than it should be; return after how many seconds to look again."""
        now = self._clock()
        if self._latest is None or not 0 <= now - self._latest < self._interval_s:
            self.sign()
            now = self._clock()
        due_s = self._interval_s - (now - (self._latest or now))
        return max(0.1, min(due_s, LONGEST_WAIT_S))

    def sign(self) -> None:
        """Sign the log as it stands. Raises StorageError or AuditError."""
        self._audit.checkpoint()
        self._latest = self._clock()

    def _failed(self, error: Exception) -> None:
        _log.error("audit.checkpoint failed: %s", error)


def _seconds(moment: str) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None

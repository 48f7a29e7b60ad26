"""Followers of the audit log: each hands every new record on, in order, and remembers durably how far it has got.

What a follower hands on is kept nowhere else than in the log itself: while the other side is away, its place stays
where it is. So nothing is lost, and after a crash between handing on and remembering the same records come again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from dicom_gam.errors import AuditError, DicomGamError, StorageError
from dicom_gam.service.loop import Loop, describe
from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.audit_reader import START, AuditReader, Place
from dicom_gam.storage.audit_segments import closed_segments
from dicom_gam.storage.blobs import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dicom_gam.storage.audit_reader import AuditRecord

_log = logging.getLogger(__name__)

POLL_S = 1.0  # receivers and commands write into the log from processes of their own, which can wake nobody here
RECORDS_AT_ONCE = 256
LONGEST_WAIT_S = 60.0
_SKIPPED_AT_ONCE = 8192


def nothing() -> None:
    """For a follower that has nothing to do but to hand records on."""


class AuditFollower:
    """Hands the records of a node's audit log to `handle`, batch by batch, and after each step calls `then`.

    A `handle` that raises has failed as a whole: the place stays, and the same records are tried again after growing
    waits; so is a `then` that raises. `trouble` is told once when the log itself can't be read, `closing` at the end. A
    follower that is new begins with what is recorded from now on, or, `from_start`, with the first record.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        handle: Callable[[Sequence[AuditRecord]], object],
        *,
        then: Callable[[], object] = nothing,
        trouble: Callable[[AuditError], object] | None = None,
        closing: Callable[[], object] = nothing,
        from_start: bool = False,
        first_wait_s: float = 1.0,
    ) -> None:
        self._name = name
        self._handle = handle
        self._then = then
        self._trouble = trouble
        self._closing = closing
        self._first_wait_s = first_wait_s
        self._path = folder / f"follower-{name}.json"
        self._log_path = folder / AUDIT_FILE
        self._reader = AuditReader(self._log_path)
        self._tries = 0  # that failed, one after the other
        self._why = ""
        self._again_at = 0.0
        self.loop = Loop(f"follower {name}", self._step, self._step_failed, min(POLL_S, first_wait_s))
        self._place = self._begin(from_start=from_start)

    def finish(self, wait_s: float = 5.0) -> None:
        """Hand on what has come last, unless the other side is away. To be called when the loop has ended.

        What is not done within `wait_s` is done at the next start; so it is when the loop still hangs in a step.
        """
        if not self.loop.join(0.0):
            return
        ended = threading.Event()
        last = Loop(f"follower {self._name}, the last", lambda: self._last_step(ended), self._step_failed)
        last.start()
        ended.wait(wait_s)
        last.stop()

    def _last_step(self, ended: threading.Event) -> float:
        try:
            if self._tries == 0:
                while self._step() == 0.0:
                    pass
        finally:
            try:
                self._closing()
            finally:
                ended.set()
        return LONGEST_WAIT_S

    def _begin(self, *, from_start: bool) -> Place:
        """Where it left off; for a new follower, or one whose place is lost, where it has to begin."""
        found = self._load()
        if found is None:
            found = START if from_start else self._end()
        write_durably(self._path, json.dumps(asdict(found)))
        return found

    def _load(self) -> Place | None:
        try:
            kept = json.loads(self._path.read_bytes())
            place = Place(kept["number"], kept["segment"], kept["offset"])
            if any(type(value) is not int for value in asdict(place).values()) or place.number < 1 or place.offset < 0:
                raise ValueError(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self._path} can't be read ({error.strerror}): see to the disk") from error
        except (ValueError, TypeError, KeyError):
            _log.error(
                "follower.place_lost name=%s %s is damaged: it goes on with what is recorded from now on; what was "
                "recorded since it last worked is in the audit log only",
                self._name,
                self._path,
            )
            return self._end()
        return place

    def _end(self) -> Place:
        try:
            closed = closed_segments(self._log_path)
        except OSError as error:
            raise StorageError(f"{self._log_path.parent} can't be read ({error.strerror}): see to the disk") from error
        place = Place(closed[-1][0], closed[-1][0], 0) if closed else START
        while True:
            records, place = self._reader.read(place, _SKIPPED_AT_ONCE)
            if not records:
                return place

    def _step(self) -> float:
        if time.monotonic() < self._again_at:
            raise DicomGamError(self._why)  # so that whoever asks how the loop fares hears of it all the while
        records, after = self._read()
        if records:
            self._handle(records)
            write_durably(self._path, json.dumps(asdict(after)))
            self._place = after
        self._then()
        self._works()
        return 0.0 if len(records) == RECORDS_AT_ONCE else POLL_S

    def _read(self) -> tuple[list[AuditRecord], Place]:
        try:
            return self._reader.read(self._place, RECORDS_AT_ONCE)
        except AuditError as error:
            if self._trouble is not None and self._tries == 0:
                self._trouble(error)
            msg = f"{error}. If the log was replaced on purpose, remove {self._path} and start the node again"
            raise AuditError(msg, error.record) from error

    def _works(self) -> None:
        if self._tries:
            _log.warning("follower.works_again name=%s failed_tries=%d", self._name, self._tries)
        self._tries, self._again_at = 0, 0.0

    def _step_failed(self, error: Exception) -> None:
        if time.monotonic() < self._again_at:
            return  # nothing was tried
        why = str(error) if isinstance(error, DicomGamError) else describe(error)
        if self._tries == 0 or why != self._why:
            _log.error("follower.held name=%s %s. It is tried again; the records wait in the log.", self._name, why)
        self._tries, self._why = self._tries + 1, why
        wait_s = min(LONGEST_WAIT_S, self._first_wait_s * 2.0 ** min(self._tries - 1, 30))
        self._again_at = time.monotonic() + wait_s

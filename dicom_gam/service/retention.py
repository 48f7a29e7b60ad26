"""What is deleted, and when: images and results by age, and delivered images before their time when space is short.

An image: its job is marked as purged (committed), that is recorded, then the file goes. So no job claims to have a
file that is gone; a file that a crash has left behind its mark goes with the next walk over the inbox.

A result: files are named by their content, so one may serve several deliveries, and a worker that repeats a job writes
the same file again. A file is moved aside and looked at while no delivery can be committed; one that was written anew
meanwhile is put back.

Age needs two witnesses: the wall clock and the node's own count of time (`retention_clock`).
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from dicom_gam.errors import DicomGamError, StorageError
from dicom_gam.service.loop import Loop, describe
from dicom_gam.service.retention_clock import AgeLedger, uptime
from dicom_gam.storage.rows import Horizon, ResultUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from dicom_gam.sections import RetentionSettings
    from dicom_gam.storage.protocols import AuditTrail, Blobs, Retention
    from dicom_gam.storage.rows import PurgedImage

_log = logging.getLogger(__name__)

LEDGER_FILE = "retention.json"
DAY_S = 86400.0
BATCH = 50  # images of one transaction and one audit record
ROOM_CHECK_S = 5.0  # a busy front door fills gigabytes in less than a minute
WALK_EVERY_S = 3600.0
ORPHAN_S = DAY_S  # a result without a delivery: what a crash left, or of a node without destinations
WRITE_AHEAD_LOG_BYTES = 64 * 1024**2
FRESH_S = 3600.0  # a result that was written so lately stays: its delivery may be about to be committed
ASIDE = ".going"


def free_bytes(folder: Path) -> int:
    """The space that the service may still use."""
    return shutil.disk_usage(folder).free


class Keeper:
    """Looks after one storage folder; only the node that owns it may have one. Its thread is `loop`."""

    def __init__(
        self,
        settings: RetentionSettings,
        folder: Path,
        retention: Retention,
        inbox: Blobs,
        results: Blobs,
        audit: AuditTrail,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = uptime,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._settings, self._folder, self._retention = settings, folder, retention
        self._inbox, self._results, self._audit = inbox, results, audit
        self._wall, self._steady, self._free = wall, steady, free
        self._ledger = AgeLedger(folder / LEDGER_FILE, wall, steady)
        self._round_at: float | None = None  # None: as soon as possible
        self._walked_at: float | None = None
        self._orphans: dict[str, float] = {}  # when each was first seen, in the ledger's seconds
        self._no_room_told = False
        self.loop = Loop("retention", self._step, self._failed, pause_s=ROOM_CHECK_S)

    def look_after(self) -> None:
        """One round: by age, then leftovers, then the write-ahead log. Raises StorageError or AuditError."""
        day_s, settings = DAY_S, self._settings
        longest_s = day_s * max(settings.images_days, settings.results_days, settings.quarantine_days)
        jumped_s = self._ledger.advance(self._retention.newest_number(), longest_s)
        if jumped_s:
            self._tell_jump(jumped_s)
            return
        self._purge_by_age()
        if self._walked_at is None or self._steady() - self._walked_at >= WALK_EVERY_S:
            self._walk_inbox()
            self._walk_results()
            self._walked_at = self._steady()
        self._retention.shorten_log(WRITE_AHEAD_LOG_BYTES)

    def make_room(self) -> None:
        """Purge delivered images, oldest first, while less space is free than `make_room_below_bytes`."""
        wanted = self._settings.make_room_below_bytes - self._free(self._folder)
        if wanted <= 0:
            self._no_room_told = False
            return
        while wanted > 0 and not self.loop.stopping:
            images = self._retention.purge_delivered(wanted, BATCH, self._wall())
            if not images:
                self._tell_no_room(wanted)
                return
            self._delete(images, "room")
            # Counted and not measured again: a file system may give space back late, or not at all for a file that has
            # a second name, and then every image would go.
            wanted -= sum(image.size_bytes for image in images)

    def _step(self) -> float:
        now = self._steady()
        if self._round_at is None or now - self._round_at >= self._settings.interval_s:
            self.look_after()
            self._round_at = now
        self.make_room()
        return min(ROOM_CHECK_S, self._settings.interval_s)

    def _failed(self, error: Exception) -> None:
        self._walked_at = None  # what was marked and not deleted is found by a walk
        _log.error("retention.failed %s", error if isinstance(error, DicomGamError) else describe(error))

    def _horizon(self, days: float) -> Horizon:
        return Horizon(self._wall() - days * DAY_S, self._ledger.number_aged(days * DAY_S))

    def _purge_by_age(self) -> None:
        images = self._horizon(self._settings.images_days)
        quarantine = self._horizon(self._settings.quarantine_days)
        while not self.loop.stopping:
            purged = self._retention.purge(images, quarantine, BATCH, self._wall())
            if purged:
                self._delete(purged, "age")
            if len(purged) < BATCH:
                return

    def _delete(self, images: Iterable[PurgedImage], why: str) -> None:
        """Record, then delete the files of images that are marked already."""
        images = list(images)
        size = sum(image.size_bytes for image in images)
        names = [image.job_id for image in images]
        self._audit.append("retention.purged", what="images", why=why, count=len(images), bytes=size, job_ids=names)
        for image in images:
            self._inbox.remove(image.blob)
        level = logging.WARNING if why == "room" else logging.INFO
        _log.log(level, "retention.purged what=images why=%s count=%d bytes=%d", why, len(images), size)

    def _walk_inbox(self) -> None:
        """Delete files whose job is marked as purged: a crash, or a disk in trouble, came between mark and file."""
        for names in _chunks(self._inbox.names(), self.loop):
            left = self._retention.purged_among(names)
            if left:
                self._delete(left, "interrupted")

    def _walk_results(self) -> None:
        """Delete results that no delivery needs any more, and those that never had one."""
        horizon = self._horizon(self._settings.results_days)
        self._put_back(horizon)
        seen: dict[str, float] = {}
        for names in _chunks(self._results.names(), self.loop):
            old = [name for name in names if self._is_old(name, horizon)]
            removed: dict[ResultUse, int] = {}
            for name, use in self._retention.result_uses(old, horizon).items():
                if use is ResultUse.UNKNOWN:
                    seen[name] = self._orphans.get(name, self._ledger.elapsed_s)
                    if self._ledger.elapsed_s - seen[name] < ORPHAN_S:
                        continue
                if use is not ResultUse.NEEDED and self._release(name, horizon):
                    removed[use] = removed.get(use, 0) + 1
            for use, count in removed.items():
                why = "age" if use is ResultUse.EXPIRED else "no delivery"
                self._audit.append("retention.purged", what="results", why=why, count=count)
                _log.info("retention.purged what=results why=%s count=%d", why, count)
        self._orphans = seen

    def _release(self, name: str, horizon: Horizon) -> bool:
        path = self._results.path(name)
        aside = path.with_suffix(ASIDE)

        def remove() -> bool:
            try:
                os.rename(path, aside)
                if aside.stat().st_mtime > self._latest(horizon):  # written anew since it was looked at
                    os.rename(aside, path)
                    return False
                aside.unlink()
            except FileNotFoundError:
                return False
            except OSError as error:
                raise StorageError(f"{path} can't be removed ({error.strerror}): see to the disk") from error
            return True

        return self._retention.release_result(name, horizon, remove)

    def _put_back(self, horizon: Horizon) -> None:
        """See to files that a crash has left aside: they go after all, or back."""
        for aside in self._results.path("0" * 64).parents[1].glob(f"*/*{ASIDE}"):
            path = self._results.path(aside.stem)
            try:
                if not self._retention.release_result(aside.stem, horizon, partial(_removed, aside)):
                    os.rename(aside, path)
            except OSError as error:
                raise StorageError(f"{path} can't be put back ({error.strerror}): see to the disk") from error

    def _is_old(self, name: str, horizon: Horizon) -> bool:
        try:
            return self._results.path(name).stat().st_mtime <= self._latest(horizon)
        except OSError:
            return False

    def _latest(self, horizon: Horizon) -> float:
        return min(horizon.time, self._wall() - FRESH_S)

    def _tell_jump(self, seconds: float) -> None:
        self._audit.append("retention.clock_jumped", seconds=round(seconds))
        _log.error(
            "retention.clock_jumped seconds=%d: nothing is deleted in this round. If the node was not off for so long, "
            "set the clock right (timedatectl), it stands in every result",
            seconds,
        )

    def _tell_no_room(self, wanted: int) -> None:
        if self._no_room_told:
            return
        self._no_room_told = True
        self._audit.append("retention.no_room", wanted_bytes=wanted)
        _log.error(
            "retention.no_room wanted_bytes=%d: every delivered image is gone already, the rest waits for delivery or "
            "was asked to be kept. Free space, have the destinations take their results, or dismiss dead letters",
            wanted,
        )


def _chunks(names: Iterator[str], loop: Loop) -> Iterator[list[str]]:
    """The names in portions, until the loop is to stop; a walk over a full folder takes a while."""
    while not loop.stopping and (chunk := list(islice(names, 200))):
        yield chunk


def _removed(path: Path) -> bool:
    path.unlink()
    return True

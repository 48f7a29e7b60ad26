"""The composition root: listener, worker and couriers over one storage folder, in one process."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dicom_gam
from dicom_gam.dicom.acceptance import ACCEPTED_SOP_CLASSES
from dicom_gam.dicom.listener import OTHER_CLASSES, Listener, ListenerOptions
from dicom_gam.dicom.sender import send as send_over_network
from dicom_gam.errors import StorageError
from dicom_gam.service.drift import drift_rule
from dicom_gam.service.intake import Intake
from dicom_gam.service.outbox import Courier
from dicom_gam.service.worker import Worker
from dicom_gam.storage.audit import AuditLog, verify
from dicom_gam.storage.blobs import FolderBlobs, sync_folder
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_drift import SqliteDrift
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, OPEN_JOB_STATES, DeliveryState, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.config import Settings
    from dicom_gam.service.outbox import Send
    from dicom_gam.service.worker import Process
    from dicom_gam.storage.protocols import Delivery, DriftReading, Job

_log = logging.getLogger(__name__)

DATABASE_FILE = "node.sqlite"
AUDIT_FILE = "audit.jsonl"
COURIER_GRACE_S = 10.0  # a delivery cut off by the stop is sent again at the next start


class Node:
    """A running node, from `start` to `stop`; also a context manager.

    `process` turns instances into results (`worker.Process`). `about` goes into the audit record of the start, for
    what made the results: bundle name, version, digest.
    """

    def __init__(
        self,
        settings: Settings,
        process: Process,
        *,
        about: Mapping[str, str] | None = None,
        send: Send = send_over_network,
    ) -> None:
        self._settings = settings
        self._process = process
        self._about = dict(about or {})
        self._send = send
        self._stopped = threading.Event()
        self._started = False
        self._open = ExitStack()

    def start(self) -> None:
        """Open the storage, put right what a crash left, then open the port.

        Raises StorageError, AuditError or ConfigError; then everything opened so far is closed again.
        """
        with ExitStack() as stack:
            self._open_storage(stack)
            self._worker = self._make_worker()
            self._couriers = self._make_couriers()
            self._listener = self._make_listener()
            self._put_right()
            self._listener.start()
            stack.callback(self._listener.stop)
            self._record_start()
            for loop in [self._worker.loop, *(courier.loop for courier in self._couriers)]:
                loop.start()
            self._open = stack.pop_all()
        self._started = True

    def stop(self, drain: bool = False) -> None:
        """Accept nothing more, finish the batch in hand (with `drain`: all waiting jobs), close.

        What is left waits for the next start. Calling it again does nothing.
        """
        if not self._started:
            return
        self._started = False
        self._listener.stop()
        while drain and any(self.job_counts()[state] for state in OPEN_JOB_STATES):
            time.sleep(0.02)
        self._worker.loop.stop()
        self._worker.loop.join()
        for courier in self._couriers:
            courier.loop.stop()
        deadline = time.monotonic() + COURIER_GRACE_S
        for courier in self._couriers:
            courier.loop.join(max(0.0, deadline - time.monotonic()))
        try:
            self._audit.append("node.stopped", waiting=self.job_counts()[JobState.RECEIVED])
        finally:
            self._open.close()
            self._stopped.set()
        _log.info("node.stopped")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the node has stopped; False when it took longer."""
        return self._stopped.wait(timeout_s)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every job is final and nothing is left to deliver; False when it took longer."""
        deadline = time.monotonic() + timeout_s
        while self._busy():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    @property
    def port(self) -> int:
        """The port it listens on, also when the settings say 0."""
        return self._listener.port

    def job_counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        return self._jobs.counts()

    def jobs(self, limit: int = 100, state: JobState | None = None) -> list[Job]:
        """The latest jobs, newest first."""
        return self._jobs.jobs(limit, state)

    def deliveries(self, job_id: str) -> list[Delivery]:
        """The deliveries of one job."""
        return self._outbox.deliveries(job_id)

    def delivery_counts(self) -> dict[str, dict[DeliveryState, int]]:
        """How many deliveries are in each state, by destination."""
        return self._outbox.counts()

    def drift_readings(self) -> list[DriftReading]:
        """The drift of every sender's images, bundle by bundle."""
        return self._drift.readings()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _open_storage(self, stack: ExitStack) -> None:
        node = self._settings.node
        folder = node.storage
        _make_folder(folder)
        stack.callback(os.close, _lock(folder))
        database = Database(folder / DATABASE_FILE)
        stack.callback(database.close)
        self._audit = AuditLog(folder / AUDIT_FILE, SqliteAuditHead(database))
        stack.callback(self._audit.close)
        self._inbox = FolderBlobs(folder / "inbox", node.minimum_free_bytes)
        self._results = FolderBlobs(folder / "results")
        drift = self._settings.drift
        rule = drift_rule(drift.false_alarm_rate) if drift.enabled else None
        self._jobs = SqliteJobQueue(database, self._inbox.path, rule)
        self._drift = SqliteDrift(database)
        self._outbox = SqliteOutbox(database)

    def _make_worker(self) -> Worker:
        return Worker(
            f"{socket.gethostname()}:{os.getpid()}",
            self._process,
            self._settings.processing,
            [destination.name for destination in self._settings.destinations],
            self._jobs,
            self._drift,
            self._results,
            self._audit,
            finished=self._wake_couriers,
        )

    def _make_couriers(self) -> list[Courier]:
        settings = self._settings
        own_title = settings.node.ae_title
        return [
            Courier(destination, own_title, settings.delivery, self._outbox, self._results, self._audit, self._send)
            for destination in settings.destinations
        ]

    def _make_listener(self) -> Listener:
        node = self._settings.node
        options = ListenerOptions(
            ae_title=node.ae_title,
            host=node.host,
            port=node.port,
            maximum_associations=node.maximum_associations,
            maximum_pdu_size=node.maximum_pdu_size,
            network_timeout_s=node.network_timeout_s,
            sop_classes=(*ACCEPTED_SOP_CLASSES, *self._settings.intake.extra_sop_classes, *OTHER_CLASSES),
        )
        intake = Intake(self._inbox, self._jobs, self._audit, came=self._worker.loop.wake)
        return Listener(options, intake.store, lambda event, keys: self._audit.append(event, **keys))

    def _put_right(self) -> None:
        """Repair what an interrupted run has left: half-written files, files without a job, jobs in work."""
        swept = self._inbox.sweep() + self._results.sweep()
        strays = self._move_strays()
        if swept or strays:
            self._audit.append("storage.recovered", temporaries_removed=swept, strays_moved=strays)
        self._worker.recover(everything=True)
        known = {destination.name for destination in self._settings.destinations}
        for name, counts in self._outbox.counts().items():
            left = sum(counts[state] for state in OPEN_DELIVERY_STATES)
            if left and name not in known:
                _log.error("destination.missing name=%s unsent=%d: put it back into the settings", name, left)

    def _move_strays(self) -> int:
        """Put files without a job aside. They were never acknowledged, but it is not for us to delete an image."""
        strays = [name for name in self._inbox.names() if not self._jobs.knows_blob(name)]
        aside = self._settings.node.storage / "stray"
        if strays:
            _make_folder(aside)
        for name in strays:
            path = self._inbox.path(name)
            path.rename(aside / path.name)
        return len(strays)

    def _record_start(self) -> None:
        self._audit.append(
            "node.started",
            version=dicom_gam.__version__,
            ae_title=self._settings.node.ae_title,
            host=self._settings.node.host,
            port=self.port,
            destinations=[destination.name for destination in self._settings.destinations],
            settings_digest=self._settings.result_digest(),
            about=self._about,
        )
        _log.info("node.started ae_title=%s port=%d", self._settings.node.ae_title, self.port)

    def _wake_couriers(self) -> None:
        for courier in self._couriers:
            courier.loop.wake()

    def _busy(self) -> bool:
        jobs = self.job_counts()
        if any(jobs[state] for state in OPEN_JOB_STATES):
            return True
        counts = self.delivery_counts()
        return any(
            counts.get(destination.name, {}).get(state, 0)
            for destination in self._settings.destinations
            for state in OPEN_DELIVERY_STATES
        )


def run_until_signal(node: Node) -> None:
    """Run the node until SIGTERM or SIGINT, then stop it cleanly. Only from the main thread."""
    ended = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    previous: list[Any] = [signal.signal(number, lambda *_: ended.set()) for number in signals]
    try:
        with node:
            ended.wait()
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def verify_audit_log(storage: Path) -> int:
    """Verify the audit log of a storage folder, also while its node runs; return the number of records.

    Raises AuditError that names the first bad record, StorageError when there is no such storage.
    """
    if not (storage / DATABASE_FILE).is_file():
        msg = f"{storage} is not the storage folder of a node: give the path that node.storage names"
        raise StorageError(msg)
    database = Database(storage / DATABASE_FILE)
    try:
        return verify(storage / AUDIT_FILE, SqliteAuditHead(database).read())
    finally:
        database.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        msg = f"{folder} can't be made ({error.strerror}): set node.storage to a folder that the service may write to"
        raise StorageError(msg) from error


def _lock(folder: Path) -> int:
    """Take the folder for this process; the system gives it free when the process ends, however it does."""
    descriptor = os.open(folder / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        in_use = error.errno in (errno.EWOULDBLOCK, errno.EAGAIN)
        why = "another node runs on it: stop that one, or give this one its own node.storage"
        raise StorageError(f"{folder} can't be locked: {why if in_use else error.strerror}") from error
    return descriptor

"""The composition root: listener, worker and couriers over one storage folder, in one process."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dicom_gam
from dicom_gam.dicom.scp.listener import open_port
from dicom_gam.dicom.scu.destination import send as send_over_network
from dicom_gam.errors import ConfigError, DicomGamError
from dicom_gam.service.audit_check import check_log
from dicom_gam.service.audit_seal import Sealer
from dicom_gam.service.evidence import keep_settings
from dicom_gam.service.followers import following
from dicom_gam.service.front_door import make_listener, refuse_wide_open
from dicom_gam.service.outbox import Courier
from dicom_gam.service.receivers import Receivers
from dicom_gam.service.result_check import check_before_sending
from dicom_gam.service.retention import Keeper
from dicom_gam.service.store import hold_intake, make_folder, open_store, own
from dicom_gam.service.vitals import Vitals
from dicom_gam.service.worker import Worker
from dicom_gam.storage.sqlite_retention import SqliteRetention
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, OPEN_JOB_STATES, DeliveryState, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dicom_gam.config import Settings
    from dicom_gam.service.loop import Loop
    from dicom_gam.service.outbox import Send
    from dicom_gam.service.result_check import Check
    from dicom_gam.service.worker import Process
    from dicom_gam.storage.rows import Delivery, DriftReading, Job

_log = logging.getLogger(__name__)

PORT_WAIT_S = 3.0
GRACE_S = 10.0  # a delivery cut off by the stop is sent again at the next start


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
        about: Mapping[str, Any] | None = None,
        send: Send = send_over_network,
        check: Check = check_before_sending,
    ) -> None:
        self._settings = settings
        self._process = process
        self._about = dict(about or {})
        self._send = send
        self._check = check
        self._stopped = threading.Event()
        self._started = False
        self._started_at = 0.0
        self._receivers_alive: Callable[[], int] = lambda: 0
        self._open = ExitStack()

    def start(self) -> None:
        """Open the storage, put right what a crash left, then open the port.

        Raises StorageError, AuditError or ConfigError; then everything opened so far is closed again.
        """
        refuse_wide_open(self._settings)
        with ExitStack() as stack:
            self._open_storage(stack)
            self._worker = self._make_worker()
            self._couriers = self._make_couriers()
            self._keeper = self._make_keeper()
            with self._alone():
                self._put_right()
            self._open_door(stack)
            for loop in self._loops():
                loop.start()
            self._open = stack.pop_all()
        self._started = True
        self._started_at = time.time()

    def stop(self, drain: bool = False) -> None:
        """Accept nothing more, finish the batch in hand (with `drain`: all waiting jobs), close.

        What is left waits for the next start. Calling it again does nothing.
        """
        if not self._started:
            return
        self._started = False
        self._close_door()
        while drain and any(self.job_counts()[state] for state in OPEN_JOB_STATES):
            time.sleep(0.02)
        self._worker.loop.stop()
        self._worker.loop.join()
        for loop in self._loops():
            loop.stop()
        deadline = time.monotonic() + GRACE_S
        for loop in self._loops():
            loop.join(max(0.0, deadline - time.monotonic()))
        try:
            self._store.audit.append("node.stopped", waiting=self.job_counts()[JobState.RECEIVED])
            self._sealer.sign()
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
        return self._port

    def job_counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        return self._store.jobs.counts()

    def jobs(self, limit: int = 100, state: JobState | None = None) -> list[Job]:
        """The latest jobs, newest first."""
        return self._store.jobs.jobs(limit, state)

    def deliveries(self, job_id: str) -> list[Delivery]:
        """The deliveries of one job."""
        return self._store.outbox.deliveries(job_id)

    def delivery_counts(self) -> dict[str, dict[DeliveryState, int]]:
        """How many deliveries are in each state, by destination."""
        return self._store.outbox.counts()

    def vitals(self) -> Vitals:
        """How the node's threads and receivers fare, for whoever watches."""
        return Vitals(
            started_at=self._started_at,
            accepting=self._started,
            receivers=self._receivers_alive(),
            receivers_wanted=self._settings.node.receivers,
            loops=tuple(loop.pulse() for loop in [*self._loops(), *(one.loop for one in self._followers)]),
            about=self._about,
        )

    def drift_readings(self) -> list[DriftReading]:
        """The drift of every sender's images, bundle by bundle."""
        return self._store.drift.readings()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _open_storage(self, stack: ExitStack) -> None:
        folder = self._settings.node.storage
        make_folder(folder)
        stack.callback(os.close, own(folder))
        self._store = stack.enter_context(open_store(self._settings, create=True))
        # From before the start goes on record until after the stop has.
        self._followers = stack.enter_context(following(self._settings, self._store))
        self._sealer = Sealer(self._settings.audit, folder, self._store.audit)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be sure that nobody else writes into the inbox."""
        held = hold_intake(self._settings.node.storage, alone=True)
        try:
            yield
        finally:
            os.close(held)

    def _open_door(self, stack: ExitStack) -> None:
        """Open the port, put the start on record, and let senders in: by receivers, or in this very process."""
        node = self._settings.node
        listening = stack.enter_context(_open_port(node.host, node.port))
        self._port = int(listening.getsockname()[1])
        self._record_start()
        if node.receivers == 0:
            stack.callback(os.close, hold_intake(node.storage))
            listener = make_listener(self._settings, self._store, self._worker.loop.wake, listening)
            self._close_door: Callable[[], None] = listener.stop
            listener.start()
        else:
            receivers = Receivers(self._settings, listening, self._worker.loop.wake, self._receiver_lost)
            self._close_door = receivers.stop
            receivers.start()
            self._receivers_alive = receivers.alive
        stack.callback(self._close_door)

    def _receiver_lost(self, status: int) -> None:
        _log.error("receiver.lost exit_status=%d: another one is started", status)
        try:
            self._store.audit.append("receiver.lost", exit_status=status)
        except DicomGamError as error:
            _log.error("receiver.lost not recorded: %s", error)

    def _loops(self) -> list[Loop]:
        couriers = (courier.loop for courier in self._couriers)
        return [self._worker.loop, *couriers, self._keeper.loop, self._sealer.loop]

    def _make_keeper(self) -> Keeper:
        store = self._store
        retention = SqliteRetention(store.database)
        return Keeper(self._settings.retention, store.folder, retention, store.inbox, store.results, store.audit)

    def _make_worker(self) -> Worker:
        return Worker(
            f"{socket.gethostname()}:{os.getpid()}",
            self._process,
            self._settings.processing,
            [destination.name for destination in self._settings.destinations],
            self._store.jobs,
            self._store.outbox,
            self._store.drift,
            self._store.results,
            self._store.evidence,
            self._store.audit,
            finished=self._wake_couriers,
        )

    def _make_couriers(self) -> list[Courier]:
        settings = self._settings
        own_title = settings.node.ae_title
        return [
            Courier(
                destination,
                own_title,
                settings.delivery,
                self._store.outbox,
                self._store.results,
                self._store.audit,
                self._send,
                check=self._check,
            )
            for destination in settings.destinations
        ]

    def _put_right(self) -> None:
        """Repair what an interrupted run has left: half-written files, files without a job, jobs in work."""
        swept = self._store.inbox.sweep() + self._store.results.sweep()
        strays = self._move_strays()
        if swept or strays:
            self._store.audit.append("storage.recovered", temporaries_removed=swept, strays_moved=strays)
        self._worker.recover(everything=True)
        known = {destination.name for destination in self._settings.destinations}
        for name, counts in self._store.outbox.counts().items():
            left = sum(counts[state] for state in OPEN_DELIVERY_STATES)
            if left and name not in known:
                _log.error("destination.missing name=%s unsent=%d: put it back into the settings", name, left)

    def _move_strays(self) -> int:
        """Put files without a job aside. They were never acknowledged, but it is not for us to delete an image."""
        strays = [name for name in self._store.inbox.names() if not self._store.jobs.knows_blob(name)]
        aside = self._settings.node.storage / "stray"
        if strays:
            make_folder(aside)
        for name in strays:
            path = self._store.inbox.path(name)
            path.rename(aside / path.name)
        return len(strays)

    def _record_start(self) -> None:
        keep_settings(self._settings, self._store.evidence)
        self._store.audit.append(
            "node.started",
            version=dicom_gam.__version__,
            ae_title=self._settings.node.ae_title,
            host=self._settings.node.host,
            port=self.port,
            destinations=[destination.name for destination in self._settings.destinations],
            settings_digest=self._settings.result_digest(),
            about=self._about,
        )
        self._sealer.sign_if_due()
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


def _open_port(host: str, port: int) -> socket.socket:
    """Open the port; receivers of a killed node, still starting, may hold it for a moment. Raises ConfigError."""
    deadline = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            return open_port(host, port)
        except ConfigError as error:
            in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if not in_use or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def run_until_signal(node: Node, beside: AbstractContextManager[None] | None = None) -> None:
    """Run the node, and `beside` as long, until SIGTERM or SIGINT, then stop cleanly. Only from the main thread."""
    ended = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    previous: list[Any] = [signal.signal(number, lambda *_: ended.set()) for number in signals]
    try:
        with node, beside or nullcontext():
            ended.wait()
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def verify_audit_log(storage: Path) -> int:
    """Verify the audit log of a storage folder, also while its node runs; return the number of records.

    Raises AuditError that names the first bad record, StorageError when there is no such storage.
    """
    return check_log(storage).records

"""The worker: leases waiting jobs, has them processed, commits what came of each together with its deliveries."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from dicom_gam.errors import DicomGamError
from dicom_gam.records import AIResult, ReceivedInstance
from dicom_gam.service.drift import announce_alarms, drift_sample
from dicom_gam.service.loop import Loop, describe
from dicom_gam.service.summary import result_summary
from dicom_gam.storage.protocols import Conclusion, NewDelivery
from dicom_gam.storage.states import JobEvent, JobState

if TYPE_CHECKING:
    from dicom_gam.config import ProcessingSettings
    from dicom_gam.storage.protocols import AuditTrail, Blobs, DriftStore, Job, JobQueue

_log = logging.getLogger(__name__)

# Instances and, for each, when it was received; results of the same number in the same order. An image that can't be
# processed gives a result with `rejection` or `error`, never an exception for its neighbours.
Process = Callable[[Sequence[ReceivedInstance], Sequence[datetime]], Sequence[AIResult]]

IDLE_POLL_S = 0.25  # new jobs wake the worker; this finds the others, such as those of an expired lease
FIRST_RETRY_S = 0.5  # what failed by a passing cause (memory, disk) fails again at once; quadrupled per attempt


class Worker:
    """One worker thread. `finished` is called when deliveries may be waiting."""

    def __init__(
        self,
        name: str,
        process: Process,
        settings: ProcessingSettings,
        destinations: Sequence[str],
        jobs: JobQueue,
        drift: DriftStore,
        results: Blobs,
        audit: AuditTrail,
        finished: Callable[[], None],
    ) -> None:
        self._name = name
        self._process = process
        self._settings = settings
        self._destinations = tuple(destinations)
        self._jobs = jobs
        self._drift = drift
        self._results = results
        self._audit = audit
        self._finished = finished
        self._in_hand: list[Job] = []
        self._recovered_at = time.monotonic()
        self.loop = Loop(f"worker {name}", self._step, self._give_back)

    def recover(self, *, everything: bool = False) -> None:
        """Take back jobs whose worker went silent; at start that is every job in work."""
        self._recovered_at = time.monotonic()
        for job in self._jobs.recover(self._settings.attempts, time.time(), everything=everything):
            event = "job.failed" if job.state is JobState.FAILED else "job.recovered"
            _log.warning("%s job_id=%s attempts=%d", event, job.job_id, job.attempts)
            self._audit.append(event, job_id=job.job_id, attempts=job.attempts, message=job.message)
        announce_alarms(self._drift, self._audit)  # one that a crash has kept back

    def _step(self) -> float:
        if time.monotonic() - self._recovered_at > self._settings.lease_s / 3:
            self.recover()
        waiting = self._jobs.waiting(time.time())
        if waiting == 0:
            return IDLE_POLL_S
        if waiting < self._settings.batch_size:
            time.sleep(self._settings.batch_wait_ms / 1000)
        settings = self._settings
        self._in_hand = self._jobs.claim(self._name, settings.batch_size, settings.lease_s, time.time())
        if self._in_hand:
            self._work(self._in_hand)
            self._in_hand = []
        return 0.0

    def _work(self, batch: Sequence[Job]) -> None:
        self._audit.extend([("job.started", {"job_id": job.job_id, "attempt": job.attempts}) for job in batch])
        with self._heartbeat(batch):
            instances = [job.instance for job in batch]
            results = self._process(instances, [datetime.fromtimestamp(job.received_at).astimezone() for job in batch])
            for job, result in zip(batch, results, strict=True):
                self._finish(job, result)
        announce_alarms(self._drift, self._audit)

    def _finish(self, job: Job, result: AIResult) -> None:
        if result.error is not None:
            self._failed(job, result.error)
            return
        summary = result_summary(result)
        deliveries = [
            NewDelivery(name, item.role, item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid, blob)
            for item, blob in [(item, self._keep(item.content)) for item in result.objects]
            for name in self._destinations
        ]
        if result.rejection is not None:
            event, reason, message = JobEvent.REJECT, result.rejection.reason.value, result.rejection.message
        else:
            event, reason, message = JobEvent.FINISH, "", " ".join(_reasons(result))
        conclusion = Conclusion(event, result.outcome, reason, message, result.study_instance_uid, summary)
        # The record comes first: no result leaves the house without one. A crash in between repeats it, truthfully.
        name = "job.rejected" if event is JobEvent.REJECT else "job.result"
        self._audit.append(name, job_id=job.job_id, attempt=job.attempts, **summary)
        if not self._jobs.finish(job.lease, conclusion, deliveries, time.time(), drift_sample(result)):
            self._lost(job)
        elif deliveries:
            self._finished()

    def _keep(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self._results.write(name, (content,))
        return name

    def _failed(self, job: Job, message: str) -> None:
        """Give the job another attempt, or up."""
        if job.attempts < self._settings.attempts:
            wait_s = FIRST_RETRY_S * 4 ** (job.attempts - 1)
            held = self._jobs.retry(job.lease, message, time.time() + wait_s)
            event = "job.retried"
        else:
            held = self._jobs.finish(job.lease, Conclusion(JobEvent.GIVE_UP, "ERROR", "", message), (), time.time())
            event = "job.failed"
        if not held:
            self._lost(job)
            return
        _log.error("%s job_id=%s attempt=%d %s", event, job.job_id, job.attempts, message)
        self._audit.append(event, job_id=job.job_id, attempts=job.attempts, message=message)

    def _lost(self, job: Job) -> None:
        """Someone else has the job by now, so what we made of it is dropped."""
        _log.warning("job.lease_lost job_id=%s attempt=%d", job.job_id, job.attempts)
        self._audit.append("job.lease_lost", job_id=job.job_id, attempt=job.attempts)

    def _give_back(self, error: Exception) -> None:
        """A step failed as a whole: every job of it that is not finished gets another attempt."""
        message = str(error) if isinstance(error, DicomGamError) else describe(error)
        _log.error("worker.step_failed %s", message)
        batch, self._in_hand = self._in_hand, []
        for job in batch:
            try:
                current = self._jobs.get(job.job_id)
                if current is not None and current.state is JobState.PROCESSING and current.token == job.token:
                    self._failed(job, message)
            except DicomGamError as second:  # storage is out of order: the lease runs out, then the job comes back
                _log.error("worker.job_not_given_back job_id=%s %s", job.job_id, second)

    @contextmanager
    def _heartbeat(self, batch: Sequence[Job]) -> Iterator[None]:
        """Renew the leases of a batch as long as the block runs."""
        leases = [job.lease for job in batch]
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._settings.lease_s / 3):
                try:
                    self._jobs.renew(leases, self._settings.lease_s, time.time())
                except DicomGamError as error:
                    _log.error("worker.lease_not_renewed %s", error)

        thread = threading.Thread(target=beat, name=f"heartbeat {self._name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _reasons(result: AIResult) -> tuple[str, ...]:
    return () if result.verification is None else result.verification.reasons

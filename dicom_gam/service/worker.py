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

from dicom_gam.errors import AuditError, DicomGamError, StorageError
from dicom_gam.records import AIResult, Task
from dicom_gam.service.drift import announce_alarms, drift_sample
from dicom_gam.service.evidence import keep_evidence
from dicom_gam.service.loop import Loop, describe
from dicom_gam.service.reprocess import predecessors, unchanged
from dicom_gam.service.summary import result_figures, result_summary
from dicom_gam.storage.rows import Conclusion, NewDelivery
from dicom_gam.storage.states import JobEvent, JobState

if TYPE_CHECKING:
    from dicom_gam.config import ProcessingSettings
    from dicom_gam.storage.protocols import AuditTrail, Blobs, DriftStore, JobQueue, Outbox
    from dicom_gam.storage.rows import Job

_log = logging.getLogger(__name__)

# Results of the same number and in the same order as the tasks. An image that can't be processed gives a result with
# `rejection` or `error`, never an exception for its neighbours.
Process = Callable[[Sequence[Task]], Sequence[AIResult]]

IDLE_POLL_S = 0.25  # new jobs wake the worker; this finds the others, such as those of an expired lease
STORAGE_RETRY_S = 2.0
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
        outbox: Outbox,
        drift: DriftStore,
        results: Blobs,
        evidence: Blobs,
        audit: AuditTrail,
        finished: Callable[[], None],
    ) -> None:
        self._name = name
        self._process = process
        self._settings = settings
        self._destinations = tuple(destinations)
        self._jobs = jobs
        self._outbox = outbox
        self._drift = drift
        self._results = results
        self._evidence = evidence
        self._audit = audit
        self._finished = finished
        self._in_hand: list[Job] = []
        self._owed: list[tuple[Job, str, bool]] = []  # with the message, and whether the storage is to blame
        self._processing = False
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
        self._return_owed()
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
            tasks = [self._task(job) for job in batch]
            self._processing = True
            results = self._process(tasks)
            self._processing = False
            for job, result in zip(batch, results, strict=True):
                self._finish(job, result)
        announce_alarms(self._drift, self._audit)

    def _task(self, job: Job) -> Task:
        received = datetime.fromtimestamp(job.received_at).astimezone()
        return Task(job.instance, received, job.bundle, predecessors(job, self._jobs, self._results))

    def _finish(self, job: Job, result: AIResult) -> None:
        if result.error is not None:
            self._failed(job, result.error)
            return
        summary = result_summary(result) | keep_evidence(result, self._evidence)
        event, reason, message = _conclude(result)
        names = self._names(result)
        same = unchanged(job, result, names, self._jobs, self._outbox, self._results)
        if same is None:
            deliveries, sample = self._deliveries(result, names), drift_sample(result)
        else:  # it has been counted and sent before
            summary["unchanged_since_job"] = same.made_by
            message, deliveries, sample = same.message, same.deliveries, None
        study = result.study_instance_uid or (result.header.study_instance_uid if result.header else "")
        conclusion = Conclusion(
            event, result.outcome, reason, message, study, summary, result.rule, result.header, result_figures(result)
        )
        # The record comes first: no result leaves the house without one. A crash in between repeats it, truthfully.
        self._audit.append(_RECORDS[event], job_id=job.job_id, attempt=job.attempts, **summary)
        if not self._jobs.finish(job.lease, conclusion, deliveries, time.time(), sample):
            self._lost(job)
        elif deliveries:
            self._finished()

    def _names(self, result: AIResult) -> list[str]:
        """The destinations that the result is for: by the rules, as far as there are such destinations."""
        wanted = self._destinations if result.destinations is None else result.destinations
        return [name for name in self._destinations if name in wanted]

    def _deliveries(self, result: AIResult, names: Sequence[str]) -> Sequence[NewDelivery]:
        """Keep the result's objects, and say where they go."""
        kept = [(item, self._keep(item.content)) for item in result.objects]
        return [
            NewDelivery(name, result.study_instance_uid, item.role, item.sop_class_uid, item.sop_instance_uid,
                        item.transfer_syntax_uid, blob)
            for item, blob in kept
            for name in names
        ]  # fmt: skip

    def _keep(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self._results.write(name, (content,))
        return name

    def _failed(self, job: Job, message: str, *, by_storage: bool = False) -> None:
        """Give the job another attempt, or up. What our own storage does not take is no fault of the image."""
        if by_storage:
            held = self._jobs.retry(job.lease, message, time.time() + STORAGE_RETRY_S, counted=False)
            event = "job.retried"
        elif job.attempts < self._settings.attempts:
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
        by_storage = isinstance(error, StorageError | AuditError) and not self._processing
        _log.error("worker.step_failed %s", message)
        self._owed += [(job, message, by_storage) for job in self._in_hand]
        self._in_hand, self._processing = [], False
        self._return_owed()

    def _return_owed(self) -> None:
        """Give back the jobs of failed steps; those that the storage does not take back now wait for the next time."""
        owed, self._owed = self._owed, []
        for job, message, by_storage in owed:
            try:
                current = self._jobs.get(job.job_id)
                if current is not None and current.state is JobState.PROCESSING and current.token == job.token:
                    self._failed(job, message, by_storage=by_storage)
            except DicomGamError as second:
                _log.error("worker.job_not_given_back job_id=%s %s", job.job_id, second)
                self._owed.append((job, message, by_storage))

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


_RECORDS = {JobEvent.FINISH: "job.result", JobEvent.REJECT: "job.rejected", JobEvent.SKIP: "job.skipped"}


def _conclude(result: AIResult) -> tuple[JobEvent, str, str]:
    """How the job ends: the event, the reason for machines, the message for people."""
    if result.skipped is not None:
        return JobEvent.SKIP, "skipped-by-rules", result.skipped
    if result.rejection is not None:
        return JobEvent.REJECT, result.rejection.reason.value, result.rejection.message
    reasons = () if result.verification is None else result.verification.reasons
    return JobEvent.FINISH, "", " ".join(reasons)

"""Acknowledge after commit: what makes a C-STORE request durable before Success is answered."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import StorageError
from dicom_gam.records import ReceivedInstance
from dicom_gam.storage.rows import NewJob, ReceiptKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.dicom.arrival import Arrival
    from dicom_gam.storage.protocols import AuditTrail, Blobs, JobQueue
    from dicom_gam.storage.rows import Receipt, StoredBlob

_log = logging.getLogger(__name__)

_EVENTS = {
    ReceiptKind.NEW: "instance.stored",
    ReceiptKind.DUPLICATE: "instance.duplicate",
    ReceiptKind.CONFLICT: "instance.quarantined",
}


class Intake:
    """Receives arrivals: file, then job row, then audit record. `came` is called when there may be a new job.

    A failure before the job row is committed leaves nothing. One after it (the audit log can't be written) leaves the
    job: the sender is told to send again, and then finds the duplicate.
    """

    def __init__(self, inbox: Blobs, jobs: JobQueue, audit: AuditTrail, came: Callable[[], None]) -> None:
        self._inbox = inbox
        self._jobs = jobs
        self._audit = audit
        self._came = came

    def receive(self, arrival: Arrival) -> IntakeReception:
        """Start taking an arrival in. Raises StorageError, such as when too little space is free."""
        return IntakeReception(self._inbox, arrival, self._commit)

    def _commit(self, arrival: Arrival, job_id: str, blob: StoredBlob) -> Receipt:
        job = NewJob(job_id=job_id, blob=job_id, instance=_instance(arrival, blob), received_at=time.time())
        try:
            receipt = self._jobs.add(job)
        except StorageError:
            self._inbox.remove(job_id)
            raise
        if receipt.kind is ReceiptKind.DUPLICATE:
            self._inbox.remove(job_id)
        event = _EVENTS[receipt.kind]
        if receipt.kind is ReceiptKind.CONFLICT:
            _log.warning("%s job_id=%s sop_instance_uid=%s", event, receipt.job_id, arrival.sop_instance_uid)
        try:
            self._audit.append(event, job_id=receipt.job_id, **_keys(job))
        finally:
            self._came()
        return receipt


class IntakeReception:
    """`arrival.Reception`: one data set on its way into the inbox."""

    def __init__(self, inbox: Blobs, arrival: Arrival, commit: Callable[[Arrival, str, StoredBlob], Receipt]) -> None:
        self._arrival = arrival
        self._job_id = uuid.uuid4().hex
        self._commit = commit
        self._writer = inbox.begin(self._job_id)
        try:
            self._writer.write(arrival.header)
        except StorageError:
            self._writer.abandon()
            raise

    def write(self, part: bytes | memoryview) -> None:
        """Append the next bytes of the data set. Raises StorageError; then only `abandon` is left."""
        self._writer.write(part)

    def commit(self) -> Receipt:
        """Make file and job durable. Raises StorageError or AuditError, and then it must not be acknowledged."""
        return self._commit(self._arrival, self._job_id, self._writer.commit())

    def abandon(self) -> None:
        """Leave nothing of it; never raises."""
        self._writer.abandon()


def _instance(arrival: Arrival, blob: StoredBlob) -> ReceivedInstance:
    return ReceivedInstance(
        path=blob.path,
        sop_class_uid=arrival.sop_class_uid,
        sop_instance_uid=arrival.sop_instance_uid,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        calling_ae_title=arrival.calling_ae_title,
        called_ae_title=arrival.called_ae_title,
        peer_address=arrival.peer_address,
    )


def _keys(job: NewJob) -> dict[str, Any]:
    instance = job.instance
    return {
        "calling_ae_title": instance.calling_ae_title,
        "called_ae_title": instance.called_ae_title,
        "peer_address": instance.peer_address,
        "sop_class_uid": instance.sop_class_uid,
        "sop_instance_uid": instance.sop_instance_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "file_blake3": instance.digest,
        "size_bytes": instance.size_bytes,
        "status": "0000",
    }

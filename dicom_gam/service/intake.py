"""Acknowledge after commit: what makes a C-STORE request durable before Success is answered."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import StorageError
from dicom_gam.records import ReceivedInstance
from dicom_gam.storage.protocols import NewJob, ReceiptKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.dicom.listener import Arrival
    from dicom_gam.storage.protocols import AuditTrail, Blobs, JobQueue, StoredBlob

_log = logging.getLogger(__name__)

_EVENTS = {
    ReceiptKind.NEW: "instance.stored",
    ReceiptKind.DUPLICATE: "instance.duplicate",
    ReceiptKind.CONFLICT: "instance.quarantined",
}


class Intake:
    """Stores arrivals: file, then job row, then audit record. `came` is called when there is a new job.

    A failure before the job row is committed leaves nothing. One after it (the audit log can't be written) leaves the
    job: the sender is told to send again, and then finds the duplicate.
    """

    def __init__(self, inbox: Blobs, jobs: JobQueue, audit: AuditTrail, came: Callable[[], None]) -> None:
        self._inbox = inbox
        self._jobs = jobs
        self._audit = audit
        self._came = came

    def store(self, arrival: Arrival) -> None:
        """Make an arrival durable. Raises StorageError or AuditError, and then it must not be acknowledged."""
        job_id = uuid.uuid4().hex
        blob = self._inbox.write(job_id, (arrival.header, arrival.dataset))
        job = NewJob(
            job_id=job_id,
            blob=job_id,
            instance=_instance(arrival, blob),
            dataset_sha256=hashlib.sha256(arrival.dataset).hexdigest(),
            received_at=time.time(),
        )
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


def _instance(arrival: Arrival, blob: StoredBlob) -> ReceivedInstance:
    return ReceivedInstance(
        path=blob.path,
        sop_class_uid=arrival.sop_class_uid,
        sop_instance_uid=arrival.sop_instance_uid,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        sha256=blob.sha256,
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
        "file_sha256": instance.sha256,
        "dataset_sha256": job.dataset_sha256,
        "size_bytes": instance.size_bytes,
        "status": "0000",
    }

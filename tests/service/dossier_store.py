"""A storage folder with a study whose objects are real, and people who did things with it."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from dicom_gam.config import Settings, settings_from
from dicom_gam.records import AIResult, ReceivedInstance
from dicom_gam.service.evidence import keep_evidence, keep_settings
from dicom_gam.service.store import Store, open_store
from dicom_gam.service.summary import result_summary
from dicom_gam.storage.rows import Conclusion, NewDelivery, NewJob, Review, ReviewKind
from dicom_gam.storage.states import JobEvent
from tests.dicom.example_results import BUNDLE, dx_source, encoded, prediction, verification

STUDY = "1.2.826.0.1.3680043.10.999.1.1"
IMAGE = "1.2.826.0.1.3680043.10.999.1.3"
SENDER = "=cmd|'/c calc'!A1"  # longer than an AE title may be, and a formula to a spreadsheet
HOSTILE = '<script>alert("x")</script>\n"\'&\x00\x1b[31m\u202e=1+1 \u4e2d\u6587'
JOB = uuid.UUID(int=7).hex


def dossier_settings(folder: Path) -> Settings:
    return settings_from(
        {
            "node": {"port": 0, "storage": folder, "minimum_free_bytes": 0, "receivers": 0},
            "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11104}],
        }
    )


def real_store(folder: Path, verdict: str = "FAIL") -> Store:
    """Open a new store with one image of the study: received, decided, one object sent and one refused, looked at."""
    settings = dossier_settings(folder)
    store = open_store(settings, create=True)
    store.audit.append("node.started", version="0.1.0")
    instance = ReceivedInstance(Path("unused"), "1.2.840.10008.5.1.4.1.1.1.1", IMAGE, "1.2.840.10008.1.2.1", "ab" * 32,
                                123456, SENDER, "DICOM_GAM", "10.0.0.7")  # fmt: skip
    store.jobs.add(NewJob(JOB, JOB, instance, time.time()))
    store.audit.append("instance.stored", job_id=JOB, calling_ae_title=SENDER, called_ae_title="DICOM_GAM",
                       peer_address="10.0.0.7", sop_instance_uid=IMAGE, sop_class_uid=instance.sop_class_uid,
                       file_blake3=instance.digest, size_bytes=123456, status="0000")  # fmt: skip
    (job,) = store.jobs.claim("test", 1, 1e9, time.time())
    store.audit.append("job.started", job_id=JOB, attempt=1)
    objects = encoded(dx_source(), verdict)
    result = AIResult(instance, BUNDLE, keep_settings(settings, store.evidence), radiograph_pixel_sha256="cd" * 32,
                      study_instance_uid=STUDY, prediction=prediction(), verification=verification(verdict),
                      objects=objects)  # fmt: skip
    summary = result_summary(result) | keep_evidence(result, store.evidence)
    store.audit.append("job.result", job_id=JOB, attempt=1, **summary)
    deliveries = []
    for item, output in zip(objects, summary["outputs"], strict=True):
        store.results.write(output["sha256"], (item.content,))
        deliveries.append(NewDelivery("pacs", STUDY, item.role, item.sop_class_uid, item.sop_instance_uid,
                                      item.transfer_syntax_uid, output["sha256"]))  # fmt: skip
    store.jobs.finish(job.lease, Conclusion(JobEvent.FINISH, verdict, "", "", STUDY, summary), deliveries, time.time())
    for place, delivery in enumerate(store.outbox.deliveries(JOB)):
        keys = {"job_id": JOB, "destination": "pacs", "role": delivery.what.role, "attempt": 1,
                "sop_instance_uid": delivery.what.sop_instance_uid}  # fmt: skip
        if place:
            words = "refused: out of resources (status A700)"
            store.audit.append("delivery.dead", **keys, status="A700", words=words)
            store.outbox.bury(delivery.delivery_id, 0xA700, words, time.time())
        else:
            store.audit.append("delivery.sent", **keys, status="0000", words="stored (status 0000)")
            store.outbox.sent(delivery.delivery_id, 0, "stored (status 0000)", time.time())
    store.audit.append("destination.retried", destination="pacs", job_id=None, by="admin")
    store.audit.append("access.looked", what="job", job_id=JOB, by="dr.roe", address="10.0.0.9")
    store.audit.append("result.overridden", job_id=JOB, by="dr.roe", why=HOSTILE, class_name="hand")
    store.reviews.add(Review(JOB, ReviewKind.OVERRIDDEN, "dr.roe", time.time(), "hand", HOSTILE))
    return store


def add_waiting(store: Store, number: int) -> str:
    """Add a job of another image, which waits."""
    job_id = uuid.UUID(int=1000 + number).hex
    instance = ReceivedInstance(Path("unused"), "1.2.840.10008.5.1.4.1.1.1", f"2.25.{number}", "1.2.840.10008.1.2.1",
                                f"{number:064x}", 10, "ROOM_2", "DICOM_GAM", "10.0.0.8")  # fmt: skip
    store.jobs.add(NewJob(job_id, job_id, instance, time.time()))
    store.audit.append("instance.stored", job_id=job_id, calling_ae_title="ROOM_2", sop_instance_uid=f"2.25.{number}",
                       peer_address="10.0.0.8", size_bytes=10)  # fmt: skip
    return job_id

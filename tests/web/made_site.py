"""A storage folder full of jobs that never were images: quick to make, in any number, and always the same."""

from __future__ import annotations

import json
import random
import time
import uuid
from pathlib import Path
from typing import Any

from dicom_gam.config import Settings, settings_from
from dicom_gam.records import ImageHeader, ReceivedInstance
from dicom_gam.service.store import Store, open_store
from dicom_gam.storage.rows import SIMILARITIES, Conclusion, JobFigures, NewDelivery, NewJob, Review, ReviewKind
from dicom_gam.storage.states import JobEvent

CR = "1.2.840.10008.5.1.4.1.1.1"
SENDERS = ("XRAY_ROOM_1", "XRAY_ROOM_2", "MOBILE_7")
BUNDLES = (("radiograph-anatomy", "0.1.1", "a" * 64), ("site-chest", "2.0", "b" * 64))
HOSTILE = "<script>alert(1)</script>^\"'&<b>"  # a patient's name that no page may run
DAY_S = 86400.0


def made_settings(folder: Path, **changes: dict[str, Any]) -> Settings:
    """Settings of a node with two destinations that nothing listens at."""
    table: dict[str, Any] = {
        "node": {"port": 0, "storage": folder, "minimum_free_bytes": 0, "receivers": 0},
        "web": {"enabled": True, "port": 0},
        "destinations": [
            {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11104},
            {"name": "research", "url": "http://127.0.0.1:8042/dicom-web"},
        ],
    }
    for section, values in changes.items():
        table[section] = table.get(section, {}) | values if isinstance(values, dict) else values
    return settings_from(table)


def made_store(settings: Settings, jobs: int = 40, seed: int = 1) -> Store:
    """Open a new store and fill it: PASS, FAIL, REJECT, unusable and failed jobs, sent and dead deliveries.

    Two more jobs wait.
    """
    store = open_store(settings, create=True)
    chance = random.Random(seed)
    now = time.time()
    for number in range(jobs):
        add_job(store, number, chance, now - (jobs - number) * min(600.0, 30 * DAY_S / jobs))
    for number in range(jobs, jobs + 2):
        receive(store, number, now - 30)
    return store


def receive(store: Store, number: int, received_at: float) -> str:
    """Add one job that waits; returns its ID."""
    job_id = uuid.uuid5(uuid.NAMESPACE_OID, f"job {number}").hex
    sop = sop_of(number)
    instance = ReceivedInstance(
        Path("unused"), CR, sop, "1.2.840.10008.1.2.1", f"{number:064x}", 10_000_000 + number,
        SENDERS[number % 3], "DICOM_GAM", "10.0.0.7",
    )  # fmt: skip
    store.jobs.add(NewJob(job_id, job_id, instance, received_at))
    store.audit.append("instance.stored", job_id=job_id, calling_ae_title=instance.calling_ae_title,
                       sop_instance_uid=sop, file_blake3=instance.digest, status="0000")  # fmt: skip
    return job_id


def sop_of(number: int) -> str:
    """The SOP Instance UID of image `number`."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'image {number}').int}"


def add_job(store: Store, number: int, chance: random.Random, received_at: float) -> str:
    """Add one finished job; what becomes of it depends on its number alone. Returns its ID."""
    job_id, sop = receive(store, number, received_at), sop_of(number)
    (job,) = store.jobs.claim("made", 1, 1e9, received_at + 1)
    conclusion, deliveries = made_conclusion(number, sop, chance)
    store.audit.append(_EVENTS[conclusion.event], job_id=job_id, attempt=1, **dict(conclusion.result))
    store.jobs.finish(job.lease, conclusion, deliveries, received_at + 2)
    for row in store.outbox.deliveries(job_id):
        if row.what.destination == "pacs" and number % 9 == 4:
            cause = "the destination refuses it with status A700: out of resources, ask its administrator for space"
            store.outbox.bury(row.delivery_id, 0xA700, cause, received_at + 3)
            store.audit.append("delivery.dead", job_id=job_id, destination="pacs", words=cause, status="A700")
        else:
            store.outbox.sent(row.delivery_id, 0, "stored (status 0000)", received_at + 3)
            store.audit.append("delivery.sent", job_id=job_id, destination=row.what.destination, status="0000",
                               sop_instance_uid=row.what.sop_instance_uid)  # fmt: skip
    if number % 13 == 5:
        store.reviews.add(Review(job_id, ReviewKind.AGREE, "rad", received_at + 60, "chest", "as I see it"))
    return job_id


_EVENTS = {JobEvent.FINISH: "job.result", JobEvent.REJECT: "job.rejected", JobEvent.GIVE_UP: "job.failed"}


def made_conclusion(number: int, sop: str, chance: random.Random) -> tuple[Conclusion, list[NewDelivery]]:
    """How job `number` ends, and its deliveries."""
    bundle = dict(zip(("name", "version", "digest"), BUNDLES[number % 7 == 0], strict=True))
    study = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'study {number // 2}').int}"
    header = ImageHeader(
        patient_name=HOSTILE if number % 10 == 3 else f"Doe^Jane{number // 2}",
        patient_id=f"P{number // 2:06d}",
        accession_number=f"A{number // 2:07d}",
        study_instance_uid=study,
        study_date="20250304",
        study_description="Chest PA",
        modality="CR",
        body_part_examined="CHEST",
    )
    summary: dict[str, Any] = {
        "input": {"sop_class_uid": CR, "sop_instance_uid": sop, "study_instance_uid": study,
                  "file_blake3": f"{number:064x}", "pixel_sha256": "c" * 64},
        "bundle": bundle,
        "settings_digest": "e" * 64,
        "outputs": [],
    }  # fmt: skip
    figures = JobFigures(**{f"bundle_{key}": value for key, value in bundle.items()})
    if number % 17 == 16:
        return Conclusion(JobEvent.GIVE_UP, "ERROR", "", "MemoryError at worker.py:1: see the log"), []
    if number % 11 == 10:
        words = "only 3 of 12 rows of pixels are there. Have the sender send it again."
        summary |= {"outcome": "UNUSABLE", "rejection": {"reason": "truncated-pixels", "message": words}}
        return Conclusion(
            JobEvent.REJECT, "UNUSABLE", "truncated-pixels", words, study, summary, "", header, figures
        ), []
    verdict = ("PASS", "PASS", "PASS", "FAIL", "PASS", "REJECT")[number % 6]
    verification = made_verification(verdict, chance)
    probabilities = {"chest": 0.93, "hand": 0.05, "garbage": 0.02}
    summary |= {
        "outcome": verdict,
        "prediction": {"label": "chest", "probabilities": probabilities, "garbage_class": "garbage"},
        "verification": verification,
        "attention_map": {"sha256": "f" * 64, "shape": [32, 32]},
    }
    outputs = [
        (role, f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{role} {number}').int}", sop_class)
        for role, sop_class in (("sr", "1.2.840.10008.5.1.4.1.1.88.34"), ("overlay", "1.2.840.10008.5.1.4.1.1.7"))
    ]
    summary["outputs"] = [
        {"role": role, "series_instance_uid": "2.25.9", "sop_class_uid": sop_class, "sop_instance_uid": uid,
         "sha256": f"{number:064x}", "size_bytes": 4096}
        for role, uid, sop_class in outputs
    ]  # fmt: skip
    deliveries = [
        NewDelivery(name, study, role, sop_class, uid, "1.2.840.10008.1.2.1", f"{number:064x}")
        for role, uid, sop_class in outputs
        for name in ("pacs", "research")
    ]
    similarities = {name: chance.uniform(0.2, 0.9) for name in SIMILARITIES}
    figures = JobFigures(*BUNDLES[number % 7 == 0], "chest", verification["p_value"], similarities)
    words = " ".join(verification["reasons"])
    json.dumps(summary, allow_nan=False)
    return (
        Conclusion(JobEvent.FINISH, verdict, "", words, study, summary, "chests", header, figures),
        deliveries,
    )


def made_verification(verdict: str, chance: random.Random) -> dict[str, Any]:
    """A verification as `service.summary.result_summary` writes it, with every measurement of every check."""
    passed = verdict == "PASS"
    reasons = [] if passed else ["attention: iou is 0.11, below 0.27: the network looked elsewhere."]
    checks = []
    for check, names in (
        ("input", ("garbage_probability", "class_probability", "feature_distance")),
        ("attention", SIMILARITIES),
        ("early", (*SIMILARITIES, "channel_distance")),
        ("authenticity", ("frequency_distance",)),
    ):
        fails = check == "attention" and not passed
        measurements = [_measurement(f"{check}.{name}", not fails, chance) for name in names]
        checks.append(
            {"name": check, "passed": not fails, "p_value": 0.01 if fails else 0.4, "score": 5.2 if fails else 1.1,
             "threshold": 3.1, "advisory": check == "authenticity", "reason": reasons[0] if fails else "",
             "measurements": measurements}
        )  # fmt: skip
    return {
        "verdict": verdict,
        "alpha": 0.05,
        "p_value": chance.uniform(0.06, 1) if passed else 0.012,
        "score": 1.1 if passed else 5.2,
        "rank": {"class_name": "chest", "size": 199, "odder": 80, "equal": 0},
        "attention_method": "hirescam",
        "attention_status": "ok",
        "reasons": reasons,
        "notes": [],
        "checks": checks,
    }


def _measurement(name: str, passed: bool, chance: random.Random) -> dict[str, Any]:
    bound = "max" if name.endswith(("kl", "wasserstein", "distance", "garbage_probability")) else "min"
    threshold = 0.27 if bound == "min" else 1.5
    usual = (threshold, 0.95) if bound == "min" else (0.0, threshold)
    odd = (0.05, 0.26) if bound == "min" else (1.6, 3.0)
    return {
        "name": name,
        "value": chance.uniform(*(usual if passed else odd)),
        "threshold": threshold,
        "bound": bound,
        "p_value": chance.uniform(0.06, 1) if passed else 0.01,
        "passed": passed,
    }

"""A storage folder with real results of the tiny bundle: a report, an unusable image, and one that a rule skips."""

from __future__ import annotations

import io
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.config import Settings, settings_from
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.pipeline import Pipeline
from dicom_gam.service.node import Node
from dicom_gam.service.store import Store, open_store
from dicom_gam.storage.rows import Job, NewJob
from tests.service.fakes import CT, image, save
from tests.tiny_bundle import DISC, shapes

CREATED = 1_790_000_000.0


def reproducible_settings(folder: Path, bundle: Path, **changes: dict[str, Any]) -> Settings:
    """Settings of a node on `folder` that has one rule: what MOBILE sends is not processed."""
    table: dict[str, Any] = {
        "node": {"port": 0, "storage": folder, "minimum_free_bytes": 0, "receivers": 0},
        "processing": {"bundle": str(bundle), "device": "cpu", "batch_wait_ms": 1},
        "decoding": {"processes": 0},
        "rules": [
            {"name": "not mobile", "when": {"calling_ae_title": ["MOBILE"]}, "process": False},
            {"name": "the rest"},
        ],
    }
    return settings_from(table | changes)


def make_results(settings: Settings) -> None:
    """Have a real node process three images."""
    (name,) = settings.bundles
    folder = settings.node.storage
    with open_store(settings, create=True) as store:
        for number, (dataset, sender) in enumerate(
            ((_radiograph("2.25.31"), "ROOM"), (_radiograph("2.25.32", CT), "ROOM"), (_radiograph("2.25.33"), "MOBILE"))
        ):
            receive(store, dataset, sender, CREATED + number)
    with DecoderPool(settings) as decode:
        pipeline = Pipeline({name: load_bundle(name)}, settings, decode)
        with Node(settings, pipeline) as node:
            assert node.wait_idle(60), f"the node on {folder} is busy still"


def receive(store: Store, dataset: Dataset, sender: str, at: float) -> Job:
    """Take an image in as if it had been sent."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"{dataset.SOPInstanceUID}{at}").hex
    stored = store.inbox.write(name, (buffer.getvalue(),))
    file = save(dataset, store.folder / "arrival")
    instance = replace(read_instance(file, calling_ae_title=sender), path=stored.path, digest=stored.digest)
    file.unlink()
    return store.jobs.get(store.jobs.add(NewJob(name, name, instance, at)).job_id)


def _radiograph(uid: str, sop_class_uid: str | None = None) -> Dataset:
    ds = image(uid, **({} if sop_class_uid is None else {"sop_class_uid": sop_class_uid}), side=32)
    ds.PixelData = (shapes(DISC, 1, 9)[0] * 255).byte().numpy().tobytes()
    return ds

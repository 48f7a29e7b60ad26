"""Every backend of the storage seam runs through the same suite: add one to BACKENDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_gam.records import ReceivedInstance
from dicom_gam.storage.protocols import AuditHead, JobQueue, Outbox
from dicom_gam.storage.rows import NewDelivery, NewJob
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox


@dataclass
class Backend:
    jobs: JobQueue
    outbox: Outbox
    head: AuditHead
    reopen: Callable[[], Backend]
    close: Callable[[], None]


def open_sqlite(folder: Path) -> Backend:
    database = Database(folder / "node.sqlite", busy_timeout_s=0.2)

    def reopen() -> Backend:
        database.close()
        return open_sqlite(folder)

    return Backend(
        SqliteJobQueue(database, lambda name: folder / f"{name}.dcm"),
        SqliteOutbox(database),
        SqliteAuditHead(database),
        reopen,
        database.close,
    )


BACKENDS = {"sqlite": open_sqlite}


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    opened = BACKENDS[request.param](tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def new_job() -> Callable[..., NewJob]:
    def make(number: int, *, uid: str | None = None, data: str = "a", of: str = "", bundle: str = "") -> NewJob:
        instance = ReceivedInstance(
            path=Path("ignored"),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            sop_instance_uid=uid or f"1.2.3.{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            digest=data * 64,
            size_bytes=100 + number,
            calling_ae_title="MODALITY",
            called_ae_title="DICOM_GAM",
            peer_address="10.0.0.7",
        )
        name = f"{number:032x}"
        return NewJob(name, name, instance, received_at=1000.0 + number, bundle=bundle, predecessor=of)

    return make


@pytest.fixture
def new_delivery() -> Callable[..., NewDelivery]:
    def make(destination: str = "PACS", uid: str = "2.25.1", role: str = "sr") -> NewDelivery:
        return NewDelivery(
            destination, "1.2.9", role, "1.2.840.10008.5.1.4.1.1.7", uid, "1.2.840.10008.1.2.1", "b" * 64
        )

    return make

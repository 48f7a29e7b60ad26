"""An outbox with a courier, without a node around it: results are put in by hand."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dicom_gam.config import DeliverySettings
from dicom_gam.dicom.scu import commitment_request as over_network
from dicom_gam.dicom.scu.sender import Answer
from dicom_gam.records import ReceivedInstance
from dicom_gam.sections import Destination
from dicom_gam.service.outbox import Courier
from dicom_gam.storage.audit import AuditLog, records
from dicom_gam.storage.blobs import FolderBlobs
from dicom_gam.storage.rows import Conclusion, Delivery, NewDelivery, NewJob
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.states import JobEvent
from tests.service.fakes import SECONDARY_CAPTURE, image, overlay_file, uids

STORED = Answer(stored=True, status=0x0000, words="stored (status 0000)")
QUICK = DeliverySettings(first_retry_s=0.02, maximum_retry_s=0.05, attempts=4)


class PostOffice:
    """A storage folder as a node's, and couriers for it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database = Database(folder / "node.sqlite")
        self.audit = AuditLog(folder / "audit.jsonl", SqliteAuditHead(self.database))
        self.jobs = SqliteJobQueue(self.database, lambda name: folder / name)
        self.outbox = SqliteOutbox(self.database)
        self.results = FolderBlobs(folder / "results")
        self._numbers = itertools.count(1)
        self._couriers: list[Courier] = []

    def put(
        self, study: str, *destinations: str, objects: int = 2, spoil: Callable[[bytes], bytes] | None = None
    ) -> list[str]:
        """The results of one image; returns their UIDs, which tell them apart in the order they were put in.

        `spoil` changes the first object's bytes.
        """
        number = next(self._numbers)
        names = uids(objects, f"{self.folder} {number} ")
        rows = []
        for name in names:
            source = image(f"1.2.{number}")
            source.StudyInstanceUID = study
            content = overlay_file(name, source, datetime(2025, 3, 4, 5, 6, 7))
            if spoil is not None and name == names[0]:
                content = spoil(content)
            blob = hashlib.sha256(content).hexdigest()
            self.results.write(blob, [content])
            rows += [
                NewDelivery(where, study, "sr", SECONDARY_CAPTURE, name, "1.2.840.10008.1.2.1", blob)
                for where in destinations
            ]
        job_id = f"{number:032x}"
        instance = ReceivedInstance(
            Path("x"), "1.2", f"1.2.{number}", "1.2.840.10008.1.2.1", job_id, 1, "M", "G", "::1"
        )
        self.jobs.add(NewJob(job_id, job_id, instance, received_at=1.0))
        (job,) = self.jobs.claim("w", 1, 10.0, 2.0)
        assert self.jobs.finish(job.lease, Conclusion(JobEvent.FINISH, "PASS"), rows, 3.0)
        return names

    def courier(
        self,
        send: Callable[..., Any],
        settings: DeliverySettings = QUICK,
        ask: Callable[..., None] = over_network.ask,
        **changes: Any,
    ) -> Courier:
        """A courier that runs until the post office closes; `changes` are of its destination."""
        keys: dict[str, Any] = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "timeout_s": 5}
        destination = Destination(**(keys | changes))
        made = Courier(destination, "DICOM_GAM", settings, self.outbox, self.results, self.audit, send, ask)
        self._couriers.append(made)
        made.loop.start()
        return made

    def deliveries(self, destination: str = "pacs") -> list[Delivery]:
        """All deliveries to a destination, oldest first."""
        jobs = sorted(self.jobs.jobs(1000), key=lambda job: job.job_id)
        found = [row for job in jobs for row in self.outbox.deliveries(job.job_id)]
        return [row for row in found if row.what.destination == destination]

    def states(self, destination: str = "pacs") -> list[str]:
        return [str(row.state) for row in self.deliveries(destination)]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [record["keys"] for record in records(self.folder / "audit.jsonl") if record["event"] == name]

    def close(self) -> None:
        for courier in self._couriers:
            courier.loop.stop()
        for courier in self._couriers:
            assert courier.loop.join(30)  # it may wait out its time limit to send, to release and to abort
        self.audit.close()
        self.database.close()


def uid_of(content: bytes) -> str:
    """The SOP Instance UID of one of `PostOffice.put`'s objects, as it travels."""
    at = content.index(b"\x08\x00\x18\x00UI") + 6
    length = int.from_bytes(content[at : at + 2], "little")
    return content[at + 2 : at + 2 + length].rstrip(b"\0").decode()


class Pacs:
    """A `send` that keeps the order of what came; `say` decides on each object, `down` on the whole."""

    def __init__(self, say: Callable[[str], Answer] = lambda _: STORED) -> None:
        self.say = say
        self.down: Exception | None = None
        self.arrived: list[str] = []
        self.offered: list[str] = []
        self.tries = 0

    def __call__(self, destination: Destination, title: str, files: Sequence[bytes]) -> Iterator[Answer]:
        self.tries += 1
        if self.down is not None:
            raise self.down
        for content in files:
            name = uid_of(content)
            self.offered.append(name)
            answer = self.say(name)
            if answer.stored:
                self.arrived.append(name)
            yield answer
            if answer.broken:
                return

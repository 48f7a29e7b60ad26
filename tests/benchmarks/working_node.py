"""A node at work between senders and an archive, started again and again on one folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from dicom_gam.config import settings_from
from dicom_gam.service.store import DATABASE_FILE, Store, open_store
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, OPEN_JOB_STATES, DeliveryState, JobState
from tests.benchmarks.processes import listening, tree, wait_until
from tests.benchmarks.receivers_under_test import OurNode, Sink

DESTINATION = "pacs"


class WorkingNode(OurNode):
    """The node with the fake processor and one destination. Its storage may lie elsewhere than its settings."""

    def __init__(self, folder: Path, archive: Sink, *, seconds_per_batch: float = 0.0, **node: Any) -> None:
        super().__init__(folder)
        self.seconds_per_batch = seconds_per_batch
        self.storage = folder / "node"
        self._archive_port = archive.port
        self._node = node
        self._groups: set[int] = set()

    def settings(self) -> dict[str, Any]:
        """Quick to try again, so that an end is reached soon."""
        table = super().settings()
        table["node"] |= self._node
        table["processing"] = {"batch_wait_ms": 5, "attempts": 1000}
        table["delivery"] = {"first_retry_s": 0.1, "maximum_retry_s": 0.5, "attempts": 1_000_000}
        destination = {"name": DESTINATION, "ae_title": "PACS", "host": "127.0.0.1", "port": self._archive_port}
        table["destinations"] = [destination | {"timeout_s": 5}]
        return table

    def running(self) -> bool:
        """Whether the service's process is there."""
        return self._process.poll() is None

    def kill_service(self) -> None:
        """Kill the service's own process and no other; its receivers must notice by themselves."""
        self._process.kill()
        self._process.wait(20)
        self._groups.add(self.pid)

    def orphaned(self) -> int:
        """How many killed services have left a process behind that is still there."""
        return sum(map(_lives, self._groups))

    def __exit__(self, *about: object) -> None:
        for group in filter(_lives, self._groups):
            os.killpg(group, signal.SIGKILL)
        super().__exit__(*about)

    def receivers(self) -> list[int]:
        """The processes beside the service's own that listen for senders."""
        return [pid for pid in listening(self.pid, self.port) if pid != self.pid]

    def end(self) -> int:
        """SIGTERM, as an administrator would; the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def processes(self) -> list[int]:
        """Every process of it."""
        return tree(self.pid)

    def job_counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        with self._open() as store:
            return store.jobs.counts()

    def waiting(self) -> int:
        """Jobs and deliveries that are not final."""
        with self._open() as store:
            jobs, deliveries = store.jobs.counts(), store.outbox.counts().get(DESTINATION, {})
        return sum(jobs[state] for state in OPEN_JOB_STATES) + sum(deliveries.get(s, 0) for s in OPEN_DELIVERY_STATES)

    def wait_idle(self, timeout_s: float) -> None:
        """Wait until nothing is left to do or to deliver. Raises TimeoutError."""
        wait_until(lambda: not self.waiting(), "an empty queue", timeout_s, 0.2)

    def delivered_at(self) -> list[float]:
        """When each object arrived at the archive, in seconds of the epoch."""
        with self._open() as store, store.database.reading() as connection:
            rows = connection.execute("SELECT tried_at FROM deliveries WHERE state = ?", (DeliveryState.SENT.value,))
            return [float(row[0]) for row in rows]

    def database_bytes(self) -> int:
        """The database on the disk, with what waits in its log."""
        return sum(path.stat().st_size for path in self.storage.glob(f"{DATABASE_FILE}*"))

    def _open(self) -> Store:
        table = self.settings()
        table["node"]["storage"] = str(self.storage)
        return open_store(settings_from(table))


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

"""Nodes to do harm to: their settings, and the node as a process of its own. `python nodes.py SETTINGS.json` is one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from dicom_gam.config import Settings, settings_from
from dicom_gam.service.node import Node, run_until_signal, verify_audit_log
from dicom_gam.service.store import Store, open_store
from dicom_gam.storage.audit import records
from dicom_gam.storage.rows import Job
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, OPEN_JOB_STATES
from tests.service.fakes import process, slowly, until

ROOT = Path(__file__).parents[2]
MB = 1024 * 1024


def table_of(storage: Path, *archives: tuple[str, int], **changes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a node with short deadlines; `archives` are (name, port), `changes` go over the rest by section."""
    table: dict[str, Any] = {
        "node": {
            "port": 0,
            "storage": str(storage),
            "receivers": 0,
            "minimum_free_bytes": 0,
            "negotiation_timeout_s": 1.0,
            "pdu_timeout_s": 1.0,
            "network_timeout_s": 20.0,
        },
        "processing": {"batch_size": 4, "batch_wait_ms": 5},
        "retention": {"make_room_below_bytes": 0},  # else the small disks of the tests are tidied up
        "delivery": {"first_retry_s": 0.1, "maximum_retry_s": 0.4, "attempts": 50},
        "destinations": [
            {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port, "timeout_s": 5}
            for name, port in archives
        ],
    }
    for section, values in changes.items():
        table[section] = table.get(section, {}) | values
    return table


class NodeProcess:
    """A node in its own process and what can be seen of it from outside."""

    def __init__(
        self, folder: Path, *archives: tuple[str, int], storage: Path | None = None, **changes: dict[str, Any]
    ) -> None:
        self.storage = storage or folder / "node"
        table = table_of(self.storage, *archives, **changes)
        self.settings: Settings = settings_from(table)
        self._file = folder / "settings.json"
        self._file.write_text(json.dumps(table))
        self._log = folder / "node.log"
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self, seconds_per_batch: float = 0.0, descriptors_in_use: int = 0) -> None:
        command = [
            sys.executable,
            str(Path(__file__)),
            str(self._file),
            str(seconds_per_batch),
            str(descriptors_in_use),
        ]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the node did not start: {self._log.read_text()}"
        self.port = int(line)

    def kill(self) -> None:
        """Kill -9, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self.kill()
        return status

    def processes(self) -> list[int]:
        """The process ID of the node and of all that it has started."""
        assert self.process is not None
        return [self.process.pid, *children(self.process.pid)]

    def memory_bytes(self) -> int:
        """What the node and all that it has started hold for themselves (RssAnon)."""
        return sum(own_memory_bytes(pid) for pid in self.processes())

    def peak_memory(self) -> PeakMemory:
        return PeakMemory(self)

    def open_store(self) -> Store:
        return open_store(self.settings)

    def jobs(self) -> list[Job]:
        with self.open_store() as store:
            return store.jobs.jobs(10_000)

    def job(self, sop_instance_uid: str) -> Job | None:
        """The job that is not quarantined."""
        found = [job for job in self.jobs() if job.instance.sop_instance_uid == sop_instance_uid]
        return next((job for job in found if job.state != "quarantined"), None)

    def idle(self) -> bool:
        with self.open_store() as store:
            deliveries = [counts.get(state, 0) for counts in store.outbox.counts().values() for state in counts
                          if state in OPEN_DELIVERY_STATES]  # fmt: skip
            return not any(deliveries) and not any(store.jobs.counts()[state] for state in OPEN_JOB_STATES)

    def wait_idle(self, timeout_s: float = 30.0) -> None:
        until(self.idle, timeout_s)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The keys of the audit records of these events."""
        return [record["keys"] for record in records(self.storage / "audit.jsonl") if record["event"] in names]

    def log(self) -> str:
        return self._log.read_text()

    def verified(self) -> int:
        return verify_audit_log(self.storage)

    def inbox(self) -> list[Path]:
        """Every file of the inbox, temporary ones too."""
        return [path for path in (self.storage / "inbox").rglob("*") if path.is_file()]


class PeakMemory:
    """How much the memory of a node grows within the block, looked at 50 times a second."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._before = self._peak = 0

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self._peak = max(self._peak, self._node.memory_bytes())

    @property
    def growth_bytes(self) -> int:
        return self._peak - self._before

    def __enter__(self) -> PeakMemory:
        self._before = self._peak = self._node.memory_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._peak = max(self._peak, self._node.memory_bytes())


def children(pid: int) -> list[int]:
    """All processes that descend from one."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in listing.read_text().split()]
        except OSError:  # it ended
            continue
    return found + [further for child in found for further in children(child)]


def own_memory_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


class TellingNode(Node):
    def start(self) -> None:
        super().start()
        print(self.port, flush=True)


if __name__ == "__main__":
    table = json.loads(Path(sys.argv[1]).read_text())
    pause_s = float(sys.argv[2])
    in_use = [os.dup(0) for _ in range(int(sys.argv[3]))]  # so that sockets get numbers that select() can't watch
    run_until_signal(TellingNode(settings_from(table), slowly(pause_s) if pause_s else process))

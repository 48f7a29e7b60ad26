"""kill -9 at several moments, SIGTERM, and what the archive has afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dicom_gam.service.node import verify_audit_log
from dicom_gam.service.store import DATABASE_FILE
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, OPEN_JOB_STATES
from tests.service.fakes import TORN_CONNECTIONS, image, result_uids, store, uids, until

pytestmark = TORN_CONNECTIONS


class Runner:
    """Starts nodes as processes on one storage folder, and ends each of them."""

    def __init__(self, folder: Path, archive_port: int) -> None:
        self.storage = folder / "node"
        self.settings_file = folder / "settings.json"
        destination = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": archive_port, "timeout_s": 5}
        table = {
            "node": {"port": 0, "storage": str(self.storage), "minimum_free_bytes": 0},
            "processing": {"batch_size": 2, "batch_wait_ms": 0, "attempts": 20},
            "delivery": {"first_retry_s": 0.1, "maximum_retry_s": 0.2, "attempts": 100},
            "destinations": [destination],
        }
        self.settings_file.write_text(json.dumps(table))
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, seconds_per_batch: float = 0.05) -> tuple[subprocess.Popen[str], int]:
        script = Path(__file__).with_name("run_node.py")
        command = [sys.executable, str(script), str(self.settings_file), str(seconds_per_batch)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the node did not start"
        return process, int(line)

    def idle(self) -> bool:
        database = Database(self.storage / DATABASE_FILE)
        try:
            jobs = SqliteJobQueue(database, lambda name: self.storage / name).counts()
            deliveries = SqliteOutbox(database).counts().get("pacs", {})
        finally:
            database.close()
        return not any(jobs[s] for s in OPEN_JOB_STATES) and not any(deliveries.get(s) for s in OPEN_DELIVERY_STATES)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def runner(tmp_path, archive):
    made = Runner(tmp_path, archive.port)
    yield made
    made.end()


def send_each_apart(port: int, names: list[str], acknowledged: list[str]) -> None:
    """Send until the node goes away, and note what it has acknowledged."""
    for name in names:
        if store(port, [image(name)]) != [0x0000]:
            return
        acknowledged.append(name)


@pytest.mark.requirement("STO-02")
def test_after_kill_9_at_any_moment_every_acknowledged_image_has_exactly_one_result_set(runner, archive):
    archive.delay_s = 0.02  # so that some kills hit a delivery
    acknowledged: list[str] = []
    for kill_number, after_s in enumerate((0.15, 0.3, 0.45, 0.6)):
        process, port = runner.start()
        names = uids(60, seed=f"kill {kill_number}")
        senders = [
            threading.Thread(target=send_each_apart, args=(port, part, acknowledged))
            for part in (names[::2], names[1::2])
        ]
        for sender in senders:
            sender.start()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        for sender in senders:
            sender.join(30)
    assert len(acknowledged) >= 4
    process, _ = runner.start(0.0)
    until(runner.idle, 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0

    for name in acknowledged:
        for uid in result_uids(name):
            assert uid in archive.received, "an acknowledged image has no result"
    assert all(len(set(copies)) == 1 for copies in archive.received.values()), "a retry changed an object"
    assert verify_audit_log(runner.storage) > 0


@pytest.mark.requirement("STO-11")
def test_sigterm_ends_the_node_cleanly_with_the_batch_in_hand_finished(runner, archive):
    process, port = runner.start(seconds_per_batch=0.4)
    names = uids(5)
    assert store(port, [image(name) for name in names]) == [0x0000] * 5
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    database = Database(runner.storage / DATABASE_FILE)
    counts = SqliteJobQueue(database, lambda name: runner.storage / name).counts()
    database.close()
    assert counts["processing"] == 0
    assert counts["done"] >= 1
    assert counts["done"] + counts["received"] == 5
    process, _ = runner.start(0.0)
    until(runner.idle, 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert sorted(archive.received) == sorted(uid for name in names for uid in result_uids(name))
    assert verify_audit_log(runner.storage) > 0

"""Faults of the machine: kill -9, power, disk, database, clock."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3

from dicom_gam.service.node import Node
from dicom_gam.service.store import DATABASE_FILE
from dicom_gam.storage.sqlite import Database
from tests.faults.nodes import MB, NodeProcess, children
from tests.faults.table import fault
from tests.faults.wire import Wire, small_image
from tests.service.fakes import TORN_CONNECTIONS, image, process, result_uids, slowly, store, uids, until

pytestmark = TORN_CONNECTIONS


def push(port: int, names: list[str], acknowledged: list[str], side: int = 64) -> None:
    """Send each over one raw association until the node goes away; note what it has acknowledged."""
    try:
        with Wire(port) as wire:
            if wire.associate() is None:
                return
            for name in names:
                if wire.store(name, small_image(name, side=side)) != 0x0000:
                    return
                acknowledged.append(name)
    except OSError:
        return


def exactly_one_result_each(node: NodeProcess, archive, acknowledged: list[str]) -> None:
    jobs = node.jobs()
    done = [job.instance.sop_instance_uid for job in jobs if job.state == "done"]
    assert len(set(done)) == len(done)
    assert set(acknowledged) <= set(done)
    for job in jobs:
        assert blake3(job.instance.path.read_bytes()).hexdigest() == job.instance.digest
    assert sorted(archive.received) == sorted(uid for name in done for uid in result_uids(name))
    assert all(len(set(copies)) == 1 for copies in archive.received.values()), "a retry changed an object"
    assert len(node.inbox()) == len(jobs)


@pytest.mark.requirement("STO-02")
@fault("kill -9 of the whole service")
def test_after_kill_9_everything_acknowledged_is_there_once(tmp_path, archive, observed):
    node = NodeProcess(tmp_path, ("pacs", archive.port), node={"receivers": 2})
    acknowledged: list[str] = []
    kills = 2
    try:
        for number in range(kills):
            node.start(0.02)
            wanted = len(acknowledged) + 3 + 10 * number
            senders = [
                threading.Thread(target=push, args=(node.port, uids(300, f"{number}/{part}"), acknowledged))
                for part in range(4)
            ]
            for sender in senders:
                sender.start()
            until(lambda wanted=wanted: len(acknowledged) >= wanted, 30)
            node.kill()
            for sender in senders:
                sender.join(30)
        node.start()
        node.wait_idle(60)
        exactly_one_result_each(node, archive, acknowledged)
        assert node.stop() == 0
        assert node.verified() > 0
    finally:
        node.kill()
    observed(
        f"{kills} kills while 4 senders push: every acknowledged image has exactly one result set at the PACS, "
        "no half-written file, the audit log verifies"
    )


@pytest.mark.requirement("DOOR-14")
@fault("kill -9 of a receiver")
def test_a_killed_receiver_is_replaced_and_loses_nothing(tmp_path, archive, observed):
    node = NodeProcess(tmp_path, ("pacs", archive.port), node={"receivers": 1})
    acknowledged: list[str] = []
    try:
        node.start()
        sender = threading.Thread(target=push, args=(node.port, uids(500, "receiver"), acknowledged))
        sender.start()
        until(lambda: len(acknowledged) >= 5, 30)
        (receiver,) = children(node.process.pid)
        os.kill(receiver, signal.SIGKILL)
        sender.join(30)
        after: list[str] = []
        until(lambda: after or push(node.port, uids(1, "later"), after) or after, 30)
        node.wait_idle(60)
        exactly_one_result_each_but_strays(node, archive, acknowledged + after)
        assert node.events("receiver.lost")
        assert node.stop() == 0
    finally:
        node.kill()
    observed("everything acknowledged has its result; another receiver takes over by itself; audited")


def exactly_one_result_each_but_strays(node: NodeProcess, archive, acknowledged: list[str]) -> None:
    """What a dead receiver had in hand is put right at the next start of the node."""
    done = [job.instance.sop_instance_uid for job in node.jobs() if job.state == "done"]
    assert len(set(done)) == len(done)
    assert set(acknowledged) <= set(done)
    assert set(archive.received) == {uid for name in done for uid in result_uids(name)}


@pytest.mark.requirement("STO-03")
@fault("power lost between any two steps")
def test_power_lost_between_any_two_steps_loses_nothing(tmp_path, observed):
    script = Path(__file__).with_name("power_loss.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=200, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["wrong"] == []
    assert seen["points"] >= 15
    assert seen["acknowledged"] >= 2
    observed(
        "cut at every operation that is meant to last, from the first byte to the job's end, once with and once "
        "without the operating system's cache: nothing half-written, everything acknowledged there, sent again Success"
    )


class SmallDisk:
    """A tmpfs of 12 MB that can be filled and freed; without the right to mount, a limit on the size of files."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self.path.mkdir()
        self.mounted = False
        if os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(self.path)]
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        self.kind = "a tmpfs of 12 MB" if self.mounted else "a limit on file sizes, as nothing can be mounted here"

    def fill(self, node: NodeProcess, leave_bytes: int = 0) -> None:
        if not self.mounted:
            self._limit(node, 4096)
            return
        disk = os.statvfs(self.path)
        with (self.path / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leave_bytes)

    def free(self, node: NodeProcess) -> None:
        if self.mounted:
            (self.path / "ballast").unlink()
        else:
            self._limit(node, resource.RLIM_INFINITY)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=True)

    @staticmethod
    def _limit(node: NodeProcess, size: int) -> None:
        for pid in node.processes():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path):
    made = SmallDisk(tmp_path)
    yield made
    made.close()


def status_of_one(port: int, seed: str, side: int = 512) -> int | None:
    (uid,) = uids(1, seed)
    with Wire(port) as wire:
        answer = wire.associate()
        return (
            None if answer is None or answer.name != "A-ASSOCIATE-AC" else wire.store(uid, small_image(uid, side=side))
        )


@pytest.mark.requirement("STO-04")
@fault("the disk is full")
def test_a_full_disk_is_a700_and_passes_by_itself(tmp_path, archive, disk, observed):
    node = NodeProcess(tmp_path, ("pacs", archive.port), storage=disk.path / "node",
                       processing={"attempts": 2})  # fmt: skip
    acknowledged: list[str] = []
    try:
        node.start()
        push(node.port, uids(3, "first"), acknowledged, side=512)
        disk.fill(node, leave_bytes=700_000)
        push(node.port, uids(10, "filling"), acknowledged, side=512)
        assert 3 <= len(acknowledged) < 13, "the disk did not fill"
        status = status_of_one(node.port, "too much", side=2048)
        assert status == 0xA700
        disk.free(node)
        until(lambda: status_of_one(node.port, "after") == 0x0000, 30)
        node.wait_idle(60)
        exactly_one_result_each(node, archive, acknowledged + uids(1, "after"))
        assert node.stop() == 0
        assert node.verified() > 0
    finally:
        node.kill()
    observed(f"{status:04X} ({disk.kind}); every acknowledged image whole, with its result; Success when space is back")


@pytest.mark.requirement("STO-04")
@fault("the disk is below its watermark")
def test_below_the_watermark_images_are_refused_before_the_disk_is_full(tmp_path, disk, observed):
    reserve = 4 * MB if disk.mounted else 10**15
    node = NodeProcess(tmp_path, storage=disk.path / "node", node={"minimum_free_bytes": reserve})
    try:
        node.start()
        if not disk.mounted:
            assert status_of_one(node.port, "below", side=64) == 0xA700
            observed("A700 (the reserve is larger than the disk)")
            return
        assert status_of_one(node.port, "before", side=64) == 0x0000
        disk.fill(node, leave_bytes=3 * MB)
        status = status_of_one(node.port, "below", side=64)
        assert status == 0xA700
        disk.free(node)
        assert status_of_one(node.port, "above", side=64) == 0x0000
        node.wait_idle()
        assert len(node.jobs()) == 2
    finally:
        node.kill()
    observed(f"{status:04X} with 3 of 12 MB free and 4 kept back; Success when space is back")


@pytest.mark.requirement("STO-04")
@fault("the database is locked")
def test_a_locked_database_is_a700_and_passes_by_itself(settings, archive, monkeypatch, observed):
    monkeypatch.setattr(Database.__init__, "__defaults__", (0.2,))
    configured = settings(("pacs", archive.port), processing={"attempts": 2})
    (first, second) = uids(2, "locked")
    with Node(configured, slowly(0.3)) as node:
        assert store(node.port, [image(first)]) == [0x0000]
        until(lambda: node.job_counts()["processing"])
        other = sqlite3.connect(configured.node.storage / DATABASE_FILE, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        status = store(node.port, [image(second)])
        time.sleep(0.5)  # the worker finds it locked too
        other.execute("ROLLBACK")
        other.close()
        assert status == [0xA700]
        until(lambda: store(node.port, [image(second)]) == [0x0000])
        assert node.wait_idle(30)
        assert node.job_counts()["done"] == 2
    assert sorted(archive.received) == sorted(result_uids(first) + result_uids(second))
    observed("A700 while it is locked; afterwards Success, and the image that was in hand has its result once")


@pytest.mark.requirement("STO-12")
@pytest.mark.filterwarnings(  # pynetdicom's own timers go by the clock, and its reactor trips over the jump
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
@pytest.mark.parametrize(
    "jump_s",
    [
        pytest.param(-86400.0, marks=fault("the clock jumps back a day")),
        pytest.param(86400.0, marks=fault("the clock jumps ahead a day")),
    ],
)
def test_a_clock_that_jumps_loses_nothing_and_doubles_nothing(settings, archive, monkeypatch, observed, jump_s):
    archive.status = 0xA700
    configured = settings(
        ("pacs", archive.port), processing={"lease_s": 0.6, "batch_size": 1}, delivery={"first_retry_s": 0.1}
    )
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    names = uids(3, f"clock {jump_s}")
    with Node(configured, slowly(0.5)) as node:
        assert store(node.port, [image(uid) for uid in names[:2]]) == [0x0000] * 2
        until(lambda: node.delivery_counts().get("pacs", {}).get("retry") and node.job_counts()["processing"])
        offset[0] = jump_s  # one delivery waits for its next try, one image is in hand
        archive.status = 0x0000
        assert store(node.port, [image(names[2])]) == [0x0000]
        assert node.wait_idle(30)
        assert [job.state for job in node.jobs()] == ["done"] * 3
    assert sorted(archive.received) == sorted(uid for name in names for uid in result_uids(name))
    assert all(len(set(copies)) == 1 for copies in archive.received.values())
    observed("the image in hand, the delivery that waited and the next image all get through, each result once "
             "(the clock is set within the process, faketime is not there)")  # fmt: skip


def test_the_fake_processor_is_what_the_nodes_here_run():
    assert process is not None

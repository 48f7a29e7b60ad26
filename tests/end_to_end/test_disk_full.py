"""A disk that fills up while four senders push: a tmpfs of 24 MB under the node's storage.

The tmpfs is mounted in a mount namespace of the node's own (unshare(1)), so that nothing of it is left when the node
ends, however it ends, and so that an ordinary user may do it too. Where the system allows neither, the test says in
the summary what it needs, and the fault matrix's test with its stand-in, a limit on file sizes, is what is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from dicom_gam.service.node import verify_audit_log
from dicom_gam.storage.states import JobState
from tests.benchmarks.modality import OUT_OF_RESOURCES, SUCCESS, Modality, encoded_image, new_uids
from tests.benchmarks.processes import wait_until
from tests.benchmarks.pushing import Ledger, Senders, outcome
from tests.benchmarks.receivers_under_test import Sink
from tests.benchmarks.working_node import WorkingNode

MB = 1024 * 1024
DISK_BYTES, BALLAST_BYTES, SIDE = 24 * MB, 12 * MB, 512
NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
MOUNT = 'folder=$1; shift; mount -t tmpfs -o size={} tmpfs "$folder" && exec "$@"'
NEEDED = (
    "this test mounts a small tmpfs and was not allowed to: run it as root (in a container: --cap-add SYS_ADMIN), or "
    "let users make namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0)"
)


class NodeOnSmallDisk(WorkingNode):
    """The node with its storage on a tmpfs that only it and its receivers see; `storage` is a copy, made at its end."""

    def command(self):
        self._mounted = self.folder / "node"
        self._mounted.mkdir()
        return [*NAMESPACE, "sh", "-c", MOUNT.format(DISK_BYTES), "sh", str(self._mounted), *super().command()]

    def settings(self):
        table = super().settings()
        del table["processing"]["attempts"]  # a full disk must not use up the tries of an image
        return table

    def start(self):
        super().start()
        self._held = os.open(f"/proc/{self.pid}/root{self._mounted}", os.O_DIRECTORY)
        self.disk = Path(f"/proc/self/fd/{self._held}")  # it lasts as long as the descriptor

    def end(self):
        status = super().end()
        # SQLite asks where a link leads and so would open another file: hence a copy, of what is at rest.
        self.storage = self.folder / "copy"
        shutil.copytree(self.disk, self.storage)
        return status

    def __exit__(self, *about):
        os.close(self._held)
        super().__exit__(*about)


@pytest.fixture(autouse=True)
def _may_mount(tmp_path):
    command = [*NAMESPACE, "sh", "-c", MOUNT.format(MB), "sh", str(tmp_path), "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"{NEEDED}. It said: {tried.stderr.strip()}. tests/faults/test_storage.py has a stand-in.")


@pytest.mark.requirement("STO-04")
@pytest.mark.parametrize("reserve_bytes", [0, 4 * MB], ids=["to the last byte", "with a watermark"])
def test_a_disk_that_fills_up_loses_nothing_and_the_service_recovers_by_itself(tmp_path, reserve_bytes):
    ledger = Ledger()
    refused = f"{OUT_OF_RESOURCES:04X}"
    with (
        Sink(tmp_path / "archive") as archive,
        NodeOnSmallDisk(tmp_path / "place", archive, minimum_free_bytes=reserve_bytes) as node,
    ):
        ballast = node.disk / "ballast"
        ballast.write_bytes(bytes(BALLAST_BYTES))
        with Senders(node.port, ledger, sides=(SIDE,)) as senders:
            wait_until(lambda: ledger.statuses[refused] >= 100, "refusals by a full disk", 60)
            while_full = len(ledger.acknowledged)
            senders.begin_no_more()
            ballast.unlink()
            senders.finish(60)
        acknowledged = [*ledger.acknowledged, *send(node.port, 8)]
        with suppress(TimeoutError):  # what has come by then is counted below
            wait_until(lambda: outcome(acknowledged, archive.files()).sound, "every result", 60, 0.5)
        assert node.running()
        assert node.end() == 0
        found = outcome(acknowledged, archive.files())
        jobs = {state: count for state, count in node.job_counts().items() if count}
        print(f"\n{while_full} acknowledged until the disk was full; statuses {dict(ledger.statuses)}; jobs {jobs}")
        print(found)
        assert while_full >= 4
        assert set(ledger.statuses) == {f"{SUCCESS:04X}", refused}, "a refusal that says something else than A700"
        assert ledger.broken == 0, "the node ended an association because of the disk"
        assert found.sound
        assert jobs == {JobState.DONE: found.images}
        assert node.waiting() == 0
        assert verify_audit_log(node.storage) > 0


def send(port, count):
    """Push a few more images when all is well again."""
    study, *names = new_uids(1 + count, "afterwards")
    with Modality(port) as association:
        assert [association.store(name, encoded_image(name, study, SIDE)) for name in names] == [SUCCESS] * count
    return names

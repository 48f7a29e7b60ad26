"""Receivers: processes of their own that share the node's port."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from dicom_gam.errors import ConfigError
from dicom_gam.service.node import Node, verify_audit_log
from dicom_gam.storage.states import JobState
from tests.service.fakes import events, image, process, result_uids, store, uids, until


@pytest.fixture
def shared(settings):
    return lambda *archives, **changes: settings(*archives, node={"receivers": 2}, **changes)


def receiver_pids() -> list[int]:
    """Those of this process, whichever of its threads has started them."""
    children = [pid for listed in Path("/proc/self/task").glob("*/children") for pid in listed.read_text().split()]
    return [int(pid) for pid in children if b"dicom_gam.service.receiver" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.requirement("DOOR-14")
def test_what_receivers_take_in_is_processed_and_delivered_like_anything_else(shared, archive):
    names = uids(12)
    answers = []
    configured = shared(("pacs", archive.port))
    with Node(configured, process) as node:
        assert len(receiver_pids()) == 2
        senders = [
            threading.Thread(target=lambda part=part: answers.extend(store(node.port, [image(uid) for uid in part])))
            for part in (names[::3], names[1::3], names[2::3])
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert node.wait_idle(20)
    assert answers == [0x0000] * 12
    assert sorted(archive.received) == sorted(uid for name in names for uid in result_uids(name))
    assert receiver_pids() == []
    assert verify_audit_log(configured.node.storage) > 0


def test_receivers_have_no_network_library_and_no_torch_in_memory(shared):
    with Node(shared(), process):
        for pid in receiver_pids():
            assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_receivers_import_nothing_from_the_folder_that_the_node_was_started_in(shared, tmp_path, monkeypatch):
    shadow = tmp_path / "elsewhere" / "dicom_gam"  # such as the folder above a checkout
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(shadow.parent)
    with Node(shared(), process):
        assert len(receiver_pids()) == 2


@pytest.mark.requirement("DOOR-14")
def test_a_receiver_that_dies_is_replaced_and_the_loss_is_on_record(shared):
    configured = shared()
    with Node(configured, process) as node:
        before = set(receiver_pids())
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(set(receiver_pids()) - before) == 1 and events(configured, "receiver.lost"), 20)
        assert store(node.port, [image(uid) for uid in uids(3)]) == [0x0000] * 3
        assert node.wait_idle(20)
        assert node.job_counts()[JobState.DONE] == 3


def test_what_keeps_a_receiver_from_starting_is_told_in_its_own_words(settings, tmp_path):
    files = {"certificate": tmp_path / "no.pem", "key": tmp_path / "no.key"}
    table = settings(node={"receivers": 1}).model_copy(update={"tls": settings().tls.model_copy(update=files)})
    with pytest.raises(ConfigError, match=r"no\.(pem|key)"):
        Node(table, process).start()
    assert receiver_pids() == []

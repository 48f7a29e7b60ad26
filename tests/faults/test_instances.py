"""Faults within a C-STORE request that the node must see through without decoding anything."""

from __future__ import annotations

import io
import re

import pytest
from blake3 import blake3

from tests.faults.table import fault
from tests.faults.wire import CR, Wire, message, pdu, small_image, store_command
from tests.service.fakes import CT, image, save, storescu, uids, until

HASHED = re.compile(r"[0-9a-f]{32,64}\.dcm")


def store(node, uid: str, dataset: bytes, sop_class_uid: str = CR) -> int | None:
    with Wire(node.port) as wire:
        wire.associate()
        status = wire.store(uid, dataset, sop_class_uid=sop_class_uid)
        if status is not None:
            wire.release()
    return status


def everything(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.requirement("DOOR-11")
@pytest.mark.parametrize(
    "uid",
    [
        pytest.param("../../x", marks=fault("SOP Instance UID `../../x`")),
        pytest.param("/etc/x", marks=fault("SOP Instance UID `/etc/x`")),
        pytest.param("", marks=fault("an empty SOP Instance UID")),
    ],
)
def test_a_uid_that_is_none_is_refused_and_names_no_file(door, observed, uid):
    outside = door.storage.parent
    before = {name for name in everything(outside) if not name.startswith("node/")}
    kept = set(door.inbox())
    status = store(door, uid, small_image(uid))
    assert status is not None
    assert status != 0x0000
    assert {name for name in everything(outside) if not name.startswith("node/")} == before
    assert set(door.inbox()) == kept
    until(lambda: door.events("instance.refused"))
    if uid:
        assert uid not in (door.storage / "audit.jsonl").read_text()
    observed(f"{status:04X}, nothing stored, no file anywhere, audited")


@pytest.mark.requirement("DOOR-11")
def test_files_are_named_by_us_and_never_by_the_wire(door):
    (uid,) = uids(1, "named")
    assert store(door, uid, small_image(uid)) == 0x0000
    until(lambda: door.job(uid))
    assert all(HASHED.fullmatch(path.name) for path in door.inbox())
    assert not any(uid in str(path) for path in door.storage.rglob("*"))


@pytest.mark.requirement("DOOR-12")
@fault("UIDs that differ between command and data set")
@pytest.mark.parametrize("what", ["instance", "class"])
def test_uids_that_differ_are_refused(door, observed, what):
    (uid, other) = uids(2, f"differ {what}")
    dataset = small_image(other) if what == "instance" else small_image(uid, sop_class_uid=CT)
    status = store(door, uid, dataset)
    assert status == 0xA900
    assert door.job(uid) is None
    observed(f"{status:04X} ({what})")


@pytest.mark.requirement("STO-05")
@fault("the same instance again, the same bytes")
def test_the_same_instance_again_is_answered_and_not_processed_twice(door, tmp_path, observed):
    (uid,) = uids(1, "again")
    file = save(image(uid), tmp_path / "a.dcm")
    for _ in range(3):
        sent = storescu(door.port, file, options=())
        assert sent.returncode == 0, sent.stderr
    door.wait_idle()
    (job,) = [job for job in door.jobs() if job.instance.sop_instance_uid == uid]
    assert (job.state, job.attempts) == ("done", 1)
    assert sum(keys["sop_instance_uid"] == uid for keys in door.events("instance.duplicate")) == 2
    observed("3 times Success, one job, one file, processed once")


@pytest.mark.requirement("STO-06")
@fault("the same SOP Instance UID, other bytes")
def test_other_bytes_under_the_same_uid_are_kept_apart_with_an_alarm(door, observed):
    (uid,) = uids(1, "conflict")
    first, second = small_image(uid, shade=1), small_image(uid, shade=2)
    statuses = [store(door, uid, first), store(door, uid, second)]
    door.wait_idle()
    jobs = sorted((job for job in door.jobs() if job.instance.sop_instance_uid == uid), key=lambda job: job.state)
    assert statuses == [0x0000, 0x0000]
    assert [job.state for job in jobs] == ["done", "quarantined"]
    for job, dataset in zip(jobs, (first, second), strict=True):
        content = job.instance.path.read_bytes()
        assert content.endswith(dataset)
        assert blake3(content).hexdigest() == job.instance.digest
    assert [keys["sop_instance_uid"] for keys in door.events("instance.quarantined")].count(uid) == 1
    assert re.search(rf"WARNING.*instance\.quarantined.*{re.escape(uid)}", door.log())
    observed("both Success and both files kept; the first done, the second quarantined; alarm in log and audit")


def nothing_half_written(node) -> None:
    until(lambda: not [path for path in node.inbox() if not HASHED.fullmatch(path.name)])


@pytest.mark.requirement("DOOR-13")
@fault("abort in mid-store")
def test_an_abort_in_mid_store_leaves_nothing(door, observed):
    (uid,) = uids(1, "abort")
    half = message(store_command(uid), small_image(uid, side=400))[:100_000]
    kept = set(door.inbox())
    with Wire(door.port) as wire:
        wire.associate()
        end = half.rfind(pdu(4, b"")[:2])
        wire.send(whole_pdus(half))
        wire.send(bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        assert wire.ended() == "closed"
    assert end > 0
    nothing_half_written(door)
    assert set(door.inbox()) == kept
    assert door.job(uid) is None
    assert store(door, uid, small_image(uid, side=400)) == 0x0000
    observed("no file, no job; sent again it is Success")


@pytest.mark.requirement("DOOR-13")
@fault("a connection torn in mid-store")
def test_a_torn_connection_in_mid_store_leaves_nothing(door, observed):
    (uid,) = uids(1, "torn")
    kept, aborted = set(door.inbox()), len(door.events("association.aborted"))
    with Wire(door.port) as wire:
        wire.associate()
        wire.send(message(store_command(uid), small_image(uid, side=400))[:100_000])
    until(lambda: len(door.events("association.aborted")) > aborted)
    until(lambda: set(door.inbox()) == kept)
    assert door.job(uid) is None
    observed("no file, no job")


def whole_pdus(content: bytes) -> bytes:
    end = 0
    while end + 6 <= len(content):
        length = int.from_bytes(content[end + 2 : end + 6], "big")
        if end + 6 + length > len(content):
            break
        end += 6 + length
    return content[:end]


def test_the_raw_sender_makes_what_pydicom_reads():
    from pydicom import dcmread  # noqa: PLC0415

    ds = dcmread(io.BytesIO(small_image("1.2.3")), force=True)
    assert (ds.SOPInstanceUID, len(ds.PixelData)) == ("1.2.3", 256)

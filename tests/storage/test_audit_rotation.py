"""The log goes on in new files, whoever writes, whatever the disk does, wherever it is killed."""

import errno
import itertools
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dicom_gam.errors import AuditError, StorageError
from dicom_gam.storage.audit import AuditLog, records
from dicom_gam.storage.audit_reader import START, AuditReader
from dicom_gam.storage.audit_segments import segment_path
from dicom_gam.storage.audit_signing import PublicKeys, Signer
from dicom_gam.storage.audit_verification import verify_log
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from tests.storage.made_audit_log import NOON, MemoryHead, Ticking

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = PublicKeys([KEY.public_key()])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def head():
    return MemoryHead()


def opened(path, head, segment_bytes=600, clock=None):
    log = AuditLog(path, head, clock or Ticking())
    if segment_bytes:
        log.sign_with(Signer(KEY), segment_bytes)
    return log


def write(path, head, count, segment_bytes=600):
    log = opened(path, head, segment_bytes)
    for number in range(count):
        log.append("event", number=number)
    log.close()


@pytest.mark.requirement("AUD-10")
def test_a_file_that_has_grown_is_closed_by_a_signature_and_the_next_goes_on(path, head):
    write(path, head, 12)
    names = sorted(file.name for file in path.parent.iterdir())
    assert names[0] == "audit-000000000001.jsonl"
    assert names[-1] == "audit.jsonl"
    for name in names[:-1]:
        lines = path.with_name(name).read_bytes().splitlines()
        assert json.loads(lines[0])["number"] == int(name[6:18])
        assert json.loads(lines[-1])["event"] == "audit.checkpoint"
    found = verify_log(path, head.mark, TRUSTED)
    assert (found.files, found.records) == (len(names), head.mark.number)
    assert [record["number"] for record in records(path)] == list(range(1, head.mark.number + 1))
    assert head.mark.segment == json.loads(path.read_bytes().splitlines()[0])["number"]


@pytest.mark.requirement("AUD-10")
def test_every_backend_knows_in_which_file_the_log_ends(backend, path):
    write(path, backend.head, 12)
    again = backend.reopen()
    write(path, again.head, 12)
    mark = again.head.read()
    assert mark.segment > 1
    assert verify_log(path, mark, TRUSTED).records == mark.number


@pytest.mark.requirement("AUD-04")
def test_a_writer_without_the_key_goes_on_in_the_new_file(path, head):
    node, other = opened(path, head), opened(path, head, segment_bytes=0)
    for _ in range(12):
        node.append("node")
        other.append("other")
    node.close()
    other.close()
    found = verify_log(path, head.mark, TRUSTED)
    assert found.files > 2
    assert sum(record["event"] == "other" for record in records(path)) == 12
    assert not any(record["event"] == "audit.recovered" for record in records(path))


@pytest.mark.requirement("AUD-04")
def test_processes_that_append_while_one_changes_files_give_one_chain_that_a_reader_follows(path):
    Database(path.parent / "node.sqlite").close()
    command = [sys.executable, "-m", "tests.storage.audit_processes", "append", str(path.parent)]
    writers = [subprocess.Popen([*command, *more], cwd=ROOT) for more in (["20"], ["20"], ["30", "1500"])]
    reader, place, seen = AuditReader(path), START, []
    try:
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                found, place = reader.read(place, 7)
                seen += found
    finally:
        for writer in writers:
            writer.wait(60)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    seen += reader.read(place, 1000)[0]
    database = Database(path.parent / "node.sqlite")
    verified = verify_log(path, SqliteAuditHead(database).read(), TRUSTED)
    database.close()
    assert verified.files > 3
    assert [record.number for record in seen] == list(range(1, verified.records + 1))
    assert sum(record.event == "event" for record in seen) == 70


@pytest.mark.requirement("AUD-11")
def test_a_kill_at_any_step_of_a_change_of_files_loses_nothing_that_was_promised(tmp_path):
    command = [sys.executable, "-m", "tests.storage.audit_processes", "crash", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    looks = json.loads(done.stdout)
    assert sum(look["died"] for look in looks) > 15
    for look in looks:
        assert look["kept"][: len(look["told"])] == look["told"], look
        assert (look["read"], look["left"]) == (True, []), look
        assert look["records"] >= look["last"] > look["before"] >= 3 + len(look["told"]), look


@pytest.mark.requirement("AUD-11")
def test_a_second_name_that_a_kill_has_left_is_neither_read_twice_nor_kept(path, head):
    write(path, head, 2, segment_bytes=0)
    os.link(path, segment_path(path, 1))
    assert verify_log(path, head.mark).records == 2
    assert len(AuditReader(path).read(START, 10)[0]) == len(list(records(path))) == 2
    write(path, head, 1, segment_bytes=0)
    assert not segment_path(path, 1).exists()
    assert verify_log(path, head.mark).records == 3


@pytest.mark.parametrize("step", ["link", "replace"])
def test_a_disk_that_will_not_have_a_new_file_leaves_the_log_growing_in_the_old_one(path, head, monkeypatch, step):
    log = opened(path, head)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        for _ in range(8):
            log.append("event")
    log.close()
    assert [file.name for file in path.parent.iterdir()] == ["audit.jsonl"]
    assert sum(record["event"] == "event" for record in records(path)) == 8
    assert sum(record["event"] == "audit.checkpoint" for record in records(path)) <= 1
    write(path, head, 4)
    assert verify_log(path, head.mark, TRUSTED).files > 1


def test_a_disk_that_is_full_at_the_change_of_files_leaves_the_log_as_it_was(path, head, monkeypatch):
    log = opened(path, head, segment_bytes=400)
    log.append("event")
    log.append("event")
    log.append("event")
    before, real = {file.name: file.read_bytes() for file in path.parent.iterdir()}, os.write

    def short(fd, view):
        if len(view) > 10:
            return real(fd, view[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, view: short(fd, view[:20] if len(view) > 20 else b""))
        with pytest.raises(StorageError, match="No space left"):
            log.append("event")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    log.append("event")
    log.close()
    found = verify_log(path, head.mark, TRUSTED)
    assert found.files == 2
    assert sum(record["event"] == "event" for record in records(path)) == 4


@pytest.mark.requirement("AUD-03")
def test_a_half_written_first_record_of_a_new_file_is_moved_aside(path, head):
    log = opened(path, head, segment_bytes=10**9)
    log.append("event")
    log.checkpoint()
    log.close()
    path.rename(segment_path(path, 1))
    path.write_bytes(b'{"event":"half')
    write(path, head, 1, segment_bytes=0)
    assert verify_log(path, head.mark, TRUSTED).records == 4
    third, fourth = list(records(path))[-2:]
    assert (third["event"], third["keys"]["torn_bytes"]) == ("audit.recovered", 14)
    assert (path.parent / third["keys"]["torn_file"]).read_bytes() == b'{"event":"half'
    assert (fourth["event"], head.mark.segment) == ("event", 3)


def test_a_half_written_record_after_the_last_promised_one_is_no_tampering(path, head):
    write(path, head, 12)
    with path.open("ab") as file:
        file.write(b'{"event":"half')
    assert verify_log(path, head.mark, TRUSTED).torn_bytes == 14


def test_a_database_that_is_older_than_the_files_is_refused_and_nothing_moved_aside(path, head):
    write(path, head, 3)
    old = head.mark
    write(path, head, 20)
    before = path.read_bytes()
    for mark in (old, None):
        head.mark = mark
        with pytest.raises(AuditError, match="older than the log"):
            AuditLog(path, head)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.torn*"))


def test_a_log_that_vanishes_while_it_is_written_is_told_and_not_begun_anew(path, head):
    log = opened(path, head)
    log.append("one")
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(AuditError) as caught:
        log.append("two")
    assert caught.value.record == 1
    log.close()


@pytest.mark.requirement("AUD-12")
def test_a_clock_that_steps_back_is_told_before_the_event(path, head):
    times = itertools.chain(
        [NOON, NOON - timedelta(milliseconds=900), NOON - timedelta(hours=1)], itertools.repeat(NOON)
    )
    log = AuditLog(path, head, lambda: next(times))
    for name in ("one", "a little back", "an hour back", "right again"):
        log.append(name)
    log.close()
    events = [(record["event"], record["keys"]) for record in records(path)]
    assert [name for name, _ in events] == [
        "one",
        "a little back",
        "audit.clock_went_back",
        "an hour back",
        "right again",
    ]
    assert events[2][1] == {"by_s": 3599.1}
    assert verify_log(path, head.mark).records == 5


@pytest.mark.requirement("AUD-12")
def test_a_clock_that_went_back_between_two_processes_or_files_is_told_too(path, head):
    write(path, head, 12)
    log = AuditLog(path, head, lambda: NOON - timedelta(days=1))
    log.append("event")
    log.close()
    assert [record["event"] for record in records(path)][-2:] == ["audit.clock_went_back", "event"]

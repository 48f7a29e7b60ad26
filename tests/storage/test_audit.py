import errno
import fcntl
import hashlib
import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dicom_gam.errors import AuditError, StorageError
from dicom_gam.storage.audit import GENESIS, AuditLog, records, verify
from dicom_gam.storage.rows import HeadMark
from tests.storage.made_audit_log import NOON, MemoryHead


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def head():
    return MemoryHead()


def write(path, head, count):
    log = AuditLog(path, head, clock=lambda: NOON)
    for number in range(1, count + 1):
        log.append("job.result", job_id=f"job {number}", score=number / 8)
    log.close()


def test_a_record_is_one_canonical_line_with_the_digest_of_the_line_before(path, head):
    write(path, head, 2)
    first, second = path.read_bytes().splitlines()
    assert first == (
        b'{"event":"job.result","keys":{"job_id":"job 1","score":0.125},"number":1,'
        b'"previous":"' + b"0" * 64 + b'","time":"2026-01-02T12:00:00.250Z"}'
    )
    assert json.loads(second)["previous"] == hashlib.sha256(first).hexdigest()
    assert head.mark == HeadMark(2, hashlib.sha256(second).hexdigest(), len(first) + 1, path.stat().st_size)


def test_an_untouched_log_verifies_and_goes_on_after_reopening(path, head):
    write(path, head, 3)
    write(path, head, 2)
    assert verify(path, head.mark) == 5
    assert [record["number"] for record in records(path)] == [1, 2, 3, 4, 5]


def test_every_backend_keeps_the_head(backend, path):
    write(path, backend.head, 3)
    assert verify(path, backend.reopen().head.read()) == 3


def test_a_log_that_nobody_wrote_to_is_whole(path, head):
    write(path, head, 0)
    assert verify(path, head.mark) == 0


@pytest.mark.requirement("AUD-01")
@hypothesis_settings(max_examples=50, deadline=None)  # fsync takes as long as it takes
@given(st.integers(1, 6), st.data())
def test_any_changed_byte_is_found_in_its_own_record(tmp_path_factory, number, data):
    path, head = tmp_path_factory.mktemp("audit") / "audit.jsonl", MemoryHead()
    write(path, head, 6)
    lines = path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines[number - 1]) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != lines[number - 1][place]))
    edited = bytearray(lines[number - 1])
    edited[place] = value
    lines[number - 1] = bytes(edited)
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditError) as caught:
        verify(path, head.mark)
    assert caught.value.record == number


@pytest.mark.requirement("AUD-01")
def test_an_edit_with_the_chain_mended_after_it_is_found_by_the_head(path, head):
    write(path, head, 3)
    forged = MemoryHead()
    other = path.with_name("other.jsonl")
    log = AuditLog(other, forged, clock=lambda: NOON)
    for number in range(1, 4):
        log.append("job.result", job_id=f"job {number}", score=0.5)
    log.close()
    path.write_bytes(other.read_bytes())
    with pytest.raises(AuditError, match="not the one that was written") as caught:
        verify(path, head.mark)
    assert caught.value.record == 3


@pytest.mark.requirement("AUD-01")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_deleted_record_is_named(path, head, number):
    write(path, head, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number - 1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditError, match="missing, inserted or out of order") as caught:
        verify(path, head.mark)
    assert caught.value.record == number


@pytest.mark.requirement("AUD-01")
def test_two_records_that_changed_places_are_found_at_the_first(path, head):
    write(path, head, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditError) as caught:
        verify(path, head.mark)
    assert caught.value.record == 2


@pytest.mark.requirement("AUD-01")
def test_an_inserted_record_is_found_where_the_chain_goes_on(path, head):
    write(path, head, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(2, lines[1])
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditError) as caught:
        verify(path, head.mark)
    assert caught.value.record == 3


@pytest.mark.requirement("AUD-01")
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_cut_end_is_found_by_the_head_and_the_first_missing_record_is_named(path, head, kept):
    write(path, head, 4)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    with pytest.raises(AuditError, match="its end was cut off") as caught:
        verify(path, head.mark)
    assert caught.value.record == kept + 1


@pytest.mark.requirement("AUD-01")
def test_a_missing_log_is_found_by_the_head(path, head):
    write(path, head, 2)
    path.unlink()
    with pytest.raises(AuditError) as caught:
        verify(path, head.mark)
    assert caught.value.record == 1


@pytest.mark.parametrize("kept", [0, 2])
def test_a_cut_log_is_not_written_on(path, head, kept):
    write(path, head, 3)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    with pytest.raises(AuditError) as caught:
        AuditLog(path, head)
    assert caught.value.record == kept + 1


def test_a_log_whose_last_record_was_edited_is_not_written_on(path, head):
    write(path, head, 2)
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75"))
    with pytest.raises(AuditError) as caught:
        AuditLog(path, head)
    assert caught.value.record == 2


def test_a_log_that_is_cut_while_the_node_runs_stops_the_node_from_recording(path, head):
    log = AuditLog(path, head)
    log.append("one")
    log.append("two")
    os.truncate(path, 20)
    with pytest.raises(AuditError):
        log.append("three")
    log.close()


@pytest.mark.requirement("AUD-03")
def test_a_half_written_record_is_moved_aside_and_the_log_says_so(path, head):
    write(path, head, 2)
    with path.open("ab") as file:
        file.write(b'{"event":"job.res')
    log = AuditLog(path, head)
    log.close()
    assert verify(path, head.mark) == 3
    last = list(records(path))[-1]
    assert (last["event"], last["keys"]["torn_bytes"]) == ("audit.recovered", 17)
    assert (path.parent / last["keys"]["torn_file"]).read_bytes() == b'{"event":"job.res'


@pytest.mark.requirement("AUD-03")
def test_blocks_of_zeros_after_a_power_cut_are_moved_aside(path, head):
    write(path, head, 2)
    with path.open("ab") as file:
        file.write(b"\0" * 50 + b"\n" + b"\0" * 50)
    AuditLog(path, head).close()
    assert verify(path, head.mark) == 3


def test_records_ahead_of_the_head_are_kept_as_a_crash_between_the_two_leaves_them(path, head):
    write(path, head, 2)
    mark = head.mark
    write(path, head, 1)
    head.mark = mark
    assert verify(path, head.mark) == 3
    AuditLog(path, head).close()
    assert verify(path, head.mark) == 4
    assert list(records(path))[-1]["keys"] == {"records_ahead_of_head": 1}


@pytest.mark.requirement("AUD-02")
def test_a_disk_that_is_full_leaves_the_log_as_it_was(path, head, monkeypatch):
    log = AuditLog(path, head)
    log.append("one")
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", _one_short_write_then(errno.ENOSPC, real))
    with pytest.raises(StorageError, match="No space left"):
        log.append("two")
    monkeypatch.setattr(os, "write", real)
    assert path.read_bytes() == before
    assert log.append("two") == 2
    log.close()
    assert verify(path, head.mark) == 2


def _one_short_write_then(number, real):
    calls = []

    def write_some(fd, view):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return real(fd, view[:10])

    return write_some


def test_a_head_that_can_not_be_written_takes_the_record_back(path, head):
    log = AuditLog(path, head)
    log.append("one")
    head.broken = True
    with pytest.raises(StorageError, match="database is locked"):
        log.append("two")
    head.broken = False
    assert log.append("three") == 2
    log.close()
    assert [record["event"] for record in records(path)] == ["one", "three"]


@pytest.mark.requirement("AUD-02")
def test_a_record_is_synced_before_append_returns(path, head, monkeypatch):
    log = AuditLog(path, head)
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(path.stat().st_size), real(fd)))
    log.append("one")
    assert synced == [path.stat().st_size]
    log.close()


@pytest.mark.requirement("AUD-04")
def test_threads_that_append_at_once_give_one_chain(path, head):
    log = AuditLog(path, head)
    numbers, lock = [], threading.Lock()

    def work(name):
        for count in range(10):
            number = log.append("event", thread=name, count=count)
            with lock:
                numbers.append(number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(numbers) == list(range(1, 81))
    assert verify(path, head.mark) == 80


@pytest.mark.requirement("AUD-04")
def test_two_writers_of_one_file_take_turns(path, head):
    one, two = AuditLog(path, head), AuditLog(path, head)
    for log in (one, two, two, one):
        log.append("event")
    one.close()
    two.close()
    assert verify(path, head.mark) == 4


@pytest.mark.requirement("AUD-04")
def test_a_record_waits_for_another_process_that_is_writing(path, head):
    log = AuditLog(path, head)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=log.append, args=("event",))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        fcntl.flock(other, fcntl.LOCK_UN)
    thread.join(5)
    assert verify(path, head.mark) == 1
    log.close()


def test_a_number_that_json_can_not_hold_is_refused_without_a_trace(path, head):
    log = AuditLog(path, head)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append("event", score=float("nan"))
    assert log.append("event") == 1
    log.close()


def test_a_closed_log_says_so(path, head):
    log = AuditLog(path, head)
    log.close()
    with pytest.raises(StorageError, match="closed"):
        log.append("event")


def test_the_first_record_follows_sixty_four_zeros(path, head):
    write(path, head, 1)
    assert next(records(path))["previous"] == GENESIS == "0" * 64


def test_cut_by_a_newline_only_the_log_is_not_whole(path, head):
    write(path, head, 2)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(AuditError, match="cut in the middle") as caught:
        verify(path, head.mark)
    assert caught.value.record == 2

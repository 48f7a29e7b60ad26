from __future__ import annotations

import json
import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.audit_index import INDEX_FILE, AuditIndex
from dicom_gam.storage.sqlite import Database, SqliteAuditHead

STUDY, IMAGE, TWIN = "2.25.11", "2.25.12", "2.25.13"
FIRST = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Clock:
    """A clock that goes on by a minute at each look, and can be set."""

    def __init__(self) -> None:
        self.now = FIRST

    def __call__(self) -> datetime:
        now, self.now = self.now, self.now + timedelta(minutes=1)
        return now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(tmp_path, clock):
    database = Database(tmp_path / "node.sqlite")
    made = AuditLog(tmp_path / "audit.jsonl", SqliteAuditHead(database), clock)
    yield made
    made.close()
    database.close()


@pytest.fixture
def index(tmp_path, log):
    made = AuditIndex(tmp_path)
    yield made
    made.close()


def a_job(log, job="a" * 32, image=IMAGE, study=STUDY):
    """What a node records about an image, the study only once the image is decoded."""
    source = {"sop_instance_uid": image, "study_instance_uid": study}
    log.append("instance.stored", job_id=job, sop_instance_uid=image, calling_ae_title="ROOM_1")
    log.append("job.started", job_id=job, attempt=1)
    log.append("job.result", job_id=job, outcome="PASS", input=source, outputs=[{"sop_instance_uid": f"{image}.1"}])
    log.append("delivery.sent", job_id=job, destination="pacs", sop_instance_uid=f"{image}.1")
    log.append("access.looked", what="job", job_id=job, by="rad")


def numbers(records):
    return [record.number for record in records]


@pytest.mark.requirement("DOS-01")
def test_a_study_has_every_record_of_its_jobs_from_before_it_was_known_until_after_it_was_sent(log, index):
    log.append("node.started")
    a_job(log)
    a_job(log, "b" * 32, "2.25.50", "2.25.51")
    log.append("instance.duplicate", job_id="a" * 32, sop_instance_uid=IMAGE)
    log.append("instance.quarantined", job_id="c" * 32, sop_instance_uid=IMAGE)
    log.append("job.reprocessing", job_id="d" * 32, predecessor="a" * 32, sop_instance_uid=IMAGE)
    log.append("job.result", job_id="d" * 32, input={"sop_instance_uid": IMAGE, "study_instance_uid": STUDY})
    log.append("retention.purged", what="images", job_ids=["a" * 32, "b" * 32])
    log.append("access.looked", what="study", study_instance_uid=STUDY, by="rad")
    expected = [2, 3, 4, 5, 6, 12, 13, 14, 15, 16, 17]
    assert numbers(index.of_study(STUDY)) == expected
    assert numbers(index.of_job("a" * 32)) == expected[:-1]  # a look at the whole study names no job
    assert index.of_study("2.25.404") == []


@pytest.mark.requirement("DOS-01")
def test_what_is_logged_after_an_answer_is_in_the_next_one(log, index):
    a_job(log)
    assert len(index.of_study(STUDY)) == 5
    log.append("access.looked", what="study", study_instance_uid=STUDY, by="rad")
    assert [record.event for record in index.of_study(STUDY)][-1] == "access.looked"


def test_a_search_takes_event_text_time_and_page_together_and_answers_newest_first(log, index):
    for number in range(10):
        log.append("access.looked" if number % 2 else "access.login", by="rad" if number < 6 else "boss")
    assert numbers(index.search()) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert numbers(index.search(event="access.looked", limit=2)) == [10, 8]
    assert numbers(index.search(event="access.looked", limit=2, before=8)) == [6, 4]
    assert numbers(index.search(event="access.")) == numbers(index.search())
    assert numbers(index.search(text="boss")) == [10, 9, 8, 7]
    assert numbers(index.search(text="bo")) == [10, 9, 8, 7]  # nobody is called so: a beginning
    since, until = (FIRST + timedelta(minutes=minute) for minute in (2, 5))
    assert numbers(index.search(since=since.timestamp(), until=until.timestamp())) == [5, 4, 3]
    assert numbers(index.search(event="access.looked", text="rad", since=since.timestamp())) == [6, 4]
    assert index.search(text="%' OR 1=1 --") == []
    assert index.events() == ["access.login", "access.looked"]


@pytest.mark.requirement("DOS-02")
def test_a_clock_that_steps_back_hides_no_record_from_a_span_of_time(log, index, clock):
    for _ in range(5):
        log.append("node.started")
    clock.now = FIRST - timedelta(minutes=3)
    for _ in range(5):
        log.append("node.stopped")
    since, until = (FIRST + timedelta(minutes=minute) for minute in (-2, 2))
    span = {"since": since.timestamp(), "until": until.timestamp()}
    assert numbers(index.search(**span)) == [11, 10, 9, 8, 2, 1]  # 6 says that the clock went back
    assert numbers(index.between(**span)) == [1, 2, 8, 9, 10, 11]
    assert numbers(index.between()) == list(range(1, 12))
    assert list(index.between(until=(FIRST - timedelta(days=1)).timestamp())) == []
    assert list(index.between(since=(FIRST + timedelta(days=1)).timestamp())) == []


def _write_garbage(path: Path) -> None:
    path.write_bytes(b"no database at all " * 1000)


def _spoil_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def _drop_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE mentions")
    connection.close()


def _other_layout(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE records; PRAGMA user_version = 99;")
    connection.close()


@pytest.mark.requirement("DOS-03")
@pytest.mark.parametrize("spoil", [_write_garbage, _spoil_pages, _drop_table, _other_layout, Path.unlink])
def test_an_index_that_is_damaged_or_of_another_layout_is_built_anew(tmp_path, log, spoil):
    a_job(log)
    first = AuditIndex(tmp_path)
    assert first.catch_up() == 5
    first.close()
    spoil(tmp_path / INDEX_FILE)
    again = AuditIndex(tmp_path)
    assert numbers(again.of_study(STUDY)) == [1, 2, 3, 4, 5]
    again.close()


@pytest.mark.requirement("DOS-03")
def test_an_index_of_another_log_is_built_anew(tmp_path, log, index):
    a_job(log)
    assert len(index.of_study(STUDY)) == 5
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])
    last["keys"]["by"] = "sly"  # of the same length and with the same number, but not the record that was
    lines[-1] = json.dumps(last, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    assert numbers(index.search(text="sly")) == [5]
    assert index.search(text="rad") == []


def test_a_closed_index_says_so(tmp_path, log):
    made = AuditIndex(tmp_path)
    made.close()
    with pytest.raises(StorageError, match="is closed"):
        made.search()


def _catch_up(folder: Path, counts) -> None:
    made = AuditIndex(folder)
    counts.put(made.catch_up())
    made.close()


@pytest.mark.requirement("DOS-04")
def test_processes_that_catch_up_at_once_take_each_record_in_once(tmp_path, log):
    log.extend([("access.looked", {"by": f"reader {number}", "job_id": "a" * 32}) for number in range(9000)])
    context = multiprocessing.get_context("fork")
    counts = context.Queue()
    others = [context.Process(target=_catch_up, args=(tmp_path, counts)) for _ in range(3)]
    for other in others:
        other.start()
    total = sum(counts.get(timeout=60) for _ in others)
    for other in others:
        other.join(60)
    assert total == 9000
    made = AuditIndex(tmp_path)
    assert made.catch_up() == 0
    assert len(made.of_job("a" * 32)) == 9000
    made.close()

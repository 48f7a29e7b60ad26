"""Which images and results may be deleted, as the database knows it."""

from __future__ import annotations

import multiprocessing
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dicom_gam.records import ReceivedInstance
from dicom_gam.storage.rows import Conclusion, Horizon, NewDelivery, NewJob, ResultUse
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.sqlite_retention import SqliteRetention
from dicom_gam.storage.states import DeliveryState, JobEvent, JobState

NEVER = Horizon(-1.0, 0)
EVERYTHING = Horizon(1e12, 10**9)
RESULT = "b" * 64


class Shelf:
    """A database with jobs in whatever states a test needs."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "node.sqlite", busy_timeout_s=5.0)
        self.jobs = SqliteJobQueue(self.database, lambda name: folder / name)
        self.outbox = SqliteOutbox(self.database)
        self.retention = SqliteRetention(self.database)

    def add(self, number: int, uid: str | None = None, *, size: int = 100) -> str:
        name = f"{number:032x}"
        instance = ReceivedInstance(
            Path("x"), "1.2.840.10008.5.1.4.1.1.1", uid or f"1.2.{number}", "1.2.840.10008.1.2.1", name * 2, size
        )
        self.jobs.add(NewJob(name, name, instance, float(number)))
        return name

    def end(self, number: int, event: JobEvent, now: float, *blobs: str, size: int = 100) -> str:
        name = self.add(number, size=size)
        (job,) = self.jobs.claim("w", 1, 60.0, now)
        deliveries = [
            NewDelivery("PACS", "1.2.9", "sr", "1.2.3", f"1.2.{number}.{i}", "1.2.840.10008.1.2.1", blob)
            for i, blob in enumerate(blobs)
        ]
        assert self.jobs.finish(job.lease, Conclusion(event, "X"), deliveries, now)
        return name

    def settle(self, job_id: str, state: DeliveryState, now: float) -> None:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET state = ?, tried_at = ? WHERE job_id = ?", (state.value, now, job_id)
            )

    def purged(self, images: Horizon = NEVER, quarantine: Horizon = NEVER, limit: int = 99) -> list[str]:
        return [image.job_id for image in self.retention.purge(images, quarantine, limit, 5000.0)]


@pytest.fixture
def shelf(tmp_path):
    opened = Shelf(tmp_path)
    yield opened
    opened.database.close()


@pytest.mark.requirement("RET-02")
def test_images_go_oldest_first_once_and_their_rows_stay_marked(shelf):
    late, early = shelf.end(1, JobEvent.FINISH, 200.0), shelf.end(2, JobEvent.SKIP, 100.0)
    assert shelf.purged(Horizon(99.0, 9)) == []
    assert shelf.purged(Horizon(200.0, 9), limit=1) == [early]
    assert shelf.purged(Horizon(200.0, 9)) == [late]
    assert shelf.purged(EVERYTHING, EVERYTHING) == []
    assert shelf.jobs.get(late).purged_at == 5000.0


def test_a_job_that_came_later_than_the_known_age_reaches_stays_whatever_its_time_says(shelf):
    first, _ = shelf.end(1, JobEvent.FINISH, 100.0), shelf.end(2, JobEvent.FINISH, 100.0)
    assert shelf.purged(Horizon(1e9, 1)) == [first]


@pytest.mark.requirement("RET-02")
@pytest.mark.parametrize("event", [JobEvent.GIVE_UP, JobEvent.REJECT])
def test_failed_and_rejected_jobs_keep_their_images_for_the_quarantine_time(shelf, event):
    name = shelf.end(1, event, 100.0)
    assert shelf.purged(images=EVERYTHING) == []
    assert shelf.purged(quarantine=EVERYTHING) == [name]


def test_a_quarantined_image_keeps_for_the_quarantine_time(shelf):
    shelf.end(1, JobEvent.FINISH, 100.0)
    other = shelf.add(2, uid="1.2.1")
    assert shelf.jobs.get(other).state is JobState.QUARANTINED
    assert other not in shelf.purged(images=EVERYTHING)
    assert shelf.purged(quarantine=EVERYTHING) == [other]


@pytest.mark.requirement("RET-01")
def test_an_image_that_waits_or_is_in_work_is_never_purged(shelf):
    shelf.add(1)
    shelf.add(2)
    shelf.jobs.claim("w", 1, 60.0, 10.0)
    assert shelf.purged(EVERYTHING, EVERYTHING) == []
    assert shelf.retention.purge_delivered(10**9, 99, 0.0) == []


@pytest.mark.requirement("RET-01")
@pytest.mark.parametrize("state", sorted(set(DeliveryState) - {DeliveryState.SENT, DeliveryState.DISMISSED}))
def test_nothing_of_an_unsettled_delivery_is_deleted(shelf, state):
    name = shelf.end(1, JobEvent.FINISH, 100.0, RESULT)
    shelf.settle(name, state, 100.0)
    assert shelf.purged(EVERYTHING, EVERYTHING) == []
    assert shelf.retention.purge_delivered(10**9, 99, 0.0) == []
    assert shelf.retention.result_uses([RESULT], EVERYTHING) == {RESULT: ResultUse.NEEDED}
    assert not shelf.retention.release_result(RESULT, EVERYTHING, lambda: pytest.fail("it was removed"))


@pytest.mark.parametrize("state", [DeliveryState.SENT, DeliveryState.DISMISSED])
def test_what_is_sent_or_dismissed_may_go_when_its_time_is_over(shelf, state):
    name = shelf.end(1, JobEvent.FINISH, 100.0, RESULT)
    shelf.settle(name, state, 300.0)
    uses = shelf.retention.result_uses
    assert uses([RESULT], Horizon(299.0, 9)) == {RESULT: ResultUse.NEEDED}
    assert uses([RESULT], Horizon(300.0, 0)) == {RESULT: ResultUse.NEEDED}
    assert uses([RESULT], Horizon(300.0, 1)) == {RESULT: ResultUse.EXPIRED}
    assert shelf.retention.release_result(RESULT, Horizon(300.0, 1), lambda: True)
    assert shelf.purged(EVERYTHING) == [name]


def test_a_result_of_two_deliveries_is_needed_as_long_as_one_of_them_needs_it(shelf):
    old, new = shelf.end(1, JobEvent.FINISH, 100.0, RESULT), shelf.end(2, JobEvent.FINISH, 100.0, RESULT)
    shelf.settle(old, DeliveryState.SENT, 100.0)
    assert shelf.retention.result_uses([RESULT], EVERYTHING) == {RESULT: ResultUse.NEEDED}
    shelf.settle(new, DeliveryState.SENT, 500.0)
    assert shelf.retention.result_uses([RESULT], Horizon(400.0, 9)) == {RESULT: ResultUse.NEEDED}
    assert shelf.retention.result_uses([RESULT], Horizon(500.0, 9)) == {RESULT: ResultUse.EXPIRED}


def test_a_result_without_a_delivery_is_told_apart(shelf):
    assert shelf.retention.result_uses([RESULT], EVERYTHING) == {RESULT: ResultUse.UNKNOWN}


@pytest.mark.requirement("RET-04")
def test_room_is_made_of_delivered_images_alone_oldest_first_and_no_more_than_wanted(shelf):
    names = [shelf.end(number, JobEvent.FINISH, 100.0 + number, RESULT, size=40) for number in (1, 2, 3, 4)]
    shelf.end(5, JobEvent.FINISH, 50.0)  # without a destination: nobody has its result
    shelf.end(6, JobEvent.GIVE_UP, 50.0)
    shelf.end(7, JobEvent.SKIP, 50.0)
    for name in names[:3]:
        shelf.settle(name, DeliveryState.SENT, 200.0)
    purge = shelf.retention.purge_delivered
    assert [image.job_id for image in purge(50, 99, 300.0)] == names[:2]
    assert [image.job_id for image in purge(10**9, 99, 300.0)] == names[2:3]
    assert shelf.jobs.get(names[3]).purged_at is None


def test_marked_images_are_found_among_names_of_files(shelf):
    gone, kept = shelf.end(1, JobEvent.FINISH, 1.0), shelf.end(2, JobEvent.FINISH, 2.0)
    shelf.purged(Horizon(1.0, 9))
    assert [image.blob for image in shelf.retention.purged_among([gone, kept, "f" * 32])] == [gone]


@pytest.mark.requirement("RET-01")
def test_no_delivery_can_be_committed_while_a_result_is_being_removed(shelf, tmp_path):
    def another_writer() -> bool:
        with (
            closing(sqlite3.connect(tmp_path / "node.sqlite", timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")
        return True

    assert shelf.retention.release_result(RESULT, EVERYTHING, another_writer)


def test_images_are_found_by_the_index_of_ended_jobs(shelf):
    seen: list[str] = []
    shelf.database._connection.set_trace_callback(seen.append)
    shelf.purged(EVERYTHING, EVERYTHING)
    shelf.retention.purge_delivered(1, 1, 0.0)
    shelf.database._connection.set_trace_callback(None)
    selects = [statement for statement in seen if statement.startswith("SELECT number")]
    assert len(selects) == 3
    for statement in selects:
        plan = " ".join(row["detail"] for row in shelf.database._connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "USING INDEX ended_jobs" in plan


def test_the_write_ahead_log_of_several_processes_is_given_back(tmp_path):
    shelf = Shelf(tmp_path)
    log = tmp_path / "node.sqlite-wal"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, number)) for number in (1, 2)]
    reader = sqlite3.connect(tmp_path / "node.sqlite")
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()  # a reader that stays keeps SQLite from starting anew
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
            assert writer.exitcode == 0
        grown = log.stat().st_size
        assert grown > 1_000_000
        assert shelf.retention.shorten_log(grown) == grown  # not above the limit: left alone
        assert log.stat().st_size == grown
    finally:
        reader.close()
        for writer in writers:
            writer.kill()
    assert shelf.retention.shorten_log(1000) == grown
    assert log.stat().st_size == 0
    assert sum(shelf.jobs.counts().values()) == 160
    shelf.database.close()


def _write(folder: Path, process: int) -> None:
    shelf = Shelf(folder)
    for number in range(80):
        shelf.add(1000 * process + number)
    shelf.database.close()

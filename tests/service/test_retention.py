"""What the keeper deletes, in which order, and what it makes of crashes, full disks and clocks that jump."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.records import ReceivedInstance
from dicom_gam.sections import RetentionSettings
from dicom_gam.service import retention as retention_module
from dicom_gam.service.retention import LEDGER_FILE, Keeper
from dicom_gam.storage.audit import AuditLog, records
from dicom_gam.storage.blobs import FolderBlobs
from dicom_gam.storage.rows import Conclusion, NewDelivery, NewJob
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.sqlite_retention import SqliteRetention
from dicom_gam.storage.states import JobEvent

DAY = 86400.0
YEAR = 365 * DAY
SIZE = 1000


class House:
    """A storage folder with its keeper, under clocks and a disk that the test moves."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.wall, self.steady, self.free_bytes = 1.9e9, 5000.0, 10**12
        self.settings = RetentionSettings(**settings)
        self.database = Database(folder / "node.sqlite")
        self.audit = AuditLog(folder / "audit.jsonl", SqliteAuditHead(self.database))
        self.inbox, self.results = FolderBlobs(folder / "inbox"), FolderBlobs(folder / "results")
        self.jobs = SqliteJobQueue(self.database, self.inbox.path)
        self.outbox = SqliteOutbox(self.database)
        self.number = 0
        self.start()

    def start(self) -> None:
        """As after a start of the node."""
        self.keeper = Keeper(
            self.settings,
            self.folder,
            SqliteRetention(self.database),
            self.inbox,
            self.results,
            self.audit,
            wall=lambda: self.wall,
            steady=lambda: self.steady,
            free=lambda folder: self.free_bytes,
        )

    def image(self, event: JobEvent = JobEvent.FINISH, *contents: bytes, sent: bool = True) -> str:
        """Take in an image, end its job now, and deliver what came of it."""
        self.number += 1
        name = f"{self.number:032x}"
        blob = self.inbox.write(name, (b"x" * SIZE,))
        instance = ReceivedInstance(
            blob.path, "1.2.840.10008.5.1.4.1.1.1", f"1.2.{self.number}", "1.2.840.10008.1.2.1", blob.digest, SIZE
        )
        self.jobs.add(NewJob(name, name, instance, self.wall))
        (job,) = self.jobs.claim("w", 1, 60.0, self.wall)
        deliveries = [
            NewDelivery("PACS", "1.2.9", "sr", "1.2.3", f"1.2.{self.number}.{i}", "1.2.840.10008.1.2.1", self.keep(c))
            for i, c in enumerate(contents)
        ]
        assert self.jobs.finish(job.lease, Conclusion(event, "X"), deliveries, self.wall)
        if sent:
            for delivery in self.outbox.deliveries(name):
                self.outbox.sent(delivery.delivery_id, 0, "", self.wall)
        return name

    def keep(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        os.utime(self.results.write(name, (content,)).path, (self.wall, self.wall))
        return name

    def passes(self, days: float, *, wall_too: bool = True, look: bool = True) -> None:
        """Let time go by while the node runs, with a round every day."""
        step = min(days, 1.0)
        for _ in range(round(days / step)):
            self.steady += step * DAY
            self.wall += step * DAY * wall_too
            if look:
                self.keeper.look_after()

    @property
    def images(self) -> set[str]:
        return set(self.inbox.names())

    def told(self, event: str = "retention.purged") -> list[dict[str, Any]]:
        return [r["keys"] for r in records(self.folder / "audit.jsonl") if r["event"] == event]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    opened = House(tmp_path, images_days=30, results_days=30, quarantine_days=90)
    opened.keeper.look_after()
    yield opened
    opened.audit.close()
    opened.database.close()


@pytest.mark.requirement("RET-02")
def test_images_and_results_go_after_their_time_and_the_audit_log_says_so(house):
    delivered = house.image(JobEvent.FINISH, b"sr")
    failed = house.image(JobEvent.GIVE_UP)
    house.passes(29)
    assert (house.images, len(list(house.results.names()))) == ({delivered, failed}, 1)
    house.passes(2)
    assert (house.images, list(house.results.names())) == ({failed}, [])
    assert house.jobs.get(delivered).purged_at == pytest.approx(house.wall, abs=DAY)
    image, result = house.told()
    assert image == {"what": "images", "why": "age", "count": 1, "bytes": SIZE, "job_ids": [delivered]}
    assert (result["what"], result["why"], result["count"]) == ("results", "age", 1)
    house.passes(60)
    assert house.images == set()


@pytest.mark.requirement("RET-01")
def test_nothing_unsent_is_ever_deleted_by_age_or_for_room(house):
    waiting = house.image(JobEvent.FINISH, b"sr", sent=False)
    house.passes(400)
    house.free_bytes = 0
    house.keeper.make_room()
    assert house.images == {waiting}
    assert len(list(house.results.names())) == 1
    (told,) = house.told("retention.no_room")
    assert told["wanted_bytes"] == house.settings.make_room_below_bytes


@pytest.mark.requirement("RET-01")
def test_a_dead_letter_is_kept_until_it_is_dismissed(house):
    name = house.image(JobEvent.FINISH, b"sr", sent=False)
    (delivery,) = house.outbox.deliveries(name)
    house.outbox.bury(delivery.delivery_id, 0xA700, "full", house.wall)
    house.passes(40)
    assert house.images == {name}
    house.outbox.dismiss("PACS", house.wall)
    house.passes(1)
    assert house.images == set()


def test_a_result_that_a_second_delivery_shares_stays_for_that_one(house):
    house.image(JobEvent.FINISH, b"same")
    house.passes(20)
    house.image(JobEvent.FINISH, b"same", sent=False)
    house.passes(40)
    assert len(list(house.results.names())) == 1


def test_many_images_go_in_small_steps(house, monkeypatch):
    monkeypatch.setattr(retention_module, "BATCH", 3)
    for _ in range(7):
        house.image()
    house.passes(31)
    assert house.images == set()
    assert [told["count"] for told in house.told()] == [3, 3, 1]


@pytest.mark.requirement("RET-04")
def test_room_is_made_oldest_first_and_only_as_much_as_is_wanted(house):
    names = []
    for _ in range(5):
        names.append(house.image(JobEvent.FINISH, f"sr {len(names)}".encode()))
        house.wall += 1
    house.free_bytes = house.settings.make_room_below_bytes - 2 * SIZE
    house.keeper.make_room()  # `free` does not grow, as on a file system that gives space back late
    assert house.images == set(names[2:])
    assert house.told()[0]["why"] == "room"
    house.free_bytes = house.settings.make_room_below_bytes
    house.keeper.make_room()
    assert house.images == set(names[2:])


def test_that_no_room_can_be_made_is_told_once_until_there_was_room_again(house):
    house.free_bytes = 0
    house.keeper.make_room()
    house.keeper.make_room()
    assert len(house.told("retention.no_room")) == 1
    house.free_bytes = 10**12
    house.keeper.make_room()
    house.free_bytes = 0
    house.keeper.make_room()
    assert len(house.told("retention.no_room")) == 2


@pytest.mark.requirement("RET-02")
def test_a_crash_between_mark_and_file_leaves_a_file_that_the_next_start_deletes(house, monkeypatch):
    name = house.image()
    house.passes(31, look=False)
    house.keeper.look_after()
    assert house.images == {name}  # the first note of the ledger after so long a step is today's
    monkeypatch.setattr(house.inbox, "remove", broken)
    with pytest.raises(StorageError):
        house.passes(31)
    assert house.jobs.get(name).purged_at is not None
    assert house.images == {name}
    monkeypatch.undo()
    house.start()
    house.passes(0.01)
    assert house.images == set()
    assert [told["why"] for told in house.told()] == ["age", "interrupted"]


@pytest.mark.requirement("RET-02")
def test_no_file_goes_without_an_audit_record(house, monkeypatch):
    name = house.image()
    monkeypatch.setattr(house.audit, "append", broken)
    with pytest.raises(StorageError):
        house.passes(31)
    assert house.images == {name}
    monkeypatch.undo()
    house.start()
    house.passes(0.01)
    assert house.images == set()
    assert house.told()[0]["job_ids"] == [name]


@pytest.mark.requirement("RET-03")
def test_a_clock_that_jumps_a_year_ahead_deletes_nothing_early(house):
    name = house.image(JobEvent.FINISH, b"sr")
    house.wall += YEAR
    house.passes(20)
    assert house.images == {name}
    assert len(list(house.results.names())) == 1
    assert [told["seconds"] for told in house.told("retention.clock_jumped")] == [YEAR]
    house.passes(11)
    assert house.images == set()


@pytest.mark.requirement("RET-03")
def test_a_clock_that_jumps_a_year_ahead_while_the_node_is_off_takes_three_days_at_most(house):
    name = house.image()
    house.passes(0.5)
    house.wall += YEAR
    house.steady = 10.0
    house.start()
    house.passes(26)
    assert house.images == {name}
    house.passes(3)
    assert house.images == set()


def test_images_received_under_a_clock_that_lags_a_year_live_their_time_once_it_is_put_right(house):
    house.wall -= YEAR
    house.keeper.look_after()
    name = house.image(JobEvent.FINISH, b"sr")
    house.passes(1)
    house.wall += YEAR
    house.passes(28)
    assert house.images == {name}
    assert [told["seconds"] for told in house.told("retention.clock_jumped")] == [-YEAR, YEAR]
    house.passes(3)
    assert house.images == set()


@pytest.mark.requirement("RET-03")
def test_a_clock_that_stands_still_deletes_nothing(house):
    name = house.image()
    house.passes(100, wall_too=False)
    assert house.images == {name}


def test_a_node_that_is_switched_off_every_night_still_deletes_in_time(house):
    name = house.image()
    for _ in range(32):
        house.passes(0.5)
        house.wall += DAY / 2
        house.steady = 1.0
        house.start()
        house.keeper.look_after()
    assert house.images == set()
    assert house.jobs.get(name).purged_at is not None


def test_a_damaged_ledger_keeps_everything_for_longer(house, caplog):
    name = house.image()
    house.passes(20)
    (house.folder / LEDGER_FILE).write_text('{"elapsed_s": "x"}')
    house.start()
    house.passes(20)
    assert house.images == {name}
    assert "retention.ledger_unreadable" in caplog.text


def test_the_ledger_stays_small(house):
    house.image()
    sizes = []
    for _ in range(8):
        house.keeper._ledger.advance(9, 20 * DAY)
        for _ in range(25):
            house.passes(0.25, look=False)
            house.keeper._ledger.advance(9, 20 * DAY)
        sizes.append((house.folder / LEDGER_FILE).stat().st_size)
    assert sizes[-1] < 1.05 * sizes[4]


def test_a_result_that_no_delivery_ever_named_goes_after_its_time_and_not_before_a_day_of_looking(house):
    house.settings = RetentionSettings(results_days=0)
    house.start()
    house.keep(b"left by a crash")
    house.passes(0.1)
    house.passes(0.5)
    assert len(list(house.results.names())) == 1
    house.passes(1)
    assert list(house.results.names()) == []
    assert house.told()[-1]["why"] == "no delivery"


def test_a_result_that_is_written_anew_while_it_is_being_deleted_stays(house, monkeypatch):
    house.image(JobEvent.FINISH, b"sr")
    house.passes(30.0)
    rename = os.rename

    def write_first(source: Path, target: Path) -> None:
        if str(target).endswith(".going"):
            (name,) = house.results.names()
            house.results.path(name).write_bytes(b"sr")
            os.utime(house.results.path(name), (house.wall, house.wall))
        rename(source, target)

    monkeypatch.setattr(retention_module.os, "rename", write_first)
    house.passes(2)
    assert [house.results.read(name) for name in house.results.names()] == [b"sr"]


@pytest.mark.parametrize("needed", [True, False])
def test_a_result_that_a_crash_left_aside_goes_back_exactly_when_it_is_needed(house, needed):
    house.image(JobEvent.FINISH, b"sr", sent=not needed)
    (name,) = house.results.names()
    path = house.results.path(name)
    house.passes(31, look=False)
    house.keeper.look_after()
    path.rename(path.with_suffix(".going"))
    house.start()
    house.passes(31)
    assert list(house.results.names()) == ([name] if needed else [])
    assert not path.with_suffix(".going").exists()


def test_the_loop_makes_room_without_being_asked_and_goes_on_after_a_failure(house, monkeypatch, caplog):
    monkeypatch.setattr(retention_module, "ROOM_CHECK_S", 0.02)
    name = house.image(JobEvent.FINISH, b"sr")
    house.start()
    house.keeper.loop.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(house.inbox, "remove", broken)
            house.free_bytes = 0
            wait_for(lambda: "retention.failed" in caplog.text)
        house.wall += 1000.0
        house.steady += 1000.0
        wait_for(lambda: name not in house.images)
    finally:
        house.keeper.loop.stop()
        assert house.keeper.loop.join(20)


def test_a_keeper_that_is_killed_leaves_no_job_that_claims_a_file_that_is_gone(tmp_path):
    house = House(tmp_path, images_days=0)
    for _ in range(300):
        house.image()
    for already_gone in (1, 120):
        keeper = multiprocessing.get_context("spawn").Process(target=purge_in_small_steps, args=(tmp_path,))
        keeper.start()
        wait_for(lambda gone=already_gone: len(house.images) <= 300 - gone)
        keeper.kill()
        keeper.join()
        kept = {job.job_id for job in house.jobs.jobs(1000) if job.purged_at is None}
        assert kept <= house.images
        assert kept, "the keeper was done before it was killed"
    house.wall, house.steady = house.wall + 10, house.steady + 10
    house.keeper.look_after()
    house.start()
    house.passes(0.01)
    assert house.images == set()
    assert sum(told["count"] for told in house.told()) >= 300
    house.audit.close()
    house.database.close()


def purge_in_small_steps(folder: Path) -> None:
    retention_module.BATCH = 5
    house = House(folder, images_days=0)
    house.wall += 1
    house.keeper.look_after()


def wait_for(condition) -> None:
    from tests.service.fakes import until  # noqa: PLC0415 (in motion while others work on it)

    until(condition, 20)


def broken(*_: object, **__: object) -> None:
    raise StorageError("the disk is out of order")

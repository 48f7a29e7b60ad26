from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_gam.errors import AuditError, DeliveryError
from dicom_gam.service.audit_follower import LONGEST_WAIT_S, AuditFollower
from dicom_gam.service.store import AUDIT_FILE, DATABASE_FILE
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.audit_reader import AuditRecord, Place
from dicom_gam.storage.sqlite import Database, SqliteAuditHead


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    database = Database(tmp_path / DATABASE_FILE)
    opened = AuditLog(tmp_path / AUDIT_FILE, SqliteAuditHead(database))
    yield opened
    opened.close()
    database.close()


class Receiver:
    """Takes records, or refuses them while it has a failure to give."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.failure: Exception | None = None

    def __call__(self, records: Sequence[AuditRecord]) -> None:
        if self.failure is not None:
            raise self.failure
        self.batches.append([record.number for record in records])

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


@contextmanager
def running(follower: AuditFollower) -> Iterator[AuditFollower]:
    follower.loop.start()
    try:
        yield follower
    finally:
        follower.loop.stop()
        assert follower.loop.join(10)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def follower_of(folder: Path, receiver: Receiver, **options: object) -> AuditFollower:
    return AuditFollower("test", folder, receiver, first_wait_s=0.01, **options)  # type: ignore[arg-type]


@pytest.mark.requirement("ATN-01")
def test_every_record_is_handed_on_once_and_in_order_across_restarts(tmp_path: Path, log: AuditLog) -> None:
    receiver = Receiver()
    for part in range(3):
        log.extend([("thing.happened", {"part": part, "item": item}) for item in range(300)])
        with running(follower_of(tmp_path, receiver, from_start=True)):
            wait_for(lambda wanted=300 * (part + 1): len(receiver.numbers) == wanted)
    assert receiver.numbers == list(range(1, 901))


def test_a_new_follower_begins_with_what_is_recorded_after_it_was_made(tmp_path: Path, log: AuditLog) -> None:
    receiver = Receiver()
    log.append("before")
    follower = follower_of(tmp_path, receiver)
    log.append("after.it_was_made")
    with running(follower):
        wait_for(lambda: receiver.numbers == [2])
        log.append("while.it_runs")
        follower.loop.wake()
        wait_for(lambda: receiver.numbers == [2, 3])


@pytest.mark.requirement("ATN-01")
def test_records_wait_while_the_other_side_is_away_and_come_once_when_it_is_back(
    tmp_path: Path, log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver()
    receiver.failure = DeliveryError("the collector is away: start it")
    log.extend([("thing.happened", {"item": item}) for item in range(5)])
    follower = follower_of(tmp_path, receiver, from_start=True)
    with caplog.at_level(logging.INFO), running(follower):
        wait_for(lambda: "away" in follower.loop.pulse().failure and follower._tries > 2)
        receiver.failure = None
        wait_for(lambda: receiver.numbers == [1, 2, 3, 4, 5])
        wait_for(lambda: not follower.loop.pulse().failure)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith("follower.held") and "collector is away" in line]) == 1
    assert len([line for line in said if line.startswith("follower.works_again")]) == 1


def test_what_was_not_handed_on_before_the_end_comes_at_the_next_start(tmp_path: Path, log: AuditLog) -> None:
    receiver = Receiver()
    receiver.failure = DeliveryError("away")
    log.append("thing.happened")
    follower = follower_of(tmp_path, receiver, from_start=True)
    with running(follower):
        wait_for(lambda: follower._tries > 0)
    receiver.failure = None
    with running(follower_of(tmp_path, receiver)):
        wait_for(lambda: receiver.numbers == [1])


def test_an_error_of_our_own_is_logged_without_its_words_and_held_like_any_other(
    tmp_path: Path, log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver()
    receiver.failure = ValueError("Doe^Jane")
    log.append("thing.happened")
    follower = follower_of(tmp_path, receiver, from_start=True)
    with running(follower):
        wait_for(lambda: follower._tries > 1)
    assert "ValueError" in caplog.text
    assert "Doe" not in caplog.text


def test_waits_grow_and_have_an_end(tmp_path: Path, log: AuditLog) -> None:
    follower = AuditFollower("test", tmp_path, Receiver())
    waits = []
    for _ in range(40):
        follower._again_at = 0.0
        follower._step_failed(DeliveryError("away"))
        waits.append(follower._again_at - time.monotonic())
    assert waits[0] == pytest.approx(1, abs=0.5)
    assert waits[2] == pytest.approx(4, abs=0.5)
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S, abs=0.5)


DAMAGED = [b"", b"{", b"[1]", b"\xff\xfe", b'{"number": 1, "segment": 1}']
DAMAGED += [b'{"number": 1.5, "segment": 1, "offset": 0}', b'{"number": 1, "segment": 1, "offset": -4}']


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.requirement("ATN-01")
def test_a_damaged_place_is_told_and_the_follower_goes_on_with_what_comes(
    tmp_path: Path, log: AuditLog, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    log.append("before")
    (tmp_path / "follower-test.json").write_bytes(content)
    receiver = Receiver()
    follower = follower_of(tmp_path, receiver, from_start=True)
    log.append("after")
    with running(follower):
        wait_for(lambda: receiver.numbers == [2])
    assert "follower.place_lost" in caplog.text
    assert json.loads((tmp_path / "follower-test.json").read_text())["number"] == 3


def test_a_place_that_does_not_fit_the_log_is_told_with_what_to_do(
    tmp_path: Path, log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.append("before")
    (tmp_path / "follower-test.json").write_text('{"number": 7, "segment": 1, "offset": 0}')
    receiver = Receiver()
    follower = follower_of(tmp_path, receiver)
    with running(follower):
        wait_for(lambda: follower._tries > 0)
    assert f"remove {tmp_path / 'follower-test.json'} and start the node again" in caplog.text
    (tmp_path / "follower-test.json").unlink()
    follower = follower_of(tmp_path, receiver)
    log.append("after")
    with running(follower):
        wait_for(lambda: receiver.numbers == [2])


def test_what_is_recorded_after_the_loop_has_ended_is_handed_on_at_the_finish(tmp_path: Path, log: AuditLog) -> None:
    receiver, closed = Receiver(), []
    follower = follower_of(tmp_path, receiver, closing=lambda: closed.append(1))
    with running(follower):
        pass
    log.append("node.stopped")
    follower.finish()
    assert receiver.numbers == [1]
    assert closed == [1]


def test_a_finish_does_not_wait_for_one_who_is_away(tmp_path: Path, log: AuditLog) -> None:
    tried, closed = [], []

    def handle(records: Sequence[AuditRecord]) -> None:
        tried.append(1)
        raise DeliveryError("away")

    follower = AuditFollower("test", tmp_path, handle, closing=lambda: closed.append(1))
    log.append("thing.happened")
    with running(follower):
        wait_for(lambda: follower._tries == 1)
    follower.finish()
    assert (tried, closed) == ([1], [1])


def test_a_log_that_can_not_be_read_is_told_once(
    tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[AuditError] = []
    follower = follower_of(tmp_path, Receiver(), trouble=told.append)

    def read(place: Place, limit: int) -> None:
        raise AuditError("record 3 is bad", 3)

    monkeypatch.setattr(follower._reader, "read", read)
    with running(follower):
        wait_for(lambda: follower._tries > 2)
    assert [error.record for error in told] == [3]


def test_what_is_to_be_done_after_each_step_is_tried_again_without_handing_the_records_on_twice(
    tmp_path: Path, log: AuditLog
) -> None:
    receiver, calls = Receiver(), []

    def then() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise DeliveryError("the mail server is away")

    log.append("thing.happened")
    with running(follower_of(tmp_path, receiver, then=then, from_start=True)):
        wait_for(lambda: len(calls) >= 3)
    assert receiver.numbers == [1]

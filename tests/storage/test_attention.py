"""What waits for a person, and what the node is doing, as storage tells it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_gam.records import ReceivedInstance
from dicom_gam.storage import sqlite_attention, sqlite_now
from dicom_gam.storage.rows import Conclusion, JobFigures, NewDelivery, NewJob, Review, ReviewKind
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_outbox import SqliteOutbox
from dicom_gam.storage.sqlite_oversight import SqliteReviews
from dicom_gam.storage.states import DeliveryState, JobEvent

DAY_S = 86400.0
NOW = 100 * DAY_S


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def arrive(database: Database) -> Callable[..., str]:
    """Add a job; with an outcome it is finished."""
    queue = SqliteJobQueue(database, Path)

    def make(
        outcome: str = "", *, sender: str = "ROOM", at: float = NOW, uid: str = "", predecessor: str = "",
        deliveries: tuple[str, ...] = (),
    ) -> str:  # fmt: skip
        job_id = uuid.uuid4().hex
        uid = uid or f"2.25.{uuid.uuid4().int}"
        instance = ReceivedInstance(Path("x"), "1.2", uid, "1.2.3", f"blake3:{job_id}", 1, sender, "G", "::1")
        queue.add(NewJob(job_id, job_id, instance, at, predecessor=predecessor))
        if outcome:
            [job] = queue.claim("w", 1, 10.0, at)
            event = JobEvent.GIVE_UP if outcome == "ERROR" else JobEvent.FINISH
            figures = None if outcome == "ERROR" else JobFigures("b", "1", "d" * 64)
            rows = [NewDelivery(name, "2.25.1", role, "1.2", f"{uid}.{n}", "1.2.3", "b") for name in deliveries
                    for n, role in enumerate(("sr", "overlay"), 1)]  # fmt: skip
            queue.finish(job.lease, Conclusion(event, outcome, figures=figures), rows, at + 1)
        return job_id

    return make


def bury(database: Database, job_id: str) -> None:
    outbox = SqliteOutbox(database)
    for row in outbox.deliveries(job_id):
        outbox.bury(row.delivery_id, 0xA700, "no space", NOW)


def names(database: Database, **keys: object) -> list[str]:
    return [row.job_id for row in sqlite_attention.open_results(database, **keys).rows]  # type: ignore[arg-type]


@pytest.mark.requirement("WEB-01")
def test_results_wait_until_a_closing_review_and_not_for_agreement_or_comment(database, arrive):
    fail, reject = arrive("FAIL"), arrive("REJECT")
    arrive("PASS")
    reviews = SqliteReviews(database)
    reviews.add(Review(fail, ReviewKind.AGREE, "r", NOW))
    reviews.add(Review(fail, ReviewKind.COMMENT, "r", NOW))
    assert names(database) == [reject, fail]
    reviews.add(Review(reject, ReviewKind.DISMISSED, "r", NOW))
    reviews.add(Review(fail, ReviewKind.OVERRIDDEN, "r", NOW))
    assert names(database) == []


@pytest.mark.requirement("WEB-01")
def test_an_image_that_was_processed_again_waits_by_its_latest_job_alone(database, arrive):
    first = arrive("ERROR", uid="2.25.7")
    again = arrive("FAIL", uid="2.25.7", predecessor=first)
    assert names(database) == [again]
    assert not sqlite_attention.needs_attention(database, first)
    other = arrive(uid="2.25.7")  # other bytes under the same UID
    assert names(database) == [other, again]
    assert names(database, outcomes=["QUARANTINED"]) == [other]


@pytest.mark.parametrize("walk", [1, 2, 100])
def test_pages_follow_each_other_without_gap_or_repetition_however_far_each_looks(database, arrive, monkeypatch, walk):
    every = [arrive(outcome) for outcome in ("FAIL", "REJECT", "ERROR", "FAIL", "UNUSABLE", "REJECT", "FAIL")]
    found: list[str] = []
    before = None
    monkeypatch.setattr(sqlite_attention, "_WALK", walk)
    for _ in range(20):
        page = sqlite_attention.open_results(database, before=before, limit=3)
        found += [row.job_id for row in page.rows]
        before = page.before
        if before is None:
            break
    assert found == every[::-1]
    monkeypatch.undo()
    assert names(database, sender="NOBODY") == []
    assert sqlite_attention.count_open_results(database, "FAIL") == 3
    assert sqlite_attention.count_open_results(database, "FAIL", 2) == 2


def test_the_dead_objects_of_a_job_for_a_destination_make_one_line_and_are_settled_together(database, arrive):
    first, second = (arrive("PASS", deliveries=("pacs", "other")) for _ in range(2))
    bury(database, first)
    bury(database, second)
    lines = sqlite_attention.dead_letters(database, "pacs").rows
    assert [(line.job_id, line.objects, line.cause) for line in lines] == [
        (second, 2, "no space"),
        (first, 2, "no space"),
    ]
    older = sqlite_attention.dead_letters(database, "pacs", before=lines[0].number, limit=1)
    assert ([line.job_id for line in older.rows], older.before) == ([first], None)
    assert sqlite_attention.common_causes(database, "pacs") == ["no space"]
    assert sqlite_attention.dead_counts(database) == {"other": 4, "pacs": 4}
    outbox = SqliteOutbox(database)
    outbox.hold("pacs", NOW + 500, "down", NOW)
    assert sqlite_attention.revive_letters(database, [(first, "pacs"), (first, "pacs"), ("none", "pacs")], NOW) == 1
    revived = [row for row in outbox.deliveries(first) if row.what.destination == "pacs"]
    assert [(row.state, row.attempts, row.next_at) for row in revived] == [(DeliveryState.PENDING, 0, NOW)] * 2
    hold = outbox.held("pacs")
    assert hold is not None
    assert hold.next_at == NOW
    assert sqlite_attention.dismiss_letters(database, [(first, "pacs"), (second, "other")], NOW) == 1
    assert sqlite_attention.dead_counts(database) == {"other": 2, "pacs": 2}


@pytest.mark.requirement("WEB-02")
def test_a_silence_is_unusual_only_when_no_earlier_one_was_as_long(database, arrive):
    for hours in range(240, 0, -4):  # an image every four hours for ten days
        arrive(sender="STEADY", at=NOW - hours * 3600)
    for hours in (200, 180, 150, 149, 130, 100, 80, 50, 30, 11):
        arrive(sender="IRREGULAR", at=NOW - hours * 3600)
    arrive(sender="NEW", at=NOW - 20 * 3600)

    def unusual(at: float) -> set[str]:
        return {sender.ae_title for sender in sqlite_now.read_senders(database, at) if sender.unusual}

    assert unusual(NOW - 1) == set()
    assert unusual(NOW + 2 * 3600) == {"STEADY"}  # silent for six hours
    assert unusual(NOW + 30 * 3600) == {"STEADY", "IRREGULAR"}
    assert unusual(NOW + 60 * DAY_S) == set()  # it is gone for good
    assert [sender.ae_title for sender in sqlite_now.read_senders(database, NOW)] == ["STEADY", "IRREGULAR", "NEW"]
    assert sqlite_now.known_senders(database) == ["IRREGULAR", "NEW", "STEADY"]


def test_the_queue_tells_its_oldest_image_whether_it_came_first_or_is_processed_again(database, arrive):
    assert sqlite_now.read_queue(database) == sqlite_now.QueueReading(0, 0, None)
    done = arrive("FAIL", uid="2.25.7", at=5.0)
    arrive(at=20.0)
    arrive(uid="2.25.7", at=10.0, predecessor=done)
    assert sqlite_now.read_queue(database) == sqlite_now.QueueReading(2, 0, 10.0)


def test_what_ended_since_midnight_is_counted_by_outcome(database, arrive):
    for outcome, at in (("PASS", NOW), ("PASS", NOW - 100), ("FAIL", NOW), ("ERROR", NOW), ("ERROR", NOW - 100)):
        arrive(outcome, at=at)
    arrive(uid="2.25.7")
    arrive(uid="2.25.7")
    assert sqlite_now.count_outcomes(database, NOW) == {"PASS": 1, "FAIL": 1, "ERROR": 1, "QUARANTINED": 1}


def test_what_is_not_delivered_is_counted_also_for_destinations_that_only_the_outbox_knows(database, arrive):
    bury(database, arrive("PASS", deliveries=("gone",)))
    arrive("PASS", deliveries=("pacs",))
    counts = sqlite_now.count_undelivered(database, ["pacs", "idle"])
    assert list(counts) == ["pacs", "idle", "gone"]
    assert (counts["gone"][DeliveryState.DEAD], counts["pacs"][DeliveryState.PENDING]) == (2, 2)
    assert sum(counts["idle"].values()) == 0

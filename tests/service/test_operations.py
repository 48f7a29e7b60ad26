"""What people decide about results and dead letters, carried out and on record."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_gam.config import Settings
from dicom_gam.errors import StorageError
from dicom_gam.service import operations
from dicom_gam.service.operations import Letter, Order, OrderError
from dicom_gam.service.store import AUDIT_FILE, Store, open_store
from dicom_gam.storage.audit import records
from dicom_gam.storage.rows import ReviewKind
from dicom_gam.storage.sqlite_attention import dead_letters, open_results
from dicom_gam.storage.states import DeliveryState
from tests.web.made_site import add_job, made_settings

ORDER = Order("anna", "seen by a reader", "10.0.0.9")
FAIL, REJECT, DEAD, DEAD_TOO, UNUSABLE, ERROR = 3, 5, 4, 13, 10, 16  # by what `made_site` makes of a job's number


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return made_settings(tmp_path / "node")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings, create=True) as opened:
        yield opened


@pytest.fixture
def jobs(store: Store) -> dict[int, str]:
    """The jobs by their numbers."""
    chance = random.Random(1)
    return {number: add_job(store, number, chance, 1000.0 + number) for number in (3, 4, 5, 10, 13, 16)}


def events(store: Store, name: str) -> list[dict[str, Any]]:
    return [record["keys"] for record in records(store.folder / AUDIT_FILE) if record["event"] == name]


def states(store: Store, job_id: str, destination: str = "pacs") -> set[DeliveryState]:
    return {row.state for row in store.outbox.deliveries(job_id) if row.what.destination == destination}


@pytest.mark.requirement("WEB-03")
def test_an_override_is_a_note_that_changes_no_result_sends_nothing_and_is_on_record(store, jobs):
    job_id = jobs[FAIL]
    before, deliveries = store.jobs.get(job_id), store.outbox.deliveries(job_id)
    assert operations.override(store, job_id, ORDER, "hand").count == 1
    assert store.jobs.get(job_id) == before
    assert store.outbox.deliveries(job_id) == deliveries
    [review] = [review for review in store.reviews.of_job(job_id) if review.kind is ReviewKind.OVERRIDDEN]
    assert (review.reviewer, review.class_name, review.words) == ("anna", "hand", "seen by a reader")
    [record] = events(store, "result.overridden")
    assert record == {
        "job_id": job_id,
        "sop_instance_uid": before.instance.sop_instance_uid,
        "study_instance_uid": before.study_instance_uid,
        "outcome": "FAIL",
        "by": "anna",
        "why": "seen by a reader",
        "address": "10.0.0.9",
        "class_name": "hand",
    }


@pytest.mark.requirement("WEB-04")
def test_whoever_sends_a_form_twice_does_nothing_twice(store, jobs):
    job_id, letter = jobs[REJECT], Letter(jobs[DEAD], "pacs")
    for _ in range(2):
        operations.override(store, job_id, ORDER)
        operations.retry_letters(store, [letter, letter], ORDER)
    assert len(events(store, "result.overridden")) == len(events(store, "destination.retried")) == 1
    again = operations.dismiss_results(store, [job_id], ORDER)
    assert (again.count, again.left_out[0].why) == (0, "anna has closed it already (overridden)")
    assert operations.retry_destination(store, "pacs", ORDER).count == 2
    assert operations.retry_destination(store, "pacs", ORDER).count == 0
    assert operations.dismiss_letters(store, [letter], ORDER).left_out[0].why.startswith("is no dead letter any more")


@pytest.mark.requirement("WEB-04")
def test_two_people_at_once_close_a_result_once(settings, store, jobs):
    done: list[int] = []

    def close(name: str) -> None:
        with open_store(settings) as own:
            done.append(operations.dismiss_results(own, [jobs[FAIL]], Order(name, "seen it")).count)

    threads = [threading.Thread(target=close, args=(name,)) for name in ("anna", "ben")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1]
    assert len(events(store, "result.dismissed")) == 1


def test_dead_letters_are_sent_again_or_done_without_one_by_one_or_all_of_a_destination(store, jobs):
    assert operations.retry_letters(store, [Letter(jobs[DEAD], "pacs")], Order("anna")).count == 1
    assert (states(store, jobs[DEAD]), states(store, jobs[DEAD_TOO])) == ({DeliveryState.PENDING}, {DeliveryState.DEAD})
    done = operations.dismiss_letters(store, [Letter(jobs[DEAD_TOO], "pacs"), Letter(jobs[FAIL], "pacs")], ORDER)
    assert (done.count, len(done.left_out)) == (1, 1)
    assert states(store, jobs[DEAD_TOO]) == {DeliveryState.DISMISSED}
    assert dead_letters(store.database, "pacs").rows == []
    assert [record["why"] for record in events(store, "destination.dismissed")] == [ORDER.why]


def test_all_of_a_destination_are_dismissed_on_one_record(store, jobs):
    assert operations.dismiss_destination(store, "pacs", ORDER).count == 4
    assert states(store, jobs[DEAD]) == states(store, jobs[DEAD_TOO]) == {DeliveryState.DISMISSED}
    assert [record["job_id"] for record in events(store, "destination.dismissed")] == [None]


@pytest.mark.requirement("WEB-05")
@pytest.mark.parametrize("why", ["", "  ", "no", "x" * 501])
def test_a_dismissal_and_an_override_need_a_reason_of_three_to_500_characters(store, jobs, why):
    order = Order("anna", why)
    for act in (
        lambda: operations.override(store, jobs[FAIL], order),
        lambda: operations.dismiss_results(store, [jobs[FAIL]], order),
        lambda: operations.dismiss_letters(store, [Letter(jobs[DEAD], "pacs")], order),
        lambda: operations.dismiss_destination(store, "pacs", order),
    ):
        with pytest.raises(OrderError, match="say why, in 3 to 500 characters"):
            act()
    assert events(store, "result.overridden") == events(store, "destination.dismissed") == []


@pytest.mark.requirement("WEB-05")
@pytest.mark.parametrize("why", ["jane2 DOE moved", "as jane2 moved", "see P000002", "accession a0000002 is wrong"])
def test_a_reason_that_names_the_patient_is_refused_and_not_put_on_record(store, jobs, why):
    order = Order("anna", why)
    with pytest.raises(OrderError, match="names the patient"):
        operations.override(store, jobs[REJECT], order)
    with pytest.raises(OrderError, match="names the patient"):
        operations.dismiss_letters(store, [Letter(jobs[DEAD], "pacs")], order)
    assert "jane2" not in (store.folder / AUDIT_FILE).read_text().lower()


def test_too_many_at_once_none_at_all_and_an_unknown_class_are_refused(store, jobs):
    for ids, words in (([], "nothing was chosen"), ([jobs[FAIL]] * 201, "201 are too many")):
        with pytest.raises(OrderError, match=words):
            operations.dismiss_results(store, ids, ORDER)
    with pytest.raises(OrderError, match="no class of the bundle"):
        operations.override(store, jobs[FAIL], ORDER, "<script>")
    assert len(open_results(store.database).rows) == 4


def test_what_is_recorded_first_is_not_done_when_it_can_not_be_recorded(store, jobs, monkeypatch):
    def full(*_: object, **__: object) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(store.audit, "append", full)
    monkeypatch.setattr(store.audit, "extend", full)
    for act in (
        lambda: operations.override(store, jobs[FAIL], ORDER),
        lambda: operations.dismiss_results(store, [jobs[FAIL]], ORDER),
        lambda: operations.retry_letters(store, [Letter(jobs[DEAD], "pacs")], ORDER),
        lambda: operations.retry_destination(store, "pacs", ORDER),
    ):
        with pytest.raises(StorageError):
            act()
    assert operations.can_be_closed(store, jobs[FAIL])
    assert states(store, jobs[DEAD]) == {DeliveryState.DEAD}


@pytest.mark.requirement("WEB-06")
def test_an_image_is_processed_again_once_however_often_it_is_asked_for(store, settings, jobs):
    source = store.inbox.path(store.jobs.get(jobs[ERROR]).instance.path.stem)
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(b"image")
    first = operations.process_again(store, settings, [jobs[ERROR], "none"], Order("anna"))
    assert (first.count, [item.what for item in first.left_out]) == (1, ["none"])
    second = operations.process_again(store, settings, [jobs[ERROR]], Order("anna"))
    assert second.count == 0
    assert "it was processed again already, as job" in second.left_out[0].why
    assert [record["by"] for record in events(store, "job.reprocess_ordered")] == ["anna"]
    assert not operations.can_be_closed(store, jobs[ERROR])
    gone = operations.process_again(store, settings, [jobs[UNUSABLE]], Order("anna"))
    assert "its file has been deleted" in gone.left_out[0].why

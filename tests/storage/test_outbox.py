from dataclasses import replace

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.rows import Commitment, Conclusion
from dicom_gam.storage.states import DeliveryState, JobEvent


@pytest.fixture
def filled(backend, new_job, new_delivery):
    """Two objects for A, one for B."""
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    rows = [new_delivery("A", "2.25.1"), new_delivery("A", "2.25.2", "overlay"), new_delivery("B", "2.25.1")]
    assert backend.jobs.finish(job.lease, Conclusion(JobEvent.FINISH, "PASS"), rows, 1.0)
    return backend


def test_a_new_delivery_is_due_at_once_at_its_own_destination(filled):
    assert [d.what.sop_instance_uid for d in filled.outbox.due("A", 0.0)] == ["2.25.1", "2.25.2"]
    assert [d.what.sop_instance_uid for d in filled.outbox.due("B", 0.0)] == ["2.25.1"]
    assert filled.outbox.due("C", 0.0) == []


def test_no_more_than_the_limit_are_given(filled):
    assert len(filled.outbox.due("A", 0.0, limit=1)) == 1


def test_a_sent_delivery_is_over_and_counted(filled):
    first, second = filled.outbox.due("A", 0.0)
    filled.outbox.sent(first.delivery_id, 0xB000, "coerced", 2.0)
    assert filled.outbox.due("A", 99.0) == [second]
    stored = filled.reopen().outbox.deliveries(first.job_id)[0]
    assert (stored.state, stored.status, stored.cause, stored.attempts) == (DeliveryState.SENT, 0xB000, "coerced", 1)


def test_a_postponed_delivery_is_due_again_at_its_time(filled):
    first, _ = filled.outbox.due("A", 0.0)
    filled.outbox.postpone(first.delivery_id, 30.0, None, "down", 1.0)
    assert first.delivery_id not in [d.delivery_id for d in filled.outbox.due("A", 29.9)]
    again = filled.outbox.due("A", 30.0)[0]
    assert (again.state, again.attempts, again.cause) == (DeliveryState.RETRY, 1, "down")


def test_the_next_due_time_is_the_earliest_open_one(filled):
    (only,) = filled.outbox.due("B", 0.0)
    filled.outbox.postpone(only.delivery_id, 30.0, None, "down", 1.0)
    assert filled.outbox.next_due("B") == 30.0
    filled.outbox.bury(only.delivery_id, None, "down for good", 31.0)
    assert filled.outbox.next_due("B") is None


@pytest.mark.requirement("STO-12")
def test_a_clock_that_went_back_by_a_year_does_not_hold_up_a_delivery(filled):
    year = 365 * 86400.0
    (only,) = filled.outbox.due("B", year)
    filled.outbox.postpone(only.delivery_id, year + 30, None, "down", year)
    assert len(filled.outbox.due("B", 0.0)) == 1


def test_a_final_delivery_can_not_change_any_more(filled):
    (only,) = filled.outbox.due("B", 0.0)
    filled.outbox.sent(only.delivery_id, 0, "stored", 2.0)
    with pytest.raises(StorageError, match="can't happen in the state 'sent'"):
        filled.outbox.postpone(only.delivery_id, 30.0, None, "down", 3.0)


def test_counts_go_by_destination_and_state(filled):
    (only,) = filled.outbox.due("B", 0.0)
    filled.outbox.bury(only.delivery_id, 0xC000, "refused", 2.0)
    counts = filled.outbox.counts()
    assert counts["A"][DeliveryState.PENDING] == 2
    assert counts["B"] == dict.fromkeys(DeliveryState, 0) | {DeliveryState.DEAD: 1}


def test_a_delivery_that_does_not_exist_is_a_storage_error(backend):
    with pytest.raises(StorageError, match="no delivery 7"):
        backend.outbox.sent(7, 0, "", 1.0)


@pytest.fixture
def studies(backend, new_job, new_delivery):
    """Objects 1, 2 and 4 of one study, 3 of another, 5 and 6 of no known one, all for A."""
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    rows = [
        replace(new_delivery("A", f"2.25.{number}"), study_instance_uid=study)
        for number, study in enumerate(["1.1", "1.1", "1.2", "1.1", "", ""], start=1)
    ]
    assert backend.jobs.finish(job.lease, Conclusion(JobEvent.FINISH, "PASS"), rows, 1.0)
    return backend


def numbers(deliveries):
    return [int(d.what.sop_instance_uid.rpartition(".")[2]) for d in deliveries]


@pytest.mark.requirement("DEL-08")
def test_an_object_that_waits_holds_back_the_later_ones_of_its_study_and_nobody_else(studies):
    first, second, third, *_ = studies.outbox.due("A", 0.0)
    studies.outbox.postpone(second.delivery_id, 30.0, None, "busy", 1.0)
    assert numbers(studies.outbox.due("A", 29.0)) == [1, 3, 5, 6]
    studies.outbox.postpone(third.delivery_id, 60.0, None, "busy", 1.0)
    studies.outbox.sent(first.delivery_id, 0, "stored", 1.0)
    assert numbers(studies.outbox.due("A", 30.0)) == [2, 4, 5, 6]


def test_objects_of_no_known_study_hold_back_nobody(studies):
    *_, fifth, _ = studies.outbox.due("A", 0.0)
    studies.outbox.postpone(fifth.delivery_id, 30.0, None, "busy", 1.0)
    assert numbers(studies.outbox.due("A", 29.0)) == [1, 2, 3, 4, 6]


def test_a_dead_letter_and_a_stored_object_hold_back_nobody(studies):
    first, second, *_ = studies.outbox.due("A", 0.0)
    studies.outbox.bury(first.delivery_id, 0xC000, "refused", 1.0)
    studies.outbox.accepted(second.delivery_id, 0, "stored", 1.0)
    assert numbers(studies.outbox.due("A", 2.0)) == [3, 4, 5, 6]


def test_a_destination_on_hold_waits_as_a_whole_also_for_what_comes_later(filled, new_job, new_delivery):
    assert filled.outbox.hold("A", 40.0, "connection refused", 10.0) == 2
    filled.jobs.add(new_job(2))
    (job,) = filled.jobs.claim("w", 1, 10.0, 0.0)
    filled.jobs.finish(job.lease, Conclusion(JobEvent.FINISH, "PASS"), [new_delivery("A", "2.25.9")], 11.0)
    assert filled.outbox.due("A", 39.0) == []
    assert filled.outbox.next_due("A") == 40.0
    assert numbers(filled.outbox.due("A", 40.0)) == [1, 2, 9]
    assert numbers(filled.outbox.due("B", 10.0)) == [1]


@pytest.mark.requirement("DEL-02")
def test_a_hold_costs_no_attempt_and_shows_its_cause_at_every_object(filled):
    filled.outbox.hold("A", 40.0, "connection refused", 10.0)
    filled.outbox.hold("A", 100.0, "no route", 40.0)
    first, _ = filled.reopen().outbox.due("A", 100.0)
    assert (first.state, first.attempts, first.cause) == (DeliveryState.RETRY, 0, "no route")


def test_a_hold_remembers_since_when_and_how_often_until_it_is_released(filled):
    filled.outbox.hold("A", 40.0, "connection refused", 10.0)
    filled.outbox.hold("A", 100.0, "no route", 40.0)
    hold = filled.reopen().outbox.held("A")
    assert (hold.since, hold.attempts, hold.next_at, hold.cause) == (10.0, 2, 100.0, "no route")


def test_what_is_released_is_due_at_its_own_time(filled):
    assert filled.outbox.release("A") is None
    filled.outbox.hold("A", 40.0, "connection refused", 10.0)
    assert filled.outbox.release("A").attempts == 1
    assert filled.outbox.held("A") is None
    assert len(filled.outbox.due("A", 40.0)) == 2


def test_a_hold_made_by_a_clock_that_went_back_since_holds_nothing(filled):
    filled.outbox.hold("A", 1_000_030.0, "connection refused", 1_000_000.0)
    assert len(filled.outbox.due("A", 5.0)) == 2


@pytest.mark.requirement("DEL-06")
def test_nothing_is_due_at_a_paused_destination_until_it_is_resumed(filled):
    filled.outbox.pause("A", "moving house", 5.0)
    filled.outbox.pause("A", "still moving", 6.0)
    again = filled.reopen().outbox
    assert again.due("A", 99.0) == []
    assert len(again.due("B", 99.0)) == 1
    assert (again.paused("A").since, again.paused("A").why) == (5.0, "still moving")
    assert again.resume("A")
    assert not again.resume("A")
    assert len(again.due("A", 99.0)) == 2


@pytest.mark.requirement("DEL-06")
def test_revived_dead_letters_start_anew_in_their_old_place(studies):
    first, second, *_ = studies.outbox.due("A", 0.0)
    studies.outbox.postpone(second.delivery_id, 1000.0, 0xA700, "full", 1.0)
    studies.outbox.bury(first.delivery_id, 0xC000, "refused", 1.0)
    assert numbers(studies.outbox.revive("A", 2.0)) == [1]
    assert numbers(studies.outbox.due("A", 2.0)) == [1, 2, 3, 4, 5, 6]
    one, two, *_ = studies.outbox.due("A", 2.0)
    assert (one.state, one.attempts) == (DeliveryState.PENDING, 0)
    assert (two.state, two.attempts) == (DeliveryState.RETRY, 1)


def test_reviving_ends_the_wait_of_an_unreachable_destination(filled):
    filled.outbox.hold("A", 600.0, "connection refused", 10.0)
    assert filled.outbox.revive("A", 11.0) == []
    assert len(filled.outbox.due("A", 11.0)) == 2


def test_only_the_named_job_is_revived_or_dismissed(filled):
    first, second = filled.outbox.due("A", 0.0)
    for delivery in (first, second):
        filled.outbox.bury(delivery.delivery_id, None, "refused", 1.0)
    assert filled.outbox.revive("A", 2.0, "f" * 32) == []
    assert filled.outbox.dismiss("A", 2.0, "f" * 32) == []
    assert len(filled.outbox.dismiss("A", 2.0, first.job_id)) == 2


@pytest.mark.requirement("DEL-06")
def test_dismissing_ends_dead_letters_for_good_and_leaves_the_rest(filled):
    first, second = filled.outbox.due("A", 0.0)
    filled.outbox.bury(first.delivery_id, None, "refused", 1.0)
    assert [d.delivery_id for d in filled.outbox.dismiss("A", 2.0)] == [first.delivery_id]
    assert filled.outbox.revive("A", 3.0) == []
    assert [d.delivery_id for d in filled.outbox.due("A", 3.0)] == [second.delivery_id]
    assert numbers(filled.outbox.dismiss("A", 4.0, everything=True)) == [2]
    assert filled.outbox.due("A", 5.0) == []


def test_the_commonest_causes_of_dead_letters_come_first(studies):
    for number, delivery in enumerate(studies.outbox.due("A", 0.0)):
        studies.outbox.bury(delivery.delivery_id, None, "full" if number == 4 else "refused", 1.0)
    assert studies.outbox.causes("A") == [("refused", 5), ("full", 1)]


@pytest.fixture
def stored(filled):
    """Both objects of A stored there, and asked for under 2.25.77 until 100."""
    for delivery in filled.outbox.due("A", 0.0):
        filled.outbox.accepted(delivery.delivery_id, 0, "stored", 1.0)
    ids = [d.delivery_id for d in filled.outbox.commitments.unasked("A")]
    filled.outbox.commitments.ask(Commitment("2.25.77", "A", 2.0, 100.0), ids)
    return filled


def test_what_is_stored_is_asked_for_once(stored):
    assert stored.outbox.commitments.unasked("A") == []
    assert [d.state for d in stored.outbox.commitments.objects("2.25.77")] == [DeliveryState.UNCONFIRMED] * 2
    assert stored.reopen().outbox.commitments.find("2.25.77").due_at == 100.0


def test_a_request_that_could_not_be_made_leaves_its_objects_to_be_asked_for(stored):
    stored.outbox.commitments.withdraw("2.25.77")
    assert len(stored.outbox.commitments.unasked("A")) == 2
    assert stored.outbox.commitments.find("2.25.77") is None


def test_only_what_is_not_answered_for_becomes_overdue(stored):
    commitments = stored.outbox.commitments
    first, second = commitments.objects("2.25.77")
    commitments.confirm(first.delivery_id, "safe", 3.0)
    commitments.answered("2.25.77", 3.0)
    assert commitments.overdue("A", 99.0) == []
    assert commitments.next_due("A") == 100.0
    assert [d.delivery_id for d in commitments.overdue("A", 100.0)] == [second.delivery_id]
    assert stored.outbox.deliveries(first.job_id)[0].state is DeliveryState.SENT


def test_what_was_refused_is_sent_again_and_its_attempt_not_counted_twice(stored):
    first, _ = stored.outbox.commitments.objects("2.25.77")
    stored.outbox.commitments.refuse(first.delivery_id, 50.0, 0x0112, "gone", 3.0)
    (again,) = stored.outbox.due("A", 50.0)
    assert (again.state, again.attempts, again.status) == (DeliveryState.RETRY, 1, 0x0112)
    stored.outbox.accepted(again.delivery_id, 0, "stored", 51.0)
    assert [d.delivery_id for d in stored.outbox.commitments.unasked("A")] == [first.delivery_id]


def test_a_commitment_that_comes_while_the_object_is_sent_again_stays(stored):
    first, _ = stored.outbox.commitments.objects("2.25.77")
    stored.outbox.commitments.refuse(first.delivery_id, 50.0, None, "no answer", 3.0)
    stored.outbox.commitments.confirm(first.delivery_id, "safe", 51.0)
    stored.outbox.accepted(first.delivery_id, 0, "stored", 52.0)
    assert stored.outbox.deliveries(first.job_id)[0].state is DeliveryState.SENT
    assert stored.outbox.commitments.unasked("A") == []

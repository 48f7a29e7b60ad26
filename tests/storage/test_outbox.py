import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.protocols import Conclusion
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
    assert counts["B"] == {
        DeliveryState.PENDING: 0,
        DeliveryState.RETRY: 0,
        DeliveryState.SENT: 0,
        DeliveryState.DEAD: 1,
    }


def test_a_delivery_that_does_not_exist_is_a_storage_error(backend):
    with pytest.raises(StorageError, match="no delivery 7"):
        backend.outbox.sent(7, 0, "", 1.0)

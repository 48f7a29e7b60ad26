import itertools

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    OPEN_DELIVERY_STATES,
    OPEN_JOB_STATES,
    UNDELIVERED_STATES,
    DeliveryEvent,
    DeliveryState,
    JobEvent,
    JobState,
    next_state,
)

VALID_JOB_STEPS = {
    ("received", "claim"): "processing",
    ("processing", "finish"): "done",
    ("processing", "reject"): "rejected",
    ("processing", "skip"): "skipped",
    ("processing", "give up"): "failed",
    ("processing", "retry"): "received",
    ("processing", "lose"): "received",
}
VALID_DELIVERY_STEPS = {
    ("pending", "send"): "sent",
    ("pending", "accept"): "unconfirmed",
    ("pending", "confirm"): "sent",
    ("pending", "postpone"): "retry",
    ("pending", "give up"): "dead",
    ("pending", "dismiss"): "dismissed",
    ("retry", "send"): "sent",
    ("retry", "accept"): "unconfirmed",
    ("retry", "confirm"): "sent",
    ("retry", "postpone"): "retry",
    ("retry", "give up"): "dead",
    ("retry", "dismiss"): "dismissed",
    ("unconfirmed", "confirm"): "sent",
    ("unconfirmed", "postpone"): "retry",
    ("unconfirmed", "give up"): "dead",
    ("unconfirmed", "dismiss"): "dismissed",
    ("sent", "accept"): "sent",
    ("sent", "confirm"): "sent",
    ("dead", "confirm"): "sent",
    ("dead", "revive"): "pending",
    ("dead", "dismiss"): "dismissed",
}


@pytest.mark.requirement("STO-09")
@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_every_pair_of_job_state_and_event_either_is_in_the_list_or_is_refused(
    state: JobState, event: JobEvent
) -> None:
    if (state, event) in VALID_JOB_STEPS:
        assert next_state(JOB_TRANSITIONS, state, event) == VALID_JOB_STEPS[state, event]
    else:
        with pytest.raises(StorageError, match=f"'{event}' can't happen in the state '{state}'"):
            next_state(JOB_TRANSITIONS, state, event)


@pytest.mark.requirement("STO-09")
@pytest.mark.parametrize(("state", "event"), list(itertools.product(DeliveryState, DeliveryEvent)))
def test_every_pair_of_delivery_state_and_event_either_is_in_the_list_or_is_refused(
    state: DeliveryState, event: DeliveryEvent
) -> None:
    if (state, event) in VALID_DELIVERY_STEPS:
        assert next_state(DELIVERY_TRANSITIONS, state, event) == VALID_DELIVERY_STEPS[state, event]
    else:
        with pytest.raises(StorageError, match="can't happen"):
            next_state(DELIVERY_TRANSITIONS, state, event)


def test_exactly_the_job_states_that_something_can_befall_are_open() -> None:
    assert {state for state, _ in JOB_TRANSITIONS} == OPEN_JOB_STATES


def test_exactly_the_deliveries_that_an_operator_could_do_without_are_undelivered() -> None:
    assert {state for state, event in DELIVERY_TRANSITIONS if event == "dismiss"} == UNDELIVERED_STATES


def test_exactly_the_deliveries_that_can_fail_are_open() -> None:
    assert {state for state, event in DELIVERY_TRANSITIONS if event == "give up"} == OPEN_DELIVERY_STATES


@pytest.mark.requirement("STO-09")
def test_what_is_sent_or_dismissed_never_leaves_that_state() -> None:
    final = {DeliveryState.SENT, DeliveryState.DISMISSED}
    assert all(after is before for (before, _), after in DELIVERY_TRANSITIONS.items() if before in final)

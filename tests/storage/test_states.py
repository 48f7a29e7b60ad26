import itertools

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    OPEN_DELIVERY_STATES,
    OPEN_JOB_STATES,
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
    ("processing", "give up"): "failed",
    ("processing", "retry"): "received",
    ("processing", "lose"): "received",
}
VALID_DELIVERY_STEPS = {
    ("pending", "send"): "sent",
    ("pending", "postpone"): "retry",
    ("pending", "give up"): "dead",
    ("retry", "send"): "sent",
    ("retry", "postpone"): "retry",
    ("retry", "give up"): "dead",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_every_pair_of_job_state_and_event_either_is_in_the_list_or_is_refused(
    state: JobState, event: JobEvent
) -> None:
    if (state, event) in VALID_JOB_STEPS:
        assert next_state(JOB_TRANSITIONS, state, event) == VALID_JOB_STEPS[state, event]
    else:
        with pytest.raises(StorageError, match=f"'{event}' can't happen in the state '{state}'"):
            next_state(JOB_TRANSITIONS, state, event)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(DeliveryState, DeliveryEvent)))
def test_every_pair_of_delivery_state_and_event_either_is_in_the_list_or_is_refused(
    state: DeliveryState, event: DeliveryEvent
) -> None:
    if (state, event) in VALID_DELIVERY_STEPS:
        assert next_state(DELIVERY_TRANSITIONS, state, event) == VALID_DELIVERY_STEPS[state, event]
    else:
        with pytest.raises(StorageError, match="can't happen"):
            next_state(DELIVERY_TRANSITIONS, state, event)


def test_exactly_the_states_that_something_can_befall_are_open() -> None:
    assert {state for state, _ in JOB_TRANSITIONS} == OPEN_JOB_STATES
    assert {state for state, _ in DELIVERY_TRANSITIONS} == OPEN_DELIVERY_STATES

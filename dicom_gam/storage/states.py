"""The states of a job and of a delivery, and every step between them, as data.

A pair that is not in a table can't happen; a test walks all of them.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from dicom_gam.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(StrEnum):
    """Where a job stands. The last five are final."""

    RECEIVED = "received"
    PROCESSING = "processing"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class JobEvent(StrEnum):
    """What can befall a job."""

    CLAIM = "claim"  # a worker leases it
    FINISH = "finish"  # a result, committed together with its deliveries
    REJECT = "reject"  # the input can't become a radiograph
    SKIP = "skip"  # the rules want no result of it
    RETRY = "retry"  # our own code failed; another attempt is left
    GIVE_UP = "give up"  # our own code failed, and no attempt is left
    LOSE = "lose"  # the worker went silent; the lease is taken back


class DeliveryState(StrEnum):
    """Where the delivery of one object to one destination stands. The last three need nothing more of the courier."""

    PENDING = "pending"
    RETRY = "retry"
    UNCONFIRMED = "unconfirmed"  # stored there; its storage commitment is not answered yet
    SENT = "sent"
    DEAD = "dead"
    DISMISSED = "dismissed"


class DeliveryEvent(StrEnum):
    """What can befall a delivery."""

    SEND = "send"  # stored, and no commitment is asked for
    ACCEPT = "accept"  # stored, its commitment is to be asked for
    CONFIRM = "confirm"  # the destination answers for it, perhaps late
    POSTPONE = "postpone"
    GIVE_UP = "give up"
    REVIVE = "revive"  # an operator wants it tried again
    DISMISS = "dismiss"  # an operator does without it


JOB_TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = MappingProxyType(
    {
        (JobState.RECEIVED, JobEvent.CLAIM): JobState.PROCESSING,
        (JobState.PROCESSING, JobEvent.FINISH): JobState.DONE,
        (JobState.PROCESSING, JobEvent.REJECT): JobState.REJECTED,
        (JobState.PROCESSING, JobEvent.SKIP): JobState.SKIPPED,
        (JobState.PROCESSING, JobEvent.RETRY): JobState.RECEIVED,
        (JobState.PROCESSING, JobEvent.LOSE): JobState.RECEIVED,
        (JobState.PROCESSING, JobEvent.GIVE_UP): JobState.FAILED,
    }
)

DELIVERY_TRANSITIONS: Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState] = MappingProxyType(
    {
        (DeliveryState.PENDING, DeliveryEvent.SEND): DeliveryState.SENT,
        (DeliveryState.PENDING, DeliveryEvent.ACCEPT): DeliveryState.UNCONFIRMED,
        (DeliveryState.PENDING, DeliveryEvent.CONFIRM): DeliveryState.SENT,
        (DeliveryState.PENDING, DeliveryEvent.POSTPONE): DeliveryState.RETRY,
        (DeliveryState.PENDING, DeliveryEvent.GIVE_UP): DeliveryState.DEAD,
        (DeliveryState.PENDING, DeliveryEvent.DISMISS): DeliveryState.DISMISSED,
        (DeliveryState.RETRY, DeliveryEvent.SEND): DeliveryState.SENT,
        (DeliveryState.RETRY, DeliveryEvent.ACCEPT): DeliveryState.UNCONFIRMED,
        (DeliveryState.RETRY, DeliveryEvent.CONFIRM): DeliveryState.SENT,
        (DeliveryState.RETRY, DeliveryEvent.POSTPONE): DeliveryState.RETRY,
        (DeliveryState.RETRY, DeliveryEvent.GIVE_UP): DeliveryState.DEAD,
        (DeliveryState.RETRY, DeliveryEvent.DISMISS): DeliveryState.DISMISSED,
        (DeliveryState.UNCONFIRMED, DeliveryEvent.CONFIRM): DeliveryState.SENT,
        (DeliveryState.UNCONFIRMED, DeliveryEvent.POSTPONE): DeliveryState.RETRY,
        (DeliveryState.UNCONFIRMED, DeliveryEvent.GIVE_UP): DeliveryState.DEAD,
        (DeliveryState.UNCONFIRMED, DeliveryEvent.DISMISS): DeliveryState.DISMISSED,
        # A late commitment came while it was on its way once more, or the same report twice.
        (DeliveryState.SENT, DeliveryEvent.ACCEPT): DeliveryState.SENT,
        (DeliveryState.SENT, DeliveryEvent.CONFIRM): DeliveryState.SENT,
        (DeliveryState.DEAD, DeliveryEvent.CONFIRM): DeliveryState.SENT,
        (DeliveryState.DEAD, DeliveryEvent.REVIVE): DeliveryState.PENDING,
        (DeliveryState.DEAD, DeliveryEvent.DISMISS): DeliveryState.DISMISSED,
    }
)

OPEN_JOB_STATES = frozenset({JobState.RECEIVED, JobState.PROCESSING})
TO_SEND_STATES = frozenset({DeliveryState.PENDING, DeliveryState.RETRY})
OPEN_DELIVERY_STATES = TO_SEND_STATES | {DeliveryState.UNCONFIRMED}  # the node still works on them
UNDELIVERED_STATES = OPEN_DELIVERY_STATES | {DeliveryState.DEAD}  # their objects must not be deleted

_State = TypeVar("_State", bound=StrEnum)
_Event = TypeVar("_Event", bound=StrEnum)


def next_state(table: Mapping[tuple[_State, _Event], _State], state: _State, event: _Event) -> _State:
    """Return the state that `event` leads to. Raises StorageError when the table has no such step."""
    try:
        return table[state, event]
    except KeyError:
        msg = f"the event '{event}' can't happen in the state '{state}': this is a defect of dicom_gam, report it"
        raise StorageError(msg) from None

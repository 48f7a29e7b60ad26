"""Rows of the table `deliveries`, as the outbox and storage commitment read and change them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.storage.rows import Delivery, NewDelivery
from dicom_gam.storage.states import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState, next_state

if TYPE_CHECKING:
    import sqlite3


def state_after(connection: sqlite3.Connection, delivery_id: int, event: DeliveryEvent) -> DeliveryState:
    """The state that `event` leads this delivery to. Raises StorageError when it can't happen to it."""
    row = connection.execute("SELECT state FROM deliveries WHERE delivery_id = ?", (delivery_id,)).fetchone()
    if row is None:
        msg = f"there is no delivery {delivery_id}: the outbox and its caller disagree, report this defect"
        raise StorageError(msg)
    return next_state(DELIVERY_TRANSITIONS, DeliveryState(row["state"]), event)


def delivery_of(row: sqlite3.Row) -> Delivery:
    """Make the record of a row of the table `deliveries`."""
    what = NewDelivery(
        destination=row["destination"],
        study_instance_uid=row["study_instance_uid"],
        role=row["role"],
        sop_class_uid=row["sop_class_uid"],
        sop_instance_uid=row["sop_instance_uid"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        blob=row["blob"],
    )
    return Delivery(
        delivery_id=row["delivery_id"],
        job_id=row["job_id"],
        what=what,
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        next_at=row["next_at"],
        status=row["status"],
        cause=row["cause"],
        transaction_uid=row["transaction_uid"],
    )

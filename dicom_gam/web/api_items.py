"""Rows of the storage as the HTTP API shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dicom_gam.web import api_models as models

if TYPE_CHECKING:
    from dicom_gam.service.delivery_review import DestinationReading
    from dicom_gam.storage.rows import Delivery


def delivery_item(row: Delivery) -> models.DeliveryItem:
    """Where a delivery stands."""
    return models.DeliveryItem(
        destination=row.what.destination,
        state=row.state,
        attempts=row.attempts,
        status="" if row.status is None else f"{row.status:04X}",
        cause=row.cause,
    )


def destination_item(reading: DestinationReading) -> models.DestinationItem:
    """Where a destination stands."""
    held, paused = reading.hold, reading.pause
    return models.DestinationItem(
        name=reading.name,
        kind=reading.kind,
        counts=dict(reading.counts),
        next_at=moment_or_none(reading.next_at),
        paused=None if paused is None else models.PauseItem(since=moment(paused.since), why=paused.why),
        unreachable=None
        if held is None
        else models.HoldItem(
            since=moment(held.since), attempts=held.attempts, next_at=moment(held.next_at), cause=held.cause
        ),
        causes=[models.CauseItem(cause=cause, count=count) for cause, count in reading.causes],
    )


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """As `moment`; None stays None."""
    return None if seconds is None else moment(seconds)

"""The outbox in SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.storage.protocols import Delivery, NewDelivery
from dicom_gam.storage.sqlite import CLOCK_SLACK_S
from dicom_gam.storage.states import (
    DELIVERY_TRANSITIONS,
    OPEN_DELIVERY_STATES,
    DeliveryEvent,
    DeliveryState,
    next_state,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from dicom_gam.storage.sqlite import Database

_OPEN = "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(OPEN_DELIVERY_STATES)))


def insert_deliveries(connection: sqlite3.Connection, job_id: str, deliveries: Sequence[NewDelivery]) -> None:
    """Add rows within the caller's transaction, which also commits the job's result."""
    connection.executemany(
        "INSERT INTO deliveries (job_id, destination, role, sop_class_uid, sop_instance_uid, transfer_syntax_uid,"
        " blob, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (job_id, d.destination, d.role, d.sop_class_uid, d.sop_instance_uid, d.transfer_syntax_uid, d.blob,
             DeliveryState.PENDING.value)
            for d in deliveries
        ],
    )  # fmt: skip


class SqliteOutbox:
    """`protocols.Outbox` over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, destination: str, now: float, limit: int = 100) -> list[Delivery]:
        """Return what may be sent now, oldest first; a clock that went back doesn't hold anything up."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT * FROM deliveries WHERE destination = ? AND {_OPEN}"  # noqa: S608 (constants only)
                " AND (next_at <= ? OR tried_at > ?) ORDER BY delivery_id LIMIT ?",
                (destination, now, now + CLOCK_SLACK_S, limit),
            ).fetchall()
        return [_delivery(row) for row in rows]

    def next_due(self, destination: str) -> float | None:
        """When the earliest open delivery is due, None when nothing is open."""
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT min(next_at) FROM deliveries WHERE destination = ? AND {_OPEN}",  # noqa: S608
                (destination,),
            ).fetchone()
        return None if row[0] is None else float(row[0])

    def sent(self, delivery_id: int, status: int, remark: str, now: float) -> None:
        """The destination has it."""
        self._step(delivery_id, DeliveryEvent.SEND, now, now, status, remark)

    def postpone(self, delivery_id: int, next_at: float, status: int | None, cause: str, now: float) -> None:
        """An attempt failed; try again at `next_at`."""
        self._step(delivery_id, DeliveryEvent.POSTPONE, now, next_at, status, cause)

    def bury(self, delivery_id: int, status: int | None, cause: str, now: float) -> None:
        """The last attempt failed: dead letter."""
        self._step(delivery_id, DeliveryEvent.GIVE_UP, now, now, status, cause)

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Return the deliveries of one job."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM deliveries WHERE job_id = ? ORDER BY delivery_id", (job_id,))
            return [_delivery(row) for row in rows.fetchall()]

    def counts(self) -> dict[str, dict[DeliveryState, int]]:
        """How many deliveries are in each state, by destination."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT destination, state, count(*) FROM deliveries GROUP BY destination, state"
            ).fetchall()
        found: dict[str, dict[DeliveryState, int]] = {}
        for destination, state, count in rows:
            found.setdefault(destination, dict.fromkeys(DeliveryState, 0))[DeliveryState(state)] = count
        return found

    def _step(
        self, delivery_id: int, event: DeliveryEvent, now: float, next_at: float, status: int | None, cause: str
    ) -> None:
        with self._database.transaction() as connection:
            row = connection.execute("SELECT state FROM deliveries WHERE delivery_id = ?", (delivery_id,)).fetchone()
            if row is None:
                msg = f"there is no delivery {delivery_id}: the outbox and its caller disagree, report this defect"
                raise StorageError(msg)
            state = next_state(DELIVERY_TRANSITIONS, DeliveryState(row["state"]), event)
            connection.execute(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, tried_at = ?, next_at = ?, status = ?,"
                " cause = ? WHERE delivery_id = ?",
                (state.value, now, next_at, status, cause, delivery_id),
            )


def _delivery(row: sqlite3.Row) -> Delivery:
    what = NewDelivery(
        destination=row["destination"],
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
    )

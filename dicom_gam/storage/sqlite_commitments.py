"""Storage commitment in SQLite: what was asked, and what is still unanswered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.storage.rows import Commitment
from dicom_gam.storage.sqlite_deliveries import delivery_of, state_after
from dicom_gam.storage.states import DeliveryEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_gam.storage.rows import Delivery
    from dicom_gam.storage.sqlite import Database

_UNCONFIRMED = "d.destination = ? AND d.state = 'unconfirmed'"
_WITH_COMMITMENT = "deliveries AS d JOIN commitments AS c ON c.transaction_uid = d.transaction_uid"


class SqliteCommitments:
    """`protocols.Commitments` over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unasked(self, destination: str, limit: int = 100) -> list[Delivery]:
        """Return what is stored there and not asked for yet, oldest first."""
        return self._rows(
            f"SELECT * FROM deliveries AS d WHERE {_UNCONFIRMED} AND d.transaction_uid = ''"  # noqa: S608 (constants only)
            " ORDER BY d.delivery_id LIMIT ?",
            destination,
            limit,
        )

    def ask(self, commitment: Commitment, delivery_ids: Sequence[int]) -> None:
        """Remember a request before it goes out, as the answer may come at once and to another process."""
        uid = commitment.transaction_uid
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO commitments (transaction_uid, destination, asked_at, due_at) VALUES (?, ?, ?, ?)",
                (uid, commitment.destination, commitment.asked_at, commitment.due_at),
            )
            rows = [(uid, delivery_id) for delivery_id in delivery_ids]
            connection.executemany("INSERT INTO commitment_objects VALUES (?, ?)", rows)
            connection.executemany("UPDATE deliveries SET transaction_uid = ? WHERE delivery_id = ?", rows)

    def withdraw(self, transaction_uid: str) -> None:
        """A request could not be made: its objects are to be asked for anew."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET transaction_uid = '' WHERE delivery_id IN"
                " (SELECT delivery_id FROM commitment_objects WHERE transaction_uid = ?)",
                (transaction_uid,),
            )
            connection.execute("DELETE FROM commitments WHERE transaction_uid = ?", (transaction_uid,))

    def overdue(self, destination: str, now: float, limit: int = 100) -> list[Delivery]:
        """Return what the destination has not answered for in time."""
        return self._rows(
            f"SELECT d.* FROM {_WITH_COMMITMENT} WHERE {_UNCONFIRMED} AND c.due_at <= ?"  # noqa: S608
            " ORDER BY d.delivery_id LIMIT ?",
            destination,
            now,
            limit,
        )

    def next_due(self, destination: str) -> float | None:
        """When the earliest answer is due, None when none is waited for."""
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT min(c.due_at) FROM {_WITH_COMMITMENT} WHERE {_UNCONFIRMED}",  # noqa: S608
                (destination,),
            ).fetchone()
        return None if row[0] is None else float(row[0])

    def find(self, transaction_uid: str) -> Commitment | None:
        """Return one commitment."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT transaction_uid, destination, asked_at, due_at, answered_at FROM commitments"
                " WHERE transaction_uid = ?",
                (transaction_uid,),
            ).fetchone()
        return None if row is None else Commitment(*row)

    def objects(self, transaction_uid: str) -> list[Delivery]:
        """Return the deliveries that a commitment is about, as they are now."""
        return self._rows(
            "SELECT d.* FROM deliveries AS d JOIN commitment_objects AS o ON o.delivery_id = d.delivery_id"
            " WHERE o.transaction_uid = ? ORDER BY d.delivery_id",
            transaction_uid,
        )

    def answered(self, transaction_uid: str, now: float) -> None:
        """Remember when the (first) answer came."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE commitments SET answered_at = coalesce(answered_at, ?) WHERE transaction_uid = ?",
                (now, transaction_uid),
            )

    def confirm(self, delivery_id: int, remark: str, now: float) -> None:
        """The destination answers for it."""
        with self._database.transaction() as connection:
            state = state_after(connection, delivery_id, DeliveryEvent.CONFIRM)
            connection.execute(
                "UPDATE deliveries SET state = ?, tried_at = ?, next_at = ?, cause = ? WHERE delivery_id = ?",
                (state.value, now, now, remark, delivery_id),
            )

    def refuse(self, delivery_id: int, next_at: float | None, status: int | None, cause: str, now: float) -> None:
        """The destination does not answer for it: to be sent again at `next_at`, or (None) a dead letter."""
        event = DeliveryEvent.GIVE_UP if next_at is None else DeliveryEvent.POSTPONE
        with self._database.transaction() as connection:
            state = state_after(connection, delivery_id, event)
            connection.execute(
                "UPDATE deliveries SET state = ?, tried_at = ?, next_at = ?, status = ?, cause = ?"
                " WHERE delivery_id = ?",
                (state.value, now, now if next_at is None else next_at, status, cause, delivery_id),
            )

    def _rows(self, statement: str, *values: object) -> list[Delivery]:
        with self._database.reading() as connection:
            return [delivery_of(row) for row in connection.execute(statement, values).fetchall()]

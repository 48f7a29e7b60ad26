"""The outbox in SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.storage.rows import Hold, Pause
from dicom_gam.storage.sqlite import CLOCK_SLACK_S
from dicom_gam.storage.sqlite_commitments import SqliteCommitments
from dicom_gam.storage.sqlite_deliveries import delivery_of, state_after
from dicom_gam.storage.states import (
    DELIVERY_TRANSITIONS,
    TO_SEND_STATES,
    UNDELIVERED_STATES,
    DeliveryEvent,
    DeliveryState,
    next_state,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from dicom_gam.storage.rows import Delivery, NewDelivery
    from dicom_gam.storage.sqlite import Database

_TO_SEND = "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(TO_SEND_STATES)))
# Due: its time has come, or it was set by a clock that has gone back since.
_DUE = "(next_at <= :now OR tried_at > :now + :slack)"
_DUE_ROWS = f"""
SELECT * FROM deliveries AS d WHERE destination = :destination AND {_TO_SEND} AND {_DUE}
  AND (study_instance_uid = '' OR NOT EXISTS (
    SELECT 1 FROM deliveries AS earlier
    WHERE earlier.destination = :destination AND earlier.study_instance_uid = d.study_instance_uid
      AND earlier.delivery_id < d.delivery_id AND earlier.{_TO_SEND}
      AND NOT (earlier.next_at <= :now OR earlier.tried_at > :now + :slack)))
ORDER BY delivery_id LIMIT :limit
"""  # noqa: S608 (constants only)
# A transaction keeps all other writers waiting, the front door's too, so none changes more rows than this.
_ROWS_AT_ONCE = 200
_OF_JOB = "(:job_id IS NULL OR job_id = :job_id)"


def insert_deliveries(connection: sqlite3.Connection, job_id: str, deliveries: Sequence[NewDelivery]) -> None:
    """Add rows within the caller's transaction, which also commits the job's result."""
    connection.executemany(
        "INSERT INTO deliveries (job_id, destination, study_instance_uid, role, sop_class_uid, sop_instance_uid,"
        " transfer_syntax_uid, blob, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (job_id, d.destination, d.study_instance_uid, d.role, d.sop_class_uid, d.sop_instance_uid,
             d.transfer_syntax_uid, d.blob, DeliveryState.PENDING.value)
            for d in deliveries
        ],
    )  # fmt: skip


class SqliteOutbox:
    """`protocols.Outbox` over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.commitments = SqliteCommitments(database)

    def due(self, destination: str, now: float, limit: int = 100) -> list[Delivery]:
        """Return what may be sent now, oldest first; a clock that went back doesn't hold anything up."""
        held = self.held(destination)
        on_hold = held is not None and held.next_at > now and held.tried_at <= now + CLOCK_SLACK_S
        if on_hold or self.paused(destination) is not None:
            return []
        keys = {"destination": destination, "now": now, "slack": CLOCK_SLACK_S, "limit": limit}
        with self._database.reading() as connection:
            return [delivery_of(row) for row in connection.execute(_DUE_ROWS, keys).fetchall()]

    def next_due(self, destination: str) -> float | None:
        """When the earliest delivery that is to be sent is due, None when there is none."""
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT min(next_at) FROM deliveries WHERE destination = ? AND {_TO_SEND}",  # noqa: S608
                (destination,),
            ).fetchone()
        held = self.held(destination)
        return None if row[0] is None else max(float(row[0]), 0.0 if held is None else held.next_at)

    def sent(self, delivery_id: int, status: int, remark: str, now: float) -> None:
        """The destination has it."""
        self._step(delivery_id, DeliveryEvent.SEND, now, now, status, remark)

    def accepted(self, delivery_id: int, status: int, remark: str, now: float) -> None:
        """The destination has stored it and is yet to be asked to answer for it."""
        self._step(delivery_id, DeliveryEvent.ACCEPT, now, now, status, remark)

    def postpone(self, delivery_id: int, next_at: float, status: int | None, cause: str, now: float) -> None:
        """An attempt failed; try again at `next_at`."""
        self._step(delivery_id, DeliveryEvent.POSTPONE, now, next_at, status, cause)

    def bury(self, delivery_id: int, status: int | None, cause: str, now: float) -> None:
        """The last attempt failed: dead letter."""
        self._step(delivery_id, DeliveryEvent.GIVE_UP, now, now, status, cause)

    def hold(self, destination: str, next_at: float, cause: str, now: float) -> int:
        """Nothing goes to this destination before `next_at`, which costs no object an attempt."""
        keys = {"destination": destination, "next_at": next_at, "cause": cause, "now": now, "slack": CLOCK_SLACK_S,
                "state": DeliveryState.RETRY.value, "limit": _ROWS_AT_ONCE}  # fmt: skip
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO unreachable_destinations VALUES (:destination, :now, 1, :now, :next_at, :cause)"
                " ON CONFLICT (destination) DO UPDATE SET attempts = attempts + 1, tried_at = :now,"
                " next_at = :next_at, cause = :cause",
                keys,
            )
            connection.execute(
                "UPDATE deliveries SET state = :state, tried_at = :now, next_at = :next_at, cause = :cause"  # noqa: S608
                " WHERE delivery_id IN (SELECT delivery_id FROM deliveries WHERE destination = :destination"
                f" AND {_TO_SEND} AND {_DUE} ORDER BY delivery_id LIMIT :limit)",
                keys,
            )
            return int(
                connection.execute(
                    f"SELECT count(*) FROM deliveries WHERE destination = ? AND {_TO_SEND}",  # noqa: S608
                    (destination,),
                ).fetchone()[0]
            )

    def release(self, destination: str) -> Hold | None:
        """The destination can be reached again; return the hold that was."""
        found = self.held(destination)
        if found is not None:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM unreachable_destinations WHERE destination = ?", (destination,))
        return found

    def held(self, destination: str) -> Hold | None:
        """Return the hold of a destination."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT since, attempts, tried_at, next_at, cause FROM unreachable_destinations WHERE destination = ?",
                (destination,),
            ).fetchone()
        return None if row is None else Hold(*row)

    def pause(self, destination: str, why: str, now: float) -> None:
        """Send nothing to this destination until `resume`; a later pause replaces the reason."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO paused_destinations VALUES (?, ?, ?) ON CONFLICT (destination) DO UPDATE SET why = ?",
                (destination, now, why, why),
            )

    def resume(self, destination: str) -> bool:
        """End the pause; False when there was none."""
        with self._database.transaction() as connection:
            gone = connection.execute("DELETE FROM paused_destinations WHERE destination = ?", (destination,))
            return bool(gone.rowcount)

    def paused(self, destination: str) -> Pause | None:
        """Return the pause of a destination."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT since, why FROM paused_destinations WHERE destination = ?", (destination,)
            ).fetchone()
        return None if row is None else Pause(*row)

    def revive(self, destination: str, now: float, job_id: str | None = None) -> list[Delivery]:
        """Put dead letters back as if never tried, make all that waits due now; return the dead letters that were."""
        pending = next_state(DELIVERY_TRANSITIONS, DeliveryState.DEAD, DeliveryEvent.REVIVE).value
        dead = self._in_states(destination, job_id, [DeliveryState.DEAD])
        waiting = [row for row in self._in_states(destination, job_id, TO_SEND_STATES) if row.next_at > now]
        self._change(
            "state = ?, attempts = 0, next_at = ?, status = NULL",
            [(pending, now, row.delivery_id, row.state.value) for row in dead],
        )
        self._change("next_at = ?", [(now, row.delivery_id, row.state.value) for row in waiting])
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE unreachable_destinations SET next_at = ? WHERE destination = ?", (now, destination)
            )
        return dead

    def dismiss(
        self, destination: str, now: float, job_id: str | None = None, *, everything: bool = False
    ) -> list[Delivery]:
        """Do without the dead letters (with `everything`: without all that is undelivered); return what they were."""
        rows = self._in_states(destination, job_id, UNDELIVERED_STATES if everything else [DeliveryState.DEAD])
        event = DeliveryEvent.DISMISS
        self._change(
            "state = ?, tried_at = ?",
            [
                (next_state(DELIVERY_TRANSITIONS, row.state, event).value, now, row.delivery_id, row.state.value)
                for row in rows
            ],
        )
        return rows

    def causes(self, destination: str, limit: int = 3) -> list[tuple[str, int]]:
        """Return the commonest causes of its dead letters, and how many have each."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT cause, count(*) AS many FROM deliveries WHERE destination = ? AND state = 'dead'"
                " GROUP BY cause ORDER BY many DESC, cause LIMIT ?",
                (destination, limit),
            ).fetchall()
        return [(row["cause"], row["many"]) for row in rows]

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Return the deliveries of one job."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM deliveries WHERE job_id = ? ORDER BY delivery_id", (job_id,))
            return [delivery_of(row) for row in rows.fetchall()]

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

    def _in_states(self, destination: str, job_id: str | None, states: Iterable[DeliveryState]) -> list[Delivery]:
        wanted = ", ".join(f"'{state}'" for state in sorted(states))
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT * FROM deliveries WHERE destination = :destination AND state IN ({wanted})"  # noqa: S608
                f" AND {_OF_JOB} ORDER BY delivery_id",
                {"destination": destination, "job_id": job_id},
            ).fetchall()
        return [delivery_of(row) for row in rows]

    def _change(self, assignments: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Change rows that are still in the state they were seen in: each ends in its delivery's ID and that state."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            with self._database.transaction() as connection:
                connection.executemany(
                    f"UPDATE deliveries SET {assignments} WHERE delivery_id = ? AND state = ?",  # noqa: S608
                    rows[start : start + _ROWS_AT_ONCE],
                )

    def _step(
        self, delivery_id: int, event: DeliveryEvent, now: float, next_at: float, status: int | None, cause: str
    ) -> None:
        """An object was offered to the destination, which counts as an attempt."""
        with self._database.transaction() as connection:
            state = state_after(connection, delivery_id, event)
            connection.execute(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, tried_at = ?, next_at = ?, status = ?,"
                " cause = ?, transaction_uid = '' WHERE delivery_id = ?",
                (state.value, now, next_at, status, cause, delivery_id),
            )

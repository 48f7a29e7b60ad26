"""Looking up instances in the job table by their SOP Instance UID."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.storage.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicom_gam.storage.sqlite import Database


class SqliteInstances:
    """What the job table knows of instances, over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def states(self, sop_instance_uids: Iterable[str]) -> dict[str, list[JobState]]:
        """The states of each instance's arrivals, oldest first; an unknown instance has none, reprocessing counts not.

        Raises StorageError.
        """
        found: dict[str, list[JobState]] = {}
        for uid in sop_instance_uids:
            with self._database.reading() as connection:
                rows = connection.execute(
                    "SELECT state FROM jobs WHERE sop_instance_uid = ? AND predecessor = '' ORDER BY number", (uid,)
                ).fetchall()
            found[uid] = [JobState(row["state"]) for row in rows]
        return found

"""How old the node knows its jobs to be, whatever the wall clock says.

A wall clock that jumps a year ahead (a flat battery, a wrong time server) makes everything look a year old, and what
was received under a clock that lagged looks old once it is put right. So nothing is deleted by the wall clock alone:
this count of seconds has to agree. It grows with the system's own uptime while the node runs, which nobody can set.
Over a stop it grows by what the wall clock says, but never by more than `LONGEST_STOP_S`: at worst things are kept
longer than they need be, or, if the clock was set ahead while the node was down, go that much too early.

Jobs are numbered as they come; every few hours the number reached so far is noted with the count.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.storage.blobs import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

LONGEST_STOP_S = 3 * 86400.0
TOLERANCE_S = 3600.0  # daylight saving does not move UTC; time servers step by seconds
NOTE_EVERY_S = 6 * 3600.0


def uptime() -> float:
    """Seconds since the machine was started, suspended ones too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class AgeLedger:
    """The count of elapsed seconds and the numbers noted with it, kept in a small file.

    A file that is missing or damaged starts anew from nothing, which keeps everything for longer.
    """

    def __init__(self, path: Path, wall: Callable[[], float] = time.time, steady: Callable[[], float] = uptime) -> None:
        self._path, self._wall, self._steady = path, wall, steady
        self._elapsed_s, self._wall_then = 0.0, wall()
        self._notes: list[tuple[float, int]] = []  # elapsed, highest job number by then
        self._newest_number = 0
        self._steady_then: float | None = None  # None: the first step of this process
        self._load()

    @property
    def elapsed_s(self) -> float:
        """The count as it was at the latest `advance`."""
        return self._elapsed_s

    def advance(self, newest_number: int, longest_s: float) -> float:
        """Count on, note the newest job, save; return by how many seconds the wall clock has jumped (0: it hasn't).

        Notes older than `longest_s` are dropped but for the latest of them. Raises StorageError.
        """
        wall, steady = self._wall(), self._steady()
        by_wall = wall - self._wall_then
        if self._steady_then is None:
            passed = min(max(by_wall, 0.0), LONGEST_STOP_S)
        else:
            passed = max(0.0, steady - self._steady_then)
        self._elapsed_s += passed
        self._newest_number = newest_number
        self._wall_then, self._steady_then = wall, steady
        if not self._notes or self._elapsed_s - self._notes[-1][0] >= NOTE_EVERY_S:
            self._notes.append((self._elapsed_s, newest_number))
        while len(self._notes) > 1 and self._elapsed_s - self._notes[1][0] >= longest_s:
            del self._notes[0]
        self._save()
        return by_wall - passed if abs(by_wall - passed) > TOLERANCE_S else 0.0

    def number_aged(self, age_s: float) -> int:
        """The highest job number that is known to have come at least `age_s` ago; 0 when none is."""
        if age_s <= 0:
            return self._newest_number
        return max((number for elapsed, number in self._notes if self._elapsed_s - elapsed >= age_s), default=0)

    def _load(self) -> None:
        try:
            kept = json.loads(self._path.read_bytes())
            notes = [(float(elapsed), int(number)) for elapsed, number in kept["notes"]]
            self._elapsed_s, self._wall_then = float(kept["elapsed_s"]), float(kept["wall"])
            self._notes = notes
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self._path} can't be read ({error.strerror}): see to the disk") from error
        except (ValueError, TypeError, KeyError):
            _log.warning("retention.ledger_unreadable %s: it starts anew, so everything is kept longer", self._path)

    def _save(self) -> None:
        content = {"elapsed_s": self._elapsed_s, "wall": self._wall_then, "notes": self._notes}
        write_durably(self._path, json.dumps(content))

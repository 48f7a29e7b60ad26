"""Whether a node can take images in and work on them now, and if not, why: what /ready says and monitors ask for.

What is said names parts of the node and nothing else, as anybody may ask.
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.errors import AuditError, StorageError
from dicom_gam.storage.sqlite_metrics import check_writable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dicom_gam.config import Settings
    from dicom_gam.service.loop import Pulse
    from dicom_gam.service.store import Store
    from dicom_gam.service.vitals import Vitals

STEP_LIMIT_S = 600.0  # of one step of the worker, at least
LONG_STEP_LIMIT_S = 3600.0  # of a courier or the retention, which may walk over many files in one step
FRESH_S = 2.0  # an answer is given again for so long, so that whoever asks often costs little


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why the node is not ready: the part of the node, and what is wrong, with the remedy."""

    part: str
    words: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the node is ready: when nothing stands in the way."""

    obstacles: tuple[Obstacle, ...]

    @property
    def ready(self) -> bool:
        """Whether images can be taken in and worked on."""
        return not self.obstacles


def read_readiness(
    settings: Settings,
    store: Store,
    vitals: Vitals | None,
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> Readiness:
    """Look at everything once. Without vitals, where no node runs in this process, only at the storage."""
    found = [*(() if vitals is None else _of_node(settings, vitals)), *_of_storage(settings, store, free)]
    return Readiness(tuple(found))


class ReadinessReader:
    """`read_readiness` for many that ask: who asks within `FRESH_S` of another gets the same answer."""

    def __init__(
        self,
        read: Callable[[], Readiness],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        self._at = 0.0
        self._last: Readiness | None = None

    def read(self) -> Readiness:
        """How the node fares now, or did a moment ago."""
        with self._lock:
            if self._last is None or self._clock() - self._at >= FRESH_S:
                self._last, self._at = self._read(), self._clock()
            return self._last


def loop_title(pulse: Pulse) -> str:
    """The name of a thread without the machine and process number of a worker's."""
    kind, _, rest = pulse.name.partition(" ")
    return kind if kind == "worker" else f"{kind} {rest}".strip()


def _of_node(settings: Settings, vitals: Vitals) -> Iterator[Obstacle]:
    if not vitals.accepting:
        yield Obstacle("node", "it does not accept images, because it is starting or stopping: wait, or start it")
    if vitals.receivers < vitals.receivers_wanted:
        words = f"{vitals.receivers} of {vitals.receivers_wanted} run: see the node's log for why the others ended"
        yield Obstacle("receivers", words)
    for pulse in vitals.loops:
        title = loop_title(pulse)
        limit = _step_limit_s(settings, title)
        if not pulse.alive:
            yield Obstacle(title, "its thread has ended: restart the node and see its log")
        elif pulse.step_s is not None and pulse.step_s > limit:
            words = f"one step has been running for {pulse.step_s:.0f} s, longer than {limit:.0f} s: see the node's log"
            yield Obstacle(title, words + ", and restart it if it does not go on")


def _step_limit_s(settings: Settings, title: str) -> float:
    if title != "worker":
        return LONG_STEP_LIMIT_S
    decoding_s = settings.decoding.timeout_s * settings.processing.batch_size
    return max(STEP_LIMIT_S, 2 * settings.processing.lease_s, 2 * decoding_s)


def _of_storage(settings: Settings, store: Store, free: Callable[[Path], int]) -> Iterator[Obstacle]:
    try:
        enough = free(store.folder) >= settings.node.minimum_free_bytes
    except OSError:
        yield Obstacle("disk", "the storage folder can't be looked at: see to the disk it lies on")
        return
    if not enough:
        yield Obstacle("disk", "less is free than node.minimum_free_bytes, so images are refused: free some space")
    try:
        check_writable(store.database)
    except StorageError:
        yield Obstacle("database", "it can't be written or is held by another program: see the node's log")
        return
    try:
        store.audit.extend([])  # goes to the log's end, checks it against the head, and writes nothing
    except AuditError:
        yield Obstacle("audit log", "it is broken, so nothing is accepted: run dicom-gam audit verify")
    except StorageError:
        yield Obstacle("audit log", "it can't be written, so nothing is accepted: see to the disk")

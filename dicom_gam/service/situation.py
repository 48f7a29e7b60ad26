"""How the node stands at this moment, judged: what is well, what is not, and whom it needs.

Everything is read from storage and from the running node's vitals. It holds no patient's data.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.service.doctor_case import Case
from dicom_gam.storage.sqlite_attention import common_causes, count_open_results
from dicom_gam.storage.sqlite_now import count_outcomes, count_undelivered, read_queue, read_senders
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store
    from dicom_gam.service.vitals import Vitals
    from dicom_gam.storage.rows import DriftReading, Hold, Pause
    from dicom_gam.storage.sqlite_now import QueueReading, SenderReading

LONG_WAIT_S = 900.0  # an image that waits for longer than this is worth a word
STUCK_STEP_S = 600.0
MOST_COUNTED = 100  # open results; beyond it "100 or more" says enough


class Light(StrEnum):
    """How bad something is, worst last; also the name of its colour on the page."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Need:
    """Something that needs a person: `who` is "an administrator", "an operator" or "a reader"."""

    light: Light
    who: str
    words: str


@dataclass(frozen=True, slots=True)
class DestinationNow:
    """Where a destination stands. `word` is open, paused, unreachable or removed (from the settings)."""

    name: str
    word: str
    light: Light
    waiting: int
    unconfirmed: int
    dead: int
    next_at: float | None
    pause: Pause | None
    hold: Hold | None
    commonest_cause: str


@dataclass(frozen=True, slots=True)
class DiskNow:
    """The file system of the storage folder, in bytes: below `refused_below` images are refused."""

    free: int
    total: int
    refused_below: int
    make_room_below: int

    @property
    def light(self) -> Light:
        """Bad when images are refused, warning when images go before their time."""
        if self.free < self.refused_below:
            return Light.BAD
        return Light.WARN if self.free < self.make_room_below else Light.GOOD


@dataclass(frozen=True, slots=True)
class Situation:
    """All of it, as read at `read_at`.

    `vitals` is None where the node does not run in this process; `runs` is whether it does at all.
    """

    read_at: float
    senders: Sequence[SenderReading]
    queue: QueueReading
    vitals: Vitals | None
    runs: bool
    disk: DiskNow
    destinations: Sequence[DestinationNow]
    today: Mapping[str, int]
    alarms: Sequence[DriftReading]
    failed: int
    quarantined: int
    needs: Sequence[Need]


def read_situation(settings: Settings, store: Store, vitals: Vitals | None) -> Situation:
    """Look at everything once. Raises StorageError."""
    now = time.time()
    database = store.database
    midnight = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    found = Situation(
        read_at=now,
        senders=read_senders(database, now),
        queue=read_queue(database),
        vitals=vitals,
        runs=vitals is not None or Case(settings).runs,
        disk=_read_disk(settings, store),
        destinations=_read_destinations(settings, store),
        today=count_outcomes(database, midnight.timestamp()),
        alarms=[reading for reading in store.drift.readings() if reading.alarm_at is not None],
        failed=count_open_results(database, "ERROR", MOST_COUNTED),
        quarantined=count_open_results(database, "QUARANTINED", MOST_COUNTED),
        needs=(),
    )
    needs = sorted(_needs(found), key=lambda need: need.light is Light.WARN)  # the bad ones first, else in their order
    return Situation(**{key: getattr(found, key) for key in Situation.__slots__} | {"needs": tuple(needs)})


def _needs(found: Situation) -> Iterator[Need]:
    administrator, operator = "an administrator", "an operator"
    yield from _needs_of_node(found, administrator)
    if found.disk.light is Light.BAD:
        yield Need(Light.BAD, administrator, "the disk is so full that images are refused: free some space")
    elif found.disk.light is Light.WARN:
        words = "the disk is filling up, so images of delivered results go before their time: give it more space"
        yield Need(Light.WARN, administrator, words)
    for destination in found.destinations:
        yield from _needs_of_destination(destination, administrator, operator)
    for word, count, remedy in (
        ("images that failed", found.failed, "see the cause on the page Attention, then process again or dismiss"),
        ("images in quarantine", found.quarantined, "other bytes came under the same UID, find out which are right"),
    ):
        if count:
            yield Need(Light.WARN, operator, f"{word}: {_many(count)}; {remedy}")
    for alarm in found.alarms:
        words = f"images of {alarm.sender} no longer look like those {alarm.bundle_name} was calibrated on"
        yield Need(Light.WARN, administrator, f"{words}: find the cause, see the page Quality")
    for sender in found.senders:
        if sender.unusual:
            yield Need(Light.WARN, operator, f"{sender.ae_title} has been silent for longer than usual: is it off?")


def _needs_of_node(found: Situation, who: str) -> Iterator[Need]:
    vitals, queue = found.vitals, found.queue
    if not found.runs:
        yield Need(Light.BAD, who, "the node does not run, so no image is taken in: start it (dicom-gam serve)")
    if vitals is not None:
        if not vitals.accepting:
            yield Need(Light.BAD, who, "the node accepts no images: start it again, see its log")
        if vitals.receivers < vitals.receivers_wanted:
            words = f"{vitals.receivers} of {vitals.receivers_wanted} receivers run: another is started, see the log"
            yield Need(Light.WARN if vitals.receivers else Light.BAD, who, words)
        for loop in vitals.loops:
            if not loop.alive:
                yield Need(Light.BAD, who, f"the thread {loop.name} has ended: start the node again, see its log")
            elif loop.step_s is not None and loop.step_s > STUCK_STEP_S:
                minutes = loop.step_s / 60
                yield Need(Light.WARN, who, f"the thread {loop.name} has been at one step for {minutes:.0f} minutes")
            elif loop.failure:
                yield Need(Light.WARN, who, f"the thread {loop.name} failed lately: {loop.failure}")
    if queue.oldest_at is not None and found.read_at - queue.oldest_at > LONG_WAIT_S:
        minutes = (found.read_at - queue.oldest_at) / 60
        words = f"images waiting: {queue.waiting}, one of them for {minutes:.0f} minutes: is the worker at work?"
        yield Need(Light.WARN, who, words)


def _needs_of_destination(destination: DestinationNow, administrator: str, operator: str) -> Iterator[Need]:
    name = destination.name
    if destination.hold is not None:
        yield Need(Light.BAD, administrator, f"{name} can't be reached: {destination.hold.cause}")
    if destination.pause is not None:
        yield Need(Light.WARN, operator, f"{name} is paused ({destination.pause.why}): resume it in time")
    if destination.dead:
        words = f"{name} did not take {destination.dead} of our objects: see to the cause, then send them again"
        yield Need(Light.BAD, operator, words)
    if destination.word == "removed" and destination.waiting:
        words = (
            f"{name} is not configured any more, and {destination.waiting} of our objects wait for it: add or dismiss"
        )
        yield Need(Light.WARN, administrator, words)


def _read_destinations(settings: Settings, store: Store) -> list[DestinationNow]:
    configured = [destination.name for destination in settings.destinations]
    counts = count_undelivered(store.database, configured)
    found = [_destination(store, name, counts[name], name in configured) for name in counts]
    return [item for item in found if item.name in configured or item.waiting or item.unconfirmed or item.dead]


def _destination(store: Store, name: str, counts: Mapping[DeliveryState, int], configured: bool) -> DestinationNow:
    outbox = store.outbox
    pause, hold, dead = outbox.paused(name), outbox.held(name), counts[DeliveryState.DEAD]
    causes = common_causes(store.database, name) if dead else []
    word, light = "open", Light.GOOD
    if not configured:
        word, light = "removed", Light.WARN
    elif pause is not None:
        word, light = "paused", Light.WARN
    elif hold is not None:
        word, light = "unreachable", Light.BAD
    if dead:
        light = Light.BAD
    return DestinationNow(
        name=name,
        word=word,
        light=light,
        waiting=sum(counts[state] for state in OPEN_DELIVERY_STATES - {DeliveryState.UNCONFIRMED}),
        unconfirmed=counts[DeliveryState.UNCONFIRMED],
        dead=dead,
        next_at=outbox.next_due(name),
        pause=pause,
        hold=hold,
        commonest_cause=causes[0] if causes else "",
    )


def _read_disk(settings: Settings, store: Store) -> DiskNow:
    try:
        usage = shutil.disk_usage(store.folder)
    except OSError as error:
        msg = f"the disk of {store.folder} can't be looked at ({error.strerror}): is it mounted?"
        raise StorageError(msg) from error
    refused, room = settings.node.minimum_free_bytes, settings.retention.make_room_below_bytes
    return DiskNow(usage.free, usage.total, refused, room)


def _many(count: int) -> str:
    return f"{MOST_COUNTED} or more" if count >= MOST_COUNTED else str(count)

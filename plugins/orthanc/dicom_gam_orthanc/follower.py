"""Follows Orthanc's change log: sends what the rules say, and writes down the verdicts that come back.

The log is the queue (conformance/decisions/0019-the-change-log-is-the-queue.md). A number that outlives restarts, the
position, says up to where all is done; it never passes a study that still waits. What is read twice after a crash is
not sent twice, as images that the node has taken bear a mark.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .host import GoneError, Host, HostError
from .settings import Settings
from .study import Studies

_PAGE = 1000  # changes that are read at once
_GATHER_S = 0.5  # images that arrive together are looked at together
_JOB_LOOK_S = 0.25
_UNSTABLE_LOOK_S = 5.0
_IDLE_S = 60.0
_STATUS = re.compile(r"DIMSE status 0x([0-9A-Fa-f]{4})")
_AWAY = re.compile(r"connecting to AET|Timeout|timeout|TCP Initialization|Association Rejected|Connection refused")


@dataclass
class Pause:
    """A pause that doubles from failure to failure. Times are of the monotonic clock."""

    failures: int = 0
    until: float = 0.0

    def grow(self, settings: Settings, now: float) -> None:
        """Note one more failure."""
        self.until = now + min(settings.first_pause_s * 2 ** min(self.failures, 30), settings.longest_pause_s)
        self.failures += 1


@dataclass
class Waiting:
    """A study with images to send. `position` is its first change in the log that is not dealt with yet."""

    position: int
    images: list[str] | None = None  # Orthanc's IDs of what is left to send; None: to be found out
    asked: bool = False
    refusals: int = 0
    pause: Pause = field(default_factory=Pause)


@dataclass(frozen=True)
class Flight:
    """An image that is on its way, as a job of Orthanc's."""

    study: str
    instance: str
    job: str


@dataclass(frozen=True)
class Outage:
    """The node does not take images: since when (UTC), and why."""

    since: str
    why: str


def utc_now() -> str:
    """Now, as ISO 8601 text in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Follower:
    """One thread that does all of the plugin's work. Others only wake it and read `outage` and `is_waiting`."""

    def __init__(
        self, host: Host, settings: Settings, studies: Studies, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host, self._settings, self._studies, self._clock = host, settings, studies, clock
        self._waiting: dict[str, Waiting] = {}
        self._flight: Flight | None = None
        self._pause = Pause()
        self._read_to = self._kept = -1
        self.outage: Outage | None = None
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicom_gam", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """Say that something may have changed."""
        self._wake.set()

    def stop(self) -> None:
        """End the work; what is on its way is looked after at the next start."""
        self._ended.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(15)

    def is_waiting(self, study: str) -> bool:
        """Whether images of a study are to be sent still."""
        return study in self._waiting

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            try:
                pause_s = self.step()
            except HostError as error:
                self._host.warn(f"Orthanc refused a request of the plugin: {error}; trying again in 10 s")
                pause_s = 10.0
            except Exception as error:  # the outermost loop: whatever it is, images must go on being sent
                self._host.warn(f"unexpected {type(error).__name__} {_place(error)}; trying again in 10 s")
                pause_s = 10.0
            if self._wake.wait(pause_s):
                self._ended.wait(_GATHER_S)

    def step(self) -> float:
        """Do what can be done now; returns after how many seconds to look again, if nothing wakes us before."""
        self._read_changes()
        again_s = self._send_next() if self._flight is None else self._look_after(self._flight)
        self._keep_position()
        return again_s

    def _read_changes(self) -> None:
        if self._read_to < 0:
            self._read_to = self._first_position()
        done = False
        while not done and not self._ended.is_set():
            page = self._host.get(f"/changes?since={self._read_to}&limit={_PAGE}")
            self._take_in(page["Changes"])
            self._read_to, done = max(self._read_to, page["Last"]), page["Done"] or not page["Changes"]
            self._keep_position()

    def _first_position(self) -> int:
        kept = self._host.property(self._settings.first_number)
        if kept:
            return int(kept)
        last = int(self._host.get("/changes?last")["Last"])
        self._host.warn(f"first start: images that arrive from now on are routed (change {last}); older ones by hand")
        return last

    def _keep_position(self) -> None:
        position = min([self._read_to + 1, *(waiting.position for waiting in self._waiting.values())]) - 1
        if position != self._kept:
            self._host.set_property(self._settings.first_number, str(position))
            self._kept = position

    def _take_in(self, changes: list[dict[str, Any]]) -> None:
        """Note the studies with new radiographs, and write down the verdicts of those with new reports."""
        new = {item["ID"]: item["Seq"] for item in changes if item["ChangeType"] == "NewInstance"}
        reported: set[str] = set()
        while new:  # a look at one image answers for its whole series: 2000 slices cost a handful of requests
            first = next(iter(new))
            series = self._series_of(first)
            siblings = {first, *(series["Instances"] if series else ())}
            position = min(new.pop(instance) for instance in siblings & new.keys())
            if series is None:
                continue
            if self._studies.modality(series) == "SR":
                reported.add(series["ParentStudy"])
            elif self._studies.may_hold_radiographs(series):
                self._note(series["ParentStudy"], position)
                self._withdraw_pass(series["ParentStudy"])
        for item in changes:
            if item["ChangeType"] == "UpdatedMetadata" and item["ResourceType"] == "Study":
                self._note_if_asked(item["ID"], item["Seq"])
        for study in reported:
            self._show_verdicts(study)

    def _series_of(self, instance: str) -> Any:
        try:
            return self._host.get(f"/series/{self._host.get(f'/instances/{instance}')['ParentSeries']}")
        except GoneError:
            return None

    def _note(self, study: str, position: int) -> Waiting:
        waiting = self._waiting.setdefault(study, Waiting(position))
        waiting.images = None
        return waiting

    def _withdraw_pass(self, study: str) -> None:
        """A study that passed has a new image: it is no PASS until that is judged too."""
        try:
            if self._studies.is_pass(study):
                self._show_verdicts(study)
        except GoneError:
            return

    def _note_if_asked(self, study: str, position: int) -> None:
        try:
            if str(self._studies.marks.asked) in self._studies.metadata("studies", study):
                waiting = self._note(study, position)
                waiting.asked, waiting.pause, self._pause = True, Pause(), Pause()
        except GoneError:
            return

    def _show_verdicts(self, study: str) -> None:
        try:
            word = self._studies.show_verdicts(study, pending=study in self._waiting)
        except GoneError:
            return
        except HostError as error:
            self._host.warn(f"the verdict of study {study} can't be written on it, see its panel: {error}")
            return
        if word:
            self._host.inform(f"study {study}: {word}")

    def _send_next(self) -> float:
        now = self._clock()
        if not self._waiting:
            self.outage = None
        if now < self._pause.until and self._waiting:
            return self._pause.until - now
        again_s = _IDLE_S
        for study, waiting in list(self._waiting.items()):
            if now < waiting.pause.until:
                again_s = min(again_s, waiting.pause.until - now)
                continue
            try:
                if self._depart(study, waiting):
                    return _JOB_LOOK_S
            except GoneError:  # deleted meanwhile, the study or an image: look once more, and forget what is gone
                self._forget_if_gone(study, waiting)
                return 0.0
            except HostError as error:  # a damaged file, say: it must not hold up the others
                waiting.pause.grow(self._settings, now)
                self._host.warn(f"study {study} waits, as Orthanc can't read it: {error}")
            if study in self._waiting:
                again_s = min(again_s, _UNSTABLE_LOOK_S)
        return again_s

    def _depart(self, study: str, waiting: Waiting) -> bool:
        """Send a study's next image, if the study is complete; one with nothing left is done with."""
        if waiting.images is None:
            if not self._host.get(f"/studies/{study}")["IsStable"]:
                return False
            waiting.images = self._studies.to_send(study)
        if not waiting.images:
            self._done(study, waiting)
            return False
        instance = waiting.images[0]
        order = {"Resources": [instance], "Synchronous": False, "Permissive": False}
        job = self._host.post(f"/modalities/{self._settings.modality}/store", order)["ID"]
        self._flight = Flight(study, instance, job)
        return True

    def _done(self, study: str, waiting: Waiting) -> None:
        if waiting.asked:
            self._studies.unmark("studies", study, self._studies.marks.asked)
        self._studies.show_verdicts(study)
        del self._waiting[study]

    def _forget_if_gone(self, study: str, waiting: Waiting) -> None:
        waiting.images = None
        try:
            self._host.get(f"/studies/{study}")
        except GoneError:
            del self._waiting[study]

    def _look_after(self, flight: Flight) -> float:
        """See how the image on its way fares."""
        try:
            job = self._host.get(f"/jobs/{flight.job}")
        except GoneError:  # Orthanc keeps few finished jobs: not knowing how it went, send once more
            job = {"State": "Failure"}
        if job["State"] not in ("Success", "Failure"):
            return _JOB_LOOK_S
        self._flight = None
        waiting = self._waiting[flight.study]
        try:
            if job["State"] == "Success":
                self._landed(flight, waiting)
            else:
                self._failed(flight, waiting, str(job.get("ErrorDetails") or job.get("ErrorDescription") or ""))
        except GoneError:
            self._forget_if_gone(flight.study, waiting)
        return 0.0

    def _landed(self, flight: Flight, waiting: Waiting) -> None:
        if self.outage is not None:
            self._host.warn(f'the node "{self._settings.modality}" takes images again')
        self.outage, self._pause, waiting.pause, waiting.refusals = None, Pause(), Pause(), 0
        _strike_out(waiting, flight.instance)  # first: whatever becomes of the mark, it does not go round in circles
        self._studies.mark("instances", flight.instance, self._studies.marks.sent, utc_now())
        self._host.inform(f"instance {flight.instance} sent")

    def _failed(self, flight: Flight, waiting: Waiting, said: str) -> None:
        """Decide what a failure means: the node is away, it is short of something, or it refuses this image."""
        status = _STATUS.search(said)
        code = int(status[1], 16) if status else None
        if code is None and _AWAY.search(said):
            self._away("it can't be reached, or refuses Orthanc's AE title")
            return
        waiting.pause.grow(self._settings, self._clock())
        if code is not None and (code >> 8 == 0xA7 or code == 0x0110):
            self._host.warn(f"the node has no room, or failed (status {code:04X}): instance {flight.instance} waits")
            return
        reason = f"the node refused it with status {code:04X}" if status else "Orthanc could not send it"
        waiting.refusals += 1
        if waiting.refusals >= self._settings.attempts:
            self._host.warn(f"instance {flight.instance} is given up: {reason}; see the study's panel")
            self._studies.mark("instances", flight.instance, self._studies.marks.refused, f"{utc_now()} {reason}")
            waiting.refusals, waiting.pause = 0, Pause()
            _strike_out(waiting, flight.instance)

    def _away(self, why: str) -> None:
        self._pause.grow(self._settings, self._clock())
        if self.outage is None:
            self.outage = Outage(utc_now(), why)
            self._host.warn(
                f'the node "{self._settings.modality}" takes no images: {why}. They wait and go by themselves'
            )


def _strike_out(waiting: Waiting, instance: str) -> None:
    if waiting.images is not None:
        waiting.images = [item for item in waiting.images if item != instance]


def _place(error: Exception) -> str:
    """Where an error comes from; its message is left out, as it might hold what an image says."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else ""

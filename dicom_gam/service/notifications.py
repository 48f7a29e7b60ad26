"""Telling people that something needs them, by mail or webhook, without a patient's data.

What is worth telling is noted in a small file before the follower of the audit log goes on, so a crash loses nothing;
it is told at most once in `at_most_every_s` per occasion and channel, with a count. While a channel is away its
messages wait, and the others go on.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import DeliveryError, DicomGamError, StorageError
from dicom_gam.service.notification_channels import Notification, channels_of, dashboard_url
from dicom_gam.service.occasions import Happening, happening_of, unreadable_log
from dicom_gam.storage.blobs import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicom_gam.config import Settings
    from dicom_gam.errors import AuditError
    from dicom_gam.oversight_sections import NotificationSettings, Occasion
    from dicom_gam.service.notification_channels import Channel
    from dicom_gam.storage.audit_reader import AuditRecord

_log = logging.getLogger(__name__)

FILE = "notifications.json"
LOOK_EVERY_S = 60.0


@dataclass(slots=True)
class _Waiting:
    """What one channel has to tell about one occasion: how often, and the latest of it. `told_at` is wall time."""

    count: int = 0
    since: str = ""
    happening: Happening | None = None
    told_at: float = 0.0


@dataclass(slots=True)
class _Book:
    """What waits, by channel and occasion."""

    waiting: dict[str, dict[str, _Waiting]] = field(default_factory=dict)

    def of(self, channel: str, occasion: str) -> _Waiting:
        return self.waiting.setdefault(channel, {}).setdefault(occasion, _Waiting())


def notifies(settings: NotificationSettings) -> bool:
    """Whether there is any channel to tell people by."""
    return settings.smtp_host is not None or settings.webhook_url_file is not None


class Notifier:
    """Notes what a person should hear of, and tells it. All three functions are for one thread."""

    def __init__(
        self,
        settings: Settings,
        channels: Sequence[Channel] | None = None,
        clock: Callable[[], float] = time.time,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._settings = settings
        self._channels = channels_of(settings.notifications) if channels is None else channels
        self._clock = clock
        folder = settings.node.storage
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(folder).free)
        self._path = folder / FILE
        self._looked_at = float("-inf")
        self._was_low = False
        self._book = self._load()

    def note(self, records: Sequence[AuditRecord]) -> None:
        """Note what is worth telling among new records. Raises StorageError; then nothing was noted."""
        found = [happening for record in records if (happening := happening_of(record)) is not None]
        if found:
            self._add(found)

    def note_unreadable(self, error: AuditError) -> None:
        """Note, and tell, that the audit log itself is broken."""
        self._add([unreadable_log(str(error))])
        try:
            self.tell()
        except DeliveryError as second:
            _log.error("notification.not_sent %s", second)

    def tell(self) -> None:
        """Tell what is due, by each channel. Raises DeliveryError when one failed, after the others were tried."""
        self._look_at_disk()
        failed: list[str] = []
        for channel in self._channels:
            for occasion, waiting in list(self._book.waiting.get(channel.name, {}).items()):
                if self._due(waiting):
                    failure = self._tell(channel, occasion, waiting)
                    if failure:
                        failed.append(failure)
                        break  # the others of this channel would fail too
        if failed:
            raise DeliveryError("; ".join(failed))

    def _tell(self, channel: Channel, occasion: str, waiting: _Waiting) -> str:
        """Tell by one channel; return why that failed, empty when it did not."""
        happening = waiting.happening
        assert happening is not None
        notification = Notification(
            node=self._settings.node.ae_title,
            occasion=occasion,
            count=waiting.count,
            since=waiting.since,
            what=happening.what,
            why=happening.why,
            remedy=happening.remedy,
            url=dashboard_url(self._settings.web),
        )
        try:
            channel.send(notification)
        except DicomGamError as error:
            return str(error)
        _log.info("notification.sent channel=%s occasion=%s count=%d", channel.name, occasion, waiting.count)
        self._book.waiting[channel.name][occasion] = _Waiting(told_at=self._clock())
        self._save()
        return ""

    def _due(self, waiting: _Waiting) -> bool:
        since = self._clock() - waiting.told_at  # negative when the clock was set back: then it is told at once
        return waiting.count > 0 and not 0 <= since < self._settings.notifications.at_most_every_s

    def _add(self, found: Sequence[Happening]) -> None:
        before = self._book
        self._book = _book(asdict(before))
        for happening in found:
            if happening.occasion in self._settings.notifications.occasions:
                for channel in self._channels:
                    waiting = self._book.of(channel.name, happening.occasion)
                    waiting.since = waiting.since or happening.time
                    waiting.count += 1
                    waiting.happening = happening
        try:
            self._save()
        except StorageError:
            self._book = before
            raise

    def _look_at_disk(self) -> None:
        """Note that space is short, once until there is enough again."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        limit = max(self._settings.node.minimum_free_bytes, self._settings.retention.make_room_below_bytes)
        try:
            free = self._free_bytes()
        except OSError as error:
            raise StorageError(f"{self._settings.node.storage} can't be looked at ({error.strerror})") from error
        if free < limit and not self._was_low:
            self._add([_disk_low(free, self._settings.node.minimum_free_bytes, self._clock())])
        self._was_low = free < limit

    def _load(self) -> _Book:
        try:
            return _book(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return _Book()
        except OSError as error:
            raise StorageError(f"{self._path} can't be read ({error.strerror}): see to the disk") from error
        except (ValueError, TypeError, AttributeError, KeyError):
            _log.error("notification.waiting_lost %s is damaged: what waited in it is not told", self._path)
            return _Book()

    def _save(self) -> None:
        write_durably(self._path, json.dumps(asdict(self._book)))


def _book(kept: Any) -> _Book:
    """Make the book from what `asdict` made of it. Raises one of several errors when it is something else."""
    book = _Book()
    for channel, occasions in kept["waiting"].items():
        for occasion, values in occasions.items():
            happening = values["happening"]
            waiting = _Waiting(**values | {"happening": Happening(**happening) if happening else None})
            if (int(waiting.count) > 0 and waiting.happening is None) or float(waiting.told_at) < 0:
                raise ValueError(occasion)
            book.waiting.setdefault(channel, {})[occasion] = waiting
    return book


def _disk_low(free: int, minimum: int, now: float) -> Happening:
    occasion: Occasion = "disk-low"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return Happening(
        occasion,
        moment,
        f"the disk is nearly full: {free // 1024**2} MiB are free",
        f"below {minimum // 1024**2} MiB (node.minimum_free_bytes) images are refused",
        "free space: shorten retention.images_days, dismiss dead letters, or give node.storage a larger disk",
    )

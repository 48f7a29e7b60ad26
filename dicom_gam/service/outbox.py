"""Delivery: one thread for each destination, so that a broken one never holds up another."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dicom_gam.dicom.sender import Answer
from dicom_gam.errors import DeliveryError, DicomGamError, StorageError
from dicom_gam.service.loop import Loop, describe

if TYPE_CHECKING:
    from collections.abc import Generator

    from dicom_gam.config import DeliverySettings, Destination
    from dicom_gam.storage.protocols import AuditTrail, Blobs, Delivery, Outbox

_log = logging.getLogger(__name__)

Send = Callable[["Destination", str, Sequence[bytes]], Iterator[Answer]]

IDLE_POLL_S = 5.0
EVERYTHING = 1_000_000
OBJECTS_PER_ASSOCIATION = 16  # their bytes are in memory together


def retry_delay_s(attempts: int, settings: DeliverySettings, spread: float) -> float:
    """Seconds to wait after failed attempt number `attempts` (from 1): doubling, capped.

    `spread` in [0.8, 1.2] keeps many nodes from knocking at the same moment after the archive's restart.
    """
    doubled = settings.first_retry_s * 2.0 ** min(attempts - 1, 60)
    return min(settings.maximum_retry_s, min(settings.maximum_retry_s, doubled) * spread)


class Courier:
    """Brings the outbox's objects to one destination."""

    def __init__(
        self,
        destination: Destination,
        calling_ae_title: str,
        settings: DeliverySettings,
        outbox: Outbox,
        results: Blobs,
        audit: AuditTrail,
        send: Send,
    ) -> None:
        self._destination = destination
        self._calling_ae_title = calling_ae_title
        self._settings = settings
        self._outbox = outbox
        self._results = results
        self._audit = audit
        self._send = send
        self.loop = Loop(f"courier {destination.name}", self._step, self._step_failed, min(5.0, settings.first_retry_s))

    def _step(self) -> float:
        now = time.time()
        due = self._outbox.due(self._destination.name, now, OBJECTS_PER_ASSOCIATION)
        if not due:
            next_at = self._outbox.next_due(self._destination.name)
            return IDLE_POLL_S if next_at is None else min(IDLE_POLL_S, max(0.01, next_at - now))
        whole = [(delivery, content) for delivery in due if (content := self._content(delivery)) is not None]
        if whole:
            self._deliver(whole)
        return 0.0

    def _deliver(self, whole: Sequence[tuple[Delivery, bytes]]) -> None:
        answered: set[int] = set()
        contents = [content for _, content in whole]
        try:
            with closing(_generator(self._send(self._destination, self._calling_ae_title, contents))) as answers:
                for (delivery, _), answer in zip(whole, answers, strict=False):
                    self._settle(delivery, answer)
                    answered.add(delivery.delivery_id)
                    if self.loop.stopping:
                        return
        except DeliveryError as error:
            self._unreachable(answered, str(error))

    def _content(self, delivery: Delivery) -> bytes | None:
        """Return the very bytes that were committed; bury the delivery when the disk no longer has them."""
        try:
            content = self._results.read(delivery.what.blob)
        except StorageError as error:
            self._bury(delivery, None, str(error))
            return None
        if hashlib.sha256(content).hexdigest() != delivery.what.blob:
            self._bury(delivery, None, "the object was damaged on our own disk: look at the disk, process again")
            return None
        return content

    def _settle(self, delivery: Delivery, answer: Answer) -> None:
        if answer.stored and answer.status is not None:
            # The record comes first; a crash in between sends and records the identical object once more.
            self._record("delivery.sent", delivery, answer.status, answer.words)
            self._outbox.sent(delivery.delivery_id, answer.status, answer.words, time.time())
        else:
            self._not_sent(delivery, answer.status, answer.words)

    def _not_sent(self, delivery: Delivery, status: int | None, cause: str) -> None:
        attempts = delivery.attempts + 1
        if attempts >= self._settings.attempts:
            self._bury(delivery, status, f"given up after {attempts} attempts: {cause}")
            return
        now = time.time()
        wait_s = retry_delay_s(attempts, self._settings, random.uniform(0.8, 1.2))  # noqa: S311 (no secret)
        self._record("delivery.postponed", delivery, status, cause)
        self._outbox.postpone(delivery.delivery_id, now + wait_s, status, cause, now)

    def _bury(self, delivery: Delivery, status: int | None, cause: str) -> None:
        _log.error("delivery.dead job_id=%s destination=%s %s", delivery.job_id, self._destination.name, cause)
        self._record("delivery.dead", delivery, status, cause)
        self._outbox.bury(delivery.delivery_id, status, cause, time.time())

    def _unreachable(self, answered: set[int], cause: str) -> None:
        """Postpone all that is due, not only what was in hand: each further try would cost a whole timeout."""
        _log.warning("destination.unreachable %s", cause)
        for delivery in self._outbox.due(self._destination.name, time.time(), EVERYTHING):
            if delivery.delivery_id not in answered:
                self._not_sent(delivery, None, cause)

    def _record(self, event: str, delivery: Delivery, status: int | None, words: str) -> None:
        keys: dict[str, Any] = {
            "job_id": delivery.job_id,
            "destination": self._destination.name,
            "role": delivery.what.role,
            "sop_instance_uid": delivery.what.sop_instance_uid,
            "sha256": delivery.what.blob,
            "attempt": delivery.attempts + 1,
            "status": None if status is None else f"{status:04X}",
            "words": words,
        }
        self._audit.append(event, **keys)

    def _step_failed(self, error: Exception) -> None:
        message = str(error) if isinstance(error, DicomGamError) else describe(error)
        _log.error("courier.step_failed destination=%s %s", self._destination.name, message)


def _generator(answers: Iterator[Answer]) -> Generator[Answer, None, None]:
    yield from answers

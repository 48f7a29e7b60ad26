"""Delivery: one thread for each destination, so that a broken one never holds up another."""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING

from dicom_gam.dicom.scu import commitment_request as over_network
from dicom_gam.dicom.scu.destination import Send, send
from dicom_gam.errors import ConfigError, DeliveryError, DicomGamError, StorageError
from dicom_gam.service.commitment import delivery_keys, retry_delay_s, spread
from dicom_gam.service.loop import Loop, describe
from dicom_gam.service.notary import OBJECTS_PER_REQUEST, Notary
from dicom_gam.service.result_check import check_before_sending
from dicom_gam.storage.sqlite import CLOCK_SLACK_S

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from dicom_gam.config import DeliverySettings
    from dicom_gam.dicom.scu.sender import Answer
    from dicom_gam.sections import Destination
    from dicom_gam.service.notary import Ask
    from dicom_gam.service.result_check import Check
    from dicom_gam.storage.protocols import AuditTrail, Blobs, Outbox
    from dicom_gam.storage.rows import Delivery

__all__ = ["Courier", "Send", "retry_delay_s"]
_log = logging.getLogger(__name__)

IDLE_POLL_S = 5.0  # another process may resume, retry or pause
OBJECTS_PER_ASSOCIATION = 16  # their bytes are in memory together
BROKEN_IN_A_ROW = 2  # one object may upset an archive; when another one does too, it is the archive


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
        send: Send = send,
        ask: Ask = over_network.ask,
        check: Check = check_before_sending,
    ) -> None:
        self._destination = destination
        self._calling_ae_title = calling_ae_title
        self._settings = settings
        self._outbox = outbox
        self._results = results
        self._audit = audit
        self._send = send
        self._check = check
        self._broken: set[int] = set()  # deliveries over which it broke off since it last answered
        self.loop = Loop(f"courier {destination.name}", self._step, self._step_failed, min(5.0, settings.first_retry_s))
        self._notary = Notary(destination, calling_ae_title, settings, outbox, audit, lambda: self.loop.stopping, ask)

    def _step(self) -> float:
        name = self._destination.name
        if self._outbox.paused(name) is not None:
            return IDLE_POLL_S
        now = time.time()
        self._notary.collect_overdue(now)
        due = self._outbox.due(name, now, OBJECTS_PER_ASSOCIATION)
        if due:
            whole = [(delivery, content) for delivery in due if (content := self._content(delivery)) is not None]
            if whole:
                self._deliver(whole)
        unasked = self._unasked(now)
        if unasked and (not due or len(unasked) == OBJECTS_PER_REQUEST):
            self._ask_for(unasked, now)
        if due or unasked:
            return 0.0
        return self._idle_s(now)

    def _idle_s(self, now: float) -> float:
        """Until the next moment that is known of: a delivery's, an answer's, or the end of a hold."""
        name = self._destination.name
        held = self._outbox.held(name)
        moments = [self._outbox.next_due(name), self._outbox.commitments.next_due(name)]
        if held is not None and held.next_at > now:
            moments.append(held.next_at)
        return min([IDLE_POLL_S, *(max(0.01, moment - now) for moment in moments if moment is not None)])

    def _deliver(self, whole: Sequence[tuple[Delivery, bytes]]) -> None:
        """Send one batch, up to the first object that must hold back a later one of its study."""
        contents = [content for _, content in whole]
        with closing(_generator(self._send(self._destination, self._calling_ae_title, contents))) as answers:
            for place, (delivery, _) in enumerate(whole):
                try:
                    answer = next(answers, None)
                except DicomGamError as error:
                    self._unreachable(str(error))
                    return
                if answer is None:
                    if place == 0:
                        self._unreachable(f"destination {self._destination.name} gave no answer: see to its log")
                    return
                self._note(delivery, answer)
                self._settle(delivery, answer)
                if answer.broken and len(self._broken) >= BROKEN_IN_A_ROW:
                    self._unreachable(answer.words)
                if answer.broken or self.loop.stopping or self._outbox.paused(self._destination.name) is not None:
                    return
                if not answer.stored and not answer.hopeless and _holds_back(delivery, whole[place + 1 :]):
                    return

    def _content(self, delivery: Delivery) -> bytes | None:
        """Return the very bytes that were committed; bury the delivery when the disk no longer has them.

        Also when its set has a defect: half a result would mislead, so nothing of it is sent.
        """
        try:
            content = self._results.read(delivery.what.blob)
        except StorageError as error:
            self._bury(delivery, None, str(error))
            return None
        if hashlib.sha256(content).hexdigest() != delivery.what.blob:
            self._bury(delivery, None, "the object was damaged on our own disk: look at the disk, process again")
            return None
        cause = self._check(delivery, self._outbox.deliveries(delivery.job_id), self._results)
        if cause:
            self._bury(delivery, None, cause)
            return None
        return content

    def _note(self, delivery: Delivery, answer: Answer) -> None:
        """Notice that the destination is there (again), or breaks off over one object after another."""
        if answer.broken:
            self._broken.add(delivery.delivery_id)
        elif not answer.hopeless:
            self._broken.clear()
            self._reached()

    def _reached(self) -> None:
        hold = self._outbox.release(self._destination.name)
        if hold is not None:
            _log.info("destination.reached name=%s", self._destination.name)
            self._audit.append("destination.reached", destination=self._destination.name, attempts=hold.attempts)

    def _settle(self, delivery: Delivery, answer: Answer) -> None:
        """Record first; a crash in between sends and records the identical object once more."""
        if not answer.stored or answer.status is None:
            self._not_sent(delivery, answer)
        elif self._destination.commitment:
            self._record("delivery.stored", delivery, answer.status, answer.words)
            self._outbox.accepted(delivery.delivery_id, answer.status, answer.words, time.time())
        else:
            self._record("delivery.sent", delivery, answer.status, answer.words)
            self._outbox.sent(delivery.delivery_id, answer.status, answer.words, time.time())

    def _not_sent(self, delivery: Delivery, answer: Answer) -> None:
        attempts = delivery.attempts + 1
        if answer.hopeless:
            self._bury(delivery, answer.status, answer.words)
        elif attempts >= self._settings.attempts:
            self._bury(delivery, answer.status, f"given up after {attempts} attempts: {answer.words}")
        else:
            now = time.time()
            next_at = now + retry_delay_s(attempts, self._settings, spread())
            self._record("delivery.postponed", delivery, answer.status, answer.words)
            self._outbox.postpone(delivery.delivery_id, next_at, answer.status, answer.words, now)

    def _bury(self, delivery: Delivery, status: int | None, cause: str) -> None:
        _log.error("delivery.dead job_id=%s destination=%s %s", delivery.job_id, self._destination.name, cause)
        self._record("delivery.dead", delivery, status, cause)
        self._outbox.bury(delivery.delivery_id, status, cause, time.time())

    def _unreachable(self, cause: str) -> None:
        """Postpone the destination as a whole, at one moment: no object was offered, so none has used up a try."""
        _log.warning("destination.unreachable %s", cause)
        name = self._destination.name
        held = self._outbox.held(name)
        attempts = 1 if held is None else held.attempts + 1
        now = time.time()
        next_at = now + retry_delay_s(attempts, self._settings, spread())
        waiting = self._outbox.hold(name, next_at, cause, now)
        self._audit.append("destination.unreachable", destination=name, attempt=attempts, waiting=waiting, words=cause)

    def _unasked(self, now: float) -> list[Delivery]:
        """What is stored and not asked for yet, if the destination can be asked now."""
        held = self._outbox.held(self._destination.name)
        if held is not None and held.next_at > now and held.tried_at <= now + CLOCK_SLACK_S:
            return []
        return self._outbox.commitments.unasked(self._destination.name, OBJECTS_PER_REQUEST)

    def _ask_for(self, deliveries: Sequence[Delivery], now: float) -> None:
        try:
            self._notary.ask_for(deliveries, now)
        except (DeliveryError, ConfigError) as error:
            self._unreachable(str(error))
        else:
            self._reached()

    def _record(self, event: str, delivery: Delivery, status: int | None, words: str) -> None:
        self._audit.append(event, **delivery_keys(delivery, status, words, attempt=delivery.attempts + 1))

    def _step_failed(self, error: Exception) -> None:
        message = str(error) if isinstance(error, DicomGamError) else describe(error)
        _log.error("courier.step_failed destination=%s %s", self._destination.name, message)


def _holds_back(delivery: Delivery, later: Sequence[tuple[Delivery, bytes]]) -> bool:
    """Whether a later object of the batch belongs to the same study and so has to wait for this one."""
    study = delivery.what.study_instance_uid
    return study != "" and any(other.what.study_instance_uid == study for other, _ in later)


def _generator(answers: Iterator[Answer]) -> Generator[Answer, None, None]:
    yield from answers

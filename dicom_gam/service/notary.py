"""Asking a destination to answer for what it has stored (storage commitment)."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

from dicom_gam.dicom.scu import commitment_request as over_network
from dicom_gam.dicom.scu.commitment_request import CommitmentRefusedError
from dicom_gam.errors import DicomGamError
from dicom_gam.service.commitment import settle_report, unconfirmed
from dicom_gam.storage.rows import Commitment
from dicom_gam.storage.states import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicom_gam.config import DeliverySettings
    from dicom_gam.dicom.commitment import CommitmentReport
    from dicom_gam.sections import Destination
    from dicom_gam.storage.protocols import AuditTrail, Outbox
    from dicom_gam.storage.rows import Delivery

    Ask = Callable[
        [
            Destination,
            str,
            str,
            Sequence[tuple[str, str]],
            Callable[[CommitmentReport], object],
            Callable[[], bool],
        ],
        None,
    ]

_log = logging.getLogger(__name__)

OBJECTS_PER_REQUEST = 200


class Notary:
    """Asks one destination to answer for what it has stored, and gives up waiting when it does not."""

    def __init__(
        self,
        destination: Destination,
        calling_ae_title: str,
        settings: DeliverySettings,
        outbox: Outbox,
        audit: AuditTrail,
        stopping: Callable[[], bool],
        ask: Ask = over_network.ask,
    ) -> None:
        self._destination = destination
        self._calling_ae_title = calling_ae_title
        self._settings = settings
        self._outbox = outbox
        self._commitments = outbox.commitments
        self._audit = audit
        self._stopping = stopping
        self._ask = ask

    def collect_overdue(self, now: float) -> None:
        """Have sent again what the destination has not answered for in time."""
        cause = (
            "the destination has stored it, but has not answered for it in "
            f"{self._destination.commitment_timeout_s:g} s: see to its log, and whether it knows our address"
        )
        for delivery in self._commitments.overdue(self._destination.name, now):
            unconfirmed(self._outbox, self._audit, self._settings, delivery, None, cause, now)

    def ask_for(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Ask once for all of these, under a new Transaction UID.

        Raises DeliveryError or ConfigError when the destination can't be reached.
        """
        uid = f"2.25.{uuid.uuid4().int}"
        name = self._destination.name
        due_at = now + self._destination.commitment_timeout_s
        # Recorded before it goes out: the answer may reach another process before this one goes on.
        self._audit.append("commitment.asked", destination=name, transaction_uid=uid, objects=len(deliveries))
        self._commitments.ask(Commitment(uid, name, now, due_at), [delivery.delivery_id for delivery in deliveries])
        objects = [(delivery.what.sop_class_uid, delivery.what.sop_instance_uid) for delivery in deliveries]
        try:
            self._ask(
                self._destination,
                self._calling_ae_title,
                uid,
                objects,
                lambda report: settle_report(self._outbox, self._audit, self._settings, report),
                lambda: self._stopping() or self._is_answered(uid),
            )
        except CommitmentRefusedError as error:
            self._refused(uid, str(error))
        except DicomGamError:
            self._commitments.withdraw(uid)
            raise

    def _is_answered(self, transaction_uid: str) -> bool:
        found = self._commitments.find(transaction_uid)
        return found is not None and found.answered_at is not None

    def _refused(self, transaction_uid: str, cause: str) -> None:
        _log.warning("commitment.refused destination=%s %s", self._destination.name, cause)
        now = time.time()
        for delivery in self._commitments.objects(transaction_uid):
            if delivery.state is DeliveryState.UNCONFIRMED:
                unconfirmed(self._outbox, self._audit, self._settings, delivery, None, cause, now)

"""What destinations answer for (storage commitment), settled by whichever process hears of it."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

from dicom_gam.dicom.commitment import explain_failure
from dicom_gam.dicom.identity import is_uid
from dicom_gam.errors import DeliveryError
from dicom_gam.storage.states import UNDELIVERED_STATES, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.config import DeliverySettings
    from dicom_gam.dicom.commitment import CommitmentReport
    from dicom_gam.storage.protocols import AuditTrail, Outbox
    from dicom_gam.storage.rows import Delivery

_log = logging.getLogger(__name__)

_CONFIRMABLE = UNDELIVERED_STATES  # what waits to be sent again or was given up is there after all


def retry_delay_s(attempts: int, settings: DeliverySettings, spread: float) -> float:
    """Seconds to wait after failed attempt number `attempts` (from 1): doubling, capped.

    `spread` in [0.8, 1.2] keeps many nodes from knocking at the same moment after the archive's restart.
    """
    doubled = settings.first_retry_s * 2.0 ** min(attempts - 1, 60)
    return min(settings.maximum_retry_s, min(settings.maximum_retry_s, doubled) * spread)


def spread() -> float:
    """A new spread for `retry_delay_s`."""
    return random.uniform(0.8, 1.2)  # noqa: S311 (no secret)


def delivery_keys(
    delivery: Delivery, status: int | None, words: str, *, attempt: int | None = None
) -> dict[str, object]:
    """What the audit log says about a delivery: where, what, which attempt, and how it went."""
    return {
        "job_id": delivery.job_id,
        "destination": delivery.what.destination,
        "role": delivery.what.role,
        "sop_instance_uid": delivery.what.sop_instance_uid,
        "sha256": delivery.what.blob,
        "attempt": delivery.attempts if attempt is None else attempt,
        "status": None if status is None else f"{status:04X}",
        "words": words,
    }


def settle_report(outbox: Outbox, audit: AuditTrail, settings: DeliverySettings, report: CommitmentReport) -> None:
    """Take in what a destination answers for, from whatever process it came to; the same report again changes nothing.

    A late answer to an earlier request is honoured as far as it is good news. Raises DeliveryError for a transaction
    that nobody asked for.
    """
    commitments = outbox.commitments
    known = commitments.find(report.transaction_uid)
    peer = {"calling_ae_title": report.calling_ae_title, "peer_address": report.peer_address}
    uid = report.transaction_uid if is_uid(report.transaction_uid) else "invalid"
    if known is None:
        audit.append("commitment.unknown", transaction_uid=uid, **peer)
        msg = f"no storage commitment was asked for under the Transaction UID {uid}: it is not ours, or long forgotten"
        raise DeliveryError(msg)
    now = time.time()
    failed = dict(report.failed)
    committed = set(report.committed) - failed.keys()
    deliveries = commitments.objects(uid)
    good = [d for d in deliveries if d.what.sop_instance_uid in committed and d.state in _CONFIRMABLE]
    bad = [  # what was asked for anew waits for the newer answer
        (d, failed[d.what.sop_instance_uid])
        for d in deliveries
        if d.what.sop_instance_uid in failed and d.state is DeliveryState.UNCONFIRMED and d.transaction_uid == uid
    ]
    words = f"stored, and the destination answers for it (Transaction UID {uid})"
    records: list[tuple[str, Mapping[str, Any]]] = [
        ("commitment.answered", peer | {"destination": known.destination, "transaction_uid": uid,
                                        "committed": len(report.committed), "failed": len(report.failed)}),
        *(("delivery.sent", delivery_keys(delivery, delivery.status, words)) for delivery in good),
    ]  # fmt: skip
    audit.extend(records)
    for delivery in good:
        commitments.confirm(delivery.delivery_id, words, now)
    for delivery, reason in bad:
        unconfirmed(outbox, audit, settings, delivery, reason, explain_failure(reason), now)
    commitments.answered(uid, now)


def unconfirmed(
    outbox: Outbox,
    audit: AuditTrail,
    settings: DeliverySettings,
    delivery: Delivery,
    status: int | None,
    cause: str,
    now: float,
) -> None:
    """Have an object that is stored, but not answered for, sent again, or give it up after the last attempt."""
    if delivery.attempts >= settings.attempts:
        cause = f"given up after {delivery.attempts} attempts: {cause}"
        _log.error("delivery.dead job_id=%s destination=%s %s", delivery.job_id, delivery.what.destination, cause)
        audit.append("delivery.dead", **delivery_keys(delivery, status, cause))
        outbox.commitments.refuse(delivery.delivery_id, None, status, cause, now)
        return
    wait_s = retry_delay_s(max(1, delivery.attempts), settings, spread())
    audit.append("delivery.postponed", **delivery_keys(delivery, status, cause))
    outbox.commitments.refuse(delivery.delivery_id, now + wait_s, status, cause, now)

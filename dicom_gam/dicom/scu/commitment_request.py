"""The request for storage commitment (PS3.4 J.3.2), and an answer that comes over the same association."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt

from dicom_gam.dicom.commitment import PROCESSING_FAILURE, CommitmentReport
from dicom_gam.dicom.scu.reactor import rest
from dicom_gam.dicom.scu.requestor import NothingAcceptedError, association, native_context
from dicom_gam.dicom.statuses import explain
from dicom_gam.errors import DeliveryError, DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicom_gam.sections import Destination

STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
_WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
_REQUEST = 1  # Action Type ID, PS3.4 J.3.2.1
_POLL_S = 0.05

_NOT_OFFERED = (
    "the destination offers no storage commitment: ask its administrator to allow it for our AE title, or set "
    "commitment = false for it"
)


class CommitmentRefusedError(DeliveryError):
    """The destination can be reached, but does not take the request."""


def read_report(information: Dataset, calling_ae_title: str = "", peer_address: str = "") -> CommitmentReport:
    """Read the Event Information of an N-EVENT-REPORT (PS3.4 J.3.3.1.1). Raises DeliveryError when it is senseless."""
    try:
        return CommitmentReport(
            str(information.TransactionUID),
            tuple(str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()),
            tuple(
                (str(item.ReferencedSOPInstanceUID), int(item.get("FailureReason") or PROCESSING_FAILURE))
                for item in information.get("FailedSOPSequence") or ()
            ),
            calling_ae_title,
            peer_address,
        )
    except (AttributeError, TypeError, ValueError) as error:
        msg = "the storage commitment report names no transaction or no objects: see to the sender's log"
        raise DeliveryError(msg) from error


def ask(
    destination: Destination,
    calling_ae_title: str,
    transaction_uid: str,
    objects: Sequence[tuple[str, str]],
    report: Callable[[CommitmentReport], object],
    enough: Callable[[], bool],
    wait_s: float = 1.0,
) -> None:
    """Ask a destination to answer for `objects`, pairs of SOP class and SOP Instance UID.

    An answer that comes over the same association is handed to `report`, which raises a DicomGamError when it can't be
    taken in. It is waited for, for `wait_s` or until `enough` says so; most come later, to our front door.
    Raises CommitmentRefusedError when the destination does not take the request, DeliveryError when it can't be
    reached.
    """
    came = threading.Event()

    def on_report(event: Any) -> tuple[int, None]:
        try:
            report(read_report(event.event_information, str(destination.ae_title), str(destination.host)))
        except DicomGamError:
            return PROCESSING_FAILURE, None
        came.set()
        return 0x0000, None

    context = native_context(STORAGE_COMMITMENT_PUSH_MODEL)
    try:
        with association(destination, calling_ae_title, [context], [(evt.EVT_N_EVENT_REPORT, on_report)]) as assoc:
            _request(assoc, transaction_uid, objects)
            deadline = time.monotonic() + wait_s
            while not came.wait(_POLL_S) and not enough() and time.monotonic() < deadline:
                pass
    except NothingAcceptedError as error:
        raise CommitmentRefusedError(_NOT_OFFERED) from error


def _request(assoc: Any, transaction_uid: str, objects: Sequence[tuple[str, str]]) -> None:
    information = Dataset()
    information.TransactionUID = UID(transaction_uid)
    information.ReferencedSOPSequence = [_reference(*pair) for pair in objects]
    try:
        rest(assoc)
        response, _ = assoc.send_n_action(information, _REQUEST, STORAGE_COMMITMENT_PUSH_MODEL, _WELL_KNOWN_INSTANCE)
    except RuntimeError:  # the association ended before
        response = {}
    if "Status" not in response:
        msg = "the destination fell silent when asked for storage commitment: see to its log"
        raise CommitmentRefusedError(msg)
    if response.Status != 0x0000:
        words = _NOT_OFFERED if response.Status in (0x0118, 0x0122, 0x0123, 0x0211) else explain(response.Status)
        msg = f"the destination refuses storage commitment with status {response.Status:04X}: {words}"
        raise CommitmentRefusedError(msg)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(sop_instance_uid)
    return item

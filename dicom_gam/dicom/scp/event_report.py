"""N-EVENT-REPORT of the Storage Commitment Push Model: a destination's answer for what it has (PS3.4 J.3.3)."""

from __future__ import annotations

import io
import logging
import struct
from typing import TYPE_CHECKING, Any

from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_gam.dicom.commitment import CommitmentReport
from dicom_gam.dicom.identity import is_uid
from dicom_gam.dicom.scp.upper_layer import ProtocolError
from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

    from dicom_gam.dicom.scp.associate import Granted
    from dicom_gam.dicom.scp.command_set import Request

_log = logging.getLogger(__name__)

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
TRANSFER_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
MAXIMUM_BYTES = 1024 * 1024
SUCCESS, PROCESSING_FAILURE, NO_SUCH_EVENT_TYPE, NO_SUCH_SOP_CLASS = 0x0000, 0x0110, 0x0113, 0x0118
_EVENT_TYPES = (1, 2)  # all committed; some failed

# What pydicom raises at malformed data sets, found by fuzzing; Warning counts where warnings are errors.
_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    Warning,
)


class ReportInHand:
    """Takes the event information of one N-EVENT-REPORT part by part; `finish` says how to answer."""

    def __init__(
        self, request: Request, context: Granted, peer: dict[str, str], report: Callable[[CommitmentReport], None]
    ) -> None:
        self._request, self._context, self._peer = request, context, peer
        self._report = report
        self._encoded = bytearray()

    def write(self, part: memoryview) -> None:
        """Take the next bytes. Raises ProtocolError when there are too many."""
        if len(self._encoded) + len(part) > MAXIMUM_BYTES:
            msg = f"the event information is larger than {MAXIMUM_BYTES} bytes"
            raise ProtocolError(msg)
        self._encoded += part

    def finish(self) -> tuple[int, str]:
        """Hand the report on. Return the status and, for a refusal, why."""
        if self._request.sop_class_uid != STORAGE_COMMITMENT:
            return NO_SUCH_SOP_CLASS, "events are taken of the Storage Commitment Push Model only"
        if self._request.event_type_id not in _EVENT_TYPES:
            return NO_SUCH_EVENT_TYPE, "the Event Type ID is neither 1 nor 2"
        report = parse(bytes(self._encoded), self._context.transfer_syntax, self._peer)
        if report is None:
            return PROCESSING_FAILURE, "the event information can't be read"
        try:
            self._report(report)
        except DicomGamError as error:
            _log.error("commitment.not_recorded transaction_uid=%s %s", report.transaction_uid, error)
            return PROCESSING_FAILURE, str(error)
        except Exception:  # whatever is wrong with us, the sender must hear that it was not recorded
            _log.exception("commitment.not_recorded transaction_uid=%s", report.transaction_uid)
            return PROCESSING_FAILURE, "an error within the node: see its log"
        return SUCCESS, ""

    def abandon(self) -> None:
        """Forget it."""
        self._encoded = bytearray()


def parse(encoded: bytes, transfer_syntax_uid: str, peer: dict[str, str]) -> CommitmentReport | None:
    """Read event information; None when it is malformed or names things that are no UIDs."""
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    try:
        ds: Dataset = read_dataset(io.BytesIO(encoded), is_implicit_VR=implicit, is_little_endian=True)
        transaction_uid = str(ds.TransactionUID)
        committed = tuple(_instance(item) for item in ds.get("ReferencedSOPSequence") or ())
        failed = tuple((_instance(item), int(item.FailureReason)) for item in ds.get("FailedSOPSequence") or ())
    except _MALFORMED:
        return None
    if not all(is_uid(uid) for uid in (transaction_uid, *committed, *(uid for uid, _ in failed))):
        return None
    return CommitmentReport(transaction_uid, committed, failed, peer["calling_ae_title"], peer["peer_address"])


def _instance(item: Any) -> str:
    return str(item.ReferencedSOPInstanceUID)

"""One C-STORE on its way from the wire to the disk: checked at its first bytes, then streamed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dicom_gam.dicom.arrival import Arrival, part_10_header
from dicom_gam.dicom.identity import LOOK_BYTES, is_uid, look
from dicom_gam.dicom.scp.upper_layer import ProtocolError
from dicom_gam.dicom.statuses import StoreStatus, status_of
from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.dicom.arrival import Receive, Reception
    from dicom_gam.dicom.scp.associate import Granted
    from dicom_gam.dicom.scp.command_set import Request

_log = logging.getLogger(__name__)


class StoreInHand:
    """Takes the data set of one C-STORE request part by part; `finish` says how to answer.

    A request that is refused is read to its end all the same, as DIMSE knows no answer in mid-message. Success is
    answered only when the reception has been committed.
    """

    def __init__(
        self,
        request: Request,
        context: Granted,
        peer: dict[str, str],
        receive: Receive,
        maximum_bytes: int,
        *,
        stopping: bool,
    ) -> None:
        self._request, self._context, self._peer = request, context, peer
        self._receive = receive
        self._maximum_bytes = maximum_bytes
        self._size = 0
        self._head = bytearray()
        self._reception: Reception | None = None
        self._refusal = self._refusal_of_command(stopping=stopping)

    def write(self, part: memoryview) -> None:
        """Take the next bytes. Raises ProtocolError when there is no end to them."""
        self._size += len(part)
        if self._size > self._maximum_bytes:
            if self._size > 2 * self._maximum_bytes:
                msg = "the data set is far larger than node.maximum_instance_bytes"
                raise ProtocolError(msg)
            self._refuse(
                StoreStatus.OUT_OF_RESOURCES,
                f"the data set is larger than node.maximum_instance_bytes ({self._maximum_bytes})",
            )
        if self._refusal is not None:
            return
        if self._reception is not None:
            self._attempt(self._reception.write, part)
        elif not self._head and len(part) >= LOOK_BYTES:
            self._begin(part)
        else:
            self._head += part
            if len(self._head) >= LOOK_BYTES:
                self._begin(memoryview(self._head))

    def finish(self) -> tuple[StoreStatus, str]:
        """The data set is whole: make it durable. Return the status and, for a refusal, why."""
        if self._request.has_data_set and self._refusal is None and self._reception is None:
            self._begin(memoryview(self._head))
        if self._refusal is None and self._reception is not None:
            self._attempt(self._reception.commit)
        self.abandon()
        return self._refusal or (StoreStatus.SUCCESS, "")

    def abandon(self) -> None:
        """Leave nothing of it, unless it has been committed."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.abandon()

    def _refusal_of_command(self, *, stopping: bool) -> tuple[StoreStatus, str] | None:
        if stopping:
            return StoreStatus.OUT_OF_RESOURCES, "the node is stopping, send again later"
        if not is_uid(self._request.sop_instance_uid):
            return StoreStatus.DATA_SET_MISMATCH, "the SOP Instance UID of the command is invalid"
        if self._request.sop_class_uid != self._context.abstract_syntax:
            return StoreStatus.DATA_SET_MISMATCH, "SOP Class UID differs between command and presentation context"
        if not self._request.has_data_set:
            return StoreStatus.CANNOT_UNDERSTAND, "the request comes without a data set"
        return None

    def _begin(self, head: memoryview) -> None:
        request = self._request
        said = look(head, self._context.transfer_syntax)
        if said.sop_class_uid is not None and said.sop_class_uid != request.sop_class_uid:
            self._refuse(StoreStatus.DATA_SET_MISMATCH, "SOP Class UID differs between command and data set")
            return
        if said.sop_instance_uid is not None and said.sop_instance_uid != request.sop_instance_uid:
            self._refuse(StoreStatus.DATA_SET_MISMATCH, "SOP Instance UID differs between command and data set")
            return
        uids = (request.sop_class_uid, request.sop_instance_uid, self._context.transfer_syntax)
        self._attempt(self._open, Arrival(*uids, **self._peer, header=part_10_header(*uids)))
        if self._reception is not None:
            self._attempt(self._reception.write, head)

    def _open(self, arrival: Arrival) -> None:
        self._reception = self._receive(arrival)

    def _attempt(self, step: Callable[..., object], *arguments: object) -> None:
        try:
            step(*arguments)
        except DicomGamError as error:
            _log.error("instance.not_stored sop_instance_uid=%s %s", self._request.sop_instance_uid, error)
            self._refuse(status_of(error), str(error))
        except Exception:  # whatever is wrong with us, the sender must hear that nothing was stored
            _log.exception("instance.not_stored sop_instance_uid=%s", self._request.sop_instance_uid)
            self._refuse(StoreStatus.CANNOT_UNDERSTAND, "an error within the node: see its log")

    def _refuse(self, status: StoreStatus, why: str) -> None:
        if self._refusal is None:
            self._refusal = (status, why)
        self.abandon()

"""The front door: a C-STORE and C-ECHO SCP that hands on the encoded bytes and never decodes a data set."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydicom.uid as uids
from pydicom.dataset import Dataset
from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID, _config, evt

from dicom_gam.dicom.acceptance import ACCEPTED_SOP_CLASSES, ACCEPTED_TRANSFER_SYNTAXES
from dicom_gam.dicom.identity import is_uid, look
from dicom_gam.dicom.statuses import StoreStatus, status_of
from dicom_gam.errors import ConfigError, DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

# Not for us, but a sender that pushes whole studies must hear a named reason in our tables instead of a refused
# context in its own log. Each class costs time at every association (contexts are copied), so only common ones.
OTHER_CLASSES: tuple[str, ...] = (
    uids.CTImageStorage,
    uids.EnhancedCTImageStorage,
    uids.MRImageStorage,
    uids.EnhancedMRImageStorage,
    uids.UltrasoundImageStorage,
    uids.UltrasoundMultiFrameImageStorage,
    uids.NuclearMedicineImageStorage,
    uids.PositronEmissionTomographyImageStorage,
    uids.XRayAngiographicImageStorage,
    uids.XRayRadiofluoroscopicImageStorage,
    uids.BreastTomosynthesisImageStorage,
    uids.RTImageStorage,
    uids.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uids.VLPhotographicImageStorage,
    uids.VLEndoscopicImageStorage,
    uids.OphthalmicPhotography8BitImageStorage,
    uids.BasicTextSRStorage,
    uids.EnhancedSRStorage,
    uids.ComprehensiveSRStorage,
    uids.Comprehensive3DSRStorage,
    uids.XRayRadiationDoseSRStorage,
    uids.KeyObjectSelectionDocumentStorage,
    uids.GrayscaleSoftcopyPresentationStateStorage,
    uids.SegmentationStorage,
    uids.EncapsulatedPDFStorage,
)

_ECHO = "1.2.840.10008.1.1"  # the Verification SOP class


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One C-STORE request whose command is sound.

    `header` (preamble and file meta information) followed by `dataset` (the very bytes that came) is a Part 10 file.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    header: bytes
    dataset: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """What the listener needs to know; times in seconds."""

    ae_title: str
    host: str
    port: int
    maximum_associations: int = 64
    maximum_pdu_size: int = 131072
    network_timeout_s: float = 60.0
    sop_classes: tuple[str, ...] = ACCEPTED_SOP_CLASSES + OTHER_CLASSES
    transfer_syntaxes: tuple[str, ...] = ACCEPTED_TRANSFER_SYNTAXES


class Listener:
    """Listens from `start` to `stop`.

    `store` makes an arrival durable: Success is answered when it returns, the status of `statuses.STATUS_OF_ERROR`
    when it raises a DicomGamError. `notice` is told of associations and refused requests (event name, keys).
    """

    def __init__(
        self,
        options: ListenerOptions,
        store: Callable[[Arrival], None],
        notice: Callable[[str, dict[str, Any]], object],
    ) -> None:
        self._options = options
        self._store = store
        self._notice = notice
        self._server: Any = None
        self._port = options.port
        self._stopping = threading.Event()

    @property
    def port(self) -> int:
        """The port it listens on, also when the options said 0."""
        return self._port

    def start(self) -> None:
        """Open the port. Raises ConfigError that says which setting to change."""
        options = self._options
        _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log every PDU
        ae = AE(ae_title=options.ae_title)
        ae.require_called_aet = True
        ae.maximum_associations = options.maximum_associations
        ae.maximum_pdu_size = options.maximum_pdu_size
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = options.network_timeout_s
        ae.add_supported_context(_ECHO)
        for uid in dict.fromkeys(options.sop_classes):
            ae.add_supported_context(uid, list(options.transfer_syntaxes))
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _send_small_packets_at_once),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_ACCEPTED, self._on_association, ["association.accepted"]),
            (evt.EVT_REJECTED, self._on_association, ["association.rejected"]),
            (evt.EVT_ABORTED, self._on_association, ["association.aborted"]),
            (evt.EVT_RELEASED, self._on_association, ["association.released"]),
        ]
        try:
            self._server = ae.start_server((options.host, options.port), block=False, evt_handlers=handlers)
        except OSError as error:
            msg = (
                f"can't listen on {options.host}:{options.port} ({error.strerror}): set node.host to an address of "
                "this machine and node.port to a free port"
            )
            raise ConfigError(msg) from error
        self._port = int(self._server.server_address[1])

    def stop(self, grace_s: float = 5.0) -> None:
        """Accept no association any more, let the open ones end for `grace_s`, abort those that are left."""
        if self._server is None:
            return
        self._stopping.set()
        server, self._server = self._server, None
        server.shutdown()
        deadline = time.monotonic() + grace_s
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        for assoc in server.active_associations:
            assoc.abort()
        for assoc in server.active_associations:
            assoc.join(grace_s)

    def _on_store(self, event: Any) -> Dataset:
        keys = _peer(event.assoc)
        request = event.request
        sop_class_uid, sop_instance_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        transfer_syntax_uid = str(event.context.transfer_syntax)
        with request.DataSet.getbuffer() as dataset:
            refusal = self._refusal(sop_class_uid, sop_instance_uid, transfer_syntax_uid, dataset)
            if refusal is None:
                header = part_10_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
                arrival = Arrival(
                    sop_class_uid, sop_instance_uid, transfer_syntax_uid, **keys, header=header, dataset=dataset
                )
                refusal = self._try_to_store(arrival)
        if refusal is None:
            return _answer(StoreStatus.SUCCESS)
        status, why = refusal
        uid = sop_instance_uid if is_uid(sop_instance_uid) else "invalid"
        self._tell("instance.refused", keys | {"sop_instance_uid": uid, "status": f"{status:04X}", "why": why})
        return _answer(status, why)

    def _refusal(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, dataset: memoryview
    ) -> tuple[StoreStatus, str] | None:
        if self._stopping.is_set():
            return StoreStatus.OUT_OF_RESOURCES, "the node is stopping, send again later"
        if not is_uid(sop_instance_uid):
            return StoreStatus.DATA_SET_MISMATCH, "the SOP Instance UID of the command is invalid"
        said = look(dataset, transfer_syntax_uid)
        if said.sop_class_uid is not None and said.sop_class_uid != sop_class_uid:
            return StoreStatus.DATA_SET_MISMATCH, "SOP Class UID differs between command and data set"
        if said.sop_instance_uid is not None and said.sop_instance_uid != sop_instance_uid:
            return StoreStatus.DATA_SET_MISMATCH, "SOP Instance UID differs between command and data set"
        return None

    def _try_to_store(self, arrival: Arrival) -> tuple[StoreStatus, str] | None:
        try:
            self._store(arrival)
        except DicomGamError as error:
            _log.error("instance.not_stored sop_instance_uid=%s %s", arrival.sop_instance_uid, error)
            return status_of(error), str(error)
        return None

    def _on_echo(self, event: Any) -> int:
        self._tell("echo.answered", _peer(event.assoc))
        return 0x0000

    def _on_association(self, event: Any, name: str) -> None:
        keys: dict[str, Any] = _peer(event.assoc)
        answer = event.assoc.acceptor.primitive
        if name == "association.rejected" and answer is not None:
            keys["why"] = f"{answer.result_str}: {answer.reason_str}"
        self._tell(name, keys)

    def _tell(self, name: str, keys: dict[str, Any]) -> None:
        """Pass an event on; one that can't be recorded is logged, as there is no answer left to change."""
        try:
            self._notice(name, keys)
        except DicomGamError as error:
            _log.error("%s not recorded: %s", name, error)


def part_10_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble and file meta information (PS3.10 7.1).

    Nothing of the sender goes in, so that equal data sets give equal files. By hand, because the field has UIDs that
    pydicom will read but not write.
    """
    elements = b"".join(
        struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value
        for element, uid in (
            (0x0002, sop_class_uid),
            (0x0003, sop_instance_uid),
            (0x0010, transfer_syntax_uid),
            (0x0012, PYNETDICOM_IMPLEMENTATION_UID),
        )
        for value in [uid.encode("ascii") + b"\0" * (len(uid) % 2)]
    )
    version = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(version) + len(elements))
    return b"\0" * 128 + b"DICM" + length + version + elements


def _peer(assoc: Any) -> dict[str, str]:
    requestor = assoc.requestor
    request = requestor.primitive
    return {
        "calling_ae_title": str(requestor.ae_title or ""),
        "called_ae_title": str(request.called_ae_title if request is not None else ""),
        "peer_address": str(requestor.address),
    }


def _answer(status: StoreStatus, why: str = "") -> Dataset:
    answer = Dataset()
    answer.Status = int(status)
    if why:
        answer.ErrorComment = why.encode("ascii", "replace").decode("ascii").replace("\\", "/")[:64]  # LO
    return answer


def _send_small_packets_at_once(event: Any) -> None:
    """Nagle's algorithm costs 40 ms at every response."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

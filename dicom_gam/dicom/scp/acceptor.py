"""One connection from its first byte to its last: negotiation, messages, release (PS3.8 7 and 9, PS3.7 9 and 10)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Protocol

from dicom_gam.dicom.identity import is_uid
from dicom_gam.dicom.scp import access
from dicom_gam.dicom.scp.associate import (
    APPLICATION_CONTEXT,
    AssociateRequest,
    Granted,
    decode_associate_request,
    encode_acceptance,
    grant,
    read_titles,
)
from dicom_gam.dicom.scp.command_set import (
    MAXIMUM_BYTES,
    CommandError,
    CommandField,
    Request,
    decode_request,
    encode_response,
)
from dicom_gam.dicom.scp.event_report import STORAGE_COMMITMENT, TRANSFER_SYNTAXES, ReportInHand
from dicom_gam.dicom.scp.storing import StoreInHand
from dicom_gam.dicom.scp.upper_layer import (
    MAXIMUM_ASSOCIATE_BYTES,
    AbortReason,
    GoneError,
    LateError,
    PduType,
    ProtocolError,
    StoppedError,
    Wire,
    WireError,
    encode_abort,
    encode_command,
    encode_release_answer,
    fragments,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from dicom_gam.dicom.arrival import Receive
    from dicom_gam.dicom.commitment import CommitmentReport
    from dicom_gam.dicom.scp.listener_options import ListenerOptions
    from dicom_gam.dicom.scp.notices import Notices
    from dicom_gam.dicom.scp.slots import Slots

ECHO = "1.2.840.10008.1.1"  # the Verification SOP class
_ECHO_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
_SUCCESS, _SOP_CLASS_NOT_SUPPORTED, _UNRECOGNIZED_OPERATION = 0x0000, 0x0122, 0x0211
_COMMAND, _LAST = 1, 2  # the message control header (PS3.8 annex E)
_CLIENT_HELLO = 0x16


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What all connections share. `stopping`: take no new images; `ended`: end at once."""

    options: ListenerOptions
    receive: Receive
    notices: Notices
    slots: Slots
    report: Callable[[CommitmentReport], None] | None = None
    stopping: Event = field(default_factory=Event)
    ended: Event = field(default_factory=Event)

    def known(self, request: AssociateRequest) -> dict[str, tuple[str, ...]]:
        """The SOP classes that are taken from this peer, each with its transfer syntaxes in our order."""
        options = self.options
        known = dict.fromkeys(options.sop_classes, options.transfer_syntaxes) | {ECHO: _ECHO_SYNTAXES}
        if self.report is not None and request.roles.get(STORAGE_COMMITMENT, (True, False))[1]:
            known[STORAGE_COMMITMENT] = TRANSFER_SYNTAXES  # the peer is the SCP that reports (PS3.4 J.3.3)
        return known


class DataSetInHand(Protocol):
    """Where the data set of a request goes while it comes."""

    def write(self, part: memoryview) -> None:
        """Take the next bytes. Raises ProtocolError when there are too many."""

    def finish(self) -> tuple[int, str]:
        """It is whole: return the status of the response, and why."""

    def abandon(self) -> None:
        """It will not come; leave nothing of it."""


def serve_connection(
    sock: socket.socket,
    peer_address: str,
    door: Door,
    *,
    negotiate_by: float | None = None,
    admitted: Callable[[], None] = lambda: None,
) -> None:
    """Serve a connection to its end; closing it is left to the caller.

    `negotiate_by` (of `time.monotonic`) is when there must be an association, about which `admitted` is called.
    Whatever comes over the wire ends here; only a fault of our own raises.
    """
    wire = Wire(sock, answer_timeout_s=door.options.pdu_timeout_s, ended=door.ended.is_set)
    if negotiate_by is None:
        negotiate_by = time.monotonic() + door.options.negotiation_timeout_s
    with ExitStack() as held:
        try:
            association = _negotiate(wire, peer_address, door, negotiate_by, held, admitted)
        except WireError as error:
            _tell_unnegotiated(door, peer_address, error, wire.heard)
            _last_words(wire, error)
            return
        if association is None:
            wire.linger()
            return
        end = _run(association, door)
        held.close()  # before the peer hears of the end: it may come back at once
        _last_words(wire, end)


def _negotiate(
    wire: Wire,
    peer_address: str,
    door: Door,
    negotiate_by: float,
    held: ExitStack,
    admitted: Callable[[], None],
) -> Association | None:
    options = door.options
    kind, length, _ = wire.header(negotiate_by)
    if kind != PduType.ASSOCIATE_RQ:
        raise _no_request(kind)
    if length > MAXIMUM_ASSOCIATE_BYTES:
        msg = f"an association request of {length} bytes"
        raise ProtocolError(msg)
    body = wire.body(length, negotiate_by)
    titles = read_titles(body)
    peer = {
        "calling_ae_title": access.shown_title(titles.calling),
        "called_ae_title": access.shown_title(titles.called),
        "peer_address": peer_address,
    }
    refusal = access.refusal(titles.calling, titles.called, peer_address, options.ae_title, options.access)
    if refusal is None:  # strangers' requests are not parsed
        request = decode_associate_request(body)
        refusal = _refusal_of_form(request) or _take_slots(door, peer_address, held)
    if refusal is not None:
        door.notices.tell_some("association.rejected", peer | {"why": refusal.why})
        wire.send(refusal.encode())
        return None
    admitted()
    granted = _accept(wire, door, request, bytes(body[4:36]))
    door.notices.tell("association.accepted", peer)
    return Association(wire, door, peer, granted, request.maximum_length)


def _accept(wire: Wire, door: Door, request: AssociateRequest, raw_titles: bytes) -> dict[int, Granted]:
    known, maximum_pdu_size = door.known(request), door.options.maximum_pdu_size
    granted = {c.context_id: one for c in request.contexts if (one := grant(c, known.get(c.abstract_syntax)))}
    reports = any(one.abstract_syntax == STORAGE_COMMITMENT for one in granted.values())
    reversed_roles = [STORAGE_COMMITMENT] if reports else []
    wire.read_ahead(maximum_pdu_size)
    wire.send(encode_acceptance(raw_titles, request, granted, known, reversed_roles, maximum_pdu_size))
    return granted


def _no_request(kind: int) -> ProtocolError:
    if kind == _CLIENT_HELLO:
        return ProtocolError(
            "it speaks TLS, and the node does not: set tls.certificate and tls.key, or turn TLS off there"
        )
    known = kind in tuple(PduType)
    reason = AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU
    return ProtocolError("what came was no association request", reason)


def _refusal_of_form(request: AssociateRequest) -> access.Refusal | None:
    if not request.protocol_version & 1:
        return access.WRONG_PROTOCOL_VERSION
    if request.application_context != APPLICATION_CONTEXT:
        return access.WRONG_APPLICATION_CONTEXT
    return None


def _take_slots(door: Door, peer_address: str, held: ExitStack) -> access.Refusal | None:
    for key, setting in (
        (f"host {peer_address}", "maximum_associations_per_host"),
        ("associations", "maximum_associations"),
    ):
        slot = door.slots.take(key, getattr(door.options, setting))
        if slot is None:
            held.close()
            return access.too_many(setting)
        held.callback(slot.release)
    return None


def _tell_unnegotiated(door: Door, peer_address: str, error: WireError, heard: bool) -> None:
    if isinstance(error, StoppedError) or (isinstance(error, GoneError) and not heard):
        return  # a port that is opened and closed is looked at, not refused: load balancers do so all the time
    name = "connection.dropped" if isinstance(error, LateError | GoneError) else "connection.refused"
    door.notices.tell_some(name, {"peer_address": peer_address, "why": str(error)})


def _run(association: Association, door: Door) -> WireError | None:
    """Serve the association to its end; return how it ended, None for a release."""
    try:
        association.run()
    except WireError as error:
        door.notices.tell("association.aborted", association.peer | {"why": str(error)})
        return error
    finally:
        association.abandon()
    door.notices.tell("association.released", association.peer)
    return None


def _last_words(wire: Wire, error: WireError | None) -> None:
    if isinstance(error, GoneError):
        return
    try:
        wire.send(encode_abort(error.reason) if isinstance(error, ProtocolError) else encode_release_answer())
    except WireError:
        return
    wire.linger()


class Association:
    """An established association: takes messages one after the other, as no asynchronous operations are negotiated."""

    def __init__(
        self, wire: Wire, door: Door, peer: dict[str, str], granted: Mapping[int, Granted], maximum_length: int
    ) -> None:
        self.peer = peer
        self._wire, self._door, self._granted, self._maximum_length = wire, door, granted, maximum_length
        self._command = bytearray()
        self._message: tuple[Granted, Request, DataSetInHand] | None = None
        self._context: Granted | None = None  # of the message that is coming

    def run(self) -> None:
        """Serve until the peer asks for the release, which is left to answer. Raises WireError."""
        options = self._door.options
        while True:
            begin_by = time.monotonic() + options.network_timeout_s
            kind, length, whole_by = self._wire.header(begin_by, options.pdu_timeout_s)
            if kind == PduType.P_DATA:
                if length > options.maximum_pdu_size:
                    msg = f"a PDU of {length} bytes, where {options.maximum_pdu_size} were agreed"
                    raise ProtocolError(msg)
                for context_id, control, fragment in fragments(self._wire.body(length, whole_by)):
                    self._take(context_id, control, fragment)
            elif kind == PduType.ABORT and length == 4:
                msg = "the sender aborted"
                raise GoneError(msg)
            elif kind == PduType.RELEASE_RQ and length == 4:
                self._wire.body(length, whole_by)
                if self._context is not None:
                    msg = "a release was asked for in mid-message"
                    raise ProtocolError(msg, AbortReason.UNEXPECTED_PDU)
                return
            else:
                known = kind in tuple(PduType)
                msg = f"a PDU of type {kind} and {length} bytes"
                raise ProtocolError(msg, AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU)

    def abandon(self) -> None:
        """Leave nothing of a message that did not come to its end."""
        if self._message is not None:
            self._message[2].abandon()
            self._message = None

    def _take(self, context_id: int, control: int, fragment: memoryview) -> None:
        context = self._granted.get(context_id)
        if context is None or control & ~(_COMMAND | _LAST) or self._context not in (None, context):
            msg = "a fragment of another presentation context or kind than agreed"
            raise ProtocolError(msg)
        if bool(control & _COMMAND) is (self._message is not None):
            msg = "a command where a data set was to come, or a data set without its command"
            raise ProtocolError(msg)
        self._context = context
        if self._message is not None:
            self._message[2].write(fragment)
            if control & _LAST:
                self._finish()
            return
        if len(self._command) + len(fragment) > MAXIMUM_BYTES:
            msg = f"a command set of more than {MAXIMUM_BYTES} bytes"
            raise ProtocolError(msg)
        self._command += fragment
        if control & _LAST:
            self._begin(context)

    def _begin(self, context: Granted) -> None:
        try:
            request = decode_request(self._command)
        except CommandError as error:
            msg = f"the command set is malformed: {error}"
            raise ProtocolError(msg) from error
        self._command = bytearray()
        if request.command_field == CommandField.C_CANCEL_RQ and not request.has_data_set:
            self._context = None  # there is nothing that takes long enough to be cancelled
            return
        self._message = (context, request, self._hand(context, request))
        if not request.has_data_set:
            self._finish()

    def _hand(self, context: Granted, request: Request) -> DataSetInHand:
        door = self._door
        special = context.abstract_syntax in (ECHO, STORAGE_COMMITMENT)
        if request.command_field == CommandField.C_STORE_RQ and not special:
            maximum_bytes = door.options.maximum_instance_bytes
            stopping = door.stopping.is_set()
            return StoreInHand(request, context, self.peer, door.receive, maximum_bytes, stopping=stopping)
        if request.command_field == CommandField.C_ECHO_RQ:
            if context.abstract_syntax == request.sop_class_uid == ECHO:
                door.notices.tell("echo.answered", self.peer)
                return _Unread(_SUCCESS, "")
            return _Unread(_SOP_CLASS_NOT_SUPPORTED, "C-ECHO is answered in the Verification context only")
        if (
            request.command_field == CommandField.N_EVENT_REPORT_RQ
            and context.abstract_syntax == STORAGE_COMMITMENT
            and door.report is not None
        ):
            return ReportInHand(request, context, self.peer, door.report)
        return _Unread(_UNRECOGNIZED_OPERATION, "this SOP class knows no such operation here")

    def _finish(self) -> None:
        assert self._message is not None
        context, request, hand = self._message
        status, why = hand.finish()
        self._message = self._context = None
        if isinstance(hand, StoreInHand) and status != _SUCCESS:
            uid = request.sop_instance_uid if is_uid(request.sop_instance_uid) else "invalid"
            keys = self.peer | {"sop_instance_uid": uid, "status": f"{status:04X}", "why": why}
            self._door.notices.tell("instance.refused", keys)
        response = encode_response(request, status, why)
        self._wire.send(encode_command(context.context_id, response, self._maximum_length))


class _Unread:
    """The data set of a request that we answer without it."""

    _MAXIMUM_BYTES = 1024 * 1024

    def __init__(self, status: int, why: str) -> None:
        self._answer = (status, why)
        self._size = 0

    def write(self, part: memoryview) -> None:
        self._size += len(part)
        if self._size > self._MAXIMUM_BYTES:
            msg = "a large data set after a request that is not understood"
            raise ProtocolError(msg)

    def finish(self) -> tuple[int, str]:
        return self._answer

    def abandon(self) -> None:
        pass

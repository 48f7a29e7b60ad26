"""Command sets: what a DIMSE request asks for and how it is answered (PS3.7 6.3 and annex E)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dicom_gam.errors import DicomGamError

MAXIMUM_BYTES = 65536  # the requests we answer have a dozen short elements
NO_DATA_SET = 0x0101
_RESPONSE = 0x8000

_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_EVENT_TYPE_ID = 0x1002


class CommandError(DicomGamError):
    """The bytes are no command set."""


class CommandField(IntEnum):
    """The requests we know by name; any other number may come too."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF
    N_EVENT_REPORT_RQ = 0x0100


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. The UIDs are latin-1 text of any length and content, without their padding."""

    command_field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int | None = None


def decode_request(encoded: bytes | bytearray) -> Request:
    """Decode a command set in Implicit VR Little Endian. Raises CommandError."""
    elements = _elements(encoded)
    command_field = _number(elements, _COMMAND_FIELD)
    if command_field & _RESPONSE:
        msg = "it is a response, and nothing was asked"
        raise CommandError(msg)
    cancels = command_field == CommandField.C_CANCEL_RQ  # it names the message to cancel and has no ID itself
    event_type_id = _number(elements, _EVENT_TYPE_ID) if _EVENT_TYPE_ID in elements else None
    return Request(
        command_field,
        _number(elements, _MESSAGE_ID_RESPONDED_TO if cancels else _MESSAGE_ID),
        _number(elements, _DATA_SET_TYPE) != NO_DATA_SET,
        _text(elements, _AFFECTED_SOP_CLASS_UID) or _text(elements, _REQUESTED_SOP_CLASS_UID),
        _text(elements, _AFFECTED_SOP_INSTANCE_UID) or _text(elements, _REQUESTED_SOP_INSTANCE_UID),
        event_type_id,
    )


def encode_response(request: Request, status: int, why: str = "") -> bytes:
    """Encode the response to `request`; `why` becomes the Error Comment (LO, PS3.7 annex C)."""
    values = [
        (_COMMAND_FIELD, struct.pack("<H", request.command_field | _RESPONSE)),
        (_MESSAGE_ID_RESPONDED_TO, struct.pack("<H", request.message_id)),
        (_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (_STATUS, struct.pack("<H", status)),
    ]
    if request.sop_class_uid:
        values.insert(0, (_AFFECTED_SOP_CLASS_UID, _padded(request.sop_class_uid[:64], "\0")))
    if why:
        values.append((_ERROR_COMMENT, _padded(_line(why), " ")))
    if request.sop_instance_uid:
        values.append((_AFFECTED_SOP_INSTANCE_UID, _padded(request.sop_instance_uid[:64], "\0")))
    if request.event_type_id is not None:
        values.append((_EVENT_TYPE_ID, struct.pack("<H", request.event_type_id)))
    body = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in values)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    place, last = 0, -1
    while place < len(encoded):
        if place + 8 > len(encoded):
            msg = "it ends within an element"
            raise CommandError(msg)
        group, element, length = struct.unpack_from("<HHL", encoded, place)
        end = place + 8 + length
        if group != 0 or element <= last or end > len(encoded):
            msg = "its elements are not of group 0000, do not ascend or do not fit"
            raise CommandError(msg)
        elements[element] = bytes(encoded[place + 8 : end])
        place, last = end, element
    return elements


def _number(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element)
    if value is None or len(value) != 2:
        msg = f"(0000,{element:04X}) is missing or no single number"
        raise CommandError(msg)
    return int.from_bytes(value, "little")


def _text(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("latin-1").rstrip("\0 ")


def _line(why: str) -> str:
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" if c != "\\" else "/" for c in why)[:64]


def _padded(text: str, padding: str) -> bytes:
    return (text + padding * (len(text) % 2)).encode("latin-1")

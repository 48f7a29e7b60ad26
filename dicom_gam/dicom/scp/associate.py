"""A-ASSOCIATE: what a sender asks for, and what it is granted (PS3.8 9.3.2 and 9.3.3, PS3.7 annex D.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.dicom.scp.upper_layer import PduType, ProtocolError
from dicom_gam.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_MAXIMUM_CONTEXTS = 128
_FIXED_BYTES = 68
_APPLICATION_CONTEXT, _CONTEXT_RQ, _CONTEXT_AC = 0x10, 0x20, 0x21
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_USER_INFORMATION, _MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS = 0x50, 0x51, 0x52
_ROLE_SELECTION, _IMPLEMENTATION_VERSION = 0x54, 0x55
_ACCEPTED, _NO_SUCH_ABSTRACT_SYNTAX, _NO_SUCH_TRANSFER_SYNTAX = 0, 3, 4


@dataclass(frozen=True, slots=True)
class Titles:
    """Who calls whom: as received without padding, latin-1 and of any content."""

    calling: str
    called: str


@dataclass(frozen=True, slots=True)
class Context:
    """A presentation context as proposed: the transfer syntaxes in the sender's order."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """What was proposed. `roles` are (SCU, SCP) per SOP class, as the peer would play them."""

    protocol_version: int
    application_context: str
    contexts: tuple[Context, ...]
    roles: Mapping[str, tuple[bool, bool]]
    maximum_length: int


@dataclass(frozen=True, slots=True)
class Granted:
    """One accepted presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


def read_titles(body: memoryview) -> Titles:
    """Read only who calls whom, so that strangers cost no more. Raises ProtocolError."""
    if len(body) < _FIXED_BYTES:
        msg = "the association request is too short"
        raise ProtocolError(msg)
    called, calling = struct.unpack_from(">16s16s", body, 4)
    return Titles(calling.decode("latin-1").strip("\0 "), called.decode("latin-1").strip("\0 "))


def decode_associate_request(body: memoryview) -> AssociateRequest:
    """Decode the body of an A-ASSOCIATE-RQ. Raises ProtocolError."""
    application_context, user_information = "", memoryview(b"")
    contexts: dict[int, Context] = {}
    for kind, value in _items(body[_FIXED_BYTES:]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _uid(value)
        elif kind == _CONTEXT_RQ:
            context = _context(value)
            if context.context_id in contexts or len(contexts) >= _MAXIMUM_CONTEXTS:
                msg = "a presentation context ID comes twice, or there are too many"
                raise ProtocolError(msg)
            contexts[context.context_id] = context
        elif kind == _USER_INFORMATION:
            user_information = value
    maximum_length, roles = _read_user_information(user_information)
    version = int.from_bytes(body[:2], "big")
    return AssociateRequest(version, application_context, tuple(contexts.values()), roles, maximum_length)


def grant(context: Context, offered: Sequence[str] | None) -> Granted | None:
    """Choose a transfer syntax out of `offered`, our order, for a context; None when there is none in common."""
    for syntax in offered or ():
        if syntax in context.transfer_syntaxes:
            return Granted(context.context_id, context.abstract_syntax, syntax)
    return None


def encode_acceptance(
    raw_titles: bytes,
    request: AssociateRequest,
    granted: Mapping[int, Granted],
    known: Mapping[str, Sequence[str]],
    reversed_roles: Sequence[str],
    maximum_length: int,
) -> bytes:
    """Encode an A-ASSOCIATE-AC with an answer to every context, also when none is granted (PS3.8 9.3.3).

    `raw_titles` are the 32 bytes of both titles, which go back as they came. In `reversed_roles` the peer is the SCP.
    """
    items = [_item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())]
    for context in request.contexts:
        one = granted.get(context.context_id)
        result = _ACCEPTED
        if one is None:
            result = _NO_SUCH_TRANSFER_SYNTAX if context.abstract_syntax in known else _NO_SUCH_ABSTRACT_SYNTAX
        syntax = one.transfer_syntax if one is not None else context.transfer_syntaxes[0]
        head = struct.pack(">BxBx", context.context_id, result)
        items.append(_item(_CONTEXT_AC, head + _item(_TRANSFER_SYNTAX, syntax.encode("latin-1"))))
    user = _item(_MAXIMUM_LENGTH, struct.pack(">L", maximum_length))
    user += _item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode())
    for uid in reversed_roles:
        user += _item(_ROLE_SELECTION, struct.pack(">H", len(uid)) + uid.encode() + b"\0\1")
    user += _item(_IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode())
    items.append(_item(_USER_INFORMATION, user))
    body = struct.pack(">HH32s32x", 1, 0, raw_titles) + b"".join(items)
    return struct.pack(">BxL", PduType.ASSOCIATE_AC, len(body)) + body


def _items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    place, end = 0, len(data)
    while place < end:
        if place + 4 > end:
            msg = "an item of the association request ends within its header"
            raise ProtocolError(msg)
        kind, length = struct.unpack_from(">BxH", data, place)
        after = place + 4 + length
        if after > end:
            msg = "an item of the association request does not fit"
            raise ProtocolError(msg)
        yield kind, data[place + 4 : after]
        place = after


def _context(value: memoryview) -> Context:
    if len(value) < 4 or value[0] % 2 == 0:
        msg = "a presentation context has no odd ID"
        raise ProtocolError(msg)
    abstract_syntaxes = [_uid(uid) for kind, uid in _items(value[4:]) if kind == _ABSTRACT_SYNTAX]
    transfer_syntaxes = tuple(_uid(uid) for kind, uid in _items(value[4:]) if kind == _TRANSFER_SYNTAX)
    if len(abstract_syntaxes) != 1 or not transfer_syntaxes:
        msg = "a presentation context has not one abstract syntax and some transfer syntaxes"
        raise ProtocolError(msg)
    return Context(value[0], abstract_syntaxes[0], transfer_syntaxes)


def _read_user_information(data: memoryview) -> tuple[int, dict[str, tuple[bool, bool]]]:
    maximum_length, roles = 0, {}
    for kind, value in _items(data):
        if kind == _MAXIMUM_LENGTH and len(value) == 4:
            maximum_length = int.from_bytes(value, "big")
        elif kind == _ROLE_SELECTION and len(value) >= 4:
            length = int.from_bytes(value[:2], "big")
            if len(value) == length + 4:
                roles[_uid(value[2 : 2 + length])] = (bool(value[-2]), bool(value[-1]))
    return maximum_length, roles


def _uid(value: memoryview) -> str:
    if len(value) > 65:  # 64 and an octet of padding, which is wrong here but is in the field
        msg = "a UID of the association request is longer than 64 characters"
        raise ProtocolError(msg)
    return bytes(value).decode("latin-1").rstrip("\0 ")


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value

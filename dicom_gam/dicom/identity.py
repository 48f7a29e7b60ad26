"""A bounded look at the first bytes of a data set, for who it says it is."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

LOOK_BYTES = 8192  # (0008,0016) and (0008,0018) come after nine short elements at most
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
# Digits and dots. Components with leading zeros break PS3.5 9.1 but exist in the field, and no file is named by a UID.
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs that a data set carries itself, None where it can't be told."""

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None


def is_uid(text: str) -> bool:
    """Whether `text` may be a UID: digits and dots, at most 64 characters."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def look(dataset: memoryview, transfer_syntax_uid: str) -> Identity:
    """Read SOP Class and Instance UID from an encoded data set, without recursion and from its first bytes only.

    A data set that can't be parsed gives an empty Identity: what it is, is then for the decoder to find out.
    """
    head = bytes(dataset[:LOOK_BYTES])
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        try:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, LOOK_BYTES)
        except zlib.error:
            return Identity()
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    found: dict[int, str | None] = {}
    try:
        _walk(head, implicit, order, found)
    except struct.error:
        return Identity()
    return Identity(found.get(_SOP_CLASS_UID), found.get(_SOP_INSTANCE_UID))


def _walk(head: bytes, implicit: bool, order: str, found: dict[int, str | None]) -> None:
    place, last = 0, -1
    while place < len(head):
        group, element = struct.unpack_from(f"{order}HH", head, place)
        tag = group << 16 | element
        if tag > _SOP_INSTANCE_UID or tag <= last:  # elements ascend (PS3.5 7.1)
            return
        vr = head[place + 4 : place + 6]
        if implicit:
            length, start = struct.unpack_from(f"{order}L", head, place + 4)[0], place + 8
        elif vr in _LONG_VRS:
            length, start = struct.unpack_from(f"{order}L", head, place + 8)[0], place + 12
        else:
            length, start = struct.unpack_from(f"{order}H", head, place + 6)[0], place + 8
        if length == 0xFFFFFFFF or start + length > len(head):
            return
        if tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID):
            found[tag] = head[start : start + length].decode("ascii", "replace").rstrip("\0 ")
        place, last = start + length, tag

"""The checker's own reading of a result file: strict, to the last byte, and not by the library that wrote it.

Results are written in Explicit VR Little Endian (overlays also travel in JPEG-LS), so nothing else is understood here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from dicom_gam.dicom.checker.defects import Complaints

TRANSFER_SYNTAXES = frozenset({str(ExplicitVRLittleEndian), str(JPEGLSLossless)})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = 0x7FE00010
_DEEPEST = 32
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_NUMBERS = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d"}
_BINARY = frozenset({*_NUMBERS, b"AT", b"OB", b"OW", b"UN"})
_head = struct.Struct("<HH2sH").unpack_from
_long = struct.Struct("<I").unpack_from
_item_head = struct.Struct("<HHI").unpack_from


class UnreadableError(Exception):
    """The bytes can't be understood from some place on; the message says where and why, without a value."""


@cache
def tag_of(keyword: str) -> int:
    """The tag of one of the dictionary's keywords."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)  # a slip in one of our own tables
    return tag


@lru_cache(maxsize=4096)
def name_of(tag: int) -> str:
    """The keyword of a tag, or the tag itself."""
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


class Item:
    """A data set or an item of a sequence: by tag, the value representation and the raw value or the items."""

    __slots__ = ("elements",)

    def __init__(self) -> None:
        self.elements: dict[int, tuple[bytes, bytes | list[Item]]] = {}

    def __contains__(self, keyword: str) -> bool:
        return tag_of(keyword) in self.elements

    def _value(self, keyword: str) -> bytes | list[Item] | None:
        found = self.elements.get(tag_of(keyword))
        return None if found is None else found[1]

    def raw(self, keyword: str) -> bytes:
        """The bytes of a value, empty when it is absent or a sequence."""
        value = self._value(keyword)
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str) -> str:
        """A value whose characters are ASCII by its representation, or whose first ones are all that matters."""
        return self.raw(keyword).decode("latin-1").strip(" \0")

    def items(self, keyword: str) -> list[Item]:
        """The items of a sequence, none when it is absent."""
        value = self._value(keyword)
        return value if isinstance(value, list) else []

    def item(self, keyword: str) -> Item:
        """The first item of a sequence, an empty one when there is none."""
        found = self.items(keyword)
        return found[0] if found else Item()

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of a number, in whatever representation; empty when they are none."""
        raw = self._value(keyword)
        if not isinstance(raw, bytes):
            return ()
        vr = self.elements[tag_of(keyword)][0]
        if vr in _NUMBERS:
            size = struct.calcsize(_NUMBERS[vr])
            return struct.unpack(f"<{len(raw) // size}{_NUMBERS[vr]}", raw[: len(raw) // size * size])
        try:
            return tuple(float(part) for part in raw.decode("ascii").strip(" \0").split("\\"))
        except ValueError:
            return ()

    def number(self, keyword: str) -> float | None:
        """The first value of a number, None without one."""
        return next(iter(self.numbers(keyword)), None)

    def is_empty(self, keyword: str) -> bool:
        """Whether the value has a length of zero or nothing but padding."""
        value = self._value(keyword)
        if not isinstance(value, bytes):
            return not value
        return not (value if self.elements[tag_of(keyword)][0] in _BINARY else value.strip(b" \0"))

    def walk(self, place: str = "") -> Iterator[tuple[str, str, Item]]:
        """Every item of every sequence, at any depth, with its path and the keyword of its sequence."""
        for tag, (_, value) in self.elements.items():
            if isinstance(value, list):
                keyword = name_of(tag)
                for number, child in enumerate(value, 1):
                    path = f"{place}{keyword}[{number}]"
                    yield path, keyword, child
                    yield from child.walk(f"{path}.")


@dataclass(frozen=True, slots=True, eq=False)
class ResultFile:
    """A result as it was read. `character_sets` are the terms it declares."""

    meta: Item
    dataset: Item
    complaints: Complaints
    size_bytes: int = 0
    character_sets: tuple[str, ...] = field(default=())

    @property
    def uid(self) -> str:
        """The SOP Instance UID of the data set."""
        return self.dataset.text("SOPInstanceUID")

    @property
    def sop_class(self) -> str:
        """The SOP Class UID of the data set."""
        return self.dataset.text("SOPClassUID")


def read_result(content: bytes) -> ResultFile:
    """Read a whole file. Raises UnreadableError; what can be read in spite of a fault is noted as a complaint."""
    if content[128:132] != b"DICM":
        raise UnreadableError("there is no DICM prefix after 128 bytes")
    meta, start = _read_meta(content)
    named = meta.text("MediaStorageSOPInstanceUID")
    syntax = meta.text("TransferSyntaxUID")
    if syntax not in TRANSFER_SYNTAXES:
        complaints = Complaints(named)
        complaints.add("wrong-transfer-syntax", "TransferSyntaxUID", f"{syntax or 'none'} is not used for results")
        return ResultFile(meta, Item(), complaints)
    faults: list[tuple[str, str, str]] = []
    dataset = _read_dataset(content, start, faults)
    complaints = Complaints(dataset.text("SOPInstanceUID") or named)
    for fault in faults:
        complaints.add(*fault)
    sets = tuple(term for term in dataset.text("SpecificCharacterSet").split("\\") if term)
    _check_meta(meta, start, dataset, complaints)
    return ResultFile(meta, dataset, complaints, len(content), sets)


def _read_meta(content: bytes) -> tuple[Item, int]:
    meta, at = Item(), 132
    while len(content) - at >= 8 and content[at : at + 2] == b"\x02\x00":
        tag, vr, value, at = _element(content, at, len(content), 0, [])
        meta.elements[tag] = (vr, value)
    return meta, at


def _check_meta(meta: Item, start: int, dataset: Item, complaints: Complaints) -> None:
    length = meta.number("FileMetaInformationGroupLength")
    if length != start - 132 - 12:
        complaints.add("meta-length", "FileMetaInformationGroupLength")
    if meta.raw("FileMetaInformationVersion") != b"\0\x01":
        complaints.add("meta-version", "FileMetaInformationVersion")
    if meta.is_empty("ImplementationClassUID"):
        complaints.add("missing-type-1", "ImplementationClassUID")
    pairs = (("MediaStorageSOPClassUID", "SOPClassUID"), ("MediaStorageSOPInstanceUID", "SOPInstanceUID"))
    for stated, actual in pairs:
        if meta.text(stated) != dataset.text(actual):
            complaints.add("meta-mismatch", stated)


def _read_dataset(content: bytes, at: int, faults: list[tuple[str, str, str]]) -> Item:
    dataset, end, last = Item(), len(content), -1
    while at < end:
        whole = end - at >= 8 and content[at + 4 : at + 6] in _LONG_VRS | _SHORT_VRS
        tag = _tag(content, at) if whole else -1
        if not whole and last < 0:
            raise UnreadableError("there is no data set after the file meta information")
        if tag <= last and (not whole or tag >> 16 < 8):
            faults.append(("trailing-bytes", name_of(max(last, 0)), f"{end - at} bytes follow the last element"))
            break
        if tag <= last:
            faults.append(("element-order", name_of(tag), ""))
        tag, vr, value, at = _element(content, at, end, 0, faults)
        dataset.elements[tag] = (vr, value)
        last = tag
    return dataset


def _tag(content: bytes, at: int) -> int:
    group, number, _ = _item_head(content, at)
    return int(group << 16 | number)


def _element(
    content: bytes, at: int, end: int, depth: int, faults: list[tuple[str, str, str]]
) -> tuple[int, bytes, bytes | list[Item], int]:
    """One element: its tag, representation, value, and where the next begins."""
    if end - at < 8:
        raise UnreadableError(f"it ends inside an element, at byte {at}")
    group, number, vr, length = _head(content, at)
    tag = group << 16 | number
    if vr in _SHORT_VRS:
        start = at + 8
    elif vr in _LONG_VRS and end - at >= 12:
        length, start = _long(content, at + 8)[0], at + 12
    else:
        raise UnreadableError(f"there is no value representation at byte {at + 4}")
    if vr == b"SQ":
        items, start = _sequence(content, start, end, length, depth + 1, faults)
        return tag, vr, items, start
    if length == _UNDEFINED:
        if tag != _PIXEL_DATA:
            raise UnreadableError(f"{name_of(tag)} has no length")
        after = _after_fragments(content, start, end)
        return tag, vr, content[start:after], after
    if start + length > end:
        raise UnreadableError(f"it ends inside {name_of(tag)}")
    if length & 1:
        faults.append(("odd-length", name_of(tag), ""))
    return tag, vr, content[start : start + length], start + length


def _sequence(
    content: bytes, at: int, end: int, length: int, depth: int, faults: list[tuple[str, str, str]]
) -> tuple[list[Item], int]:
    """The items of a sequence, and where it ends."""
    if depth > _DEEPEST:
        raise UnreadableError(f"sequences are more than {_DEEPEST} deep")
    bounded = length != _UNDEFINED
    stop = at + length if bounded else end
    if stop > end:
        raise UnreadableError("it ends inside a sequence")
    items: list[Item] = []
    while at < stop or not bounded:
        if stop - at < 8:
            raise UnreadableError(f"it ends inside a sequence, at byte {at}")
        group, number, size = _item_head(content, at)
        tag, at = group << 16 | number, at + 8
        if tag == _SEQUENCE_END and not bounded:
            return items, at
        if tag != _ITEM or (size != _UNDEFINED and at + size > stop):
            raise UnreadableError(f"there is no whole item at byte {at - 8}")
        item, at = _read_item(content, at, stop if size == _UNDEFINED else at + size, size, depth, faults)
        items.append(item)
    return items, at


def _read_item(
    content: bytes, at: int, end: int, size: int, depth: int, faults: list[tuple[str, str, str]]
) -> tuple[Item, int]:
    item, last = Item(), -1
    elements = item.elements
    while at < end:
        if size == _UNDEFINED and content[at : at + 4] == b"\xfe\xff\x0d\xe0":
            return item, at + 8
        tag, vr, value, at = _element(content, at, end, depth, faults)
        if tag <= last:
            faults.append(("element-order", name_of(tag), ""))
        last = tag
        elements[tag] = (vr, value)
    if size == _UNDEFINED:
        raise UnreadableError("an item has no end")
    return item, at


def _after_fragments(content: bytes, at: int, end: int) -> int:
    while end - at >= 8:
        group, number, length = _item_head(content, at)
        at += 8
        if group << 16 | number == _SEQUENCE_END:
            return at
        if group << 16 | number != _ITEM or at + length > end:
            break
        at += length
    raise UnreadableError("the compressed pixels have no end")


@lru_cache(maxsize=4096)
def permitted_vrs(tag: int) -> frozenset[bytes]:
    """The value representations that the dictionary gives a tag; empty for one that it does not know."""
    try:
        return frozenset(part.encode() for part in re.split(r" or ", dictionary_VR(tag)))
    except KeyError:
        return frozenset()

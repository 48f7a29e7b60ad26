"""A data set that is built once and filled in many times, which is far quicker than encoding it anew.

The data set is built with a sentinel in every place that varies. Compiled, it is a run of bytes with named slots; to
fill it in is to write the values there and to work out the lengths. Nothing of one filling can stay behind in the next,
for the template never holds any of it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, encode_string
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.valuerep import DS

from dicom_gam.dicom.identity import is_uid
from dicom_gam.errors import EncodingError

Value = str | float | NDArray[np.float64]
Kind = str  # of a value: "uid", "text", "number" or "points"

_LONG = frozenset({"UT"})  # of the VRs below, those with a length of four bytes (PS3.5 7.1.2)
_ITEM = b"\xfe\xff\x00\xe0"


def kind_of(value: Value) -> Kind:
    """What a sentinel must look like to stand for the value."""
    if isinstance(value, str):
        return "uid" if is_uid(value) else "text"
    return "number" if isinstance(value, float) else "points"


def sentinels(kinds: Sequence[tuple[str, Kind]]) -> dict[str, Value]:
    """A value for each name that occurs nowhere else and has the kind wanted."""
    return {name: _sentinel(place, kind) for place, (name, kind) in enumerate(kinds)}


def _sentinel(place: int, kind: Kind) -> Value:
    if kind == "uid":
        return f"2.25.{10**30 + place}"
    if kind == "number":
        return 9e8 + place
    if kind == "points":
        return np.array([(place, 0), (place, 1), (place + 1, 1), (place, 0)], np.float64)
    return f"slot {place} of many"[:16]


@dataclass(frozen=True, slots=True)
class _Slot:
    """An element whose value is filled in."""

    tag: bytes
    vr: str
    name: str


@dataclass(frozen=True, slots=True)
class _Nested:
    """A sequence with a slot somewhere within."""

    tag: bytes
    items: tuple[tuple[_Part, ...], ...]


_Part = bytes | _Slot | _Nested


@dataclass(frozen=True, slots=True)
class EncodedTemplate:
    """A compiled data set, in Explicit VR Little Endian."""

    parts: tuple[_Part, ...]
    encodings: tuple[str, ...]

    def filled(self, values: Mapping[str, Value]) -> bytes:
        """The data set with these values in the slots of their names."""
        return _joined(self.parts, values, self.encodings)


def compiled(dataset: Dataset, marks: Mapping[str, Value], character_set: Sequence[str]) -> EncodedTemplate:
    """Compile a data set that holds `marks`, the sentinels by name. Raises EncodingError when one isn't there."""
    names = {_key(value): name for name, value in marks.items()}
    found: set[str] = set()
    encodings = tuple(convert_encodings(list(character_set)))
    parts = _parts(dataset, names, encodings, found)
    if missing := sorted(set(marks) - found):
        raise EncodingError(f"the template has no place for {', '.join(missing)}: see to what builds it")
    return EncodedTemplate(parts, encodings)


def _key(value: object) -> object:
    if isinstance(value, np.ndarray):
        return tuple(value.ravel().tolist())
    if isinstance(value, MultiValue | list):
        return tuple(value)
    return float(value) if isinstance(value, float) else str(value)  # a DS is a float


def _parts(
    dataset: Dataset, names: Mapping[object, str], encodings: tuple[str, ...], found: set[str]
) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    for element in dataset:
        tag = struct.pack("<HH", element.tag.group, element.tag.element)
        if element.VR == "SQ":
            items = tuple(_parts(item, names, encodings, found) for item in element.value)
            varies = any(not isinstance(part, bytes) for item in items for part in item)
            parts.append(_Nested(tag, items) if varies else _encoded(element, encodings))
        elif (name := names.get(_key(element.value))) is not None:
            found.add(name)
            parts.append(_Slot(tag, element.VR, name))
        else:
            parts.append(_encoded(element, encodings))
    return _merged(parts)


def _encoded(element: DataElement, encodings: tuple[str, ...]) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, list(encodings))
    return bytes(buffer.getvalue())


def _merged(parts: Sequence[_Part]) -> tuple[_Part, ...]:
    merged: list[_Part] = []
    for part in parts:
        if merged and isinstance(part, bytes) and isinstance(merged[-1], bytes):
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def _joined(parts: Sequence[_Part], values: Mapping[str, Value], encodings: tuple[str, ...]) -> bytes:
    pieces = []
    for part in parts:
        if isinstance(part, bytes):
            pieces.append(part)
        elif isinstance(part, _Slot):
            content = _content(part.vr, values[part.name], encodings)
            length = b"\0\0" + struct.pack("<L", len(content)) if part.vr in _LONG else struct.pack("<H", len(content))
            pieces += (part.tag, part.vr.encode(), length, content)
        else:
            items = [_joined(item, values, encodings) for item in part.items]
            content = b"".join(_ITEM + struct.pack("<L", len(item)) + item for item in items)
            pieces += (part.tag, b"SQ\0\0", struct.pack("<L", len(content)), content)
    return b"".join(pieces)


def _content(vr: str, value: Value, encodings: tuple[str, ...]) -> bytes:
    """The value's bytes, of even length (PS3.5 6.2)."""
    if isinstance(value, np.ndarray):
        return value.astype("<f4").tobytes()
    if isinstance(value, float):
        if vr == "FD":
            return struct.pack("<d", value)
        content = str(DS(value, auto_format=True)).encode("ascii")
    else:
        content = encode_string(value, list(encodings))
    return content + (b"\0" if vr == "UI" else b" ") * (len(content) % 2)

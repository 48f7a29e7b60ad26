"""Whether values are what their representations allow (PS3.5 6.2), and UIDs what PS3.5 9.1 and B.2 make them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from types import MappingProxyType

from pydicom.charset import python_encoding

from dicom_gam.dicom.checker.defects import Complaints
from dicom_gam.dicom.checker.reading import Item, ResultFile, name_of, permitted_vrs, tag_of

_PATTERNS: Mapping[bytes, re.Pattern[bytes]] = MappingProxyType(
    {
        b"AS": re.compile(rb"\d{3}[DWMY]"),
        b"CS": re.compile(rb"[A-Z0-9_ ]{0,16}"),
        b"DA": re.compile(rb"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
        b"DS": re.compile(rb" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *"),
        b"DT": re.compile(rb"\d{4,14}(\.\d{1,6})?([+-]\d{4})?"),
        b"IS": re.compile(rb" *[+-]?\d{1,10} *"),
        b"TM": re.compile(rb"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"),
    }
)
_LONGEST = {b"DS": 16, b"IS": 12}
_LONGEST_TEXT = {b"LO": 64, b"SH": 16, b"PN": 3 * 64 + 2}  # characters
_UNPADDED = re.compile(rb"[ \0]+\Z")
# What the source's own values may be, valid or not: identity is never edited on its way into a result.
IDENTITY = frozenset(
    tag_of(keyword)
    for keyword in (
        *("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "OtherPatientNames"),
        *("PhysiciansOfRecord", "PatientComments", "StudyDescription", "EthnicGroup", "OtherPatientIDsSequence"),
    )
)
# UIDs of the source image, which exist in the field with leading zeros and must be referred to as they are.
_INHERITED_UIDS = frozenset(
    map(tag_of, ("StudyInstanceUID", "ReferencedSOPInstanceUID", "ReferencedFrameOfReferenceUID"))
)
_SERIES_UID = tag_of("SeriesInstanceUID")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_LENIENT_UID = re.compile(r"\d+(\.\d+)+")


def check_values(file: ResultFile) -> None:
    """Representation and form of every value of an object."""
    codecs = [python_encoding.get(term, "") for term in file.character_sets]
    codec = "ascii" if not codecs else codecs[0] if len(codecs) == 1 else ""
    if any(term not in python_encoding for term in file.character_sets):
        file.complaints.add("invalid-value", "SpecificCharacterSet")
        codec = ""
    _check_item(file.dataset, "", codec, file.complaints)


def _check_item(item: Item, place: str, codec: str, complaints: Complaints) -> None:
    for tag, (vr, value) in item.elements.items():
        permitted = permitted_vrs(tag)
        if permitted and vr not in permitted:
            complaints.add("wrong-vr", place + name_of(tag), f"it is {vr.decode('latin-1')}")
        elif isinstance(value, list):
            if tag not in IDENTITY:
                for number, child in enumerate(value, 1):
                    _check_item(child, f"{place}{name_of(tag)}[{number}].", codec, complaints)
        elif value:
            _check_value(tag, vr, value, place, codec, complaints)


def _check_value(tag: int, vr: bytes, value: bytes, place: str, codec: str, complaints: Complaints) -> None:
    if vr == b"UI":
        inherited = tag in _INHERITED_UIDS or (tag == _SERIES_UID and place != "")
        _check_uid(tag, value, inherited, place, complaints)
    elif vr in _PATTERNS:
        pattern, longest = _PATTERNS[vr], _LONGEST.get(vr, 26)
        parts = _UNPADDED.sub(b"", value).split(b"\\")
        if any(len(part) > longest or (part and not pattern.fullmatch(part)) for part in parts):
            complaints.add("invalid-value", place + name_of(tag))
    elif tag not in IDENTITY and codec and vr in (b"LO", b"SH", b"ST", b"LT", b"UT", b"UC"):
        try:
            text = value.decode(codec)
        except (UnicodeDecodeError, LookupError):
            complaints.add("text-not-in-character-set", place + name_of(tag))
            return
        longest = _LONGEST_TEXT.get(vr, 0)
        if longest and any(len(part.strip(" \0")) > longest for part in text.split("\\")):
            complaints.add("invalid-value", place + name_of(tag), f"it is longer than {longest} characters")


def _check_uid(tag: int, value: bytes, inherited: bool, place: str, complaints: Complaints) -> None:
    pattern = _LENIENT_UID if inherited else _UID
    for part in value.removesuffix(b"\0").decode("latin-1").split("\\"):
        if len(part) > 64 or not pattern.fullmatch(part):
            complaints.add("malformed-uid", place + name_of(tag))


def is_own_uid(text: str) -> bool:
    """Whether a UID is 2.25. and a name-based UUID (PS3.5 B.2; RFC 4122 version 5), as all of ours are."""
    root, _, number = text.rpartition(".")
    if root != "2.25" or not number.isascii() or not number.isdigit() or len(number) > 39:
        return False
    value = int(number)
    if str(value) != number or value >= 1 << 128:
        return False
    made = uuid.UUID(int=value)
    return made.variant == uuid.RFC_4122 and made.version == 5

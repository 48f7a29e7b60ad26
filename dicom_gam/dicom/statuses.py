"""DIMSE statuses: which error gives which status, and what a status means in plain words.

PS3.4 B.2.3 (Storage Service Class), PS3.7 9.1.1.1.9 and annex C.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from dicom_gam.errors import AuditError, DicomGamError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class StoreStatus(IntEnum):
    """What we answer a C-STORE request with."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


# The first class that fits counts.
STATUS_OF_ERROR: Mapping[type[DicomGamError], StoreStatus] = MappingProxyType(
    {
        StorageError: StoreStatus.OUT_OF_RESOURCES,
        AuditError: StoreStatus.OUT_OF_RESOURCES,
        DicomGamError: StoreStatus.CANNOT_UNDERSTAND,
    }
)

# 0111 is not among C-STORE's statuses, but archives answer with it; our UIDs are derived from the content, so what
# the archive has under this UID is what we were sending.
STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})

_WORDS: Mapping[int, str] = MappingProxyType(
    {
        0x0000: "stored",
        0xB000: "stored, but the destination changed some values (coercion)",
        0xB006: "stored, but the destination dropped some elements",
        0xB007: "stored, though the destination finds that the data set does not match its SOP class",
        0x0110: "the destination failed while processing the object",
        0x0111: "the destination has this object already",
        0x0112: "the destination does not know the object it should refer to",
        0x0117: "the destination finds the SOP Instance UID invalid",
        0x0118: "the destination does not know the SOP class",
        0x0119: "the destination finds that class and instance contradict each other",
        0x0122: "the destination does not support this SOP class: ask its administrator to allow it",
        0x0124: "the destination does not authorise us: ask its administrator to allow our AE title",
        0x0210: "the destination finds the message ID used twice",
        0x0211: "the destination does not know the operation: it is no storage SCP",
        0x0212: "the destination finds an argument of the request mistyped",
        0x0213: "the destination is out of resources",
    }
)
_RANGES: tuple[tuple[int, int, str], ...] = (
    (0xA700, 0xA7FF, "the destination is out of resources: look at its disk space"),
    (0xA800, 0xA8FF, "the destination does not support this SOP class: ask its administrator to allow it"),
    (0xA900, 0xA9FF, "the destination finds that the data set does not match its SOP class"),
    (0xB000, 0xBFFF, "the destination answered with a warning that C-STORE does not define"),
    (0xC000, 0xCFFF, "the destination cannot understand the object: look at its log"),
)


def status_of(error: DicomGamError) -> StoreStatus:
    """Return the status with which a C-STORE that raised `error` is answered."""
    return next(status for kind, status in STATUS_OF_ERROR.items() if isinstance(error, kind))


def is_stored(status: int) -> bool:
    """Whether the destination has the object for good: success and the warnings of PS3.4 B.2.3."""
    return status in STORED


def explain(status: int) -> str:
    """Say in plain words what a destination's answer to C-STORE means, with the number in hexadecimal."""
    words = _WORDS.get(status)
    if words is None:
        words = next((text for low, high, text in _RANGES if low <= status <= high), "a status DICOM does not define")
    return f"{words} (status {status:04X})"

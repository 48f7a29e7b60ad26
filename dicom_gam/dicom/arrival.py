"""What comes in: one C-STORE request (or one fetched file), and where its bytes go."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dicom_gam.dicom.uids import IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Arrival:
    """One data set that is on its way, under UIDs that are sound.

    `header` (preamble and file meta information) followed by the very bytes that come is a Part 10 file.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    header: bytes


class Reception(Protocol):
    """One data set on its way to the disk. It ends by `commit` or by `abandon`, and `abandon` may follow `commit`."""

    def write(self, part: bytes | memoryview) -> None:
        """Append the next bytes of the data set. Raises StorageError; then only `abandon` is left."""

    def commit(self) -> object:
        """Make it durable; only then Success may be answered. Raises a DicomGamError otherwise."""

    def abandon(self) -> None:
        """Leave nothing of it; never raises."""


if TYPE_CHECKING:
    # Raises a DicomGamError when the data set can't be taken in.
    Receive = Callable[[Arrival], Reception]
    # Told of associations and refused requests: event name, keys. May raise a DicomGamError.
    Notice = Callable[[str, dict[str, Any]], object]


def part_10_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Encode preamble and file meta information (PS3.10 7.1).

    Nothing of the sender and nothing of our version goes in, so that equal data sets give equal files for good. By
    hand, because the field has UIDs that pydicom will read but not write.
    """
    elements = b"".join(
        struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value
        for element, uid in (
            (0x0002, sop_class_uid),
            (0x0003, sop_instance_uid),
            (0x0010, transfer_syntax_uid),
            (0x0012, IMPLEMENTATION_CLASS_UID),
        )
        for value in [uid.encode("ascii") + b"\0" * (len(uid) % 2)]
    )
    version = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(version) + len(elements))
    return b"\0" * 128 + b"DICM" + length + version + elements

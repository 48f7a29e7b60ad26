"""Small Part 10 files for tests of what is told from a file's beginning."""

from __future__ import annotations

from dicom_gam.dicom.arrival import part_10_header
from tests.web.made_site import CR

EXPLICIT = "1.2.840.10008.1.2.1"


def part10(sop_instance_uid: str, shade: int = 0, sop_class_uid: str = CR, image_type: bytes = b"") -> bytes:
    """A small Part 10 file: who it says it is, and a byte to tell it from others."""

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return (
            (tag >> 16).to_bytes(2, "little")
            + (tag & 0xFFFF).to_bytes(2, "little")
            + vr
            + len(value).to_bytes(2, "little")
            + value
        )

    dataset = (element(0x00080008, b"CS", image_type) if image_type else b"") + b"".join(
        element(tag, vr, value)
        for tag, vr, value in (
            (0x00080016, b"UI", sop_class_uid.encode()),
            (0x00080018, b"UI", sop_instance_uid.encode()),
            (0x00080060, b"CS", b"CR"),
            (0x00280010, b"US", bytes([shade, 0])),
        )
    )
    return part_10_header(sop_class_uid, sop_instance_uid, EXPLICIT) + dataset

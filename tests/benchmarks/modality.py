"""A sender of a hundred lines: what a modality does, at little cost and without threads (PS3.8 9.3, PS3.7 9.3.1).

Images are made from a template, so that making one costs nothing beside sending it.
"""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterator
from functools import lru_cache
from random import Random
from typing import Self

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.service.fakes import CR, image

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_CONTEXT_ID = 1
_SOP_PLACE, _STUDY_PLACE = (f"2.25.{digit * 38}" for digit in "78")
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700


class SenderError(OSError):
    """The node refused the association, ended it, or answered what isn't DICOM."""


def new_uids(count: int, seed: int | str) -> list[str]:
    """UIDs of one length, which the templates need."""
    return list(_uids(count, Random(str(seed))))


def _uids(count: int, random: Random) -> Iterator[str]:
    for _ in range(count):
        yield f"2.25.{random.randrange(10**37, 10**38)}"


def encoded_image(sop_instance_uid: str, study_instance_uid: str, side: int) -> bytes:
    """A CR image as it goes over the wire: explicit VR little endian, without file meta information.

    Both UIDs must come from `new_uids`, for they take the place of others of the same length.
    """
    assert len(sop_instance_uid) == len(study_instance_uid) == len(_SOP_PLACE)
    encoded = _template(side).replace(_SOP_PLACE.encode(), sop_instance_uid.encode())
    return encoded.replace(_STUDY_PLACE.encode(), study_instance_uid.encode())


@lru_cache
def _template(side: int) -> bytes:
    ds = image(_SOP_PLACE, side=side)
    ds.StudyInstanceUID = _STUDY_PLACE
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return buffer.getvalue()


class Modality:
    """One association that stores CR images, one after the other; a context manager that releases it.

    Every method raises SenderError or another OSError when the node goes away.
    """

    def __init__(
        self, port: int, *, calling: str = "MODALITY", called: str = "DICOM_GAM", timeout_s: float = 30
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self._socket.makefile("rb")
        self._message_id = 0
        try:
            self._socket.sendall(_association_request(called, calling))
            self._largest = _negotiated(self._pdu(0x02))
        except BaseException:
            self.close()
            raise

    def store(self, sop_instance_uid: str, encoded: bytes) -> int:
        """Send one data set and return the status that is answered."""
        self._message_id = self._message_id % 0xFFFF + 1
        command = _store_request(self._message_id, sop_instance_uid)
        self._socket.sendall(_p_data(command, 0x03) + b"".join(_data_pdus(encoded, self._largest - 6)))
        return _status(self._pdu(0x04))

    def release(self) -> None:
        """End the association as one should."""
        self._socket.sendall(struct.pack(">BBLL", 0x05, 0, 4, 0))
        self._pdu(0x06)

    def close(self) -> None:
        """Close the connection, with or without a release before."""
        self._read.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            if failure is None:
                self.release()
        finally:
            self.close()

    def _pdu(self, wanted: int) -> bytes:
        header = self._exactly(6)
        kind, length = struct.unpack(">BxL", header)
        body = self._exactly(length)
        if kind != wanted:
            raise SenderError(f"PDU {kind:#04x} instead of {wanted:#04x}: {body[:8].hex()}")
        return body

    def _exactly(self, count: int) -> bytes:
        got = self._read.read(count)
        if len(got) != count:
            raise SenderError("the connection was closed")
        return got


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _association_request(called: str, calling: str) -> bytes:
    syntaxes = _item(0x30, CR.encode()) + _item(0x40, ExplicitVRLittleEndian.encode())
    user = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"2.25.42")
    items = (
        _item(0x10, _APPLICATION_CONTEXT) + _item(0x20, bytes([_CONTEXT_ID, 0, 0, 0]) + syntaxes) + _item(0x50, user)
    )
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + items
    return struct.pack(">BxL", 0x01, len(body)) + body


def _negotiated(body: bytes) -> int:
    """The longest PDU that the node takes, once it has accepted the context."""
    largest, accepted, rest = 16384, False, body[68:]
    while rest:
        kind, length = struct.unpack(">BxH", rest[:4])
        value, rest = rest[4 : 4 + length], rest[4 + length :]
        if kind == 0x21:
            accepted = value[2] == 0
        elif kind == 0x50:
            largest = struct.unpack(">L", value[4:8])[0] or 131072
    if not accepted:
        raise SenderError("the presentation context was refused")
    return largest


def _element(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value


def _store_request(message_id: int, sop_instance_uid: str) -> bytes:
    elements = b"".join(
        (
            _element(0x0002, CR.encode()),
            _element(0x0100, struct.pack("<H", 0x0001)),
            _element(0x0110, struct.pack("<H", message_id)),
            _element(0x0700, struct.pack("<H", 0)),
            _element(0x0800, struct.pack("<H", 1)),
            _element(0x1000, sop_instance_uid.encode()),
        )
    )
    return _element(0x0000, struct.pack("<L", len(elements))) + elements


def _p_data(fragment: bytes, control: int) -> bytes:
    return struct.pack(">BxLLBB", 0x04, len(fragment) + 6, len(fragment) + 2, _CONTEXT_ID, control) + fragment


def _data_pdus(encoded: bytes, step: int) -> Iterator[bytes]:
    for begin in range(0, len(encoded), step):
        last = begin + step >= len(encoded)
        yield _p_data(encoded[begin : begin + step], 0x02 if last else 0x00)


def _status(body: bytes) -> int:
    """The Status (0000,0900) of a C-STORE-RSP that comes in one fragment, as all do."""
    command = io.BytesIO(body[6:])
    while header := command.read(8):
        group, element, length = struct.unpack("<HHL", header)
        value = command.read(length)
        if (group, element) == (0, 0x0900):
            return int(struct.unpack("<H", value)[0])
    raise SenderError("an answer without a status")

"""DICOM's upper layer by hand (PS3.8 9.3): a sender that can say anything, right or wrong, byte by byte."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_gam.dicom.uids import IMPLEMENTATION_CLASS_UID

ECHO = "1.2.840.10008.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
STORE_RQ, ECHO_RQ, EVENT_RQ = 0x0001, 0x0030, 0x0100
NO_DATA_SET, A_DATA_SET = 0x0101, 0x0001
RELEASE = struct.pack(">BxLL", RELEASE_RQ, 4, 0)
ABORTED = struct.pack(">BxLxxBB", ABORT, 4, 0, 0)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """One PDU; `length` is what its header claims, else the truth."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def associate_request(
    contexts: Sequence[tuple[str, str]] = ((CR, EXPLICIT), (ECHO, IMPLICIT)),
    *,
    called: str = "DICOM_GAM",
    calling: str = "MODALITY",
    maximum_length: int = 16384,
    more: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ PDU; the contexts get the identifiers 1, 3, 5 and so on. `more` are further user items."""
    proposed = b"".join(
        item(0x20, struct.pack(">Bxxx", 2 * number + 1) + item(0x30, sop_class.encode()) + item(0x40, syntax.encode()))
        for number, (sop_class, syntax) in enumerate(contexts)
    )
    user = item(0x51, struct.pack(">L", maximum_length)) + item(0x52, IMPLEMENTATION_CLASS_UID.encode()) + more
    titles = called.encode("latin-1").ljust(16) + calling.encode("latin-1").ljust(16)
    head = struct.pack(">HH", 1, 0) + titles + bytes(32)
    return pdu(ASSOCIATE_RQ, head + item(0x10, APPLICATION_CONTEXT.encode()) + proposed + item(0x50, user))


def command_set(field: int, *elements: tuple[int, bytes], data: int = NO_DATA_SET, message_id: int = 1) -> bytes:
    """A command set (PS3.7 6.3.1): implicit little endian, elements in ascending order, its group length in front."""
    known = {0x0100: struct.pack("<H", field), 0x0110: struct.pack("<H", message_id), 0x0800: struct.pack("<H", data)}
    ordered = sorted((known | dict(elements)).items())
    body = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in ordered)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def padded(uid: str) -> bytes:
    value = uid.encode("latin-1")
    return value + b"\0" * (len(value) % 2)


def store_command(sop_instance_uid: str, sop_class_uid: str = CR, message_id: int = 1) -> bytes:
    return command_set(
        STORE_RQ,
        (0x0002, padded(sop_class_uid)),
        (0x0700, struct.pack("<H", 0)),
        (0x1000, padded(sop_instance_uid)),
        data=A_DATA_SET,
        message_id=message_id,
    )


def echo_command(message_id: int = 1) -> bytes:
    return command_set(ECHO_RQ, (0x0002, padded(ECHO)), message_id=message_id)


def fragment(content: bytes, *, context: int, command: bool, last: bool) -> bytes:
    """One PDV item (PS3.8 9.3.5.1)."""
    return struct.pack(">LBB", len(content) + 2, context, command | last << 1) + content


def message(command: bytes, dataset: bytes | None = None, *, context: int = 1, size: int = 16000) -> bytes:
    """A whole DIMSE message as P-DATA-TF PDUs of at most `size` bytes of content each."""
    pdus = [pdu(P_DATA, fragment(command, context=context, command=True, last=True))]
    for start in range(0, len(dataset or b""), size):
        assert dataset is not None
        part = fragment(
            dataset[start : start + size], context=context, command=False, last=start + size >= len(dataset)
        )
        pdus.append(pdu(P_DATA, part))
    if dataset == b"":
        pdus.append(pdu(P_DATA, fragment(b"", context=context, command=False, last=True)))
    return b"".join(pdus)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in explicit VR little endian."""
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return head + (struct.pack("<xxL", len(value)) if long else struct.pack("<H", len(value))) + value


def small_image(sop_instance_uid: str, *, sop_class_uid: str = CR, side: int = 16, shade: int = 7) -> bytes:
    """The data set of a small grey image, explicit VR little endian."""
    word = struct.Struct("<H").pack
    return b"".join(
        element(tag, vr, value)
        for tag, vr, value in [
            (0x00080016, b"UI", sop_class_uid.encode("latin-1")),
            (0x00080018, b"UI", sop_instance_uid.encode("latin-1")),
            (0x00080060, b"CS", b"CR"),
            (0x00100010, b"PN", b"SECRET^NAME"),
            (0x00100020, b"LO", b"SECRET-ID"),
            (0x0020000D, b"UI", b"2.25.1000"),
            (0x0020000E, b"UI", b"2.25.1001"),
            (0x00280002, b"US", word(1)),
            (0x00280004, b"CS", b"MONOCHROME2"),
            (0x00280010, b"US", word(side)),
            (0x00280011, b"US", word(side)),
            (0x00280100, b"US", word(8)),
            (0x00280101, b"US", word(8)),
            (0x00280102, b"US", word(7)),
            (0x00280103, b"US", word(0)),
            (0x7FE00010, b"OB", bytes([shade]) * (side * side)),
        ]
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One PDU that came back."""

    kind: int
    body: bytes

    @property
    def name(self) -> str:
        names = ("?", "A-ASSOCIATE-RQ", "A-ASSOCIATE-AC", "A-ASSOCIATE-RJ", "P-DATA", "A-RELEASE-RQ", "A-RELEASE-RP")
        return (*names, "A-ABORT")[self.kind] if self.kind <= ABORT else f"PDU type {self.kind}"

    @property
    def status(self) -> int:
        """The Status (0000,0900) of a response that came as one PDV."""
        found = self.body.find(struct.pack("<HHL", 0, 0x0900, 2))
        assert found >= 0, f"no status in {self.body!r}"
        return int(struct.unpack_from("<H", self.body, found + 8)[0])


class Wire:
    """One TCP connection to a node; also a context manager. `source` is the address it comes from."""

    def __init__(self, port: int, source: str = "127.0.0.1", timeout_s: float = 15.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def push(self, content: bytes) -> bool:
        """Send, and say whether the other side was still there for all of it."""
        try:
            self.socket.sendall(content)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self) -> Answer | None:
        """The next PDU; None when the connection was closed. Raises TimeoutError."""
        head = self._read(6)
        if head is None:
            return None
        kind, length = struct.unpack(">BxL", head)
        body = self._read(length)
        return None if body is None else Answer(kind, body)

    def associate(self, **request: object) -> Answer | None:
        self.send(associate_request(**request))  # type: ignore[arg-type]
        return self.answer()

    def store(self, sop_instance_uid: str, dataset: bytes, *, context: int = 1, sop_class_uid: str = CR) -> int | None:
        """C-STORE, and the status of the answer; None when there was an abort or an end instead."""
        if not self.push(message(store_command(sop_instance_uid, sop_class_uid), dataset, context=context)):
            return None
        answer = self.answer()
        return answer.status if answer is not None and answer.kind == P_DATA else None

    def release(self) -> None:
        self.send(RELEASE)
        self.answer()
        self.close()

    def ended(self) -> str:
        """Wait for the end, and say how it came: `A-ABORT`, `A-ASSOCIATE-RJ` or `closed`. Raises TimeoutError."""
        answer = self.answer()
        if answer is None:
            return "closed"
        while self.answer() is not None:
            pass
        return answer.name

    def close(self) -> None:
        self.socket.close()

    def _read(self, count: int) -> bytes | None:
        content = b""
        while len(content) < count:
            try:
                part = self.socket.recv(min(count - len(content), 1 << 16))
            except ConnectionResetError:
                return None
            if not part:
                return None
            content += part
        return content

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

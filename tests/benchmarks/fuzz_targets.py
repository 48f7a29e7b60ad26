"""Where the fuzzer's bytes go, and what must hold afterwards. A target returns what is wrong, None when nothing is."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dicom_gam.dicom.arrival import Arrival
from dicom_gam.dicom.identity import look
from dicom_gam.dicom.image.acceptance import Refused
from dicom_gam.dicom.image.part10 import read_part10
from dicom_gam.dicom.scp import upper_layer
from dicom_gam.dicom.scp.acceptor import Door, serve_connection
from dicom_gam.dicom.scp.associate import decode_associate_request, encode_acceptance, grant, read_titles
from dicom_gam.dicom.scp.command_set import CommandError, decode_request, encode_response
from dicom_gam.dicom.scp.event_report import parse
from dicom_gam.dicom.scp.listener_options import ListenerOptions
from dicom_gam.dicom.scp.notices import Notices
from dicom_gam.dicom.scp.slots import Slots
from dicom_gam.dicom.scp.upper_layer import PduType, ProtocolError
from dicom_gam.service.intake import Intake
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.blobs import FolderBlobs
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from tests.benchmarks import fuzz_corpus as corpus
from tests.faults.wire import ABORTED, EXPLICIT, IMPLICIT

Target = Callable[[bytes], str | None]

MOST_BYTES = 150_000  # what a socket pair takes before anybody reads
BUFFER_BYTES = 4 * 1024 * 1024
OPTIONS = ListenerOptions(ae_title="DICOM_GAM", host="127.0.0.1", port=0, maximum_instance_bytes=1024 * 1024)
IMPATIENT = ListenerOptions(
    ae_title="DICOM_GAM", host="127.0.0.1", port=0, negotiation_timeout_s=0.02, pdu_timeout_s=0.02,
    network_timeout_s=0.02, maximum_instance_bytes=1024 * 1024,
)  # fmt: skip
PEER = {"calling_ae_title": "FUZZ", "called_ae_title": "DICOM_GAM", "peer_address": "127.0.0.1"}
LAST = (PduType.ASSOCIATE_RJ, PduType.RELEASE_RP, PduType.ABORT)


class MemoryReception:
    """`arrival.Reception` that remembers how it ended."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.size = 0
        self.committed = self.ended = False

    def write(self, part: bytes | memoryview) -> None:
        self.size += len(part)

    def commit(self) -> None:
        self.committed = self.ended = True

    def abandon(self) -> None:
        self.ended = True


class RealIntake:
    """A real inbox, job table and audit log in a folder that is emptied now and then; nothing may appear beside it."""

    def __init__(self) -> None:
        fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.base = Path(tempfile.mkdtemp(prefix="fuzz-", dir=fast))
        (self.base / "a" / "b" / "c").mkdir(parents=True)
        os.chdir(self.base / "a" / "b" / "c")
        self._stack = ExitStack()
        self._uses = 0
        self._open()

    def _open(self) -> None:
        node = self.base / "node"
        self._database = Database(node.parent / "node.sqlite")
        self._stack.callback(self._database.close)
        audit = AuditLog(node.parent / "audit.jsonl", SqliteAuditHead(self._database))
        self._stack.callback(audit.close)
        inbox = FolderBlobs(node / "inbox")
        self.jobs = SqliteJobQueue(self._database, inbox.path)
        self.receive = Intake(inbox, self.jobs, audit, lambda: None).receive
        self._beside = self.beside()

    def beside(self) -> set[str]:
        """Everything that is neither in the inbox nor a file of the database."""
        found = {str(path) for path in self.base.rglob("*") if self.base / "node" not in (path, *path.parents)}
        return {path for path in found if "node.sqlite" not in path}

    def temporaries(self) -> int:
        return len(list((self.base / "node" / "inbox" / "incoming").iterdir()))

    def next(self) -> None:
        """Start anew every 500 uses, so that the folder stays small. Raises AssertionError for a file beside it."""
        self._uses += 1
        if self._uses % 500:
            return
        self.check()
        self._stack.close()
        shutil.rmtree(self.base / "node")
        for path in self.base.glob("node.sqlite*"):
            path.unlink()
        (self.base / "audit.jsonl").unlink()
        self._open()

    def check(self) -> None:
        """Raise AssertionError for a file beside the inbox or half-written in it."""
        assert self.beside() == self._beside, f"files beside the inbox: {self.beside() - self._beside}"
        assert self.temporaries() == 0, "half-written files are left"

    def close(self) -> None:
        self._stack.close()
        os.chdir("/")
        shutil.rmtree(self.base)


class Connections:
    """Serves one connection after the other over a socket pair, in this very thread."""

    def __init__(self) -> None:
        upper_layer.LINGER_S = 0.02  # type: ignore[misc]
        self.real = RealIntake()
        self._count = 0

    def __call__(self, stream: bytes) -> str | None:
        """Any end will do, but not none: by turns with memory and with the real intake, sometimes without an end."""
        self._count += 1
        stays = self._count % 256 == 0
        if self._count % 16 == 8:
            self.real.next()
            before = self.real.jobs.counts()["received"]
            told, successes, _ = self._serve(stream, self.real.receive, OPTIONS, stays=False)
            new = self.real.jobs.counts()["received"] - before
            if told is None and new > len(successes):
                return f"{new} jobs for {len(successes)} times Success"
            return told or ("half-written files are left" if self.real.temporaries() else None)
        receptions: list[MemoryReception] = []

        def receive(arrival: Arrival) -> MemoryReception:
            receptions.append(MemoryReception(arrival))
            return receptions[-1]

        told, successes, _ = self._serve(stream, receive, IMPATIENT if stays else OPTIONS, stays=stays)
        committed = [one.arrival.sop_instance_uid for one in receptions if one.committed]
        if told is None and successes != committed:
            return f"Success for {successes}, committed are {committed}"
        if told is None and not all(one.ended for one in receptions):
            return "a reception was left open"
        return told

    def _serve(
        self, stream: bytes, receive: Callable[[Arrival], Any], options: ListenerOptions, *, stays: bool
    ) -> tuple[str | None, list[str], list[int]]:
        notes: list[tuple[str, dict[str, Any]]] = []
        reports: list[Any] = []
        slots = Slots(None)
        notices = Notices(lambda name, keys: notes.append((name, keys)))
        door = Door(options=options, receive=receive, notices=notices, slots=slots, report=reports.append)
        client, server = socket.socketpair()
        with client, server:
            for end in (client, server):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            client.sendall(stream[:MOST_BYTES])
            if not stays:
                client.shutdown(socket.SHUT_WR)
            serve_connection(server, "127.0.0.1", door)
            server.close()
            answer, was_reset = read_all(client)
        if was_reset and ABORTED[:6] not in stream:  # whoever aborts is owed no more words
            return "the sender's last words were answered by a reset", [], []
        notices.flush(everything=True)
        if slots._taken:
            return "a place for an association was not given back", [], []
        return judge(stream, answer, notes)


def read_all(client: socket.socket) -> tuple[bytes, bool]:
    """All that came back, and whether it ended by a reset (which a socket pair has too: bytes that nobody read)."""
    parts = []
    client.settimeout(5)
    try:
        while part := client.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        return b"".join(parts), True
    return b"".join(parts), False


def judge(
    stream: bytes, answer: bytes, notes: list[tuple[str, dict[str, Any]]]
) -> tuple[str | None, list[str], list[int]]:
    """What is wrong with an answer; for which instances it says Success; the kinds of its PDUs."""
    kinds, successes, place = [], [], 0
    while place < len(answer):
        if place + 6 > len(answer):
            return "the answer ends within a PDU", [], kinds
        kind, length = struct.unpack_from(">BxL", answer, place)
        body = answer[place + 6 : place + 6 + length]
        if len(body) < length:
            return "the answer ends within a PDU", [], kinds
        kinds.append(kind)
        successes += [] if kind != PduType.P_DATA else success_in(body)
        place += 6 + length
    if any(kind in LAST for kind in kinds[:-1]):
        return f"something follows the last word: {kinds}", successes, kinds
    if not kinds and len(stream) >= 6 and stream[0] != PduType.ASSOCIATE_RQ:
        return "no answer to what is no association request", successes, kinds
    if not kinds and is_whole_request(stream):
        return "no answer to an association request", successes, kinds
    return unclean(notes), successes, kinds


def is_whole_request(stream: bytes) -> bool:
    return len(stream) >= 6 and stream[0] == 1 and 74 <= len(stream) >= 6 + int.from_bytes(stream[2:6], "big")


def success_in(body: bytes) -> list[str]:
    """The instance that a C-STORE response says Success for; responses come as one PDV unless the peer wants less."""
    command = body[6:]
    elements: dict[int, bytes] = {}
    place = 0
    while place + 8 <= len(command):
        _, number, length = struct.unpack_from("<HHL", command, place)
        elements[number] = command[place + 8 : place + 8 + length]
        place += 8 + length
    stored = elements.get(0x0100) == b"\x01\x80" and elements.get(0x0900) == b"\0\0"
    return [elements.get(0x1000, b"").decode("latin-1").rstrip("\0")] if stored else []


def unclean(notes: list[tuple[str, dict[str, Any]]]) -> str | None:
    """Whatever goes into the audit log must be short printable text or a number."""
    for name, keys in notes:
        json.dumps(keys)
        for key, value in keys.items():
            if isinstance(value, str) and (not value.isascii() or not value.isprintable() or len(value) > 400):
                return f"{name}: {key} is not clean: {value!r}"
            if not isinstance(value, str | int):
                return f"{name}: {key} is a {type(value).__name__}"
    return None


def associate(body: bytes) -> str | None:
    """The association request's decoder alone."""
    view = memoryview(body)
    try:
        read_titles(view)
        request = decode_associate_request(view)
    except ProtocolError:
        return None
    known = dict.fromkeys(OPTIONS.sop_classes, OPTIONS.transfer_syntaxes)
    granted = {c.context_id: one for c in request.contexts if (one := grant(c, known.get(c.abstract_syntax)))}
    answer = encode_acceptance(bytes(view[4:36]), request, granted, known, [], 131072)
    if answer[0] != PduType.ASSOCIATE_AC or int.from_bytes(answer[2:6], "big") != len(answer) - 6:
        return "the acceptance is malformed"
    return None


def command(encoded: bytes) -> str | None:
    """The command set's decoder, and the response to what it found."""
    try:
        request = decode_request(encoded)
    except CommandError:
        return None
    response = encode_response(request, 0xA900, "why \\ \n not")
    if int.from_bytes(response[8:12], "little") != len(response) - 12 or len(response) % 2:
        return "the response is malformed"
    return None


def dataset(encoded: bytes) -> str | None:
    """The look at a data set in every syntax, and the event information of a commitment report."""
    for syntax in (EXPLICIT, IMPLICIT, corpus.BIG_ENDIAN, corpus.DEFLATED):
        said = look(memoryview(encoded), syntax)
        if not all(value is None or isinstance(value, str) for value in (said.sop_class_uid, said.sop_instance_uid)):
            return f"the look found no text: {said}"
    parse(encoded, EXPLICIT, PEER)
    return None


def part10(file: bytes) -> str | None:
    """The reader of whole files."""
    try:
        found = read_part10(file)
    except Refused as refused:
        return None if len(refused.rejection.message) > 20 else "a refusal without a message"
    if found.pixel_offset is not None and not 0 <= found.pixel_offset < len(found.content):
        return "the pixels begin outside the file"
    return None


def make(number: int, seed: int) -> tuple[str, bytes]:
    """Case `number` of a run: the name of its target and the bytes."""
    rng = random.Random(seed << 32 | number)
    kind = rng.random()
    if kind < 0.4:
        return "connection", corpus.broken_stream(rng)
    if kind < 0.55:
        return "associate", corpus.broken(rng.choice(corpus.requests())[corpus.PDU_HEADER :], rng)
    if kind < 0.8:
        return "command", corpus.broken(rng.choice(corpus.commands()), rng)
    if kind < 0.9:
        return "dataset", corpus.broken(rng.choice(corpus.datasets()), rng)
    return "part10", corpus.broken(rng.choice(corpus.files()), rng)


def targets() -> dict[str, Target]:
    """Every target by name; `connection` holds a folder open until `targets()['connection'].real.close()`."""
    return {
        "connection": Connections(),
        "associate": associate,
        "command": command,
        "dataset": dataset,
        "part10": part10,
    }

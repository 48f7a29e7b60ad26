"""A running listener for tests, its senders, and PDUs made by hand for clients that break the rules."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from pynetdicom import AE

from dicom_gam.dicom.scp.listener import Listener, ListenerOptions

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
ABORT = 7


class Kept:
    """A reception that keeps what it is given, and fails where it is told to."""

    def __init__(self, door, arrival):
        self.door, self.arrival = door, arrival
        self.content = bytearray(arrival.header)
        self.state = "open"
        door.receptions.append(self)

    def write(self, part):
        assert self.state == "open"
        if self.door.write_error:
            raise self.door.write_error
        if self.door.keep:
            self.content += part

    def commit(self):
        assert self.state == "open"
        self.door.wait.wait(10)
        if self.door.error:
            raise self.door.error
        self.state = "committed"
        self.door.arrivals.append((self.arrival, bytes(self.content)))

    def abandon(self):
        if self.state == "open":
            self.state = "abandoned"


class FrontDoor:
    """A running listener that keeps what it was given."""

    def __init__(self, *, report=None, listening=None, **options):
        self.arrivals, self.receptions, self.notices = [], [], []
        self.error = self.write_error = self.receive_error = None
        self.keep = True
        self.wait = threading.Event()
        self.wait.set()
        chosen = {"ae_title": "DICOM_GAM", "host": "127.0.0.1", "port": 0} | options
        self.listener = Listener(ListenerOptions(**chosen), self._receive, self._notice, report, listening)

    def __enter__(self):
        self.listener.start()
        self.port = self.listener.port
        return self

    def __exit__(self, *_):
        self.wait.set()
        self.listener.stop(0.2)

    def told(self, name):
        return [keys for event, keys in self.notices if event == name]

    def _receive(self, arrival):
        if self.receive_error:
            raise self.receive_error
        return Kept(self, arrival)

    def _notice(self, event, keys):
        self.notices.append((event, keys))


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def dcmtk(program, *arguments):
    if shutil.which(program) is None:
        pytest.fail(f"{program} is missing: install dcmtk (apt-get install dcmtk)")
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TCP_NODELAY": "1"},
        check=False,
    )


def storescu(port, *arguments):
    return dcmtk("storescu", "-v", "-aet", "CT1", "-aec", "DICOM_GAM", "127.0.0.1", str(port), *arguments)


def associate(port, *contexts, called="DICOM_GAM", **more):
    ae = AE(ae_title="MODALITY")
    ae.dimse_timeout = 10
    for uid, syntax in contexts:
        ae.add_requested_context(uid, [syntax])
    return ae.associate("127.0.0.1", port, ae_title=called, **more)


def item(kind, value):
    return struct.pack(">BxH", kind, len(value)) + value


def associate_rq(
    contexts=((1, CR, (EXPLICIT,)),), called="DICOM_GAM", calling="RAW", roles=(), *, version=1, name=None
):
    body = struct.pack(
        ">HH16s16s32x", version, 0, called.encode("latin-1").ljust(16), calling.encode("latin-1").ljust(16)
    )
    body += item(0x10, (name or "1.2.840.10008.3.1.1.1").encode())
    for number, abstract, syntaxes in contexts:
        inner = struct.pack(">B3x", number) + item(0x30, abstract.encode())
        body += item(0x20, inner + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes))
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3")
    user += b"".join(item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes(pair)) for uid, pair in roles)
    body += item(0x50, user)
    return struct.pack(">BxL", 1, len(body)) + body


def command(**elements):
    """Encode a command set: `e0100=1` is an unsigned short, text is a UID."""
    encoded = b""
    for name, value in sorted(elements.items()):
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode("latin-1")
        raw += b"\0" * (len(raw) % 2)
        encoded += struct.pack("<HHL", 0, int(name[1:], 16), len(raw)) + raw
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


def store_rq(uid="1.2.3", sop_class=CR, *, message_id=1, data_set=True):
    return command(e0002=sop_class, e0100=1, e0110=message_id, e0700=0, e0800=0 if data_set else 0x0101, e1000=uid)


def echo_rq(sop_class="1.2.840.10008.1.1"):
    return command(e0002=sop_class, e0100=0x30, e0110=1, e0800=0x0101)


def p_data(*values):
    """One P-DATA-TF of (context ID, control, fragment)."""
    body = b"".join(struct.pack(">LBB", len(part) + 2, number, control) + part for number, control, part in values)
    return struct.pack(">BxL", 4, len(body)) + body


def data_set(uid="1.2.3", sop_class=CR, size=0):
    """An explicit little endian data set with its UIDs and `size` bytes of pixels."""
    encoded = b""
    for tag, value in ((0x0016, sop_class), (0x0018, uid)):
        raw = value.encode("latin-1") + b"\0" * (len(value) % 2)
        encoded += struct.pack("<HH2sH", 8, tag, b"UI", len(raw)) + raw
    return encoded + struct.pack("<HH2sxxL", 0x7FE0, 0x0010, b"OB", size) + b"\x07" * size


@contextmanager
def raw_connection(port):
    with socket.create_connection(("127.0.0.1", port), timeout=15) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@contextmanager
def raw_association(port, contexts=((1, CR, (EXPLICIT,)),), **more):
    with raw_connection(port) as sock:
        sock.sendall(associate_rq(contexts, **more))
        kind, _ = read_pdu(sock)
        assert kind == 2
        yield sock


def read_pdu(sock):
    """Return type and body of the next PDU; (None, b"") when the connection is closed or reset."""
    header = _read(sock, 6)
    if header is None:
        return None, b""
    kind, length = struct.unpack(">BxL", header)
    return kind, _read(sock, length) or b""


def read_response(sock):
    """Return the elements of the next command set as raw bytes, by element number."""
    kind, body = read_pdu(sock)
    assert kind == 4, (kind, body)
    place, found = 6, {}
    while place < len(body):
        _, element, length = struct.unpack_from("<HHL", body, place)
        found[element] = body[place + 8 : place + 8 + length]
        place += 8 + length
    return found


def status_in(response):
    return int.from_bytes(response[0x0900], "little")


def _read(sock, count):
    got = b""
    while len(got) < count:
        try:
            part = sock.recv(count - len(got))
        except ConnectionError:
            return None
        if not part:
            return None
        got += part
    return got

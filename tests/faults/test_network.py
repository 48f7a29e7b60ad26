"""Faults on the way in: sockets, PDUs, titles. The node is a process with two receivers, the senders are raw."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import subprocess
import time
from contextlib import ExitStack

import pytest

from tests.faults.nodes import MB, NodeProcess
from tests.faults.table import fault
from tests.faults.wire import (
    P_DATA,
    Wire,
    associate_request,
    command_set,
    fragment,
    message,
    pdu,
    small_image,
    store_command,
)
from tests.service.fakes import image, save, storescu, uids, until

FLAT = 16 * MB
STRANGER = "127.0.0.2"  # all of 127/8 is this machine: an address with a count of its own


def served(node: NodeProcess, folder, seed: str) -> str:
    """Send an image by DCMTK's storescu; it must be answered with Success."""
    (uid,) = uids(1, seed)
    sent = storescu(node.port, save(image(uid), folder / f"{seed}.dcm"), options=())
    assert sent.returncode == 0, sent.stderr
    until(lambda: node.job(uid) is not None)
    return "the next sender (storescu) is served"


def seconds(duration_s: float, limit_s: float) -> str:
    assert duration_s < limit_s, f"took {duration_s:.1f} s"
    return f"within {limit_s:g} s"


def test_the_node_serves_an_ordinary_sender_first(door, tmp_path):
    served(door, tmp_path, "first")


@pytest.mark.requirement("DOOR-01")
@fault("a PDU that says it has 4 GiB")
def test_a_pdu_of_4_gib_is_aborted_before_it_is_read(door, tmp_path, observed):
    with Wire(door.port) as wire, door.peak_memory() as peak:
        wire.associate()
        wire.push(pdu(P_DATA, b"", length=0xFFFFFFF0))
        for _ in range(64):
            if not wire.push(bytes(MB)):
                break
        end = wire.ended()
    assert peak.growth_bytes < FLAT
    assert end in ("A-ABORT", "closed")  # a reset may overtake the A-ABORT when we keep on sending
    with Wire(door.port) as wire:
        wire.associate()
        wire.send(pdu(P_DATA, b"", length=0xFFFFFFF0))
        assert wire.ended() == "A-ABORT"
    observed(f"A-ABORT at the header; memory +<16 MB while 64 MB were pushed; {served(door, tmp_path, 'four')}")


@pytest.mark.requirement("DOOR-01")
@fault("a PDU above the maximum that was offered")
def test_a_pdu_above_the_maximum_is_aborted(door, tmp_path, observed):
    with Wire(door.port) as wire, door.peak_memory() as peak:
        accepted = wire.associate()
        offered = struct.unpack(">L", accepted.body.split(b"\x51\0\0\4", 1)[1][:4])[0]
        command = pdu(P_DATA, fragment(store_command("1.2.3"), context=1, command=True, last=True))
        wire.push(command + pdu(P_DATA, fragment(bytes(offered - 5), context=1, command=False, last=False)))
        assert wire.ended() == "A-ABORT"
    assert peak.growth_bytes < FLAT
    assert offered == 131072
    observed(f"A-ABORT for {offered + 1} bytes where {offered} are offered; {served(door, tmp_path, 'above')}")


@pytest.mark.requirement("DOOR-01")
@fault("an association request that says it has 4 GiB")
def test_an_association_request_of_4_gib_is_ended_before_it_is_read(door, tmp_path, observed):
    with Wire(door.port) as wire, door.peak_memory() as peak:
        wire.send(struct.pack(">BxL", 1, 0xFFFFFFFF))
        for _ in range(32):
            if not wire.push(bytes(MB)):
                break
        wire.ended()
    assert peak.growth_bytes < FLAT
    observed(f"ended at the header; memory +<16 MB while 32 MB were pushed; {served(door, tmp_path, 'request')}")


@pytest.mark.requirement("DOOR-02")
@fault("connect and close, 12 times")
def test_connections_that_close_at_once_take_nothing_away(door, tmp_path, observed):
    for _ in range(12):
        Wire(door.port).close()
    started = time.monotonic()
    told = served(door, tmp_path, "closed")
    observed(f"{told} {seconds(time.monotonic() - started, 5)}")


@pytest.mark.requirement("DOOR-02")
@fault("12 TCP connections that say nothing")
def test_silent_connections_take_no_association_away_and_end_at_the_deadline(door, tmp_path, observed):
    with ExitStack() as stack:
        silent = [stack.enter_context(Wire(door.port)) for _ in range(12)]
        started = time.monotonic()
        told = served(door, tmp_path, "silent")
        soon = seconds(time.monotonic() - started, 5)
        ends = [wire.ended() for wire in silent]
    assert len(ends) == 12
    observed(f"{told} {soon} beside them; all 12 ended at the deadline ({', '.join(sorted(set(ends)))})")


@pytest.mark.requirement("DOOR-02")
@fault("1,100 TCP connections that say nothing")
def test_more_silent_connections_than_select_can_watch_change_nothing(tmp_path, observed):
    node = NodeProcess(tmp_path, node={"negotiation_timeout_s": 6.0})
    try:
        node.start(descriptors_in_use=1024)
        with ExitStack() as stack:
            silent = [stack.enter_context(Wire(node.port, f"127.0.1.{1 + number % 20}")) for number in range(1100)]
            told = served(node, tmp_path, "beside")
            still_open = sum(not is_over(wire) for wire in silent)
            for wire in silent:
                wire.ended()
        after = served(node, tmp_path, "after")
    finally:
        node.kill()
    assert still_open >= 400, f"only {still_open} connections were left open to be in the way"
    observed(
        f"{told} while more than 400 are open, descriptors above 1,024; of too many the oldest go first; "
        f"all 1,100 ended at the deadline; afterwards {after}"
    )


def is_over(wire: Wire) -> bool:
    poll = select.poll()
    poll.register(wire.socket, select.POLLIN)
    return bool(poll.poll(0))


@pytest.mark.requirement("DOOR-03")
@fault("more silent connections of one address than it may have")
def test_one_address_can_not_take_all_associations(tmp_path, observed):
    node = NodeProcess(tmp_path, node={"maximum_associations": 6, "maximum_associations_per_host": 3, "receivers": 2})
    try:
        node.start()
        with ExitStack() as stack:
            held = []
            for _ in range(5):
                wire = stack.enter_context(Wire(node.port, STRANGER))
                held.append(wire.associate().name)
            told = served(node, tmp_path, "other")
        until(lambda: node.events("association.rejected", "connection.refused"))
    finally:
        node.kill()
    assert held == ["A-ASSOCIATE-AC"] * 3 + ["A-ASSOCIATE-RJ"] * 2
    observed(f"3 associations of one address accepted, the 4th and 5th rejected and audited; from another {told}")


@pytest.mark.requirement("DOOR-04")
@fault("half a PDU, then silence")
@pytest.mark.parametrize("associated", [False, True])
def test_half_a_pdu_is_ended_at_the_deadline(door, tmp_path, observed, associated):
    with Wire(door.port) as wire:
        if associated:
            wire.associate()
            half = message(store_command("1.2.3"), small_image("1.2.3"))[:100]
        else:
            half = associate_request()[:60]
        started = time.monotonic()
        wire.send(half)
        end = wire.ended()
        soon = seconds(time.monotonic() - started, 5)
    where = "of data" if associated else "of the request"
    observed(f"half {where}: ended {soon} ({end}), deadline 1 s")
    served(door, tmp_path, f"half{associated}")


def dribble(wire: Wire, content: bytes) -> float:
    """Send byte by byte, ten a second, until the other side ends it; return how long that took."""
    started = time.monotonic()
    for byte in content:
        if is_over(wire) or not wire.push(bytes([byte])):
            break
        time.sleep(0.1)
        assert time.monotonic() - started < 20, "nobody ended it"
    wire.ended()
    return time.monotonic() - started


@pytest.mark.requirement("DOOR-04")
@fault("an association request, one byte at a time")
def test_a_dribbled_request_is_ended_at_the_deadline(door, observed):
    with Wire(door.port) as wire:
        observed(f"ended {seconds(dribble(wire, associate_request()), 5)}, deadline 1 s")


@pytest.mark.requirement("DOOR-04")
@fault("a PDU of data, one byte at a time")
def test_a_dribbled_pdu_is_ended_at_the_deadline(door, observed):
    with Wire(door.port) as wire:
        wire.associate()
        took_s = dribble(wire, message(store_command("1.2.3"), small_image("1.2.3")))
    observed(f"ended {seconds(took_s, 5)}, deadline 1 s")


@fault("an association that falls silent")
def test_a_silent_association_is_ended_at_the_network_timeout(door, observed):
    with Wire(door.port) as wire:
        wire.associate()
        started = time.monotonic()
        end = wire.ended()
    assert time.monotonic() - started > 1
    observed(f"{end} {seconds(time.monotonic() - started, 8)}, network timeout 3 s")


@pytest.mark.requirement("DOOR-04")
@fault("a sender that never reads its answers")
def test_a_sender_that_never_reads_is_ended_and_holds_nobody_up(door, tmp_path, observed):
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", door.port))
        deaf.settimeout(30)
        deaf.sendall(associate_request())
        deaf.recv(64)
        asked = message(command_set(0x0020), context=3) * 2000  # no such operation there: answered at once
        started = time.monotonic()
        ended = False
        while not ended and time.monotonic() - started < 20:
            try:
                deaf.sendall(asked)
            except ConnectionError:
                ended = True
        soon = seconds(time.monotonic() - started, 20)
    assert ended
    observed(f"ended {soon}; {served(door, tmp_path, 'deaf')}")


@pytest.mark.requirement("DOOR-06")
@fault("a wrong called AE title")
def test_a_wrong_called_title_is_rejected_and_audited(door, observed):
    with Wire(door.port) as wire:
        answer = wire.associate(called="SOMEBODY")
    result, source, reason = answer.body[1:4]
    assert (answer.name, result, source, reason) == ("A-ASSOCIATE-RJ", 1, 1, 7)
    until(lambda: any(keys.get("called_ae_title") == "SOMEBODY" for keys in door.events("association.rejected")))
    observed("A-ASSOCIATE-RJ, permanent, called AE title not recognised; in the audit log with title and address")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A node that lets one sender in, from one address."""
    callers = [{"ae_title": "MODALITY", "hosts": ["127.0.0.1"]}]
    node = NodeProcess(tmp_path_factory.mktemp("guarded"), access={"callers": callers})
    try:
        node.start()
        yield node
    finally:
        node.kill()


def rejected(node: NodeProcess, calling: str, source: str) -> str:
    with Wire(node.port, source) as wire:
        end = wire.associate(calling=calling)
    told = [*node.events("association.rejected"), *node.events("connection.refused")]
    until(lambda: any(keys["peer_address"] == source for keys in told or node.events("association.rejected")))
    with Wire(node.port) as wire:
        assert wire.associate().name == "A-ASSOCIATE-AC"
    if end is None:
        return "closed"
    assert end.name == "A-ASSOCIATE-RJ"
    result, origin, reason = end.body[1:4]
    assert (result, origin) == (1, 1)
    assert reason in (1, 3)
    return f"A-ASSOCIATE-RJ, permanent, {'calling AE title not recognised' if reason == 3 else 'no reason given'}"


@pytest.mark.requirement("DOOR-06")
@fault("an unknown calling AE title")
def test_an_unknown_calling_title_is_rejected_and_audited(guarded, observed):
    observed(f"{rejected(guarded, 'STRANGER', '127.0.0.1')}; in the audit log; the known sender is let in")


@pytest.mark.requirement("DOOR-06")
@fault("a known calling AE title from another address")
def test_a_known_title_from_another_address_is_rejected_and_audited(guarded, observed):
    observed(f"{rejected(guarded, 'MODALITY', STRANGER)}; in the audit log; the known sender is let in")


@pytest.mark.requirement("DOOR-05")
@fault("a TLS handshake that stalls")
def test_a_stalled_tls_handshake_waits_alone(tmp_path, observed):
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = {"certificate": str(certificate), "key": str(key)}
    node = NodeProcess(tmp_path, node={"receivers": 2}, tls=tls)
    try:
        node.start()
        with ExitStack() as stack:
            stalled = [stack.enter_context(Wire(node.port)) for _ in range(16)]
            for wire in stalled[8:]:
                wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # the beginning of a ClientHello
            (uid,) = uids(1, "tls")
            file = save(image(uid), tmp_path / "a.dcm")
            started = time.monotonic()
            sent = storescu(node.port, file, options=("+tla", "+cf", str(certificate)))
            assert sent.returncode == 0, sent.stderr
            soon = seconds(time.monotonic() - started, 5)
            ends = {wire.ended() for wire in stalled}
        plain = storescu(node.port, file, options=())
        assert plain.returncode != 0
        context = ssl.create_default_context(cafile=str(certificate))
        with (
            socket.create_connection(("127.0.0.1", node.port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
    finally:
        node.kill()
    observed(
        f"beside 16 stalled handshakes storescu +tla is served {soon}; the stalled ones ended at the deadline "
        f"({', '.join(sorted(ends))}); storescu without TLS is refused"
    )

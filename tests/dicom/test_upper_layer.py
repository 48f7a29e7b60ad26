"""What clients that break the rules meet at the front door, with raw sockets."""

from __future__ import annotations

import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_gam.dicom.commitment import CommitmentReport
from dicom_gam.dicom.scp.acceptor import Door, serve_connection
from dicom_gam.dicom.scp.listener import ListenerOptions
from dicom_gam.dicom.scp.notices import TOLD_SINGLY, WINDOW_S, Notices
from dicom_gam.dicom.scp.slots import Slots
from dicom_gam.dicom.scp.upper_layer import encode_command, fragments
from dicom_gam.errors import StorageError
from dicom_gam.sections import AccessSettings
from tests.dicom.front_door import (
    ABORT,
    CR,
    EXPLICIT,
    FrontDoor,
    associate_rq,
    command,
    data_set,
    dcmtk,
    echo_rq,
    p_data,
    raw_association,
    raw_connection,
    read_pdu,
    read_response,
    status_in,
    store_rq,
    until,
)

ECHO = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
RELEASE = struct.pack(">BxL4x", 5, 4)


@pytest.fixture
def door():
    with FrontDoor() as opened:
        yield opened


def echo_works(door):
    answered = dcmtk("echoscu", "-to", "10", "-ta", "10", "-td", "10", "-aec", "DICOM_GAM", "127.0.0.1", str(door.port))
    return answered.returncode == 0


def aborts(sock):
    kind, _ = read_pdu(sock)
    return kind == ABORT and read_pdu(sock) == (None, b"")


@pytest.mark.requirement("DOOR-01")
@pytest.mark.parametrize("length", [131073, 2**31, 2**32 - 1])
def test_a_pdu_above_what_was_agreed_is_aborted_before_it_is_read(door, length):
    with raw_association(door.port) as sock:
        sock.sendall(struct.pack(">BxL", 4, length))
        assert aborts(sock)
    assert str(length) in door.told("association.aborted")[0]["why"]


@pytest.mark.requirement("DOOR-01")
def test_an_association_request_of_4_gib_is_aborted_before_it_is_read(door):
    with raw_connection(door.port) as sock:
        sock.sendall(struct.pack(">BxL", 1, 2**32 - 1))
        assert aborts(sock)
    assert door.told("connection.refused")


@pytest.mark.requirement("DOOR-01")
def test_memory_stays_flat_while_a_large_data_set_comes(door):
    door.keep = False
    pdu = p_data((1, 0, b"\0" * 131066))
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq())))
        sock.sendall(p_data((1, 0, data_set())))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(1500):
            sock.sendall(pdu)
        sock.sendall(p_data((1, 2, b"")))
        assert status_in(read_response(sock)) == 0x0000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB, of 190 MiB sent


@pytest.mark.parametrize("kind", [0, 2, 3, 6, 8, 255])
def test_a_pdu_that_has_no_place_is_aborted_within_an_association_and_before_one(door, kind):
    with raw_association(door.port) as sock:
        sock.sendall(struct.pack(">BxLL", kind, 4, 0))
        assert aborts(sock)
    with raw_connection(door.port) as sock:
        sock.sendall(struct.pack(">BxLL", kind, 4, 0))
        assert aborts(sock)


def test_a_tls_client_at_a_plain_port_is_told_apart_in_the_log(door):
    with raw_connection(door.port) as sock:
        sock.sendall(b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0")
        assert aborts(sock)
    assert "TLS" in door.told("connection.refused")[0]["why"]


@pytest.mark.requirement("DOOR-02")
def test_connections_that_are_opened_and_closed_take_no_association_and_leave_no_record():
    with FrontDoor(maximum_associations=1) as door:
        for _ in range(12):
            raw = socket.create_connection(("127.0.0.1", door.port))
            raw.close()
        assert echo_works(door)
        assert not [name for name, _ in door.notices if name.startswith("connection")]


@pytest.mark.requirement("DOOR-02")
@pytest.mark.parametrize("count", [12, 1100])
def test_idle_connections_harm_nobody(count):
    with FrontDoor(maximum_associations=1) as door:  # which raises the limit on descriptors, for the test as well
        idle = []
        try:
            for _ in range(count):
                sock = socket.socket()
                idle.append(sock)
                sock.connect(("127.0.0.1", door.port))
            assert echo_works(door)
        finally:
            for sock in idle:
                sock.close()


@pytest.mark.requirement("DOOR-03")
def test_of_too_many_idle_connections_the_oldest_goes():
    with FrontDoor(maximum_associations_per_host=2) as door:
        idle = [socket.create_connection(("127.0.0.1", door.port), timeout=10) for _ in range(5)]
        assert idle[0].recv(1) == b""
        idle[4].sendall(associate_rq())
        assert read_pdu(idle[4])[0] == 2
        for sock in idle:
            sock.close()


@pytest.mark.requirement("DOOR-02")
@pytest.mark.parametrize("begun", [b"", associate_rq()[:40]])
def test_a_connection_that_does_not_become_an_association_is_dropped_in_time(begun):
    with FrontDoor(negotiation_timeout_s=0.3) as door, raw_connection(door.port) as sock:
        sock.sendall(begun)
        while read_pdu(sock)[0] is not None:
            pass
        until(lambda: door.told("connection.dropped"))


def drip(sock, encoded):
    """Send byte after byte, every one well within any timeout, until the other side has had enough."""
    try:
        for byte in encoded:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        return True
    return False


@pytest.mark.requirement("DOOR-04")
def test_a_request_that_drips_is_ended_by_the_deadline_for_all_of_it():
    with FrontDoor(negotiation_timeout_s=0.4) as door, raw_connection(door.port) as sock:
        assert drip(sock, associate_rq())
        until(lambda: door.told("connection.dropped"))


@pytest.mark.requirement("DOOR-04")
def test_a_pdu_that_drips_is_ended_by_the_deadline_for_all_of_it():
    with FrontDoor(pdu_timeout_s=0.4) as door, raw_association(door.port) as sock:
        assert drip(sock, p_data((1, 3, store_rq("1.2." + "3" * 60))))
        assert "whole in time" in door.told("association.aborted")[0]["why"]


def test_half_a_pdu_is_aborted():
    with FrontDoor(pdu_timeout_s=0.3) as door, raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq()))[:30])
        assert aborts(sock)


def test_a_silent_association_is_aborted():
    with FrontDoor(network_timeout_s=0.3) as door, raw_association(door.port) as sock:
        assert aborts(sock)
        assert "nothing came in time" in door.told("association.aborted")[0]["why"]


def test_a_sender_that_never_reads_our_answers_is_ended():
    front = FrontDoor()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.sendall(associate_rq(((1, ECHO, (EXPLICIT,)),)) + p_data((1, 3, echo_rq())) * 500)
        serve_connection(ours, "127.0.0.1", synchronous_door(front, pdu_timeout_s=0.2))
    assert "does not take" in front.told("association.aborted")[0]["why"]


@pytest.mark.requirement("DOOR-16")
@pytest.mark.parametrize(
    "pdus",
    [
        [p_data((1, 2, b"data"))],
        [p_data((1, 3, store_rq())), p_data((1, 3, store_rq()))],
        [p_data((1, 3, store_rq())), p_data((3, 2, b"data"))],
        [p_data((1, 1, store_rq()[:20])), p_data((1, 0, b"data"))],
        [p_data((1, 1, store_rq()[:20])), p_data((3, 3, store_rq()[20:]))],
        [p_data((5, 3, store_rq()))],
        [p_data((1, 7, store_rq()))],
        [p_data((1, 3, store_rq()[:-1]))],
        [p_data((1, 3, b""))],
        [p_data((1, 3, store_rq().replace(b"\x01\x00\x00\x00\x00\x07", b"")))],
        [p_data((1, 3, command(e0100=0x8001, e0120=1, e0800=0x0101, e0900=0)))],
        [p_data((1, 1, b"\0" * 60000)), p_data((1, 1, b"\0" * 60000))],
        [struct.pack(">BxL", 4, 0)],
        [struct.pack(">BxL", 4, 3) + b"\0\0\0"],
        [struct.pack(">BxLLBB", 4, 6, 1, 1, 3)],
        [struct.pack(">BxLLBB", 4, 6, 99, 1, 3)],
        [p_data((1, 3, store_rq())), RELEASE],
        [p_data((1, 1, store_rq()[:20])), RELEASE],
        [struct.pack(">BxL", 5, 99) + b"\0" * 99],
    ],
)
def test_a_message_against_the_rules_is_aborted_and_leaves_nothing(door, pdus):
    with raw_association(door.port, ((1, CR, (EXPLICIT,)), (3, CR, (EXPLICIT,)))) as sock:
        for pdu in pdus:
            sock.sendall(pdu)
        assert aborts(sock)
    assert not door.arrivals
    assert len(door.told("association.aborted")) == 1


def test_fragments_of_every_size_make_one_data_set(door):
    encoded = data_set(size=20_000)
    request = store_rq()
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 1, request[:7]), (1, 1, b""), (1, 3, request[7:]), (1, 0, encoded[:3])))
        for place in range(3, 9000, 1000):
            sock.sendall(p_data((1, 0, encoded[place : place + 1000]), (1, 0, b"")))
        place += 1000
        sock.sendall(p_data((1, 0, encoded[place : place + 5000]), (1, 2, encoded[place + 5000 :])))
        assert status_in(read_response(sock)) == 0x0000
        sock.sendall(RELEASE)
        assert read_pdu(sock)[0] == 6
    ((arrival, content),) = door.arrivals
    assert content == arrival.header + encoded


@pytest.mark.requirement("STO-07")
def test_a_large_data_set_comes_through_unchanged(door):
    encoded = data_set() + random.Random(1).randbytes(6_000_000)
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq())))
        for place in range(0, len(encoded), 100_003):
            part = encoded[place : place + 100_003]
            sock.sendall(p_data((1, 0, part[:777]), (1, 2 * (place + 100_003 >= len(encoded)), part[777:])))
        assert status_in(read_response(sock)) == 0x0000
    ((arrival, content),) = door.arrivals
    assert content == arrival.header + encoded


def test_requests_sent_ahead_are_answered_in_order(door):
    with raw_association(door.port) as sock:
        for number in range(1, 30):
            uid = f"1.2.{number}"
            sock.sendall(p_data((1, 3, store_rq(uid, message_id=number)), (1, 2, data_set(uid))))
        answers = [read_response(sock) for _ in range(29)]
    assert [int.from_bytes(answer[0x0120], "little") for answer in answers] == list(range(1, 30))
    assert [arrival.sop_instance_uid for arrival, _ in door.arrivals] == [f"1.2.{n}" for n in range(1, 30)]


@pytest.mark.requirement("DOOR-11")
@pytest.mark.parametrize("uid", ["../../x", "/etc/x", "", "1", "1.2.\xb2", "1." * 40])
def test_a_hostile_uid_is_refused_before_a_reception_is_begun(door, uid):
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq(uid)), (1, 2, data_set(uid))))
        assert status_in(read_response(sock)) == 0xA900
    assert not door.receptions
    assert door.told("instance.refused")[0]["sop_instance_uid"] == "invalid"


@pytest.mark.parametrize(
    ("request_", "data", "status"),
    [
        (store_rq("1.2.3"), data_set("1.2.4"), 0xA900),
        (store_rq("1.2.3"), data_set("1.2.3", "1.2.840.10008.5.1.4.1.1.2"), 0xA900),
        (store_rq("1.2.3", "1.2.840.10008.5.1.4.1.1.2"), data_set("1.2.3", "1.2.840.10008.5.1.4.1.1.2"), 0xA900),
        (store_rq("1.2.3", data_set=False), None, 0xC000),
        (store_rq("1.2.3"), b"", 0x0000),  # empty: stored, and for the decoder to find out
        (command(e0002=CR, e0100=0x20, e0110=1, e0800=0), b"query", 0x0211),  # C-FIND
        (command(e0003=CR, e0100=0x110, e0110=1, e0800=0x0101, e1001="1.2"), None, 0x0211),  # N-GET
        (command(e0002=CR, e0100=0x77, e0110=1, e0800=0x0101), None, 0x0211),
        (echo_rq(CR), None, 0x0122),
    ],
)
def test_each_request_gets_the_status_that_fits(door, request_, data, status):
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, request_)))
        if data is not None:
            sock.sendall(p_data((1, 2, data)))
        assert status_in(read_response(sock)) == status
        uid = "1.2.9"
        sock.sendall(p_data((1, 3, store_rq(uid)), (1, 2, data_set(uid))))
        assert status_in(read_response(sock)) == 0x0000
    assert all(reception.state == "committed" for reception in door.receptions)


def test_a_cancel_is_ignored(door):
    with raw_association(door.port, ((1, ECHO, (EXPLICIT,)),)) as sock:
        sock.sendall(p_data((1, 3, command(e0100=0x0FFF, e0120=1, e0800=0x0101))))
        sock.sendall(p_data((1, 3, echo_rq())))
        assert status_in(read_response(sock)) == 0x0000


@pytest.mark.requirement("STO-04")
@pytest.mark.parametrize("where", ["receive_error", "write_error", "error"])
def test_a_full_disk_is_answered_at_the_end_and_the_association_goes_on(door, where):
    setattr(door, where, StorageError("the disk is full: free some space"))
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq())))
        for _ in range(40):
            sock.sendall(p_data((1, 0, data_set(size=60_000))))
        sock.sendall(p_data((1, 2, b"")))
        answer = read_response(sock)
        assert status_in(answer) == 0xA700
        assert b"disk is full" in answer[0x0902]
        setattr(door, where, None)
        sock.sendall(p_data((1, 3, store_rq()), (1, 2, data_set())))
        assert status_in(read_response(sock)) == 0x0000
    assert [reception.state for reception in door.receptions[:-1]] == ["abandoned"] * (len(door.receptions) - 1)


def test_a_data_set_that_is_too_large_is_refused_at_its_end(door):
    with FrontDoor(maximum_instance_bytes=100_000) as small, raw_association(small.port) as sock:
        sock.sendall(p_data((1, 3, store_rq()), (1, 0, data_set(size=100_000)), (1, 2, b"")))
        answer = read_response(sock)
        assert status_in(answer) == 0xA700
        assert [reception.state for reception in small.receptions] in ([], ["abandoned"])
        sock.sendall(p_data((1, 3, store_rq())))
        for _ in range(4):
            sock.sendall(p_data((1, 0, data_set(size=60_000))))
        assert aborts(sock)


@pytest.mark.requirement("DOOR-13")
@pytest.mark.parametrize("end", ["abort", "close", "reset", "release"])
def test_what_breaks_off_in_mid_store_is_abandoned(door, end):
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq()), (1, 0, data_set(size=50_000))))
        until(lambda: door.receptions)
        if end == "abort":
            sock.sendall(struct.pack(">BxL4x", 7, 4))
        elif end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end == "release":
            sock.sendall(RELEASE)
    until(lambda: door.told("association.aborted"))
    assert [reception.state for reception in door.receptions] == ["abandoned"]


def test_a_sender_that_does_not_wait_for_the_answer_loses_nothing(door):
    door.wait.clear()
    with raw_association(door.port) as sock:
        sock.sendall(p_data((1, 3, store_rq()), (1, 2, data_set())))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: door.receptions)
    door.wait.set()
    until(lambda: door.told("association.aborted"))
    assert len(door.arrivals) == 1


@pytest.mark.requirement("DOOR-06")
@pytest.mark.parametrize(
    ("rq", "answer"),
    [
        (associate_rq(called="OTHER"), (1, 1, 7)),
        (associate_rq(calling="\x1b[2J\xff"), (1, 1, 3)),
        (associate_rq(calling=" "), (1, 1, 3)),
        (associate_rq(version=2), (1, 2, 2)),
        (associate_rq(name="1.2.3"), (1, 1, 2)),
    ],
)
def test_a_request_that_is_not_for_us_is_rejected_by_the_number_of_the_standard(door, rq, answer):
    with raw_connection(door.port) as sock:
        sock.sendall(rq)
        kind, body = read_pdu(sock)
    assert (kind, tuple(body[1:])) == (3, answer)
    (keys,) = door.told("association.rejected")
    assert all(" " <= c <= "~" for c in keys["calling_ae_title"])


@pytest.mark.requirement("DOOR-06")
def test_a_stranger_is_rejected_without_a_look_at_what_he_asks_for():
    access = AccessSettings.model_validate({"callers": [{"ae_title": "CT1", "hosts": ["127.0.0.1"]}]})
    malformed = bytearray(associate_rq())
    malformed[74:78] = b"\x10\0\xff\xff"
    with FrontDoor(access=access) as door:
        for rq in (associate_rq(), malformed):
            with raw_connection(door.port) as sock:
                sock.sendall(rq)
                assert read_pdu(sock)[1][1:] == b"\x01\x01\x03"
        with raw_connection(door.port) as sock:
            sock.sendall(associate_rq(calling="CT1"))
            assert read_pdu(sock)[0] == 2


@pytest.mark.requirement("DOOR-16")
@pytest.mark.parametrize(
    "contexts",
    [
        ((2, CR, (EXPLICIT,)),),
        ((1, CR, (EXPLICIT,)), (1, CR, (EXPLICIT,))),
        ((1, CR, ()),),
        ((1, "1." * 40, (EXPLICIT,)),),
        tuple((1 + 2 * (number % 128), CR, (EXPLICIT,)) for number in range(129)),
    ],
)
def test_a_malformed_request_is_aborted(door, contexts):
    with raw_connection(door.port) as sock:
        sock.sendall(associate_rq(contexts))
        assert aborts(sock)
    assert door.told("connection.refused")


def test_answers_go_in_pieces_that_the_peer_can_take():
    encoded = encode_command(3, b"0123456789", 10)
    parts = []
    while encoded:
        length = int.from_bytes(encoded[2:6], "big")
        assert length <= 10
        parts += [
            (number, control, bytes(part)) for number, control, part in fragments(memoryview(encoded[6 : 6 + length]))
        ]
        encoded = encoded[6 + length :]
    assert parts == [(3, 1, b"0123"), (3, 1, b"4567"), (3, 3, b"89")]
    assert encode_command(3, b"0123456789", 0) == p_data((3, 3, b"0123456789"))


def test_a_flood_of_bad_connections_is_counted_and_not_recorded_one_by_one():
    now, told = [0.0], []
    notices = Notices(lambda name, keys: told.append((name, keys)), lambda: now[0])
    for number in range(10_000):
        address = f"2001:db8::{number:x}" if number % 2 else f"10.0.{number // 250 % 40}.{number % 250}"
        notices.tell_some("connection.refused", {"peer_address": address, "why": "x"})
    assert len(told) < 2000
    singly = len(told)
    assert sum(keys["peer_address"].startswith("2001") for _, keys in told) == TOLD_SINGLY
    notices.flush()
    assert len(told) == singly
    now[0] = WINDOW_S
    notices.flush()
    assert singly + sum(keys.get("count", 0) for _, keys in told) == 10_000


def test_the_door_survives_when_no_descriptors_are_left(tmp_path):
    script = """
import resource, sys
from tests.dicom.front_door import FrontDoor
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
with FrontDoor() as door:
    print(door.port, flush=True)
    sys.stdin.read()
    print(any("LimitNOFILE" in keys["why"] for keys in door.told("connection.refused")))
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        try:
            assert (
                dcmtk("echoscu", "-to", "30", "-ta", "30", "-aec", "DICOM_GAM", "127.0.0.1", str(port)).returncode == 0
            )
        finally:
            for sock in idle:
                sock.close()
        answer, _ = process.communicate(timeout=30)
    assert answer.strip() == "True"


class Commitments:
    def __init__(self):
        self.reports, self.error = [], None

    def __call__(self, report):
        if self.error:
            raise self.error
        self.reports.append(report)


def event_information():
    def instance(uid, reason=None):
        ds = Dataset()
        ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = CR, uid
        if reason is not None:
            ds.FailureReason = reason
        return ds

    ds = Dataset()
    ds.TransactionUID = "1.2.3.4"
    ds.ReferencedSOPSequence = [instance("1.2.3.5"), instance("1.2.3.6")]
    ds.FailedSOPSequence = [instance("1.2.3.7", 0x0112)]
    return ds


@pytest.mark.requirement("COM-04")
@pytest.mark.parametrize("error", [None, StorageError("locked"), ZeroDivisionError()])
def test_a_destination_reports_on_storage_commitment_with_its_roles_reversed(error):
    commitments = Commitments()
    commitments.error = error
    with FrontDoor(report=commitments) as door:
        ae = AE(ae_title="PACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        assoc = ae.associate("127.0.0.1", door.port, ae_title="DICOM_GAM", ext_neg=[role])
        status, _ = assoc.send_n_event_report(event_information(), 2, COMMITMENT, "1.2.840.10008.1.20.1.1")
        assoc.release()
    assert status.Status == (0x0110 if error else 0x0000)
    expected = CommitmentReport("1.2.3.4", ("1.2.3.5", "1.2.3.6"), (("1.2.3.7", 0x0112),), "PACS", "127.0.0.1")
    assert commitments.reports == ([] if error else [expected])


@pytest.mark.requirement("COM-04")
@pytest.mark.parametrize(
    ("roles", "given", "result"), [([(COMMITMENT, (0, 1))], True, 0), ([(COMMITMENT, (0, 1))], False, 3), ([], True, 3)]
)
def test_the_commitment_class_is_accepted_of_its_scp_only_and_where_reports_are_taken(roles, given, result):
    with FrontDoor(report=Commitments() if given else None) as door, raw_connection(door.port) as sock:
        sock.sendall(associate_rq(((1, COMMITMENT, (EXPLICIT,)),), roles=roles))
        _, body = read_pdu(sock)
    place = body.index(b"\x21\0", 68)
    assert body[place + 6] == result
    granted_role = struct.pack(">H", len(COMMITMENT)) + COMMITMENT.encode() + b"\0\1"
    assert (granted_role in body) is (result == 0)


@pytest.mark.requirement("COM-03")
@pytest.mark.parametrize(
    ("information", "event_type", "status"),
    [
        (b"garbage", 1, 0x0110),
        (b"\xff" * 5000, 1, 0x0110),
        (struct.pack("<HH2sH", 8, 0x1195, b"UI", 6) + b"../../", 1, 0x0110),
        (b"\x08\0\x99\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 3000, 1, 0x0110),
        (struct.pack("<HH2sH", 8, 0x1195, b"UI", 4) + b"1.2\0", 1, 0x0000),
        (struct.pack("<HH2sH", 8, 0x1195, b"UI", 4) + b"1.2\0", 9, 0x0113),
    ],
)
def test_a_malformed_report_is_refused_and_not_handed_on(information, event_type, status):
    commitments = Commitments()
    contexts = ((1, COMMITMENT, (EXPLICIT,)),)
    request = command(e0002=COMMITMENT, e0100=0x100, e0110=1, e0800=0, e1000="1.2.840.10008.1.20.1.1", e1002=event_type)
    with (
        FrontDoor(report=commitments) as door,
        raw_association(door.port, contexts, roles=[(COMMITMENT, (0, 1))]) as sock,
    ):
        sock.sendall(p_data((1, 3, request), (1, 2, information)))
        assert status_in(read_response(sock)) == status
    assert len(commitments.reports) == (status == 0)


def test_a_report_larger_than_a_mebibyte_is_aborted():
    with FrontDoor(report=Commitments()) as door:
        request = command(e0002=COMMITMENT, e0100=0x100, e0110=1, e0800=0, e1000="1.2", e1002=1)
        with raw_association(door.port, ((1, COMMITMENT, (EXPLICIT,)),), roles=[(COMMITMENT, (0, 1))]) as sock:
            sock.sendall(p_data((1, 3, request)))
            for _ in range(9):
                sock.sendall(p_data((1, 0, b"\0" * 131066)))
            assert aborts(sock)


def synchronous_door(front, report=None, **options):
    chosen = ListenerOptions(ae_title="DICOM_GAM", host="127.0.0.1", port=0, **options)
    notices = Notices(front._notice)
    return Door(options=chosen, receive=front._receive, notices=notices, slots=Slots(None), report=report)


def serve_bytes(stream, door):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(stream)
        theirs.shutdown(socket.SHUT_WR)
        serve_connection(ours, "127.0.0.1", door)


@pytest.mark.requirement("DOOR-16")
def test_no_stream_of_bytes_makes_it_fail_otherwise_than_by_an_end_of_its_own():
    front = FrontDoor()
    door = synchronous_door(front, Commitments())
    sound = associate_rq(
        ((1, CR, (EXPLICIT,)), (3, ECHO, (EXPLICIT,)), (5, COMMITMENT, (EXPLICIT,))), roles=[(COMMITMENT, (0, 1))]
    )
    sound += p_data((3, 3, echo_rq())) + p_data((1, 3, store_rq()), (1, 2, data_set(size=900)))
    sound += p_data(
        (5, 3, command(e0002=COMMITMENT, e0100=0x100, e0110=1, e0800=0, e1000="1.2", e1002=1)), (5, 2, b"x")
    )
    sound += RELEASE
    serve_bytes(sound, door)
    assert front.told("association.released")
    source = random.Random(4)
    for _ in range(1500):
        mutated = bytearray(sound[: source.randrange(len(sound))] if source.random() < 0.3 else sound)
        for _ in range(source.randrange(1, 6)):
            if mutated:
                mutated[source.randrange(len(mutated))] = source.choice((0, 1, 0xFF, source.randrange(256)))
        serve_bytes(bytes(mutated), door)
    assert all(reception.state in ("committed", "abandoned") for reception in front.receptions)
    assert door.slots.take("associations", 1) is not None


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_names_of_this_machine_are_listened_on(host):
    with FrontDoor(host=host) as door:
        with socket.create_connection((host, door.port), timeout=10) as sock:
            sock.sendall(associate_rq())
            assert read_pdu(sock)[0] == 2
        until(lambda: door.told("association.accepted"))
        assert door.told("association.accepted")[0]["peer_address"] in ("::1", "127.0.0.1")


def test_threads_end_with_their_connections(door):
    for _ in range(3):
        with raw_association(door.port) as sock:
            sock.sendall(RELEASE)
            assert read_pdu(sock)[0] == 6
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("sender")])

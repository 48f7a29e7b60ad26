"""The front door alone, with DCMTK and pynetdicom as senders."""

from __future__ import annotations

import io
import random
import re
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicom_gam.dicom.arrival import part_10_header
from dicom_gam.dicom.identity import Identity, is_uid, look
from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES, ACCEPTED_TRANSFER_SYNTAXES
from dicom_gam.dicom.scp.listener import OTHER_CLASSES, Listener, ListenerOptions
from dicom_gam.errors import ConfigError, DeliveryError, StorageError
from tests.dicom.front_door import FrontDoor, associate, dcmtk, storescu, until

CR = "1.2.840.10008.5.1.4.1.1.1"
SAMPLE = "CT_small.dcm"

# pynetdicom leaves the socket of a torn connection to the garbage collector (transport.py, _shutdown_socket).
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
    pytest.mark.usefixtures("garbage_collected"),
]


@pytest.fixture
def door():
    with FrontDoor() as opened:
        yield opened


def test_echo_is_answered(door):
    answered = dcmtk("echoscu", "-aec", "DICOM_GAM", "127.0.0.1", str(door.port))
    assert answered.returncode == 0, answered.stderr
    assert "echo.answered" in [event for event, _ in door.notices]


@pytest.mark.requirement("STO-07")
def test_what_arrives_is_a_whole_file_with_the_very_data_set_of_the_sender(door):
    path = get_testdata_file(SAMPLE)
    assert storescu(door.port, "-xe", path).returncode == 0
    ((arrival, content),) = door.arrivals
    sent, got = dcmread(path), dcmread(io.BytesIO(content))
    del sent[0xFFFCFFFC]  # trailing padding, which DCMTK does not send
    assert got == sent
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert got.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID
    assert (arrival.sop_class_uid, arrival.sop_instance_uid) == (sent.SOPClassUID, sent.SOPInstanceUID)
    assert (arrival.calling_ae_title, arrival.called_ae_title, arrival.peer_address) == (
        "CT1",
        "DICOM_GAM",
        "127.0.0.1",
    )


@pytest.mark.requirement("STO-07")
@pytest.mark.parametrize(
    ("name", "option", "syntax"),
    [
        ("JPEG2000.dcm", "-xw", "1.2.840.10008.1.2.4.91"),
        ("SC_rgb_rle.dcm", "-xr", RLELossless),
        ("MR_small_bigendian.dcm", "-xb", ExplicitVRBigEndian),
        ("image_dfl.dcm", "-xd", DeflatedExplicitVRLittleEndian),
    ],
)
def test_a_compressed_or_unusual_encoding_is_taken_as_it_is(door, name, option, syntax):
    sent = storescu(door.port, option, get_testdata_file(name))
    assert sent.returncode == 0, sent.stderr
    ((arrival, content),) = door.arrivals
    assert arrival.transfer_syntax_uid == syntax
    assert dcmread(io.BytesIO(content)).SOPInstanceUID == arrival.sop_instance_uid


def test_the_file_meta_information_is_what_pydicom_reads_back():
    header = part_10_header(CR, "1.2.3", ExplicitVRLittleEndian)
    meta = dcmread(io.BytesIO(header)).file_meta
    assert meta.MediaStorageSOPClassUID == CR
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.FileMetaInformationGroupLength == len(header) - 128 - 4 - 12


@pytest.mark.parametrize(
    ("error", "status"),
    [(StorageError("the disk is full: free some space"), 0xA700), (DeliveryError("not of the table"), 0xC000)],
)
def test_an_error_is_answered_by_its_status_with_the_reason(door, error, status):
    door.error = error
    ds = dcmread(get_testdata_file(SAMPLE))
    assoc = associate(door.port, (ds.SOPClassUID, ExplicitVRLittleEndian))
    answer = assoc.send_c_store(ds)
    assoc.release()
    assert answer.Status == status
    assert answer.ErrorComment == str(error)
    refused = door.told("instance.refused")
    assert [(keys["sop_instance_uid"], keys["status"]) for keys in refused] == [(ds.SOPInstanceUID, f"{status:04X}")]


@pytest.mark.requirement("STO-01")
def test_a_bug_in_the_store_is_not_answered_with_success(door):
    door.error = ZeroDivisionError()
    ds = dcmread(get_testdata_file(SAMPLE))
    assoc = associate(door.port, (ds.SOPClassUID, ExplicitVRLittleEndian))
    assert assoc.send_c_store(ds).Status & 0xF000 == 0xC000
    assoc.release()


@pytest.mark.requirement("DOOR-06")
def test_a_wrong_called_ae_title_is_rejected(door):
    assoc = associate(door.port, (CR, ExplicitVRLittleEndian), called="SOMEBODY")
    assert assoc.is_rejected
    (keys,) = door.told("association.rejected")
    assert keys["called_ae_title"] == "SOMEBODY"
    assert "Called AE title not recognised" in keys["why"]


def test_a_class_or_syntax_outside_the_table_is_not_accepted(door):
    storage_of_nothing = "1.2.840.10008.5.1.4.1.1.481.3"  # RT Structure Set
    assoc = associate(door.port, (storage_of_nothing, ExplicitVRLittleEndian), (CR, "1.2.840.10008.1.2.4.100"))
    assert not assoc.accepted_contexts
    assert [context.result for context in assoc.rejected_contexts] == [3, 4]  # PS3.8 table 9-18
    assert not assoc.is_rejected


@pytest.mark.requirement("DOOR-15")
@pytest.mark.parametrize("limit", ["maximum_associations", "maximum_associations_per_host"])
def test_more_associations_than_allowed_are_turned_away_for_now(limit):
    with FrontDoor(**{limit: 1}) as door:
        first = associate(door.port, (CR, ExplicitVRLittleEndian))
        second = associate(door.port, (CR, ExplicitVRLittleEndian))
        assert first.is_established
        assert second.is_rejected
        assert (second.acceptor.primitive.result, second.acceptor.primitive.diagnostic) == (2, 2)
        (keys,) = door.told("association.rejected")
        assert limit in keys["why"]
        first.release()
        third = associate(door.port, (CR, ExplicitVRLittleEndian))
        assert third.is_established
        third.release()


def test_large_pieces_are_asked_for(door):
    assoc = associate(door.port, (CR, ExplicitVRLittleEndian))
    assert assoc.acceptor.maximum_length == 131072
    assoc.release()


def test_stopping_lets_the_store_in_hand_end_with_its_answer(door):
    ds = dcmread(get_testdata_file(SAMPLE))
    assoc = associate(door.port, (ds.SOPClassUID, ExplicitVRLittleEndian))
    door.wait.clear()
    answers = []

    def send():
        answers.append(assoc.send_c_store(ds).Status)
        answers.append(assoc.send_c_store(ds).Status)
        assoc.release()

    sender = threading.Thread(target=send)
    sender.start()
    stopper = threading.Thread(target=door.listener.stop, args=(5.0,))
    time.sleep(0.2)
    stopper.start()
    time.sleep(0.1)
    door.wait.set()
    sender.join(10)
    stopper.join(10)
    assert answers == [0x0000, 0xA700]
    assert len(door.arrivals) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", door.port))


def test_stopping_aborts_what_does_not_end_by_itself(door):
    assoc = associate(door.port, (CR, ExplicitVRLittleEndian))
    door.listener.stop(0.1)
    until(lambda: assoc.is_aborted)
    (keys,) = door.told("association.aborted")
    assert "stopping" in keys["why"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("sender", "listener"))]


def test_a_port_in_use_is_named_with_the_settings_to_change(door):
    other = Listener(
        ListenerOptions(ae_title="DICOM_GAM", host="127.0.0.1", port=door.port), lambda _: None, lambda *_: None
    )
    with pytest.raises(ConfigError, match=r"node\.host.*node\.port"):
        other.start()


def test_a_listening_socket_may_be_handed_over():
    listening = socket.create_server(("127.0.0.1", 0))
    with FrontDoor(listening=listening) as door:
        assert door.port == listening.getsockname()[1]
        assert dcmtk("echoscu", "-aec", "DICOM_GAM", "127.0.0.1", str(door.port)).returncode == 0


def test_an_association_costs_little_in_spite_of_the_table(door):
    assert len(ACCEPTED_SOP_CLASSES + OTHER_CLASSES) <= 40
    assert len(set(ACCEPTED_SOP_CLASSES + OTHER_CLASSES)) == len(ACCEPTED_SOP_CLASSES + OTHER_CLASSES)
    assert len(ACCEPTED_TRANSFER_SYNTAXES) == len(set(ACCEPTED_TRANSFER_SYNTAXES)) == 16
    started = time.monotonic()
    for _ in range(4):
        associate(door.port, (CR, ExplicitVRLittleEndian)).release()
    assert (time.monotonic() - started) / 4 < 0.5


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("1.2.840.10008.1.1", True),
        ("1.2.0041.5", True),  # against PS3.5 9.1, but in the field
        ("1.2." + "3" * 60, True),
        ("1.2." + "3" * 61, False),
        ("", False),
        ("1", False),
        ("1..2", False),
        (".1.2", False),
        ("1.2.", False),
        ("../../x", False),
        ("/etc/x", False),
        ("1.2\n", False),
        ("1.٢", False),
    ],
)
def test_a_uid_is_digits_and_dots(text, valid):
    assert is_uid(text) is valid


def element(tag, vr, value, *, implicit=False, order="<"):
    group, number = tag >> 16, tag & 0xFFFF
    if implicit:
        return struct.pack(f"{order}HHL", group, number, len(value)) + value
    return struct.pack(f"{order}HH2sH", group, number, vr, len(value)) + value


@pytest.mark.parametrize(
    ("syntax", "implicit", "order"),
    [(ExplicitVRLittleEndian, False, "<"), (ImplicitVRLittleEndian, True, "<"), (ExplicitVRBigEndian, False, ">")],
)
def test_the_look_finds_both_uids_in_every_byte_order(syntax, implicit, order):
    data = b"".join(
        element(tag, vr, value, implicit=implicit, order=order)
        for tag, vr, value in [
            (0x00080005, b"CS", b"ISO_IR 100"),
            (0x00080016, b"UI", b"1.2.3\0"),
            (0x00080018, b"UI", b"1.2.4\0"),
            (0x00100010, b"PN", b"A^B "),
        ]
    )
    assert look(memoryview(data), syntax) == Identity("1.2.3", "1.2.4")


def test_the_look_inflates_no_more_than_it_needs():
    data = element(0x00080016, b"UI", b"1.2.3\0") + element(0x00080018, b"UI", b"1.2.4\0") + b"\0" * 100_000_000
    squeezed = zlib.compressobj(wbits=-15)
    bomb = squeezed.compress(data) + squeezed.flush()
    started = time.process_time()
    assert look(memoryview(bomb), DeflatedExplicitVRLittleEndian) == Identity("1.2.3", "1.2.4")
    assert time.process_time() - started < 0.05


RUBBISH = random.Random(7).randbytes(64)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\x08\0\x16\0", RUBBISH, b"\x08\0\x06\0SQ\0\0\xff\xff\xff\xff" * 600, b"\xff" * 9000]
)
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEG2000Lossless]
)
def test_the_look_says_nothing_about_what_it_can_not_parse(data, syntax):
    assert look(memoryview(data), syntax) == Identity()


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "image_dfl.dcm", "rtplan.dcm"])
def test_the_look_agrees_with_pydicom_on_real_files(name):
    ds = dcmread(get_testdata_file(name))
    content = Path(get_testdata_file(name)).read_bytes()
    start = 132 + 12 + ds.file_meta.FileMetaInformationGroupLength
    syntax = ds.file_meta.TransferSyntaxUID
    assert look(memoryview(content)[start:], syntax) == Identity(ds.SOPClassUID, ds.SOPInstanceUID)


@pytest.mark.requirement("SAF-02")
def test_no_log_line_of_an_ordinary_store_names_the_patient(door, caplog):
    caplog.set_level("DEBUG")
    ds = dcmread(get_testdata_file(SAMPLE))
    assert storescu(door.port, "-xe", get_testdata_file(SAMPLE)).returncode == 0
    assert not re.search(str(ds.PatientName).split("^")[0], caplog.text)
    assert ds.PatientID not in caplog.text

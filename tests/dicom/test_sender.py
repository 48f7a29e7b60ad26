"""The way out, with DCMTK's storescp and pynetdicom as archives."""

from __future__ import annotations

import gc
import hashlib
import io
import shutil
import socket
import subprocess
import threading
import time

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_gam.config import Destination
from dicom_gam.dicom.sender import echo, send
from dicom_gam.dicom.statuses import explain, is_stored, status_of
from dicom_gam.errors import AuditError, ConfigError, DeliveryError, StorageError

CT = "1.2.840.10008.5.1.4.1.1.2"
CT_FILE = "CT_small.dcm"
MR_FILE = "MR_small.dcm"

# pynetdicom leaves the socket of a refused connection to the garbage collector (transport.py, _shutdown_socket).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch):
    """pynetdicom's servers look twice a second whether they should stop, which adds up over many tests."""
    serve = ThreadedAssociationServer.serve_forever
    monkeypatch.setattr(ThreadedAssociationServer, "serve_forever", lambda server: serve(server, 0.02))


@pytest.fixture(autouse=True)
def garbage_collected():
    """Have the garbage collector complain within the test that made the garbage."""
    yield
    gc.collect()


def content(name):
    with open(get_testdata_file(name), "rb") as file:
        return file.read()


def destination(port, ae_title="PACS", timeout_s=5.0):
    return Destination(name="archive", ae_title=ae_title, host="127.0.0.1", port=port, timeout_s=timeout_s)


@pytest.fixture
def serve():
    """Start pynetdicom archives; each keeps what it was sent."""
    servers = []

    def start(*contexts, status=0x0000, ae_title="PACS"):
        received = []

        def store(event):
            received.append(event.request.DataSet.getvalue())
            return status(event) if callable(status) else status

        ae = AE(ae_title=ae_title)
        ae.require_called_aet = True
        ae.add_supported_context("1.2.840.10008.1.1")
        for uid, syntax in contexts:
            ae.add_supported_context(uid, [syntax])
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
        servers.append((ae, server))
        return server.server_address[1], received

    yield start
    for ae, _ in servers:
        ae.shutdown()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_dcmtk_gets_the_files_over_one_association_unchanged(tmp_path):
    if shutil.which("storescp") is None:
        pytest.fail("storescp is missing: install dcmtk (apt-get install dcmtk)")
    port = free_port()
    command = ["storescp", "-aet", "PACS", "+xa", "-od", str(tmp_path), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        answers = list(send(destination(port), "DICOM_GAM", [content(CT_FILE), content("JPEG2000.dcm")]))
    finally:
        process.terminate()
        process.wait(10)
    assert [(answer.stored, answer.status) for answer in answers] == [(True, 0), (True, 0)]
    got = {ds.SOPInstanceUID: ds for ds in map(dcmread, tmp_path.iterdir())}
    for name in (CT_FILE, "JPEG2000.dcm"):
        sent = dcmread(get_testdata_file(name))
        assert got[sent.SOPInstanceUID].PixelData == sent.PixelData
        assert got[sent.SOPInstanceUID].file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def wait_for(port):
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def test_the_data_set_arrives_byte_for_byte(serve):
    port, received = serve((CT, ExplicitVRLittleEndian))
    buffer = io.BytesIO()
    dcmread(get_testdata_file(CT_FILE)).save_as(buffer, enforce_file_format=True)
    list(send(destination(port), "DICOM_GAM", [buffer.getvalue()]))
    (got,) = received
    assert buffer.getvalue().endswith(got)
    assert len(got) > 30_000
    list(send(destination(port), "DICOM_GAM", [buffer.getvalue()]))
    assert len({hashlib.sha256(item).digest() for item in received}) == 1


def test_an_archive_that_knows_only_implicit_vr_gets_implicit_vr(serve):
    port, received = serve((CT, ImplicitVRLittleEndian))
    (answer,) = send(destination(port), "DICOM_GAM", [content(CT_FILE)])
    assert answer.stored
    (got,) = received
    ds = dcmread(io.BytesIO(got), force=True)
    assert ds.PixelData == dcmread(get_testdata_file(CT_FILE)).PixelData


def test_each_object_has_its_own_answer(serve):
    answers = iter([0x0000, 0xC123, 0xB007])
    port, _ = serve((CT, ExplicitVRLittleEndian), status=lambda _: next(answers))
    got = list(send(destination(port), "DICOM_GAM", [content(CT_FILE)] * 3))
    assert [(answer.stored, answer.status) for answer in got] == [(True, 0), (False, 0xC123), (True, 0xB007)]
    assert "cannot understand" in got[1].words


def test_a_class_that_is_not_accepted_does_not_hold_up_the_others(serve):
    port, received = serve((CT, ExplicitVRLittleEndian))
    refused, taken = send(destination(port), "DICOM_GAM", [content(MR_FILE), content(CT_FILE)])
    assert (refused.stored, refused.status) == (False, None)
    assert "does not accept MR Image Storage in Explicit VR Little Endian" in refused.words
    assert taken.stored
    assert len(received) == 1


def test_a_compressed_object_is_not_offered_in_a_syntax_it_is_not_in(serve):
    name = "JPEG2000.dcm"
    uid = dcmread(get_testdata_file(name)).SOPClassUID
    port, received = serve((uid, ExplicitVRLittleEndian), (CT, ExplicitVRLittleEndian))
    refused, taken = send(destination(port), "DICOM_GAM", [content(name), content(CT_FILE)])
    assert not refused.stored
    assert JPEG2000.name in refused.words
    assert taken.stored
    assert len(received) == 1


def test_what_is_no_dicom_file_is_named_and_the_others_go(serve):
    port, received = serve((CT, ExplicitVRLittleEndian))
    bad, good = send(destination(port), "DICOM_GAM", [b"no DICOM" * 50, content(CT_FILE)])
    assert "no DICOM file" in bad.words
    assert good.stored
    assert len(received) == 1


def test_a_closed_port_is_a_retryable_error_with_the_cause():
    with pytest.raises(
        DeliveryError, match=r"archive \(PACS at 127.0.0.1:\d+\) can't be reached \(Connection refused\)"
    ) as e:
        list(send(destination(free_port()), "DICOM_GAM", [content(CT_FILE)]))
    assert e.value.retryable


def test_a_host_that_does_not_exist_is_a_retryable_error():
    nowhere = Destination(name="archive", ae_title="PACS", host="no-such-host.invalid", port=104, timeout_s=2)
    with pytest.raises(DeliveryError, match="can't be reached") as caught:
        list(send(nowhere, "DICOM_GAM", [content(CT_FILE)]))
    assert caught.value.retryable


def test_a_rejected_association_names_the_reason(serve):
    port, _ = serve((CT, ExplicitVRLittleEndian))
    with pytest.raises(DeliveryError, match="Called AE title not recognised"):
        list(send(destination(port, ae_title="WRONG"), "DICOM_GAM", [content(CT_FILE)]))


def test_no_accepted_context_at_all_names_the_remedy(serve):
    port, _ = serve((CT, ExplicitVRLittleEndian))
    with pytest.raises(DeliveryError, match="ask its administrator to allow our SOP classes"):
        list(send(destination(port), "DICOM_GAM", [content(MR_FILE)]))


def test_a_peer_that_accepts_the_connection_and_then_says_nothing_is_given_up(serve):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(DeliveryError, match="did not answer the association request"):
            list(send(destination(mute.getsockname()[1], timeout_s=0.5), "DICOM_GAM", [content(CT_FILE)]))


def test_a_peer_that_falls_silent_during_the_store_is_given_up_and_keeps_the_answers_before(serve):
    release = threading.Event()
    calls = []

    def slow(_):
        calls.append(1)
        if len(calls) == 2:
            release.wait(5)
        return 0x0000

    port, _ = serve((CT, ExplicitVRLittleEndian), status=slow)
    answers = []
    with pytest.raises(DeliveryError, match="fell silent"):
        answers.extend(_each(send(destination(port, timeout_s=0.5), "DICOM_GAM", [content(CT_FILE)] * 3), answers))
    release.set()
    assert [answer.stored for answer in answers] == [True]


def _each(iterator, into):
    for answer in iterator:
        into.append(answer)
    return []


def test_closing_early_releases_the_association(serve):
    port, received = serve((CT, ExplicitVRLittleEndian))
    answers = send(destination(port), "DICOM_GAM", [content(CT_FILE)] * 3)
    next(answers)
    answers.close()
    assert len(received) == 1


def test_echo_is_silent_when_all_is_well(serve):
    port, _ = serve()
    echo(destination(port), "DICOM_GAM")


def test_echo_to_a_closed_port_says_so():
    with pytest.raises(DeliveryError, match="Connection refused"):
        echo(destination(free_port()), "DICOM_GAM")


@pytest.mark.parametrize(
    ("status", "stored", "words"),
    [
        (0x0000, True, "stored (status 0000)"),
        (0xB000, True, "coercion"),
        (0xB006, True, "dropped some elements"),
        (0xB007, True, "does not match"),
        (0x0111, True, "has this object already"),
        (0xA700, False, "out of resources"),
        (0xA7FF, False, "out of resources"),
        (0xA900, False, "does not match its SOP class"),
        (0xC000, False, "cannot understand"),
        (0xCFFF, False, "cannot understand"),
        (0xB123, False, "warning that C-STORE does not define"),
        (0x0122, False, "does not support this SOP class"),
        (0x0124, False, "does not authorise us"),
        (0x1234, False, "a status DICOM does not define (status 1234)"),
    ],
)
def test_every_status_has_plain_words_and_only_some_mean_stored(status, stored, words):
    assert is_stored(status) is stored
    assert words in explain(status)


@pytest.mark.parametrize(
    ("error", "status"), [(StorageError(""), 0xA700), (AuditError("", 3), 0xA700), (ConfigError(""), 0xC000)]
)
def test_the_table_of_errors_gives_the_status(error, status):
    assert status_of(error) == status

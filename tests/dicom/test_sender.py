"""The way out, with DCMTK's storescp and pynetdicom as archives."""

from __future__ import annotations

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
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_gam.dicom.scu.sender import echo, send
from dicom_gam.dicom.statuses import explain, is_stored, status_of
from dicom_gam.errors import AuditError, ConfigError, DeliveryError, StorageError
from dicom_gam.sections import Destination
from tests.dicom.self_signed import self_signed

CT = "1.2.840.10008.5.1.4.1.1.2"
CT_FILE = "CT_small.dcm"
MR_FILE = "MR_small.dcm"

# pynetdicom leaves the socket of a refused connection to the garbage collector (transport.py, _shutdown_socket).
pytestmark = [
    pytest.mark.usefixtures("garbage_collected"),
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch):
    """pynetdicom's servers look twice a second whether they should stop, which adds up over many tests."""
    serve = ThreadedAssociationServer.serve_forever
    monkeypatch.setattr(ThreadedAssociationServer, "serve_forever", lambda server: serve(server, 0.02))


def content(name):
    with open(get_testdata_file(name), "rb") as file:
        return file.read()


def destination(port, ae_title="PACS", timeout_s=5.0):
    return Destination(name="archive", ae_title=ae_title, host="127.0.0.1", port=port, timeout_s=timeout_s)


@pytest.fixture
def serve():
    """Start pynetdicom archives; each keeps what it was sent."""
    servers = []

    def start(*contexts, status=0x0000, ae_title="PACS", tls=None):
        received = []

        def store(event):
            received.append(event.request.DataSet.getvalue())
            return status(event) if callable(status) else status

        ae = AE(ae_title=ae_title)
        ae.require_called_aet = True
        ae.add_supported_context("1.2.840.10008.1.1")
        for uid, syntax in contexts:
            ae.add_supported_context(uid, [syntax])
        server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=tls
        )
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


@pytest.mark.requirement("DEL-01")
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


def test_no_accepted_context_at_all_is_an_answer_for_each_object_and_not_an_unreachable_archive(serve):
    port, _ = serve((CT, ExplicitVRLittleEndian))
    answers = list(send(destination(port), "DICOM_GAM", [content(MR_FILE), b"no DICOM" * 50]))
    assert "does not accept MR Image Storage" in answers[0].words
    assert "ask its administrator to allow it" in answers[0].words
    assert (answers[0].hopeless, answers[1].hopeless) == (False, True)


def test_a_peer_that_accepts_the_connection_and_then_says_nothing_is_given_up(serve):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(DeliveryError, match="did not answer the association request"):
            list(send(destination(mute.getsockname()[1], timeout_s=0.5), "DICOM_GAM", [content(CT_FILE)]))


def test_a_peer_that_falls_silent_during_the_store_is_given_up_and_what_comes_after_has_no_answer(serve):
    release = threading.Event()
    calls = []

    def slow(_):
        calls.append(1)
        if len(calls) == 2:
            release.wait(5)
        return 0x0000

    port, _ = serve((CT, ExplicitVRLittleEndian), status=slow)
    answers = list(send(destination(port, timeout_s=0.5), "DICOM_GAM", [content(CT_FILE)] * 3))
    release.set()
    assert [(answer.stored, answer.broken) for answer in answers] == [(True, False), (False, True)]
    assert "fell silent" in answers[1].words


def test_an_archive_that_aborts_over_one_object_names_that_object(serve):
    calls = []

    def abort(event):
        calls.append(1)
        if len(calls) == 2:
            event.assoc.abort()
        return 0x0000

    port, _ = serve((CT, ExplicitVRLittleEndian), status=abort)
    answers = list(send(destination(port), "DICOM_GAM", [content(CT_FILE)] * 3))
    assert [(answer.stored, answer.broken) for answer in answers] == [(True, False), (False, True)]


def test_an_archive_that_takes_one_object_per_association_blames_nobody(serve):
    def then_leave(event):
        threading.Timer(0.05, event.assoc.abort).start()
        return 0x0000

    port, _ = serve((CT, ExplicitVRLittleEndian), status=then_leave)
    answers = send(destination(port), "DICOM_GAM", [content(CT_FILE)] * 2)
    assert next(answers).stored
    time.sleep(0.5)
    assert list(answers) == []


def encoded(name, syntax):
    """A sample in another native syntax, or compressed by pydicom."""
    ds = dcmread(get_testdata_file(name))
    if syntax == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    ds.save_as(buffer, implicit_vr=syntax.is_implicit_VR, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.requirement("DEL-07")
@pytest.mark.parametrize(
    ("own", "accepted"),
    [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian),
        (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (RLELossless, ExplicitVRLittleEndian),
        (RLELossless, ImplicitVRLittleEndian),
    ],
)
def test_an_object_is_reencoded_as_what_the_archive_accepts_and_the_answer_says_so(serve, own, accepted):
    port, received = serve((CT, accepted))
    (answer,) = send(destination(port), "DICOM_GAM", [encoded(CT_FILE, own)])
    assert answer.stored
    assert answer.words == f"stored (status 0000); re-encoded from {own.name} as {accepted.name}"
    original = dcmread(get_testdata_file(CT_FILE))
    got = read_dataset(io.BytesIO(received[0]), accepted.is_implicit_VR, True)
    assert (got.SOPInstanceUID, got.PixelData) == (original.SOPInstanceUID, original.PixelData)


@pytest.mark.requirement("DEL-01")
def test_an_archive_that_would_rather_have_another_syntax_still_gets_the_very_bytes(serve):
    port, received = serve((CT, ImplicitVRLittleEndian), (CT, ExplicitVRLittleEndian))
    file = encoded(CT_FILE, ExplicitVRLittleEndian)
    (answer,) = send(destination(port), "DICOM_GAM", [file])
    assert file.endswith(received[0])
    assert answer.words == "stored (status 0000)"


@pytest.mark.requirement("DEL-07")
def test_a_lossy_object_is_never_unpacked(serve):
    name = "JPEG-lossy.dcm"
    port, received = serve(
        (dcmread(get_testdata_file(name)).SOPClassUID, ExplicitVRLittleEndian), (CT, ExplicitVRLittleEndian)
    )
    refused, taken = send(destination(port), "DICOM_GAM", [content(name), content(CT_FILE)])
    assert "in JPEG Extended" in refused.words
    assert (refused.stored, taken.stored, len(received)) == (False, True, 1)


def test_an_object_that_can_not_be_reencoded_is_hopeless_and_the_next_one_goes(serve):
    ds = dcmread(io.BytesIO(encoded(CT_FILE, RLELossless)))
    ds.PixelData = encapsulate([b"\0" * 70])
    buffer = io.BytesIO()
    ds.save_as(buffer)
    port, received = serve((CT, ExplicitVRLittleEndian))
    bad, good = send(destination(port), "DICOM_GAM", [buffer.getvalue(), content(CT_FILE)])
    assert (bad.stored, bad.hopeless, good.stored, len(received)) == (False, True, True, 1)
    assert "can't be encoded as Explicit VR Little Endian" in bad.words


def test_more_classes_than_one_association_can_offer_go_over_several(serve, monkeypatch):
    monkeypatch.setattr("dicom_gam.dicom.scu.sender.MAXIMUM_CONTEXTS", 2)  # one class, its own syntax and one other
    associations = []
    port, received = serve(
        (CT, ExplicitVRLittleEndian),
        (dcmread(get_testdata_file(MR_FILE)).SOPClassUID, ExplicitVRLittleEndian),
        status=lambda event: associations.append(event.assoc) or 0x0000,
    )
    answers = list(send(destination(port), "DICOM_GAM", [content(CT_FILE), content(MR_FILE), content(CT_FILE)]))
    assert [answer.stored for answer in answers] == [True] * 3
    assert len(received) == 3
    assert len(set(map(id, associations))) == 3


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "server": self_signed(folder, "server"),
        "other host": self_signed(folder, "other", "DNS:elsewhere.example"),
        "ours": self_signed(folder, "ours"),
    }


def secured(port, ca, ours=None):
    return Destination(
        name="archive",
        ae_title="PACS",
        host="127.0.0.1",
        port=port,
        timeout_s=5,
        tls=True,
        ca=ca,
        certificate=ours and ours.certificate,
        key=ours and ours.key,
    )


def test_an_archive_with_mutual_tls_gets_the_object_and_our_certificate(serve, certificates):
    server, ours = certificates["server"], certificates["ours"]
    port, received = serve((CT, ExplicitVRLittleEndian), tls=server.server_context(ours.certificate))
    (answer,) = send(secured(port, server.certificate, ours), "DICOM_GAM", [content(CT_FILE)])
    assert answer.stored
    assert len(received) == 1
    with pytest.raises(DeliveryError, match=r"asks for our certificate|TLS fails|TLS handshake"):
        list(send(secured(port, server.certificate), "DICOM_GAM", [content(CT_FILE)]))
    assert len(received) == 1


@pytest.mark.requirement("DEL-11")
@pytest.mark.parametrize(
    ("shown", "trusted", "why"),
    [
        ("server", "ours", "self-signed certificate"),
        ("other host", "other host", "IP address mismatch"),
    ],
)
def test_an_archive_with_a_wrong_certificate_gets_nothing(serve, certificates, shown, trusted, why):
    port, received = serve((CT, ExplicitVRLittleEndian), tls=certificates[shown].server_context())
    with pytest.raises(DeliveryError, match=f"certificate that is not trusted .*{why}"):
        list(send(secured(port, certificates[trusted].certificate), "DICOM_GAM", [content(CT_FILE)]))
    assert received == []


@pytest.mark.requirement("DEL-11")
def test_an_archive_without_tls_gets_nothing_where_tls_is_asked_for(serve, certificates):
    port, received = serve((CT, ExplicitVRLittleEndian))
    with pytest.raises(DeliveryError, match="TLS"):
        list(send(secured(port, certificates["server"].certificate), "DICOM_GAM", [content(CT_FILE)]))
    assert received == []


def test_dcmtk_takes_the_object_over_tls(tmp_path, certificates):
    server, port = certificates["server"], free_port()
    command = ["storescp", "-aet", "PACS", "-od", str(tmp_path), "+tls", str(server.key), str(server.certificate),
               "-ic", str(port)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        (answer,) = send(secured(port, server.certificate), "DICOM_GAM", [content(CT_FILE)])
    finally:
        process.terminate()
        process.wait(10)
    assert answer.stored
    assert len(list(tmp_path.iterdir())) == 1


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

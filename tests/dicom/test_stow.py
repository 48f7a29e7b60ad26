"""STOW-RS against a small HTTP server that answers what it is told to."""

from __future__ import annotations

import json
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_gam.dicom.scu.destination import probe, send_for
from dicom_gam.dicom.scu.stow import MAXIMUM_ANSWER_BYTES, send
from dicom_gam.errors import DeliveryError
from dicom_gam.sections import Destination
from tests.dicom.self_signed import self_signed

CT = dcmread(get_testdata_file("CT_small.dcm"))
UID = str(CT.SOPInstanceUID)
with open(get_testdata_file("CT_small.dcm"), "rb") as _file:
    FILE = _file.read()


def dicom_json(stored=(), failed=()):
    """A STOW-RS answer: stored are (UID, warning or None), failed are (UID, reason)."""

    def item(uid, tag, number):
        numbers = {} if number is None else {tag: {"vr": "US", "Value": [number]}}
        return {"00081155": {"vr": "UI", "Value": [uid]}} | numbers

    return json.dumps(
        {
            "00081199": {"vr": "SQ", "Value": [item(uid, "00081196", warning) for uid, warning in stored]},
            "00081198": {"vr": "SQ", "Value": [item(uid, "00081197", reason) for uid, reason in failed]},
        }
    ).encode()


class Server:
    """`say` gives status, body and headers of the next answers, by method."""

    def __init__(self, tls=None) -> None:
        self.say = lambda method: (200, dicom_json([(UID, None)]), {})
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, self.headers, body))
                status, text, headers = outer.say(self.command)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in ({"Content-Type": "application/dicom+json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                try:
                    self.wfile.write(text)
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = _answer

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def destination(self, **keys):
        url = f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web/"
        return Destination(**({"name": "web", "url": url, "timeout_s": 5} | keys))

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server():
    opened = Server()
    yield opened
    opened.close()


@pytest.mark.requirement("DEL-01")
def test_the_very_bytes_arrive_as_one_part_of_a_multipart_request(server):
    (answer,) = send(server.destination(), "DICOM_GAM", [FILE])
    assert (answer.stored, answer.status, answer.words) == (True, 0, "stored (status 0000)")
    ((method, path, headers, body),) = server.requests
    assert (method, path) == ("POST", "/dicom-web/studies")
    assert headers["Accept"] == "application/dicom+json"
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    message = BytesParser().parsebytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body)
    (part,) = message.get_payload()
    assert part.get_content_type() == "application/dicom"
    assert FILE in body


def test_a_destination_with_a_url_is_sent_to_by_stow_and_one_without_by_c_store(server):
    assert send_for(server.destination()) is send
    dimse = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
    assert send_for(dimse).__module__ == "dicom_gam.dicom.scu.sender"


@pytest.mark.requirement("DEL-10")
def test_each_object_has_its_own_answer_and_its_own_boundary(server):
    answers = iter([(200, dicom_json([(UID, 0xB000)]), {}), (409, dicom_json([], [(UID, 0xA700)]), {}),
                    (202, dicom_json([(UID, None)], [("1.2.3", 0xC000)]), {})])  # fmt: skip
    server.say = lambda _: next(answers)
    got = list(send(server.destination(), "DICOM_GAM", [FILE] * 3))
    assert [(answer.stored, answer.status) for answer in got] == [(True, 0xB000), (False, 0xA700), (True, 0)]
    assert "coercion" in got[0].words
    assert "out of resources" in got[1].words
    assert len({headers["Content-Type"] for _, _, headers, _ in server.requests}) == 3


def test_the_boundary_is_never_within_the_object(server, monkeypatch):
    inside, free = "a" * 32, "b" * 32
    names = iter([inside, free])
    monkeypatch.setattr("dicom_gam.dicom.scu.stow.uuid.uuid4", lambda: type("Made", (), {"hex": next(names)}))
    list(send(server.destination(), "DICOM_GAM", [FILE + inside.encode()]))
    assert server.requests[0][2]["Content-Type"].endswith(f"boundary={free}")


def test_an_object_that_is_there_already_counts_as_stored(server):
    server.say = lambda _: (409, dicom_json([], [(UID, 0x0111)]), {})
    (answer,) = send(server.destination(), "DICOM_GAM", [FILE])
    assert (answer.stored, answer.status) == (True, 0x0111)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "malformed"),
        (409, "does not say why"),
        (413, "too large"),
        (415, "SOP class and transfer syntax"),
        (500, "failed while storing"),
        (507, "disk"),
        (418, "HTTP status 418"),
    ],
)
def test_a_refusal_of_one_object_does_not_stop_the_next(server, status, words):
    answers = iter([(status, b"<html>no</html>", {})])
    server.say = lambda _: next(answers, (200, dicom_json([(UID, None)]), {}))
    refused, stored = send(server.destination(), "DICOM_GAM", [FILE] * 2)
    assert (refused.stored, refused.hopeless, refused.broken, stored.stored) == (False, False, False, True)
    assert words in refused.words


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (301, "sends us elsewhere"),
        (307, "sends us elsewhere"),
        (401, "authorization_file"),
        (403, "does not allow us"),
        (404, "check url"),
        (405, "read-only"),
        (429, "too much at once"),
        (502, "gateway"),
        (503, "unavailable just now"),
    ],
)
def test_what_concerns_the_whole_destination_is_raised_and_no_more_is_sent(server, status, words):
    server.say = lambda _: (status, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
    with pytest.raises(DeliveryError, match=words) as caught:
        list(send(server.destination(), "DICOM_GAM", [FILE] * 3))
    assert "destination web (http://127.0.0.1:" in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.requirement("DEL-10")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>welcome</html>",
        b"null",
        b"[]",
        b"7",
        b'{"00081199": 5}',
        b'{"00081199": {"Value": [7]}}',
        b'{"00081198": {"Value": [{"00081155": {"Value": ["%s"]}, "00081197": {"Value": ["x"]}}]}}' % UID.encode(),
        b"[" * 200_000,
        dicom_json([("1.2.3", None)]),
        b" " * (MAXIMUM_ANSWER_BYTES + 1) + dicom_json([(UID, None)]),
    ],
    ids=["empty", "html", "null", "list", "number", "no-items", "no-item", "no-number", "deep", "another", "too-large"],
)
def test_an_answer_that_does_not_name_the_object_is_no_success(server, text):
    server.say = lambda _: (200, text, {})
    (answer,) = send(server.destination(), "DICOM_GAM", [FILE])
    assert (answer.stored, answer.broken) == (False, False)
    assert "answers 200, but not in DICOM JSON that names the object" in answer.words


def test_a_compressed_answer_is_not_unpacked(server):
    server.say = lambda _: (200, b"\x1f\x8b\x08\x00 bomb", {"Content-Encoding": "gzip"})
    (answer,) = send(server.destination(), "DICOM_GAM", [FILE])
    assert not answer.stored
    assert server.requests[0][2]["Accept-Encoding"] == "identity"


def test_a_server_that_breaks_off_names_the_object_and_leaves_the_rest_unanswered(server):
    server.say = lambda _: (None, b"", {})
    (answer,) = send(server.destination(), "DICOM_GAM", [FILE] * 3)
    assert (answer.stored, answer.broken) == (False, True)


def test_a_server_that_says_nothing_is_given_up(server):
    release = threading.Event()

    def wait(_):
        release.wait(10)
        return None, b"", {}

    server.say = wait
    (answer,) = send(server.destination(timeout_s=0.3), "DICOM_GAM", [FILE])
    release.set()
    assert (answer.stored, answer.broken) == (False, True)
    assert "fell silent (ReadTimeout)" in answer.words


def test_a_closed_port_is_an_unreachable_destination():
    nowhere = Destination(name="web", url="http://127.0.0.1:1/dicom-web", timeout_s=5)
    with pytest.raises(DeliveryError, match=r"can't be reached .*Connection refused"):
        list(send(nowhere, "DICOM_GAM", [FILE]))
    with pytest.raises(DeliveryError, match=r"can't be reached .*Connection refused"):
        probe(nowhere, "DICOM_GAM")


def test_what_is_no_dicom_file_is_not_sent(server):
    bad, good = send(server.destination(), "DICOM_GAM", [b"no DICOM" * 50, FILE])
    assert (bad.stored, bad.hopeless, good.stored, len(server.requests)) == (False, True, True, 1)


def test_the_authorization_is_read_anew_each_time(server, tmp_path):
    path = tmp_path / "authorization"
    for value in ("Bearer one", "Bearer two"):
        path.write_text(f"{value}\n")
        list(send(server.destination(authorization_file=path), "DICOM_GAM", [FILE]))
    assert [headers["Authorization"] for _, _, headers, _ in server.requests] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("value", [None, b"", b"a\r\nX-Evil: 1", b"\xff\xfe"])
def test_an_authorization_that_can_not_be_used_sends_nothing(server, tmp_path, value):
    path = tmp_path / "authorization"
    if value is not None:
        path.write_bytes(value)
    with pytest.raises(DeliveryError, match="authorization_file"):
        list(send(server.destination(authorization_file=path), "DICOM_GAM", [FILE]))
    assert server.requests == []


def test_proxies_of_the_environment_get_nothing(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    (answer,) = send(server.destination(), "DICOM_GAM", [FILE])
    assert answer.stored


@pytest.mark.requirement("DEL-11")
def test_a_certificate_is_checked_by_the_ca_that_was_given_and_ours_is_shown(tmp_path):
    theirs, ours = self_signed(tmp_path, "server"), self_signed(tmp_path, "ours")
    server = Server(theirs.server_context(ours.certificate))
    try:
        keys = {"certificate": ours.certificate, "key": ours.key}
        (answer,) = send(server.destination(ca=theirs.certificate, **keys), "DICOM_GAM", [FILE])
        assert answer.stored
        with pytest.raises(DeliveryError, match="certificate that is not trusted"):
            list(send(server.destination(ca=ours.certificate, **keys), "DICOM_GAM", [FILE]))
        assert len(server.requests) == 1
    finally:
        server.close()


@pytest.mark.parametrize("status", [200, 204, 400, 405, 501])
def test_a_server_that_answers_in_any_way_of_its_own_is_there(server, status):
    server.say = lambda _: (status, b"", {})
    probe(server.destination(), "DICOM_GAM")
    assert "StudyInstanceUID=2.25." in server.requests[0][1]


@pytest.mark.parametrize(
    ("status", "words"), [(401, "authenticate"), (403, "allow"), (404, "check url"), (302, "elsewhere")]
)
def test_a_server_that_does_not_let_us_in_says_so_to_the_probe(server, status, words):
    server.say = lambda _: (status, b"", {})
    with pytest.raises(DeliveryError, match=words):
        probe(server.destination(), "DICOM_GAM")

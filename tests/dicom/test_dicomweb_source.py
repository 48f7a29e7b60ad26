"""Getting studies by DICOMweb, from servers that answer in each of the usual and unusual ways."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pydicom.uid as uids
import pytest
from pynetdicom.dsutils import encode

from dicom_gam.dicom.arrival import part_10_header
from dicom_gam.dicom.image.part10 import read_meta
from dicom_gam.dicom.scu.dicomweb_source import HEAD_BYTES, WebSource
from dicom_gam.dicom.scu.retrieve import Listed, RetrieveError
from dicom_gam.sections import Source
from tests.dicom.radiograph_files import SERIES, STUDY, header, standard_pixels
from tests.dicom.self_signed import self_signed
from tests.dicom.test_retrieve import Inbox, station

CR = uids.ComputedRadiographyImageStorage
JSON = "application/dicom+json"


def file_of(number, sop_class_uid=CR, length=None, meta_number=None):
    ds = header(standard_pixels(), SOPClassUID=sop_class_uid, SOPInstanceUID=f"1.2.3.{number}")
    ds.PixelData = standard_pixels().tobytes() if length is None else bytes(length)
    said = (sop_class_uid, f"1.2.3.{meta_number or number}", uids.ExplicitVRLittleEndian)
    return part_10_header(*said) + encode(ds, False, True)


def data_set(file):
    return file[read_meta(file)[1] :]


def listed(number, sop_class_uid=CR):
    return Listed(STUDY, SERIES, f"1.2.3.{number}", sop_class_uid, "CR")


def item(number, **changes):
    values = {"00080016": CR, "00080018": f"1.2.3.{number}", "0020000D": STUDY, "0020000E": SERIES, "00080060": "CR"}
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in (values | changes).items()}


def multipart(*files, kind="application/dicom", closed=True):
    body = b"".join(b"\r\n--b\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + file for file in files)
    return 200, 'multipart/related; type="application/dicom"; boundary="b"', body + b"\r\n--b--" * closed


class Server:
    """A web server; `answer` makes (status, content type, body) of path, query and headers."""

    def __init__(self, answer, ssl_context=None):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                url = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                status, kind, body, *more = answer(url.path, query, self.headers)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body) + (more[0] if more else 0)))
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = bool(more)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.scheme = "http"
        if ssl_context is not None:
            self.scheme = "https"
            self.server.socket = ssl_context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.server.handle_error = lambda *_: None  # a client that breaks the handshake off

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}/web/"
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@contextmanager
def opened(answer, inbox=None, ssl_context=None, station_changes=None, **changes):
    with Server(answer, ssl_context).running() as url:
        remote = WebSource(
            Source(name="web", url=url, timeout_s=5, **changes), station(inbox or Inbox(), **(station_changes or {}))
        )
        try:
            yield remote
        finally:
            remote.close()


def got(remote, *numbers, **changes):
    done = []
    remote.get([listed(number, **changes) for number in numbers], done.append)
    return {taken.sop_instance_uid: taken.why for taken in done}


def constantly(status, kind, body):
    return lambda *_: (status, kind, body)


def test_every_page_is_asked_for_and_what_is_none_of_the_study_is_left_out():
    stray = [item(90, **{"0020000D": "1.2.99"}), item(91, **{"00080018": "DOE^JANE"}), {"00080018": 5}, "x", None]
    items = [*map(item, range(5)), *stray]

    def two_at_a_time(_path, query, _headers):
        start = int(query["offset"])
        return 200, JSON, json.dumps(items[start : start + 2]).encode()

    with opened(two_at_a_time) as remote:
        assert remote.find(STUDY) == [listed(number) for number in range(5)]


def test_a_server_that_knows_no_offset_is_not_asked_for_ever():
    with opened(constantly(200, JSON, json.dumps([item(1)]).encode())) as remote:
        assert remote.find(STUDY) == [listed(1)]


@pytest.mark.parametrize("answer", [(204, JSON, b""), (200, JSON, b"[]"), (404, "text/plain", b"")])
def test_a_study_that_is_not_there_gives_nothing_however_the_server_says_so(answer):
    def only_this_study_is_missing(path, *_):
        return answer if STUDY in path else (200, JSON, b"[]")

    with opened(only_this_study_is_missing) as remote:
        assert remote.find(STUDY) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((401, "text/plain", b""), r"source\.authorization_file"),
        ((403, "text/plain", b""), "give our account the right"),
        ((404, "text/html", b""), "url is not the root of its DICOMweb service"),
        ((302, "text/html", b""), "sends us elsewhere, which is not followed"),
        ((500, "text/plain", b"DOE^JANE"), r"a fault of its own: .*\(HTTP status 500\)"),
        ((418, "text/plain", b""), "HTTP status 418"),
        ((200, "text/html", b"<html>"), "no DICOMweb service"),
        ((200, JSON, b"{"), "no JSON"),
        ((200, JSON, b"[" * 100_000), "no JSON"),
        ((200, JSON, b'{"a": 1}'), "no list"),
        ((200, JSON, b"[]", 10), "broke off or fell silent"),
    ],
)
def test_an_answer_that_is_none_is_told_in_words(answer, why):
    with opened(lambda *_: answer) as remote, pytest.raises(RetrieveError, match=why) as refusal:
        remote.find(STUDY)
    assert "DOE" not in str(refusal.value)


def test_one_bad_instance_does_not_cost_the_others():
    answers = {
        "1": multipart(file_of(1)),
        "2": (500, "text/plain", b""),
        "3": multipart(file_of(3), closed=False),
        "4": multipart(file_of(4), file_of(5)),
        "5": multipart(file_of(4)),
        "6": multipart(file_of(5, meta_number=6)),
        "7": multipart(b"no DICOM"),
        "8": multipart(file_of(8), kind="text/plain"),
        "9": (200, "text/html", b"<html>"),
        "10": multipart(),
        "11": (*multipart(file_of(11))[:2], b"\r\n--b\r\n\r\n" + file_of(11)[:600], 100),
        "12": multipart(file_of(12)[: read_meta(file_of(12))[1]]),
        "13": multipart(
            b"\0" * 128 + b"DICM" + b"\2\0\2\1OB\0\0" + (2 * HEAD_BYTES).to_bytes(4, "little") + b"x" * 200_000
        ),
        "14": (200, "application/dicom", file_of(14)),
    }
    inbox = Inbox()
    with opened(lambda path, *_: answers[path.rpartition(".")[2]], inbox) as remote:
        outcome = got(remote, *range(1, 15))
    assert {uid.rpartition(".")[2]: why for uid, why in outcome.items() if not why} == {"1": "", "14": ""}
    assert inbox.kept == {f"1.2.3.{number}": data_set(file_of(number)) for number in (1, 14)}
    assert inbox.begun == inbox.abandoned
    for number, why in {
        2: "HTTP status 500",
        3: "cut short",
        4: "more than the one instance",
        5: "another SOP Instance UID than the one",
        6: "data set holds another SOP Instance UID",
        7: "not a DICOM file",
        8: "something else than DICOM files",
        9: "something else than multipart/related",
        10: "nothing in it",
        11: "broke off or fell silent",
        12: "no data set",
        13: "file meta information",
    }.items():
        assert why in outcome[f"1.2.3.{number}"]


def test_the_original_is_asked_for_and_else_what_the_server_gives():
    asked = []

    def no_wildcard(path, _query, headers):
        asked.append((path, headers["Accept"]))
        return (406, "text/plain", b"") if "*" in headers["Accept"] else multipart(file_of(1))

    with opened(no_wildcard) as remote:
        assert got(remote, 1) == {"1.2.3.1": ""}
    place = f"/web/studies/{STUDY}/series/{SERIES}/instances/1.2.3.1"
    original = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert asked == [(place, original), (place, 'multipart/related; type="application/dicom"')]


def test_an_instance_larger_than_allowed_leaves_nothing():
    inbox = Inbox()
    large = multipart(file_of(1, length=3 * 1024**2))
    with opened(lambda *_: large, inbox, station_changes={"maximum_instance_bytes": 1024**2}) as remote:
        assert "raise node.maximum_instance_bytes" in got(remote, 1)["1.2.3.1"]
    assert (inbox.kept, inbox.begun, inbox.abandoned) == ({}, 1, 1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_lets_us_in_no_more_is_not_asked_for_the_rest(status):
    with opened(constantly(status, "text/plain", b"")) as remote, pytest.raises(RetrieveError, match=str(status)):
        got(remote, 1, 2)


def test_the_authorization_file_is_sent_and_a_wrong_one_is_refused(tmp_path):
    path = tmp_path / "authorization"
    path.write_text("Bearer secret\n")

    def locked(_path, _query, headers):
        return (200, JSON, b"[]") if headers["Authorization"] == "Bearer secret" else (401, "text/plain", b"")

    with opened(locked, authorization_file=path) as remote:
        assert remote.find(STUDY) == []
    for content in ("", "two\nlines", "ümlaut"):
        path.write_text(content)
        with pytest.raises(RetrieveError, match="authorization") as refusal, opened(locked, authorization_file=path):
            pass
        assert "two" not in str(refusal.value)


def test_a_server_that_is_not_there_is_told_once():
    with opened(constantly(200, JSON, b"[]")) as remote:
        pass
    remote = WebSource(Source(name="web", url=remote._root, timeout_s=5), station(Inbox()))
    with pytest.raises(RetrieveError, match=r"can't be reached .*check that it runs"):
        got(remote, 1, 2)
    remote.close()


def test_a_server_is_trusted_by_its_certificate_alone(tmp_path):
    made = self_signed(tmp_path, "localhost")
    context = made.server_context()
    answer = constantly(200, JSON, json.dumps([item(1)]).encode())
    with opened(answer, ssl_context=context, ca=made.certificate) as remote:
        assert remote.find(STUDY) == [listed(1)]
    with (
        opened(answer, ssl_context=context) as remote,
        pytest.raises(RetrieveError, match="certificate is not accepted"),
    ):
        remote.find(STUDY)

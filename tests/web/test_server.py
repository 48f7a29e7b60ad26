"""The dashboard's server over real sockets: TLS, slow and silent clients, large requests, stopping."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from flask import Flask, request

from dicom_gam.errors import ConfigError
from dicom_gam.oversight_sections import WebSettings
from dicom_gam.web.server import CONNECTIONS_OF_ADDRESS, THREADS, THREADS_OF_ADDRESS, WebServer, refuse_open_web
from tests.dicom.self_signed import self_signed
from tests.web.made_site import made_settings


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"), "dashboard")


def small_app():
    app = Flask("small")
    app.add_url_rule("/", "page", lambda: f"{request.scheme} {request.remote_addr}")
    app.add_url_rule("/read", "read", lambda: str(len(request.get_data())), methods=["POST"])
    app.add_url_rule("/refuse", "refuse", lambda: ("no", 401, {"Connection": "close"}), methods=["POST"])
    return app


@contextmanager
def serving(tmp_path, certificate=None, **web):
    if certificate is not None:
        web |= {"certificate": certificate.certificate, "key": certificate.key}
    server = WebServer(made_settings(tmp_path, web=web), small_app())
    server.start()
    try:
        yield server
    finally:
        server.stop()


def address_of(server):
    host, port = server.url.split("//")[1].split(":")
    return host, int(port)


def talk(server, *pieces):
    """Send raw bytes and return all that comes back."""
    with socket.create_connection(address_of(server), timeout=20) as plain:
        for piece in pieces:
            plain.sendall(piece)
        answer = b""
        while got := plain.recv(65536):
            answer += got
    return answer


@pytest.mark.requirement("ACC-13")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node.hospital.example"])
def test_without_tls_nothing_is_served_beyond_this_machine_and_the_remedy_is_named(tmp_path, host):
    with pytest.raises(ConfigError, match=r"web\.certificate and web\.key"):
        WebServer(made_settings(tmp_path, web={"host": host}), small_app())
    refuse_open_web(WebSettings(enabled=False, host=host))
    for own in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        refuse_open_web(WebSettings(enabled=True, host=own))


@pytest.mark.requirement("ACC-13")
def test_over_tls_the_page_comes_by_1_2_and_1_3_and_by_nothing_older(tmp_path, certificate):
    with serving(tmp_path, certificate, host="0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=certificate.certificate)
            context.minimum_version = context.maximum_version = version
            assert httpx.get(url, verify=context).text == "https 127.0.0.1"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=old)


def test_who_speaks_plain_http_to_tls_is_told(tmp_path, certificate):
    with serving(tmp_path, certificate) as server:
        answer = talk(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"https://" in answer


@pytest.mark.requirement("ACC-14")
@pytest.mark.parametrize(
    ("hello", "many"),
    [(b"", CONNECTIONS_OF_ADDRESS - 4), (b"\x16\x03\x01\x02", THREADS_OF_ADDRESS - 1)],
    ids=["connected, then silent", "half a ClientHello"],
)
def test_half_open_handshakes_do_not_keep_others_out(tmp_path, certificate, hello, many):
    context = ssl.create_default_context(cafile=certificate.certificate)
    with serving(tmp_path, certificate) as server, ExitStack() as stack:
        for _ in range(many):
            hung = stack.enter_context(socket.create_connection(address_of(server)))
            hung.sendall(hello)
        assert httpx.get(server.url, verify=context, timeout=5).status_code == 200


@pytest.mark.requirement("ACC-14")
def test_an_address_with_many_slow_clients_does_not_keep_other_addresses_out(tmp_path, monkeypatch):
    monkeypatch.setattr("dicom_gam.web.server.HEADER_S", 0.3)
    with serving(tmp_path) as server, ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(address_of(server), source_address=("127.0.0.66", 0)))
            for _ in range(THREADS + 8)
        ]
        for client in slow:
            client.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert httpx.get(server.url, timeout=5).text == "http 127.0.0.1"
        slow[0].settimeout(10)
        while got := slow[0].recv(1000):  # at the end of its time it is cut off, however it drips
            assert b"200 OK" not in got
        with socket.create_connection(address_of(server), source_address=("127.0.0.66", 0), timeout=20) as late:
            late.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"http 127.0.0.66" in late.makefile("rb").read()


@pytest.mark.requirement("ACC-14")
def test_requests_and_headers_beyond_their_size_are_refused(tmp_path):
    with serving(tmp_path, maximum_upload_bytes=1024) as server:
        head = b"POST /read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        assert talk(server, head + b"Content-Length: 9999999\r\n\r\n").startswith(b"HTTP/1.1 413")
        long = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
        assert talk(server, long).startswith(b"HTTP/1.1 413")
        assert talk(server, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 414")
        assert talk(server, b"\x00\xff\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert httpx.post(f"{server.url}/read", content=b"abc").text == "3"


def test_a_body_of_unknown_length_is_read(tmp_path):
    with serving(tmp_path) as server:
        assert httpx.post(f"{server.url}/read", content=iter([b"ab", b"c" * 5000])).text == "5002"


@pytest.mark.requirement("ACC-14")
def test_a_refused_upload_is_answered_though_it_is_not_read_to_its_end(tmp_path):
    with serving(tmp_path) as server:
        head = b"POST /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n"
        assert talk(server, head, b"x" * 100_000).startswith(b"HTTP/1.1 401")


@pytest.mark.requirement("ACC-14")
def test_stopping_ends_within_seconds_with_clients_still_there_and_frees_the_port(tmp_path, certificate):
    with serving(tmp_path, certificate) as server, ExitStack() as stack:
        address = address_of(server)
        for hello in (b"", b"\x16\x03\x01\x02"):
            stack.enter_context(socket.create_connection(address)).sendall(hello)
        time.sleep(0.2)
        started = time.monotonic()
        server.stop()
        took_s = time.monotonic() - started
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with serving(tmp_path, port=address[1]) as again:
            assert httpx.get(again.url).status_code == 200
    assert took_s < 10  # a bound that people would notice, not a timing


def test_a_port_that_is_taken_is_told_with_the_keys_to_change(tmp_path):
    with serving(tmp_path) as server, pytest.raises(ConfigError, match=r"web\.port"):
        WebServer(made_settings(tmp_path, web={"port": address_of(server)[1]}), small_app()).start()


def test_a_certificate_that_cannot_be_used_is_told_and_a_bad_new_one_leaves_the_old_in_use(tmp_path, certificate):
    missing = {"certificate": tmp_path / "none.pem", "key": tmp_path / "none.key"}
    with pytest.raises(ConfigError, match=r"web\.certificate .* can't be read"):
        WebServer(made_settings(tmp_path, web=missing), small_app())

    own = self_signed(tmp_path, "own")
    with serving(tmp_path / "node", own) as server:
        first = ssl.get_server_certificate(address_of(server))
        own.key.write_text("no key")
        assert ssl.get_server_certificate(address_of(server)) == first
        self_signed(tmp_path, "own")
        assert ssl.get_server_certificate(address_of(server)) != first


@pytest.mark.requirement("API-04")
def test_a_body_that_breaks_off_never_reaches_the_application_as_a_whole_one(tmp_path):
    with serving(tmp_path) as server, socket.create_connection(address_of(server), timeout=20) as plain:
        plain.sendall(b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nonly this")
        plain.shutdown(socket.SHUT_WR)
        answer = plain.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400")

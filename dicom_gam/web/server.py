"""The dashboard's HTTP server: cheroot with threads, TLS 1.2 and newer, and patience with nobody at others' cost.

A connection takes a thread only once it has sent something, and for a bounded time; no address takes all of them.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cheroot import wsgi
from cheroot.makefile import MakeFile
from cheroot.server import HTTPConnection
from cheroot.ssl import Adapter

from dicom_gam.errors import ConfigError
from dicom_gam.web.security import is_loopback

if TYPE_CHECKING:
    from pathlib import Path
    from wsgiref.types import WSGIApplication

    from dicom_gam.config import Settings
    from dicom_gam.oversight_sections import WebSettings

_log = logging.getLogger(__name__)

THREADS = 32
THREADS_OF_ADDRESS = 8  # a browser opens six connections
CONNECTIONS = 256
CONNECTIONS_OF_ADDRESS = 64
BACKLOG = 128  # connections that the system keeps until we accept them
SILENCE_S = 10.0  # in a handshake, between two bytes of a request, and between two requests
HEADER_S = 15.0  # for handshake and header as a whole
REQUEST_S = 900.0  # for everything, a large upload over a slow line included
LINGER_S = 2.0  # for what a refused client still sends, so that it gets to read why
HEADER_BYTES = 64 * 1024
FORM_SLACK_BYTES = 1024 * 1024  # a form is a bit larger than the file in it

# As the front door has it: forward secrecy and authenticated ciphers only (RFC 9325 4.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS only: type https:// before the address.\n"
)


def refuse_open_web(web: WebSettings) -> None:
    """Raise ConfigError when passwords and patients' data would go over the network in the clear."""
    if web.enabled and web.certificate is None and not is_loopback(web.host):
        msg = (
            f"web.host {web.host} is reached from other machines, and web.certificate is not set: passwords and "
            "patients' data would cross the network in the clear. Set web.certificate and web.key, or set web.host "
            "to 127.0.0.1 and put a proxy with TLS before it (web.public_url)"
        )
        raise ConfigError(msg)


class WebServer:
    """Serves the application until it is stopped."""

    def __init__(self, settings: Settings, app: WSGIApplication) -> None:
        """Raises ConfigError when it would be open without TLS, or certificate and key can't be used."""
        web = settings.web
        refuse_open_web(web)
        self._web = web
        self._server = _Server((web.host, web.port), app, numthreads=THREADS, timeout=SILENCE_S, shutdown_timeout=3)
        self._server.max_request_body_size = web.maximum_upload_bytes + FORM_SLACK_BYTES
        if web.certificate is not None and web.key is not None:
            self._server.ssl_adapter = _Tls(web.certificate, web.key)
        self._thread = threading.Thread(target=self._server.serve, name="web")
        self._watch = threading.Thread(target=self._server.watch, name="web-watch")

    def start(self) -> None:
        """Listen, and serve in threads of its own. Raises ConfigError when the port can't be had."""
        try:
            self._server.prepare()
        except OSError as error:
            msg = (
                f"web.host {self._web.host}, web.port {self._web.port} can't be listened on ({error}): another "
                "program may use the port, or the address is none of this machine's; correct web.host or web.port"
            )
            raise ConfigError(msg) from error
        self._thread.start()
        self._watch.start()
        _log.info("web.listening %s", self.url)

    def stop(self) -> None:
        """Let requests in hand end, for seconds, and free the port."""
        if not self._thread.is_alive():
            return
        self._server.stop()
        self._thread.join()
        self._watch.join()

    @property
    def url(self) -> str:
        """Where it listens; the real port once it has started."""
        host, port = self._server.bind_addr[:2]
        scheme = "https" if self._server.ssl_adapter is not None else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _Tls(Adapter):
    """TLS whose handshake is left to the thread that serves the connection; new files are taken up when they change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(certificate, key)
        self._seen = self._look()
        self.context = _context(certificate, key)

    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self.context = _context(self.certificate, self.private_key)
            except ConfigError as error:
                _log.error("web.tls_reload_failed, the old certificate stays in use: %s", error)
            else:
                _log.info("web.tls_reloaded certificate=%s", self.certificate)
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, self.get_environ()

    def get_environ(self) -> dict[str, str]:
        return {"wsgi.url_scheme": "https", "HTTPS": "on"}

    def makefile(self, sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
        return MakeFile(sock, mode, bufsize)

    def _look(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.private_key))
        except OSError:
            return ()


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for name, path in (("web.certificate", certificate), ("web.key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            msg = f"{name} {path} can't be read ({error.strerror}): correct the path, or let the service's user read it"
            raise ConfigError(msg) from error
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # never ask at a terminal
    except (ssl.SSLError, OSError, ValueError) as error:
        msg = (
            f"web.certificate {certificate} and web.key {key} can't be used ({error}): both must be PEM, belong "
            "together, and the key must not be encrypted"
        )
        raise ConfigError(msg) from error
    return context


class _Connection(HTTPConnection):
    """One connection: its handshake is made in the thread that serves it, and its time is bounded."""

    heard = False  # whether it was put aside once until it sent something
    shaken = False
    closed = False
    deadline = float("inf")

    def communicate(self) -> bool:
        self.deadline = time.monotonic() + HEADER_S
        try:
            return self._shake_hands() and bool(super().communicate())  # type: ignore[no-untyped-call]
        finally:
            self.deadline = float("inf")
            self.server.served(self)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.server.gone(self)
        super().close()

    def cut(self) -> None:
        """Have the thread that waits for this client give up."""
        with suppress(OSError):  # past SSLSocket, whose own shutdown another thread's read doesn't expect
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def drain(self) -> None:
        """Take in for a moment what a refused client still sends: else it may never read the answer (RFC 9112 9.6)."""
        end = time.monotonic() + LINGER_S
        with suppress(OSError):
            self.wfile.flush()
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            self.socket.settimeout(LINGER_S)
            while time.monotonic() < end and socket.socket.recv(self.socket, 65536):
                pass

    def _shake_hands(self) -> bool:
        if self.shaken or not isinstance(self.socket, ssl.SSLSocket):
            return True
        try:
            self.socket.do_handshake()
        except (OSError, ValueError) as error:
            _log.debug("web.no_handshake address=%s: %s", self.remote_addr, error)
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                self._answer_plainly()
            return False
        self.shaken = True
        return True

    def _answer_plainly(self) -> None:
        with suppress(OSError):
            socket.socket.sendall(self.socket, _PLAIN_HTTP)
        self.drain()


class _Gateway(wsgi.Gateway_10):
    """cheroot's, which also closes when the application says so, and takes bodies of unknown length."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        self.req.conn.deadline = time.monotonic() + REQUEST_S
        env: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]
        if not self.req.chunked_read:  # werkzeug asks only whether the key is there, and then believes a torn body
            env.pop("wsgi.input_terminated", None)
        return env

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        write = super().start_response(status, headers, exc_info)
        if any(name.lower() == "connection" and value.lower() == "close" for name, value in headers):
            self.req.close_connection = True
        return write

    def respond(self) -> None:
        super().respond()
        if self.req.close_connection and getattr(self.req.rfile, "remaining", 0):
            self.req.conn.drain()


class _Server(wsgi.Server):
    """cheroot's server with limits for each address."""

    ConnectionClass = _Connection
    max_request_header_size = HEADER_BYTES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gateway = _Gateway
        self.request_queue_size = BACKLOG
        self.software = "dicom_gam"  # tell no versions
        self._lock = threading.Lock()
        self._open: set[_Connection] = set()
        self._open_of: Counter[str] = Counter()
        self._busy_of: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[_Connection]] = defaultdict(deque)

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """Make the socket that is listened on; cheroot's own leaves it open when the port is taken."""
        made = self.prepare_socket(self.bind_addr, family, type, proto, self.nodelay, self.ssl_adapter)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # cheroot forgets it at port 0
        try:
            self.socket = self.bind_socket(made, self.bind_addr)  # type: ignore[no-untyped-call]
        except OSError:
            made.close()
            raise
        self.bind_addr = self.resolve_real_bind_addr(self.socket)  # type: ignore[no-untyped-call]
        bound: socket.socket = self.socket
        return bound

    def process_conn(self, conn: _Connection) -> None:
        """Serve a connection that has something to say, when its address doesn't take too many threads already."""
        if not conn.heard:
            conn.heard = True
            if self._admit(conn):
                self.put_conn(conn)
            else:
                conn.close()
            return
        with self._lock:
            if self._busy_of[conn.remote_addr] >= THREADS_OF_ADDRESS:
                self._waiting[conn.remote_addr].append(conn)
                return
            self._busy_of[conn.remote_addr] += 1
        super().process_conn(conn)

    def served(self, conn: _Connection) -> None:
        """A thread is done with the connection for now: the next one of its address may have it."""
        address = conn.remote_addr
        with self._lock:
            waiting = self._waiting.get(address)
            following = waiting.popleft() if waiting else None
            if following is None:
                self._waiting.pop(address, None)
                self._busy_of[address] -= 1
                self._busy_of += Counter()  # forget those at zero
        if following is not None:
            super().process_conn(following)

    def gone(self, conn: _Connection) -> None:
        """A connection is closed."""
        with self._lock:
            if conn in self._open:
                self._open.remove(conn)
                self._open_of[conn.remote_addr] -= 1
                self._open_of += Counter()

    def watch(self) -> None:
        """Cut off whoever takes too long, until the server stops."""
        while self.ready:
            time.sleep(0.25)
            now = time.monotonic()
            with self._lock:
                late = [conn for conn in self._open if conn.deadline < now]
            for conn in late:
                _log.info("web.too_slow address=%s", conn.remote_addr)
                conn.cut()

    def stop(self) -> None:
        """Stop; connections that wait for their turn are closed."""
        super().stop()
        with self._lock:
            left = list(self._open)
        for conn in left:
            conn.close()

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:  # noqa: ARG002
        """Log what went wrong; without a traceback's values."""
        _log.log(level, "web.server %s", msg, exc_info=False)

    def _admit(self, conn: _Connection) -> bool:
        with self._lock:
            if len(self._open) >= CONNECTIONS or self._open_of[conn.remote_addr] >= CONNECTIONS_OF_ADDRESS:
                return False
            self._open.add(conn)
            self._open_of[conn.remote_addr] += 1
        return True

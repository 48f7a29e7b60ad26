"""Audit messages by syslog: RFC 5424, over TLS (RFC 5425) or UDP (RFC 5426), as PS3.15 A.6 asks for.

Syslog knows no acknowledgement: what was written to a connection that then breaks may or may not have arrived. So what
was written within the last minute is written again to the next connection: a repository may get it twice.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from dicom_gam.dicom.tls import client_context
from dicom_gam.errors import DeliveryError
from dicom_gam.sections import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicom_gam.oversight_sections import AtnaSettings

PRIORITY = 85  # facility 10 (security, authorization), severity 5 (notice)
MESSAGE_ID = "DICOM+RFC3881"
BOM = "\ufeff"
SENT_AGAIN_S = 60.0
SENT_AGAIN_MOST = 4096
DEAD_PEER_S = 20  # a peer that is gone without a word is noticed well before what it may not have got is forgotten
AT_ONCE_S = 5.0
REFUSAL_S = 0.25  # in TLS 1.3 a server that wants a certificate says so only after the handshake
LARGEST_DATAGRAM = 65_507
_ASKS = "if it asks for a certificate, set atna.certificate and atna.key to one that it trusts"


class Line(Protocol):
    """A way to the collector."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages, in order. Raises DeliveryError."""

    def tend(self) -> None:
        """Look after the connection; called every few seconds. Raises DeliveryError."""

    def close(self) -> None:
        """Close it; the next `send` opens it again."""


def framed(time_text: str, xml: str, host: str) -> bytes:
    """Make a syslog message (RFC 5424 6); `time_text` is ISO 8601."""
    app = f"dicom_gam {os.getpid()} {MESSAGE_ID}"
    return f"<{PRIORITY}>1 {time_text} {host or '-'} {app} - {BOM}{xml}".encode()


def line_to(settings: AtnaSettings) -> Line:
    """The way that the settings name. Raises ConfigError when certificates can't be used."""
    return TlsLine(settings) if settings.transport == "tls" else UdpLine(settings)


class TlsLine:
    """Syslog over TLS: one connection, kept open, opened anew when it is lost."""

    def __init__(self, settings: AtnaSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._host, self._port = str(settings.host), settings.port
        self._timeout_s = settings.timeout_s
        self._clock = clock
        self._where = f"the audit record repository {self._host}:{self._port}"
        self._peer = Peer(  # only its certificates count, so it needs no true URL
            name="atna", url="https://repository", ca=settings.ca, certificate=settings.certificate, key=settings.key
        )
        client_context(self._peer)  # complain at once
        self._socket: ssl.SSLSocket | None = None
        self._opened_at = 0.0
        self._recent: deque[tuple[float, bytes]] = deque(maxlen=SENT_AGAIN_MOST)

    def send(self, messages: Sequence[bytes]) -> None:
        """Write messages, before them what may have been lost with the last connection. Raises DeliveryError."""
        try:
            self._leave_if_closed()
            if self._socket is None:
                self._socket = self._connect()
                self._opened_at = self._clock()
                recent = [message for _, message in self._recent]
                self._write(recent)
                self._recent = deque(((self._clock(), message) for message in recent), SENT_AGAIN_MOST)
            self._write(messages)
        except (OSError, ValueError) as error:
            self.close()
            msg = f"{self._where} can't be reached ({_why(error)}): see to its service, its certificate and the network"
            raise DeliveryError(msg) from error
        now = self._clock()
        self._recent.extend((now, message) for message in messages)
        self._forget()

    def tend(self) -> None:
        """Write again at once what may have been lost with a connection that has ended. Raises DeliveryError."""
        self._leave_if_closed()
        if self._socket is None and self._recent:
            self.send(())
        self._forget()

    def close(self) -> None:
        """Say goodbye, so that the other side reads to the end, and close."""
        found, self._socket = self._socket, None
        if found is not None:
            with suppress(OSError, ValueError):
                found.settimeout(1.0)
                found.unwrap()
            found.close()

    def _leave_if_closed(self) -> None:
        if self._socket is None or not _is_closed(self._socket):
            return
        self.close()
        if self._clock() - self._opened_at < AT_ONCE_S:
            raise DeliveryError(f"{self._where} closed the connection at once: {_ASKS}")

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self._host, self._port), self._timeout_s)
        connection: socket.socket = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_S * 1000)
            context = client_context(self._peer)  # made anew, as certificates are renewed
            connection = wrapped = context.wrap_socket(plain, server_hostname=self._host)
            select.select([wrapped], [], [], REFUSAL_S)
            if _is_closed(wrapped):
                raise ConnectionResetError(errno.ECONNRESET, f"closed after the TLS handshake, {_ASKS}")
        except BaseException:
            connection.close()
            raise
        return wrapped

    def _write(self, messages: Sequence[bytes]) -> None:
        assert self._socket is not None
        if messages:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(b"".join(b"%d %b" % (len(message), message) for message in messages))

    def _forget(self) -> None:
        """Forget what has been written long enough ago, to a connection that is still there."""
        while self._recent and self._recent[0][0] < self._clock() - SENT_AGAIN_S:
            self._recent.popleft()


class UdpLine:
    """Syslog over UDP: nobody hears of what is lost on the way."""

    def __init__(self, settings: AtnaSettings) -> None:
        self._host, self._port = str(settings.host), settings.port
        self._socket: socket.socket | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        """Send each message in a datagram of its own. Raises DeliveryError as far as the system knows of a failure."""
        try:
            if self._socket is None:
                self._socket = self._open()
            for message in messages:
                self._socket.send(message[:LARGEST_DATAGRAM])
        except OSError as error:
            self.close()
            msg = f"the audit record repository {self._host}:{self._port} can't be reached by UDP ({_why(error)})"
            raise DeliveryError(f"{msg}: see to its service and the network") from error

    def tend(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the socket."""
        found, self._socket = self._socket, None
        if found is not None:
            found.close()

    def _open(self) -> socket.socket:
        family, kind, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
        opened = socket.socket(family, kind)
        try:
            opened.connect(address)
        except OSError:
            opened.close()
            raise
        return opened


def _is_closed(connection: ssl.SSLSocket) -> bool:
    """Whether the other side has closed: a write would seem to succeed all the same."""
    try:
        connection.settimeout(0.0)
        while True:
            readable, _, _ = select.select([connection], [], [], 0)
            if not readable and not connection.pending():
                return False
            if not connection.recv(4096):
                return True
    except (ssl.SSLWantReadError, BlockingIOError):  # a session ticket, say
        return False
    except OSError:
        return True


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS handshake: {error.reason or type(error).__name__}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or type(error).__name__)

"""TLS by the BCP 195 profile (PS3.15 B.12, RFC 9325): 1.2 and newer, forward secrecy and authenticated ciphers only."""

from __future__ import annotations

import logging
import ssl
import threading
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dicom_gam.sections import Peer, TlsSettings

_log = logging.getLogger(__name__)

# Of TLS 1.2; those of 1.3 are all of this kind. All that RFC 9325 4.2 recommends is among them.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_OPTIONS = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """Make the context of the front door. Raises ConfigError that names the file and the remedy."""
    if tls.certificate is None or tls.key is None:
        msg = "tls.certificate and tls.key are not set: there is no TLS to be spoken"
        raise ConfigError(msg)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0  # associations are long, so resumption gains little and costs forward secrecy
    _load_own(context, "tls", tls.certificate, tls.key)
    if tls.client_ca is not None:
        _load_trusted(context, "tls.client_ca", tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(peer: Peer) -> ssl.SSLContext:
    """Make the context for connections to `peer`. Raises ConfigError that names the file and the remedy.

    Its certificate must name the host (RFC 9325 7.1), so give `server_hostname=peer.host` when wrapping a socket.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    _harden(context)
    if peer.ca is not None:
        _load_trusted(context, f"ca of {peer.name}", peer.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if peer.certificate is not None and peer.key is not None:
        _load_own(context, peer.name, peer.certificate, peer.key)
    return context


class ServerTls:
    """The context of the front door, renewed when the files change; bad new files leave the old context in use."""

    def __init__(self, tls: TlsSettings, notice: Callable[[str, dict[str, object]], object]) -> None:
        self._tls = tls
        self._notice = notice
        self._lock = threading.Lock()
        self._seen = self._look()
        self._context = server_context(tls)

    def context(self) -> ssl.SSLContext:
        """The context for a new connection; what is open keeps the one it has."""
        with self._lock:
            seen = self._look()
            if seen == self._seen:
                return self._context
            self._seen = seen
            try:
                self._context = server_context(self._tls)
            except ConfigError as error:
                why = str(error)
            else:
                _log.info("tls.reloaded certificate=%s", self._tls.certificate)
                return self._context
            context = self._context
        _log.error("tls.reload_failed, the old certificate stays in use: %s", why)
        self._notice("tls.reload_failed", {"why": why})
        return context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._tls.certificate, self._tls.key, self._tls.client_ca))


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= _OPTIONS


def _load_own(context: ssl.SSLContext, name: str, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _check_readable(name, path)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # never ask at a terminal
    except (ssl.SSLError, OSError, ValueError) as error:
        msg = (
            f"{name}: certificate {certificate} and key {key} can't be used ({_reason(error)}): both must be PEM, "
            "belong together, and the key must not be encrypted"
        )
        raise ConfigError(msg) from error


def _load_trusted(context: ssl.SSLContext, name: str, path: Path) -> None:
    _check_readable(name, path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError, ValueError) as error:
        msg = f"{name}: {path} can't be used ({_reason(error)}): it must hold certificates in PEM"
        raise ConfigError(msg) from error


def _check_readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        msg = f"{name}: {path} can't be read ({error.strerror}): correct the path, or let the service's user read it"
        raise ConfigError(msg) from error


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)

"""The front door: accepts connections, each served in a thread of its own, and never decodes a data set.

Why it is not pynetdicom's: conformance/decisions/0010-own-acceptor.md.
"""

from __future__ import annotations

import errno
import logging
import resource
import selectors
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from dicom_gam.dicom.scp.acceptor import Door, serve_connection
from dicom_gam.dicom.scp.access import plain_address
from dicom_gam.dicom.scp.connections import Connection, Connections
from dicom_gam.dicom.scp.listener_options import OTHER_CLASSES, ListenerOptions
from dicom_gam.dicom.scp.notices import Notices
from dicom_gam.dicom.scp.slots import Slots
from dicom_gam.dicom.tls import ServerTls
from dicom_gam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.dicom.arrival import Notice, Receive
    from dicom_gam.dicom.commitment import CommitmentReport

__all__ = ["OTHER_CLASSES", "Listener", "ListenerOptions", "open_port"]

_log = logging.getLogger(__name__)

BACKLOG = 1024  # the kernel holds so many while we are busy; it caps this by net.core.somaxconn
MAXIMUM_WAITING = 512  # connections without an association
_FLUSH_S = 1.0
_PAUSE_S = 0.2
_ABORT_S = 1.0
_ROOM = 16  # connections that go when descriptors run out
_DESCRIPTORS = 65536
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def open_port(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Listen. Raises ConfigError that says which setting to change."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name such as localhost may stand for both; DICOM senders are given IPv4 addresses.
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind(address)
            listening.listen(backlog)
        except BaseException:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        msg = (
            f"can't listen on {host}:{port} ({why}): set node.host to an address of this machine and node.port to a "
            "free port"
        )
        raise ConfigError(msg) from error
    return listening


class Listener:
    """Listens from `start` to `stop`.

    `receive` takes an arrival in: Success is answered when its reception has been committed, the status of
    `statuses.STATUS_OF_ERROR` when that raises a DicomGamError. `notice` is told of connections, associations and
    refused requests (event name, keys). `report` gets what destinations say about storage commitment; without it that
    SOP class is not accepted. `listening` is a port that is open already.
    """

    def __init__(
        self,
        options: ListenerOptions,
        receive: Receive,
        notice: Notice,
        report: Callable[[CommitmentReport], None] | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        self._options = options
        self._receive, self._report = receive, report
        self._notices = Notices(notice)
        self._listening = listening
        self._port = options.port
        self._connections = Connections(2 * options.maximum_associations_per_host, MAXIMUM_WAITING)
        self._slots: Slots | None = None
        self._door: Door | None = None
        self._tls: ServerTls | None = None
        self._thread: threading.Thread | None = None
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._threads: set[threading.Thread] = set()

    @property
    def port(self) -> int:
        """The port it listens on, also when the options said 0."""
        return self._port

    def start(self) -> None:
        """Open the port, unless it is open already. Raises ConfigError that says which setting to change."""
        options = self._options
        _allow_descriptors()
        self._tls = ServerTls(options.tls, self._notices.tell) if options.tls.certificate is not None else None
        self._slots = Slots(options.slots_file)
        self._door = Door(
            options=options, receive=self._receive, notices=self._notices, slots=self._slots, report=self._report
        )
        try:
            listening = self._listening or open_port(options.host, options.port)
        except ConfigError:
            self._slots.close()
            raise
        listening.setblocking(False)  # other processes may accept from it as well, and be quicker
        self._listening = listening
        self._port = int(listening.getsockname()[1])
        self._bell = socket.socketpair()
        self._thread = threading.Thread(
            target=self._accept_until_rung, args=(listening, self._bell[1]), name="listener", daemon=True
        )
        self._thread.start()

    def stop(self, grace_s: float = 5.0) -> None:
        """Accept no association any more, let the open ones end for `grace_s`, abort those that are left."""
        if self._thread is None or self._door is None or self._bell is None:
            return
        thread, self._thread = self._thread, None
        self._door.stopping.set()
        self._bell[0].send(b"\0")
        thread.join()
        self._connections.interrupt(only_waiting=True)
        self._wait_for_connections(grace_s)
        self._door.ended.set()  # associations that are left abort within a moment
        self._wait_for_connections(max(grace_s, _ABORT_S))
        self._connections.interrupt(only_waiting=False)
        for one in tuple(self._threads):
            one.join(_ABORT_S)
        self._notices.flush(everything=True)
        for end in self._bell:
            end.close()
        if self._slots is not None and not self._threads:
            self._slots.close()

    def _wait_for_connections(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self._connections) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _accept_until_rung(self, listening: socket.socket, bell: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, listening:
            selector.register(listening, selectors.EVENT_READ)
            selector.register(bell, selectors.EVENT_READ)
            flushed = time.monotonic()
            while True:
                ready = {key.fileobj for key, _ in selector.select(_FLUSH_S)}
                if bell in ready:
                    return
                try:
                    if listening in ready:
                        self._accept(listening)
                    if time.monotonic() >= flushed + _FLUSH_S:
                        flushed = time.monotonic()
                        self._notices.flush()
                except Exception:  # the outermost loop: the door stays open whatever happens
                    _log.exception("listener.failed")
                    time.sleep(_PAUSE_S)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, peer = listening.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._connections.make_room(_ROOM)
                why = f"{error.strerror}: raise the service's limit on open files (LimitNOFILE, ulimit -n)"
                self._notices.tell_some("connection.refused", {"peer_address": "unknown", "why": why})
                time.sleep(_PAUSE_S)
            return  # else it was gone again, or another process was quicker
        connection = Connection(sock, plain_address(str(peer[0])))
        self._connections.enter(connection)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name=f"sender {connection.address}", daemon=True
        )
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._threads.discard(thread)
            self._connections.leave(connection)
            connection.close()
            self._notices.tell_some("connection.refused", {"peer_address": connection.address, "why": str(error)})
            time.sleep(_PAUSE_S)

    def _serve(self, connection: Connection) -> None:
        door = self._door
        negotiate_by = time.monotonic() + self._options.negotiation_timeout_s
        try:
            assert door is not None
            with suppress(OSError):
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each answer waits 40 ms
            if self._tls is None or self._shake_hands(connection, self._tls, negotiate_by):
                serve_connection(
                    connection.sock,
                    connection.address,
                    door,
                    negotiate_by=negotiate_by,
                    admitted=lambda: self._connections.admit(connection),
                )
        except Exception:  # the outermost loop of this thread: one connection's fault stays its own
            _log.exception("connection.failed peer_address=%s", connection.address)
        finally:
            if connection.evicted:
                why = "too many connections without an association, and it was the oldest"
                self._notices.tell_some("connection.dropped", {"peer_address": connection.address, "why": why})
            connection.close()
            self._connections.leave(connection)
            self._threads.discard(threading.current_thread())

    def _shake_hands(self, connection: Connection, tls: ServerTls, negotiate_by: float) -> bool:
        why = ""
        try:
            sock = connection.wrap(tls.context())
            sock.settimeout(max(0.001, negotiate_by - time.monotonic()))
            sock.do_handshake()
        except TimeoutError:
            name, why = "connection.dropped", "the TLS handshake was not done in time"
        except (ssl.SSLError, ssl.CertificateError) as error:
            name, why = "connection.refused", f"no TLS handshake ({error.reason or error})"
        except (OSError, ValueError):
            return False  # gone
        if why:
            self._notices.tell_some(name, {"peer_address": connection.address, "why": why})
        return not why


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""Open connections: which there are, and which have to go when too many wait to be anybody."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


class Connection:
    """One accepted connection; `interrupt` and `close` may come from any thread."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.address = address
        self.evicted = False
        self._sock = sock
        self._closed = False
        self._lock = threading.Lock()

    @property
    def sock(self) -> socket.socket:
        """What to read from and write to."""
        return self._sock

    def wrap(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Put TLS over it; the handshake is still to be done. Raises OSError."""
        with self._lock:
            wrapped = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
            self._sock = wrapped
        return wrapped

    def interrupt(self) -> None:
        """End it at once: its thread wakes up and finds it closed."""
        with self._lock, suppress(OSError):
            if not self._closed:
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # not SSLSocket's own, which forgets its state

    def close(self) -> None:
        """Close it."""
        with self._lock, suppress(OSError):
            self._closed = True
            self._sock.close()


class Connections:
    """All open connections; those without an association are capped per address and in total.

    Above a cap the oldest one of the busiest address is interrupted, so whoever comes now gets his turn.
    """

    def __init__(self, maximum_waiting_per_host: int, maximum_waiting: int) -> None:
        self._per_host, self._total = maximum_waiting_per_host, maximum_waiting
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # oldest first
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection) -> None:
        """Add a new connection, which has no association yet."""
        with self._lock:
            self._open.add(connection)
            self._waiting[connection] = None
            self._counts[connection.address] += 1
            if self._counts[connection.address] > self._per_host:
                evicted = self._evict(connection.address)
            elif len(self._waiting) > self._total:
                evicted = self._evict(self._counts.most_common(1)[0][0])
            else:
                return
        evicted.interrupt()

    def admit(self, connection: Connection) -> None:
        """It has an association now."""
        with self._lock:
            self._admit(connection)

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        with self._lock:
            self._admit(connection)
            self._open.discard(connection)

    def make_room(self, count: int) -> None:
        """Interrupt up to `count` connections without an association, oldest ones of the busiest addresses."""
        evicted: list[Connection] = []
        with self._lock:
            while self._waiting and len(evicted) < count:
                evicted.append(self._evict(self._counts.most_common(1)[0][0]))
        for connection in evicted:
            connection.interrupt()

    def interrupt(self, *, only_waiting: bool) -> None:
        """End all connections, or those without an association."""
        with self._lock:
            chosen = list(self._waiting if only_waiting else self._open)
        for connection in chosen:
            connection.interrupt()

    def _evict(self, address: str) -> Connection:
        oldest = next(connection for connection in self._waiting if connection.address == address)
        oldest.evicted = True
        self._admit(oldest)
        return oldest

    def _admit(self, connection: Connection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._counts[connection.address] -= 1
            if self._counts[connection.address] <= 0:
                del self._counts[connection.address]

"""The DICOM upper layer on a connection: PDUs in and out, capped before they are read and by a deadline each (PS3.8 9).

Written by hand, see conformance/decisions/0010-own-acceptor.md.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# 128 presentation contexts (PS3.8 9.3.2.2) of 2 KiB: each may name all of some sixty transfer syntaxes.
MAXIMUM_ASSOCIATE_BYTES = 256 * 1024
READ_AHEAD_BYTES = 1024 * 1024  # senders write little at a time, and each call costs; several PDUs come by one
LINGER_S = 1.0
_SLICE_S = 0.25  # how soon a silent connection notices that the node wants it to end
_SMALL_BYTES = 4096
_LINGER_BYTES = 1024 * 1024
_PDV_HEADER = struct.Struct(">LBB")


class PduType(IntEnum):
    """The seven kinds of PDU (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortReason(IntEnum):
    """Why the provider aborts (PS3.8 9.3.8)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class WireError(Exception):
    """The connection can't go on; the text says why. Never leaves `acceptor.serve_connection`."""


class ProtocolError(WireError):
    """The peer broke the protocol: it is told so by an A-ABORT."""

    def __init__(self, why: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(why)
        self.reason = reason


class LateError(ProtocolError):
    """The peer did not send what was due in time."""

    def __init__(self, why: str) -> None:
        super().__init__(why, AbortReason.NOT_SPECIFIED)


class GoneError(WireError):
    """The peer has closed or reset the connection, or is deaf: there is nobody to tell anything."""


class StoppedError(ProtocolError):
    """The node stops and wants the association to end now."""

    def __init__(self) -> None:
        super().__init__("the node is stopping", AbortReason.NOT_SPECIFIED)


class Wire:
    """One connection as a stream of PDUs.

    Header and body are asked for in turn; the body is a view into the buffer, good until the next call. `ended` says
    whether the node wants the connection to end at once.
    """

    def __init__(
        self, sock: socket.socket, *, answer_timeout_s: float, ended: Callable[[], bool] = lambda: False
    ) -> None:
        self._sock = sock
        self._answer_timeout_s = answer_timeout_s
        self._ended = ended
        self._view = memoryview(bytearray(_SMALL_BYTES))
        self._start = self._end = 0
        self.heard = False

    def header(self, begin_by: float, pdu_timeout_s: float | None = None) -> tuple[int, int, float]:
        """Wait for a PDU until `begin_by`; return its type, its length, and by when it must be there as a whole.

        That is `pdu_timeout_s` after its first byte, or `begin_by` itself. Times are those of `time.monotonic`.
        Raises LateError, GoneError or StoppedError.
        """
        self._need(1, begin_by)
        whole_by = begin_by if pdu_timeout_s is None else time.monotonic() + pdu_timeout_s
        self._need(6, whole_by)
        kind, length = struct.unpack_from(">BxL", self._view, self._start)
        self._start += 6
        return kind, length, whole_by

    def body(self, length: int, whole_by: float) -> memoryview:
        """Return the next `length` bytes; the caller has capped the length. Raises as `header` does."""
        self._need(length, whole_by)
        start = self._start
        self._start += length
        return self._view[start : self._start]

    def read_ahead(self, maximum_pdu_size: int) -> None:
        """Get ready for data sets: from now on much is read at once."""
        self._rebase(max(READ_AHEAD_BYTES, maximum_pdu_size))

    def send(self, pdu: bytes) -> None:
        """Send all of it. Raises GoneError."""
        try:
            self._sock.settimeout(self._answer_timeout_s)
            self._sock.sendall(pdu)
        except TimeoutError as error:
            msg = "the sender does not take our answer"
            raise GoneError(msg) from error
        except (OSError, ValueError) as error:  # ValueError: the ssl module, on a socket that was torn
            raise GoneError(_reason(error)) from error

    def linger(self) -> None:
        """Let the peer read our last words before the connection closes: unread bytes would turn them into a reset."""
        deadline = time.monotonic() + LINGER_S
        taken = 0
        with suppress(OSError, ValueError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            while taken < _LINGER_BYTES and not self._ended():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._sock.settimeout(left)
                count = self._sock.recv_into(self._view)
                if count == 0:
                    return
                taken += count

    def _need(self, count: int, deadline: float) -> None:
        """Have `count` unread bytes in one piece."""
        if self._end - self._start >= count:
            return
        if self._start == self._end:
            self._start = self._end = 0
        if self._start + count > len(self._view):
            self._rebase(max(len(self._view), count))
        while self._end - self._start < count:
            self._receive(deadline)

    def _receive(self, deadline: float) -> None:
        while True:
            if self._ended():
                raise StoppedError
            left = deadline - time.monotonic()
            if left <= 0:
                raise LateError("the PDU was not whole in time" if self._end > self._start else "nothing came in time")
            try:
                self._sock.settimeout(min(left, _SLICE_S))
                count = self._sock.recv_into(self._view[self._end :])
            except TimeoutError:
                continue
            except (OSError, ValueError) as error:
                raise GoneError(_reason(error)) from error
            break
        if count == 0:
            msg = "the connection was closed"
            raise GoneError(msg)
        self._end += count
        self.heard = True

    def _rebase(self, size: int) -> None:
        """Move the unread bytes to the front, of a larger buffer if need be."""
        unread = self._end - self._start
        target = self._view if size <= len(self._view) else memoryview(bytearray(size))
        target[:unread] = self._view[self._start : self._end]
        self._view, self._start, self._end = target, 0, unread


def fragments(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Take a P-DATA-TF apart: presentation context ID, message control header, fragment (PS3.8 9.3.5.1, annex E)."""
    place, end = 0, len(body)
    if end == 0:
        msg = "a P-DATA-TF PDU without a value"
        raise ProtocolError(msg)
    while place < end:
        if place + 6 > end:
            msg = "a presentation data value ends within its header"
            raise ProtocolError(msg)
        length, context_id, control = _PDV_HEADER.unpack_from(body, place)
        after = place + 4 + length
        if length < 2 or after > end:
            msg = "a presentation data value does not fit into its PDU"
            raise ProtocolError(msg)
        yield context_id, control, body[place + 6 : after]
        place = after


def encode_command(context_id: int, command: bytes, maximum_length: int) -> bytes:
    """Encode a command set as P-DATA-TF PDUs that the peer can take; `maximum_length` 0 means without limit."""
    size = maximum_length - 6 if maximum_length > 6 else len(command)
    parts = [command[place : place + size] for place in range(0, len(command), size)]
    last = len(parts) - 1
    return b"".join(
        struct.pack(">BxLLBB", PduType.P_DATA, len(part) + 6, len(part) + 2, context_id, 3 if number == last else 1)
        + part
        for number, part in enumerate(parts)
    )


def encode_rejection(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BxLxBBB", PduType.ASSOCIATE_RJ, 4, result, source, reason)


def encode_abort(reason: AbortReason) -> bytes:
    """Encode an A-ABORT of the service provider (PS3.8 9.3.8)."""
    return struct.pack(">BxLxxBB", PduType.ABORT, 4, 2, reason)


def encode_release_answer() -> bytes:
    """Encode an A-RELEASE-RP (PS3.8 9.3.7)."""
    return struct.pack(">BxL4x", PduType.RELEASE_RP, 4)


def _reason(error: Exception) -> str:
    return f"the connection broke ({getattr(error, 'strerror', None) or type(error).__name__})"

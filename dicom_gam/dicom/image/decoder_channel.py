"""What goes between the service and its decoder processes: JSON messages over a Unix socket, and shared memory."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
import time
from typing import Any

import numpy as np

PIXEL_TYPE = np.dtype(np.float32)
_LENGTH = struct.Struct(">I")
_LONGEST_MESSAGE = 16 * 1024**2


def send_message(channel: socket.socket, message: dict[str, Any], deadline: float | None = None) -> None:
    """Send one message. Raises TimeoutError at the deadline (monotonic), OSError when the other side is gone."""
    content = json.dumps(message).encode()
    _until(channel, deadline)
    channel.sendall(_LENGTH.pack(len(content)) + content)


def receive_message(channel: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Receive one message. Raises TimeoutError at the deadline, EOFError when the other side is gone or raves."""
    (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size, deadline))
    if length > _LONGEST_MESSAGE:
        raise EOFError
    message = json.loads(_receive(channel, length, deadline))
    if not isinstance(message, dict):
        raise EOFError
    return message


def send_memory(channel: socket.socket, descriptor: int, deadline: float) -> None:
    """Send the descriptor of shared memory. Raises as `send_message` does."""
    _until(channel, deadline)
    socket.send_fds(channel, [b"\0"], [descriptor])


def receive_memory(channel: socket.socket) -> int:
    """Receive the descriptor of shared memory. Raises EOFError when the other side is gone."""
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        raise EOFError
    return descriptors[0]


def shared_memory(size: int) -> int:
    """A descriptor of `size` bytes of memory that no one can shrink: to read on behind its end would be fatal."""
    descriptor = os.memfd_create("radiograph", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def mapped(descriptor: int, size: int) -> mmap.mmap:
    """Shared memory as the reader sees it: without a copy, and what it writes stays its own."""
    return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _receive(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    content = bytearray()
    while len(content) < length:
        _until(channel, deadline)
        part = channel.recv(length - len(content))
        if not part:
            raise EOFError
        content += part
    return bytes(content)


def _until(channel: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        channel.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(left)

"""What the machine could do at most: bytes over loopback, and files written and synced, with nothing else around it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

_BUFFER_BYTES = 1024 * 1024


def loopback_bytes_per_second(seconds: float) -> float:
    """Copy from one process to another over TCP on 127.0.0.1, 1 MiB at a time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = get_context("spawn").Process(target=_pour, args=(server.getsockname()[1], seconds))
        sender.start()
        connection, _ = server.accept()
        buffer = bytearray(_BUFFER_BYTES)
        total, begin = 0, time.perf_counter()
        with connection:
            while count := connection.recv_into(buffer):
                total += count
        elapsed = time.perf_counter() - begin
        sender.join()
    return total / elapsed


def _pour(port: int, seconds: float) -> None:
    content = bytes(_BUFFER_BYTES)
    end = time.perf_counter() + seconds
    with socket.create_connection(("127.0.0.1", port)) as connection, suppress(ConnectionError):
        while time.perf_counter() < end:
            connection.sendall(content)


def digest_bytes_per_second(digest: Callable[[bytes], object], seconds: float) -> float:
    """Digest one piece of memory again and again."""
    content = os.urandom(_BUFFER_BYTES)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        digest(content)
        count += 1
    return count * len(content) / (time.perf_counter() - begin)


def synced_files_per_second(folder: Path, size_bytes: int, seconds: float) -> float:
    """Write files of one size, one after the other, each with fsync."""
    content = os.urandom(size_bytes)
    count, begin = 0, time.perf_counter()
    elapsed = 0.0
    while elapsed < seconds:
        path = folder / f"limit-{count}"
        with path.open("xb", buffering=0) as file:
            written = 0
            while written < size_bytes:
                written += file.write(memoryview(content)[written:])
            os.fsync(file.fileno())
        count, elapsed = count + 1, time.perf_counter() - begin
    for number in range(count):
        (folder / f"limit-{number}").unlink()
    return count / elapsed

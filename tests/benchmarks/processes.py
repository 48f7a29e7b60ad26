"""What the benches read of processes in /proc (proc(5)): the tree below one, its CPU time, memory and descriptors."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Usage:
    """One process at one moment. `rss_bytes` counts pages that it shares with others too."""

    pid: int
    what: str
    rss_bytes: int
    descriptors: int


def tree(root: int) -> list[int]:
    """The process and all its descendants; those that end meanwhile may or may not be among them."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def cpu_seconds(root: int) -> float:
    """CPU seconds of the tree, with the descendants that have ended and been waited for."""
    ticks = 0
    for pid in tree(root):
        fields = _stat(pid)
        ticks += sum(map(int, fields[11:15])) if fields else 0  # utime, stime, cutime, cstime
    return ticks / _TICKS


def rss_bytes(root: int) -> int:
    """Resident memory of the tree's processes added up."""
    return sum(_rss(pid) for pid in tree(root))


def usages(root: int) -> list[Usage]:
    """Every living process of the tree."""
    found = []
    for pid in tree(root):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            continue
        found.append(Usage(pid, " ".join(words).strip(), _rss(pid), descriptors))
    return found


def listening(root: int, port: int) -> list[int]:
    """The processes of the tree that hold a socket listening on the port."""
    sockets = _listening_sockets(port)
    return [pid for pid in tree(root) if sockets & set(_links(pid))]


def anyone_listens(port: int) -> bool:
    """Whether any process of this machine listens on the port."""
    return bool(_listening_sockets(port))


class Watch:
    """Looks at a tree many times a second while something runs: CPU seconds used, highest resident memory."""

    def __init__(self, root: int, interval_s: float = 0.05) -> None:
        self._root = root
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak_rss_bytes = 0
        self.cpu_s = 0.0

    def _look(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.peak_rss_bytes = max(self.peak_rss_bytes, rss_bytes(self._root))

    def __enter__(self) -> Self:
        self._before = cpu_seconds(self._root)
        self.peak_rss_bytes = rss_bytes(self._root)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.cpu_s = cpu_seconds(self._root) - self._before


def wait_until(condition, what: str, timeout_s: float = 30.0, poll_s: float = 0.02) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            msg = f"{what}: it did not happen within {timeout_s:.0f} s"
            raise TimeoutError(msg)
        time.sleep(poll_s)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, which is the third; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _rss(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[21]) * _PAGE if fields else 0


def _links(pid: int) -> list[str]:
    found = []
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    except OSError:
        pass
    return found


def _listening_sockets(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found

"""The receiver processes of a node: started, watched, started again when one ends, told to stop."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError
from dicom_gam.service.log_format import form_in_use
from dicom_gam.service.receiver import READY, STOP, Order

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dicom_gam.config import Settings

_log = logging.getLogger(__name__)

STARTS = 3
STOP_GRACE_S = 10.0  # the listener's own grace is shorter
FIRST_PAUSE_S = 0.2  # before a receiver that ended is started again; doubled while it keeps ending
LONGEST_PAUSE_S = 30.0


class Receivers:
    """`settings.node.receivers` processes that share one listening socket.

    `came` is called when there may be a new job; `lost` when a receiver has ended by itself, with its exit status.
    """

    def __init__(
        self, settings: Settings, listening: socket.socket, came: Callable[[], None], lost: Callable[[int], None]
    ) -> None:
        self._order = Order(settings.as_json(), listening.fileno(), _log.getEffectiveLevel(), form_in_use())
        self._came = came
        self._lost = lost
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = [
            threading.Thread(target=self._watch, args=(number,), name=f"receiver {number}", daemon=True)
            for number in range(settings.node.receivers)
        ]

    def alive(self) -> int:
        """How many of the processes are running now."""
        with self._lock:
            return sum(process.poll() is None for process in self._processes)

    def start(self) -> None:
        """Start all and wait until they accept associations. Raises ConfigError with a receiver's own words."""
        self._processes = [self._launch() for _ in self._threads]
        try:
            for number in range(len(self._processes)):
                self._wait_ready(number)
        except ConfigError:
            self.stop()
            raise
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Tell all to end, and see to it that they do. Calling it again does nothing."""
        with self._lock:
            self._stopping.set()
            processes, self._processes = self._processes, []
        for process in processes:
            _tell_to_stop(process)
        deadline = time.monotonic() + STOP_GRACE_S
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("receiver.killed pid=%d: it did not stop", process.pid)
                process.kill()
                process.wait()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for process in processes:
            _close_pipes(process)

    def _wait_ready(self, number: int) -> None:
        """Wait for one; one that was killed while it started (out of memory, say) is started again a few times."""
        for _ in range(STARTS):
            process = self._processes[number]
            line = _first_line(process)
            if line == READY:
                return
            if line:
                raise ConfigError(line.decode("utf-8", "replace").removeprefix("error ").strip())
            status = process.wait()
            _log.error("receiver.ended_at_start exit_status=%d", status)
            _close_pipes(process)
            self._processes[number] = self._launch()
        msg = f"a receiver process ends at once, {STARTS} times now (exit status {status}): see the lines above"
        raise ConfigError(msg)

    def _launch(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dicom_gam.service.receiver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._order.listening,),
            process_group=0,  # a Ctrl-C is for the node, which then tells us
        )
        assert process.stdin is not None
        process.stdin.write(self._order.line())
        process.stdin.flush()
        return process

    def _watch(self, number: int) -> None:
        """Wake the worker for what one receiver says, and start another one when it ends."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            process = self._processes[number]
            assert process.stdout is not None
            started = time.monotonic()
            while os.read(process.stdout.fileno(), 65536):
                self._came()
            if self._stopping.is_set():
                return
            status = process.wait()
            self._lost(status)
            pause_s = FIRST_PAUSE_S if time.monotonic() - started > LONGEST_PAUSE_S else pause_s * 2
            self._stopping.wait(min(pause_s, LONGEST_PAUSE_S))
            self._replace(number, process)

    def _replace(self, number: int, ended: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            _close_pipes(ended)
            replacement = self._processes[number] = self._launch()
        line = _first_line(replacement)
        if line != READY:  # it ends, which the watch notices
            _log.error("receiver.not_started %s", line.decode("utf-8", "replace").strip())


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """What it says first; empty when it ends without a word."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):  # not by readline: what follows must stay in the pipe
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            break
        line += byte
    return line


def _tell_to_stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(f"{STOP}\n".encode())
        process.stdin.close()
    except OSError:  # it has ended already
        return


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # the order could not be written: it ended at once
                continue

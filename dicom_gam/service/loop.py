"""The outermost loop of every worker thread: the one place that may catch any exception."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a worker thread fares: `step_s` is how long the step in hand has been running, None between steps.

    `failure` is what the last step failed with, empty when it did not.
    """

    name: str
    alive: bool
    step_s: float | None
    failure: str


class Loop:
    """A thread that calls `step` until it is told to stop, waiting as many seconds as `step` returns or until woken.

    A step that raises is handed to `failed`, and the next one comes after `pause_s`. `failed` must not raise.
    """

    def __init__(
        self, name: str, step: Callable[[], float], failed: Callable[[Exception], None], pause_s: float = 1.0
    ) -> None:
        self._step = step
        self._failed = failed
        self._pause_s = pause_s
        self._step_began: float | None = None
        self._failure = ""
        self._name = name
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether the loop was told to stop; a long step looks at it between its parts."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """End the current wait."""
        self._woken.set()

    def stop(self) -> None:
        """Make the step in hand the last one. Returns at once; `join` waits."""
        self._stopping.set()
        self._woken.set()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread's end; False when it took longer than `timeout_s`."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def pulse(self) -> Pulse:
        """Say how the thread fares."""
        began = self._step_began
        step_s = None if began is None else time.monotonic() - began
        return Pulse(self._name, self._thread.is_alive(), step_s, self._failure)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._step_began = time.monotonic()
            try:
                wait_s = self._step()
                self._failure = ""
            except Exception as error:  # the outermost loop: nothing may end the thread
                self._failed(error)
                self._failure = str(error) if isinstance(error, DicomGamError) else describe(error)
                wait_s = self._pause_s
            self._step_began = None
            self._woken.wait(wait_s)
            self._woken.clear()


def describe(error: Exception) -> str:
    """Say what went wrong without a foreign message, which may quote a patient's data: its type and its place."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = "" if traceback is None else f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
    return f"{type(error).__name__}{place}"

"""A guard against a race in pynetdicom: its reactor may take away the answer that a request is waiting for."""

from __future__ import annotations

import threading
import time
from typing import Any

_LOOK_S = 0.001


class Checkpoint:
    """What pynetdicom's reactor waits at, in place of its `threading.Event`; it tells whether the reactor does wait.

    Before a request pynetdicom closes the checkpoint and looks at a flag that the reactor sets before it waits. A
    reactor that is just leaving still has that flag set, goes on for one round, and drops the answer if it is there
    already ("Received unexpected C-FIND service message", Association._run_reactor of 3.0.4). On a busy machine that
    makes a study look as if it did not exist.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = True
        self._blocks = False

    def is_set(self) -> bool:
        """Whether the reactor may go on."""
        return self._open

    def set(self) -> None:
        """Let the reactor go on."""
        with self._condition:
            self._open, self._blocks = True, False
            self._condition.notify_all()

    def clear(self) -> None:
        """Have the reactor wait when it comes here next."""
        with self._condition:
            self._open = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait here, as the reactor does."""
        with self._condition:
            return self._condition.wait_for(self._passes, timeout)

    @property
    def blocks(self) -> bool:
        """Whether the reactor waits here and will not go on before `set`."""
        return self._blocks

    def _passes(self) -> bool:
        self._blocks = not self._open  # also when it was opened and closed again while the reactor woke up
        return self._open


def rest(assoc: Any) -> None:
    """Have the reactor of an association wait, before a request is sent over it."""
    checkpoint = assoc._reactor_checkpoint
    if not isinstance(checkpoint, Checkpoint):
        old, checkpoint = checkpoint, Checkpoint()
        assoc._reactor_checkpoint = checkpoint
        old.set()
    checkpoint.clear()
    while not checkpoint.blocks and assoc.is_alive():
        time.sleep(_LOOK_S)

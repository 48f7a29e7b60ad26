"""One receiver process: accepts associations on a port that the node has opened, and makes what comes durable.

`python -m dicom_gam.service.receiver`, started by `receivers.Receivers` and by nobody else. The first line on standard
input is its order; it ends at the line `stop`, or when the input ends because the node is gone. On standard output it
says `ready` or `error ...`, and then a dot for every image, which wakes the worker.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from dataclasses import asdict, dataclass

from dicom_gam.config import Settings
from dicom_gam.errors import DicomGamError
from dicom_gam.service.front_door import make_listener
from dicom_gam.service.log_format import LogForm, configure_logging
from dicom_gam.service.store import hold_intake, open_store

STOP = "stop"
READY = b"ready\n"
ORPHAN_GRACE_S = 0.5  # the node is gone; whoever starts it again waits for us


@dataclass(frozen=True, slots=True)
class Order:
    """What a receiver is told: the node's settings as JSON, the listening socket it inherits, and how to log."""

    settings: str
    listening: int
    log_level: int
    log_form: LogForm = "text"

    def line(self) -> bytes:
        """As one line of text."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> int:
    """Receive until told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the node, which then tells us
        signal.signal(number, signal.SIG_IGN)
    order = Order(**json.loads(_line()))
    configure_logging(order.log_level, order.log_form)
    try:
        _receive(Settings.model_validate_json(order.settings), socket.socket(fileno=order.listening))
    except DicomGamError as error:
        _tell(b"error " + " ".join(str(error).split()).encode() + b"\n")
        return 1
    return 0


def _receive(settings: Settings, listening: socket.socket) -> None:
    intake_lock = hold_intake(settings.node.storage)
    try:
        with open_store(settings) as store:
            if select.select([0], [], [], 0)[0]:  # the node is gone already, or has changed its mind
                return
            listener = make_listener(settings, store, _tell_of_image, listening)
            listener.start()
            os.set_blocking(1, False)
            _tell(READY)
            told = _line().strip() == STOP
            listener.stop() if told else listener.stop(ORPHAN_GRACE_S)
    finally:
        os.close(intake_lock)


def _tell_of_image() -> None:
    _tell(b".")


def _tell(words: bytes) -> None:
    try:
        os.write(1, words)
    except OSError:  # a full pipe: the node has enough to wake up for; a broken one: it is gone, which the input tells
        return


def _line() -> str:
    """Read a line from the very descriptor: a buffer would hide what comes after it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line.decode()


if __name__ == "__main__":
    sys.exit(main())

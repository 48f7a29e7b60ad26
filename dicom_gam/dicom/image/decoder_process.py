"""A process that parses and decodes received files, one at a time, within limits: python -m ...decoder_process.

Everything that reads a stranger's bytes runs in here, so that whatever they do to a parser is done to a process that
may die. It talks to `decoder_pool` over the Unix socket that is its standard input, in JSON messages with their length
before them; pixels and header go into shared memory that the parent makes, so it needs to write no file at all.

    parent                          process
    settings                    →
                                ←   {"ready"}
    {"instance", "bundle"}      →
                                ←   {"decision", "looked_up_by"}, as soon as the rules have been asked
                                ←   {"skipped"}, {"rejection"}, {"disk"}, {"memory"} or {"fault"}; or:
                                ←   {"rows", "columns", "header", "pixel_sha256", "stretched"}
    a descriptor of memory      →
                                ←   {"written"}
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_gam.config import Settings
from dicom_gam.dicom.image.decode import decode_with_header, image_header
from dicom_gam.dicom.image.decoder_channel import PIXEL_TYPE, receive_memory, receive_message, send_message
from dicom_gam.dicom.image.rules import decide
from dicom_gam.errors import StorageError
from dicom_gam.records import Decision, Decoded, Radiograph, ReceivedInstance, Rejection

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PR_SET_PDEATHSIG = 1
_STANDARD_INPUT = 0


def main() -> None:
    """Serve until the parent closes the socket, or an image has gone wrong in a way that may have left traces."""
    channel = socket.socket(fileno=_STANDARD_INPUT)
    _end_with_parent(int(sys.argv[1]))
    settings = Settings.model_validate(receive_message(channel))
    _limit(settings.decoding.memory_bytes)
    send_message(channel, {"ready": True})
    while True:
        try:
            request = receive_message(channel)
        except (EOFError, OSError):
            return
        if not _serve(channel, request, settings):
            return


def _serve(channel: socket.socket, request: dict[str, Any], settings: Settings) -> bool:
    """Answer one request; False when this process had better not go on."""
    try:
        _answer(channel, request, settings)
    except MemoryError:
        send_message(channel, {"memory": True})
        return False
    except Exception as error:  # the outermost loop of this process: a fault of ours must not pass for the parent's
        place = traceback.extract_tb(error.__traceback__)[-1]
        send_message(channel, {"fault": f"{type(error).__name__}, {Path(place.filename).name} line {place.lineno}"})
        return False
    return True


def _answer(channel: socket.socket, request: dict[str, Any], settings: Settings) -> None:
    def tell(dataset: Dataset, instance: ReceivedInstance, bundle: str) -> Decision:
        decision = decide(settings.rules, dataset, instance, bundle, settings.processing.bundle)
        send_message(channel, {"decision": asdict(decision), "looked_up_by": asdict(image_header(dataset))})
        return decision

    try:
        decoded, header = decode_with_header(_instance(request), request["bundle"], settings, tell)
    except StorageError as error:
        send_message(channel, {"disk": str(error)})
        return
    outcome = decoded.outcome
    if isinstance(outcome, Radiograph):
        _hand_over(channel, outcome, header)
    else:
        send_message(channel, _without_pixels(decoded))


def _without_pixels(decoded: Decoded) -> dict[str, Any]:
    if isinstance(decoded.outcome, Rejection):
        return {"rejection": {"reason": decoded.outcome.reason.value, "message": decoded.outcome.message}}
    return {"skipped": True}


def _instance(request: dict[str, Any]) -> ReceivedInstance:
    return ReceivedInstance(**request["instance"] | {"path": Path(request["instance"]["path"])})


def _hand_over(channel: socket.socket, radiograph: Radiograph, header: bytes) -> None:
    rows, columns = radiograph.pixels.shape
    answer = {
        "rows": rows,
        "columns": columns,
        "header": len(header),
        "pixel_sha256": radiograph.pixel_sha256,
        "stretched": radiograph.stretched,
    }
    send_message(channel, answer)
    descriptor = receive_memory(channel)
    try:
        size = radiograph.pixels.nbytes
        with mmap.mmap(descriptor, size + len(header)) as memory:
            np.frombuffer(memory, PIXEL_TYPE, rows * columns).reshape(rows, columns)[:] = radiograph.pixels
            memory[size:] = header
    finally:
        os.close(descriptor)
    send_message(channel, {"written": True})


def _end_with_parent(parent: int) -> None:
    """Have the kernel end this process when the parent's thread ends, even in the midst of decoding."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then ends this process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before that
        sys.exit(1)


def _limit(memory_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),  # a core dump would be a patient's image on the disk
        (resource.RLIMIT_FSIZE, 0),  # writes no file; memory that the parent has sized may still be filled
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()

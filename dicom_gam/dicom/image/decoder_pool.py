"""Decoding in several processes that may die: an image that harms its decoder harms nothing else."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from mmap import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_gam.dicom.image.acceptance import Refused
from dicom_gam.dicom.image.decode import decode_task
from dicom_gam.dicom.image.decoder_channel import (
    PIXEL_TYPE,
    mapped,
    receive_message,
    send_memory,
    send_message,
    shared_memory,
)
from dicom_gam.dicom.image.part10 import HEADER_LIMIT, read_header
from dicom_gam.dicom.image.rules import decide
from dicom_gam.errors import DicomGamError, StorageError
from dicom_gam.records import Decision, Decoded, ImageHeader, Radiograph, Reason, Rejection

if TYPE_CHECKING:
    from types import TracebackType

    from pydicom.dataset import Dataset

    from dicom_gam.config import Settings
    from dicom_gam.records import ReceivedInstance, Task

COMMAND = (sys.executable, "-P", "-m", "dicom_gam.dicom.image.decoder_process")
IMAGES_PER_PROCESS = 500  # so that what a decoder library leaks stays small
_START_S = 120.0  # two seconds of imports, on a machine that may be very busy
_END_S = 10.0
_LONGEST_HEADER = HEADER_LIMIT + 2 * 1024**2  # and file meta information
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads that would only cost address space
_Work = tuple["Task", "Future[Decoded]"]


class DecoderPool:
    """`settings.decoding.processes` decoders, warm and shared by threads; with 0 it decodes in this process.

    Each has a thread that speaks to it, and that is the only one to touch it.
    """

    def __init__(self, settings: Settings, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(command,), name=f"decoder {number}", daemon=True)
            for number in range(settings.decoding.processes)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self, tasks: Sequence[Task]) -> list[Decoded]:
        """Decode a batch, in its order. An image that can't be decoded, or is too costly, is a Rejection.

        Raises StorageError when our own disk fails, and DicomGamError when no decoder process can be started: neither
        is a judgement on an image. All other images of the batch have been decoded by then.
        """
        if not self._threads:
            return [decode_task(task, self._settings, self._decide) for task in tasks]
        works: list[_Work] = [(task, Future()) for task in tasks]
        with self._lock:
            if self._closed:
                msg = "the decoders have been shut down: start the service again"
                raise DicomGamError(msg)
            for work in works:
                self._waiting.put(work)
        for _, future in works:
            future.exception()  # waits
        return [future.result() for _, future in works]

    def close(self) -> None:
        """Finish what has been asked for, then end every process."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decide(self, dataset: Dataset, instance: ReceivedInstance, bundle: str) -> Decision:
        return decide(self._settings.rules, dataset, instance, bundle, self._settings.processing.bundle)

    def _serve(self, command: Sequence[str]) -> None:
        decoder = _Decoder(self._settings, command)
        decoder.warm()
        while (work := self._waiting.get()) is not None:
            _do(work, decoder)
            del work  # or the last image would be kept until the next one comes
        decoder.close()


def _do(work: _Work, decoder: _Decoder) -> None:
    task, future = work
    try:
        future.set_result(decoder.decode(task))
    except Exception as error:  # the outermost loop of the thread: whoever waits is told
        future.set_exception(error)


class _Decoder:
    """One decoder process, replaced by a fresh one whenever it has ended."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self._settings = settings
        self._command = command
        self._process: _Process | None = None

    def warm(self) -> None:
        """Start the process ahead of the first image; a failure is told with that."""
        try:
            self._process = self._start()
        except DicomGamError:
            self._process = None

    def decode(self, task: Task) -> Decoded:
        """Decode one image. Raises StorageError, or DicomGamError when no process can be started."""
        process = self._ready()
        decided: list[tuple[Decision, ImageHeader]] = []
        timeout_s = self._settings.decoding.timeout_s
        try:
            outcome = self._ask(process, task, decided, time.monotonic() + timeout_s)
        except TimeoutError:
            process.end(now=True)
            outcome = _too_slow(timeout_s)
        except (EOFError, OSError, LookupError, TypeError, ValueError):  # it is gone, or speaks nonsense
            outcome = _died(process.end())
        decision, header = decided[0] if decided else (Decision(), None)
        return Decoded(decision, outcome, header)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _ready(self) -> _Process:
        process = self._process
        if process is None or process.images >= IMAGES_PER_PROCESS or not process.alive:
            self.close()
            process = self._process = self._start()
        process.images += 1
        return process

    def _start(self) -> _Process:
        return _Process(self._settings, self._command)

    def _ask(
        self, process: _Process, task: Task, decided: list[tuple[Decision, ImageHeader]], deadline: float
    ) -> Radiograph | Rejection | None:
        channel = process.channel
        instance = asdict(task.instance) | {"path": os.fspath(task.instance.path)}
        send_message(channel, {"instance": instance, "bundle": task.bundle}, deadline)
        answer = receive_message(channel, deadline)
        if "decision" in answer:
            decided.append((_decision(answer["decision"]), ImageHeader(**answer["looked_up_by"])))
            answer = receive_message(channel, deadline)
        if "rejection" in answer:
            return Rejection(Reason(answer["rejection"]["reason"]), answer["rejection"]["message"])
        if "disk" in answer:
            raise StorageError(answer["disk"])
        if "memory" in answer or "fault" in answer:
            self.close()  # it ends by itself: what it has in memory is not to be relied on
            return _too_large(self._settings.decoding.memory_bytes) if "memory" in answer else _faulty(answer["fault"])
        if "skipped" in answer:
            return None
        return self._take(channel, task.instance, answer, deadline)

    def _take(
        self, channel: socket.socket, instance: ReceivedInstance, answer: dict[str, Any], deadline: float
    ) -> Radiograph | Rejection:
        rows, columns, header = (int(answer[key]) for key in ("rows", "columns", "header"))
        if not 0 < rows * columns <= self._settings.intake.maximum_pixels or not 0 < header <= _LONGEST_HEADER:
            raise EOFError
        size = rows * columns * PIXEL_TYPE.itemsize
        try:
            memory = _received(channel, size + header, deadline)
        except StorageError:
            self.close()  # which still waits for the memory
            raise
        pixels = np.frombuffer(memory, PIXEL_TYPE, rows * columns).reshape(rows, columns)
        try:
            dataset = read_header(memory[size:])
        except Refused as refused:  # where nesting takes this side to Python's limit and not the other
            return refused.rejection
        return Radiograph(instance, dataset, pixels, str(answer["pixel_sha256"]), _ends(answer["stretched"]))


class _Process:
    """A decoder process that has started and waits for its first image. Raises DicomGamError when it can't."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self.images = 0
        self.channel, theirs = socket.socketpair()
        with theirs, os.fdopen(os.memfd_create("errors"), "w+b") as errors:
            try:
                self._process = subprocess.Popen(
                    [*command, str(os.getpid())], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=errors,
                    env={**os.environ, **_ONE_THREAD}, process_group=0,
                )  # fmt: skip
            except OSError as error:
                self.channel.close()
                raise _unstartable(error.strerror or "unknown reason") from error
            theirs.close()
            try:
                deadline = time.monotonic() + _START_S
                send_message(self.channel, settings.model_dump(mode="json", exclude_unset=True), deadline)
                receive_message(self.channel, deadline)  # ready
            except (EOFError, OSError, ValueError) as error:
                code = self.end()
                errors.seek(0)
                lines = errors.read().decode(errors="replace").split("\n")
                raise _unstartable(f"{_ending(code)} {' '.join(lines[-2:])}".strip()) from error

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, *, now: bool = False) -> int:
        """End it, if it has not ended by itself: its exit status, negative for a signal."""
        if now:
            self._process.kill()
        self.channel.close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _received(channel: socket.socket, size: int, deadline: float) -> mmap:
    """Give the process memory, and map it when it has written. Raises StorageError when there is none to be had."""
    with _our_memory(size):
        descriptor = shared_memory(size)
    try:
        send_memory(channel, descriptor, deadline)
        receive_message(channel, deadline)  # written
        with _our_memory(size):
            return mapped(descriptor, size)
    finally:
        os.close(descriptor)


@contextmanager
def _our_memory(size: int) -> Iterator[None]:
    """Say of a failure in the block that it is not the image's."""
    try:
        yield
    except OSError as error:
        msg = (
            f"no shared memory of {size} bytes for a decoded image can be had ({error.strerror}): give the service more"
            " memory or descriptors, or lower processing.batch_size"
        )
        raise StorageError(msg) from error


def _ends(message: Any) -> tuple[float, float] | None:
    if message is None:
        return None
    low, high = (float(end) for end in message)
    return low, high


def _decision(message: dict[str, Any]) -> Decision:
    destinations = message["destinations"]
    return Decision(
        message["rule"], message["bundle"], None if destinations is None else tuple(destinations), message["skipped"]
    )


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def _unstartable(detail: str) -> DicomGamError:
    return DicomGamError(
        f"a decoder process can't be started ({detail}): check the installation with `{' '.join(COMMAND[:3])} "
        "dicom_gam --help`, and the limits on processes and memory (decoding.processes, decoding.memory_bytes)"
    )


def _too_slow(timeout_s: float) -> Rejection:
    return Rejection(
        Reason.TOO_COSTLY,
        f"The image: takes longer than {timeout_s:g} s to decode, so its decoder was ended. "
        "If the image is right, raise decoding.timeout_s.",
    )


def _too_large(memory_bytes: int) -> Rejection:
    return Rejection(
        Reason.TOO_COSTLY,
        f"The image: needs more than {memory_bytes} bytes of memory to decode. "
        "If the image is right, raise decoding.memory_bytes.",
    )


def _died(code: int) -> Rejection:
    if code == -signal.SIGKILL:
        return Rejection(
            Reason.TOO_COSTLY,
            "The image: its decoder was killed from outside (SIGKILL), as the system does when memory runs out. "
            "Look for that in the system's log, and have the image processed again.",
        )
    return Rejection(
        Reason.UNDECODABLE_PIXELS,
        f"The image: its decoder process died of it ({_ending(code)}), so nothing that it gave is trusted. "
        "Send the image again, uncompressed or from another source.",
    )


def _faulty(place: str) -> Rejection:
    return Rejection(
        Reason.UNDECODABLE_PIXELS,
        f"The image: can't be decoded because of a fault in dicom_gam ({place}). "
        "Report that place to the developers, and send the image again from another source.",
    )

"""A file handed in over HTTP is taken in as if it had been sent by C-STORE, with who handed it in on record.

Of a stranger's bytes no more is read than the file meta information and the first elements of the data set: who it
says it is. What is kept is the data set as it came under a header of ours, so that the same image sent by C-STORE is
known as the same.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dicom_gam.dicom.arrival import Arrival, part_10_header
from dicom_gam.dicom.identity import LOOK_BYTES, is_uid, look
from dicom_gam.dicom.image.acceptance import (
    ACCEPTED_SOP_CLASSES,
    ACCEPTED_TRANSFER_SYNTAXES,
    OWN_IMAGE_TYPE,
    Refused,
)
from dicom_gam.dicom.image.part10 import read_meta
from dicom_gam.errors import DicomGamError, StorageError
from dicom_gam.records import Reason, Rejection
from dicom_gam.service.intake import Intake
from dicom_gam.service.store import hold_intake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store
    from dicom_gam.storage.protocols import AuditTrail
    from dicom_gam.storage.rows import Receipt

SUBMITTER = "HTTP_API"  # what stands for the calling AE title: in rules, tables and the watch over drift
HEAD_BYTES = 64 * 1024  # file meta information is well below a kilobyte
_PART_BYTES = 1024**2
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NoRoomError(StorageError):
    """The disk is full, or has less left than node.minimum_free_bytes."""


class TooLargeError(DicomGamError):
    """The file is larger than node.maximum_instance_bytes."""


class BrokenOffError(DicomGamError):
    """The stream ended before as many bytes came as were announced."""


class PartReader(Protocol):
    """A stream of bytes, such as the body of a request."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


def submit(
    store: Store,
    settings: Settings,
    stream: PartReader,
    *,
    by: str,
    peer_address: str,
    announced_bytes: int | None = None,
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> Receipt | Rejection:
    """Take in a Part 10 file, part by part; on return it is durable and waits for the worker.

    A Rejection says why it is not taken in; nothing of it is left then. Raises NoRoomError, TooLargeError,
    BrokenOffError when the stream has not just the `announced_bytes`, another StorageError, AuditError, or whatever
    `stream` raises; then nothing of it is left either, but after an AuditError.
    """
    trail = _Signed(store.audit, by)
    try:
        if free(store.folder) < settings.node.minimum_free_bytes:
            raise NoRoomError(
                f"{store.folder} has less free space than node.minimum_free_bytes keeps back: free some space"
            )
        head = _read_head(stream)
        found = _identify(head, settings.intake.extra_sop_classes)
        if isinstance(found, Rejection):
            trail.append("instance.refused", peer_address=peer_address, reason=found.reason.value, why=found.message)
            return found
        uids, start = found
        arrival = Arrival(*uids, SUBMITTER, settings.node.ae_title, peer_address, part_10_header(*uids))
        limits = _Limits(settings.node.maximum_instance_bytes, announced_bytes, len(head))
        return _take(store, trail, arrival, (head[start:], stream), limits)
    except StorageError as error:
        cause = error.__cause__
        full = isinstance(cause, OSError) and cause.errno in _FULL
        if full or free(store.folder) < settings.node.minimum_free_bytes:
            raise NoRoomError(str(error)) from error
        raise


class _Signed:
    """An audit log whose records say who handed in what they are about."""

    def __init__(self, audit: AuditTrail, by: str) -> None:
        self._audit, self._by = audit, by

    def append(self, event: str, **keys: Any) -> int:
        """Record one event and return its number."""
        return self._audit.append(event, by=self._by, **keys)

    def extend(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Record several events at once and return the last one's number."""
        return self._audit.extend([(event, {"by": self._by, **keys}) for event, keys in events])


@dataclass(slots=True)
class _Limits:
    """Counts the bytes of a file. A server that takes a broken connection for the end must not make half an image."""

    maximum_bytes: int
    announced_bytes: int | None
    size_bytes: int

    def add(self, count: int) -> None:
        """Raise TooLargeError when it has become too large."""
        self.size_bytes += count
        if self.size_bytes > self.maximum_bytes:
            raise TooLargeError(
                f"the file is larger than {self.maximum_bytes} bytes: if it is a radiograph, "
                "raise node.maximum_instance_bytes"
            )

    def end(self) -> None:
        """Raise BrokenOffError when it is not whole."""
        if self.announced_bytes not in (None, self.size_bytes):
            raise BrokenOffError(
                f"{self.size_bytes} bytes came and {self.announced_bytes} were announced, so nothing was kept: "
                "send the file again"
            )


def _take(
    store: Store, trail: _Signed, arrival: Arrival, content: tuple[bytes, PartReader], limits: _Limits
) -> Receipt:
    part, stream = content
    descriptor = hold_intake(store.folder)
    try:
        reception = Intake(store.inbox, store.jobs, trail, lambda: None).receive(arrival)
        try:
            while part:
                reception.write(part)
                part = stream.read(_PART_BYTES)
                limits.add(len(part))
            limits.end()
            return reception.commit()
        finally:
            reception.abandon()
    finally:
        os.close(descriptor)


def _read_head(stream: PartReader) -> bytes:
    head = bytearray()
    while len(head) < HEAD_BYTES + LOOK_BYTES:
        part = stream.read(HEAD_BYTES + LOOK_BYTES - len(head))
        if not part:
            break
        head += part
    return bytes(head)


def _identify(head: bytes, extra_sop_classes: Sequence[str]) -> tuple[tuple[str, str, str], int] | Rejection:
    """SOP Class, SOP Instance and Transfer Syntax UID, and where the data set begins; or why it is not wanted."""
    try:
        meta, start = read_meta(head)
    except Refused as refused:
        return refused.rejection
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if start > HEAD_BYTES or start >= len(head):
        return Rejection(Reason.UNREADABLE, "The file has no data set after its header. Send it again from its source.")
    if syntax not in ACCEPTED_TRANSFER_SYNTAXES:
        return Rejection(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            f"Transfer Syntax UID {syntax if is_uid(syntax) else '(not a UID)'}: no strict decoder for it is built in. "
            "Send the image in one of the transfer syntaxes of the conformance statement, e.g. uncompressed.",
        )
    inside = look(memoryview(head)[start:], syntax)
    said = (str(meta.get("MediaStorageSOPClassUID", "")), str(meta.get("MediaStorageSOPInstanceUID", "")))
    sop_class = inside.sop_class_uid or said[0]
    sop_instance = inside.sop_instance_uid or said[1]
    if not is_uid(sop_class) or not is_uid(sop_instance) or said not in ((sop_class, sop_instance), ("", "")):
        return Rejection(
            Reason.INVALID_ATTRIBUTES,
            "SOP Class UID or SOP Instance UID is missing or not a UID, or differs between the file's header and its "
            "data set, so it can't be told what this is. Have the sending system write them and send it again.",
        )
    why = _why_unwanted(sop_class, head[start:], extra_sop_classes)
    return why or ((sop_class, sop_instance, syntax), start)


def _why_unwanted(sop_class: str, dataset: bytes, extra_sop_classes: Sequence[str]) -> Rejection | None:
    # Image Type (0008,0008) comes before the UIDs. A result of ours that hides deeper is refused by the decoder.
    before, found, _ = dataset.partition(sop_class.encode("ascii"))
    if found and f"\\{OWN_IMAGE_TYPE}".encode("ascii") in before:
        return Rejection(
            Reason.OWN_RESULT,
            "This is itself a result of dicom_gam, and results are never classified again. Submit the image instead.",
        )
    if sop_class not in (*ACCEPTED_SOP_CLASSES, *extra_sop_classes):
        return Rejection(
            Reason.NOT_ACCEPTED_SOP_CLASS,
            f"SOP Class UID {sop_class} is not a radiograph's. "
            "Send CR, DX, MG, intra-oral or scanned radiographs, or list the class in intake.extra_sop_classes.",
        )
    return None

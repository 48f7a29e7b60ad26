"""A received file becomes a radiograph, or a named refusal; never an exception, whatever the file holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from blake3 import blake3

from dicom_gam.dicom.identity import LOOK_BYTES, Identity, is_uid, look
from dicom_gam.dicom.image.acceptance import PixelLayout, Refused, read_layout, refuse_unaccepted
from dicom_gam.dicom.image.display import display
from dicom_gam.dicom.image.part10 import (
    HEADER_LIMIT,
    PYDICOM_ERRORS,
    Part10,
    encoded_header,
    inflate_pixels,
    no_pixels,
    read_meta,
    read_part10,
)
from dicom_gam.dicom.image.stored_pixels import pixel_digest, read_stored_pixels
from dicom_gam.errors import StorageError
from dicom_gam.records import Decision, Decoded, ImageHeader, Radiograph, Reason, ReceivedInstance, Rejection

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset, FileMetaDataset

    from dicom_gam.config import IntakeSettings, Settings
    from dicom_gam.records import Task

# What is to be done with an instance, by its header; the text is the bundle that was asked for, or empty.
Decide = Callable[["Dataset", ReceivedInstance, str], Decision]

_META_LIMIT = 1024**2  # file meta information is well below a kilobyte
_WIDEST_PIXEL = 2  # bytes
_LONGEST_TEXT = 256  # characters of a value that people look images up by
_LOOKED_UP_BY = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "accession_number": "AccessionNumber",
    "study_instance_uid": "StudyInstanceUID",
    "study_date": "StudyDate",
    "study_description": "StudyDescription",
    "modality": "Modality",
    "body_part_examined": "BodyPartExamined",
}


def read_instance(
    path: Path, *, calling_ae_title: str = "", called_ae_title: str = "", peer_address: str = ""
) -> ReceivedInstance | Rejection:
    """Read who a file says it is, and digest it, in bounded memory and without decoding its pixels."""
    try:
        with path.open("rb") as file:
            head = file.read(_META_LIMIT + LOOK_BYTES)
            file.seek(0)
            digest = hashlib.file_digest(file, cast("Any", blake3)).hexdigest()
            size = os.fstat(file.fileno()).st_size
        meta, start = read_meta(head)
    except OSError as error:
        return _unreadable_file(error)
    except Refused as refused:
        return refused.rejection
    syntax = str(meta.TransferSyntaxUID)
    identity = look(memoryview(head)[start:], syntax)
    sop_class, sop_instance = _identify(identity, meta)
    if not is_uid(sop_class) or not is_uid(sop_instance):
        return Rejection(
            Reason.INVALID_ATTRIBUTES,
            "SOP Class UID and SOP Instance UID: one of them is missing or not a UID, so it can't be told what this is."
            " Have the sending system write them and send the object again.",
        )
    return ReceivedInstance(
        path, sop_class, sop_instance, syntax, digest, size, calling_ae_title, called_ae_title, peer_address
    )


def decode_radiograph(instance: ReceivedInstance, intake: IntakeSettings) -> Radiograph | Rejection:
    """Decode one radiograph as a viewer would show it; every bad input is a Rejection that names its reason.

    Raises StorageError when our own disk can't give the file: that says nothing about the image, so try again later.
    """
    try:
        file = _read_bounded(instance.path, intake)
        part10 = read_part10(file)
        refuse_unaccepted(part10.dataset, part10.transfer_syntax_uid, intake)
        return _radiograph(instance, file, part10, intake)
    except OSError as error:
        raise _disk_failed(error) from error
    except Refused as refused:
        return refused.rejection


def decode_task(task: Task, settings: Settings, decide: Decide) -> Decoded:
    """Decide by the header what is wanted of a received file and, unless it is skipped, decode it.

    Raises StorageError when our own disk can't give the very bytes that were received: not the image's fault.
    """
    return decode_with_header(task.instance, task.bundle, settings, decide)[0]


def decode_with_header(
    instance: ReceivedInstance, bundle: str, settings: Settings, decide: Decide
) -> tuple[Decoded, bytes]:
    """As `decode_task`; and the radiograph's encoded header, empty when there is no radiograph."""
    decision, header = Decision(), None
    try:
        file = _read_bounded(instance.path, settings.intake)
        _check_digest(file, instance)
        part10 = read_part10(file)
        header = image_header(part10.dataset)
        unaccepted = _unaccepted(part10, settings.intake)
        if unaccepted is not None and unaccepted.rejection.reason is Reason.OWN_RESULT:
            raise unaccepted  # before any rule: results must never go round in a loop
        decision = decide(part10.dataset, instance, bundle)
        if decision.skipped is not None:
            return Decoded(decision, None, header), b""
        if unaccepted is not None:
            raise unaccepted
        radiograph = _radiograph(instance, file, part10, settings.intake)
    except OSError as error:
        raise _disk_failed(error) from error
    except Refused as refused:
        return Decoded(decision, refused.rejection, header), b""
    return Decoded(decision, radiograph, header), encoded_header(file, part10)


def image_header(dataset: Dataset) -> ImageHeader:
    """What people look an image up by; a value that can't be read as text counts as empty, and the rest is cut."""
    found = {name: _text(dataset, keyword) for name, keyword in _LOOKED_UP_BY.items()}
    if not is_uid(found["study_instance_uid"]):
        found["study_instance_uid"] = ""
    return ImageHeader(**found)


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        text = "" if value is None else str(value)
    except PYDICOM_ERRORS:
        return ""
    return "".join(char for char in text if char.isprintable()).strip()[:_LONGEST_TEXT]


def _unaccepted(part10: Part10, intake: IntakeSettings) -> Refused | None:
    try:
        refuse_unaccepted(part10.dataset, part10.transfer_syntax_uid, intake)
    except Refused as refused:
        return refused
    return None


def _radiograph(instance: ReceivedInstance, file: bytes, part10: Part10, intake: IntakeSettings) -> Radiograph:
    dataset = part10.dataset
    if dataset.SOPInstanceUID != instance.sop_instance_uid:
        raise Refused(
            Reason.INVALID_ATTRIBUTES,
            "SOP Instance UID in the data set is not the one the image was sent under. "
            "Have the sending system correct one of them and send the image again.",
        )
    if part10.pixel_offset is None:
        raise no_pixels()
    layout: PixelLayout = read_layout(dataset, intake)
    stored = read_stored_pixels(inflate_pixels(file, part10, layout.length), layout)
    pixels, stretched = display(stored, dataset, layout)
    return Radiograph(instance, dataset, pixels, pixel_digest(stored), stretched)


def _check_digest(file: bytes, instance: ReceivedInstance) -> None:
    if instance.digest and blake3(file).hexdigest() != instance.digest:
        msg = (
            f"the received file of {instance.sop_instance_uid} has changed on our own disk since it came, so it is not"
            " used: check the disk and its file system, and have the image sent again"
        )
        raise StorageError(msg)


def _disk_failed(error: OSError) -> StorageError:
    return StorageError(
        f"a received file can't be read ({error.strerror}): check the disk and the storage folder's permissions"
    )


def _read_bounded(path: Path, intake: IntakeSettings) -> bytes:
    limit = HEADER_LIMIT + _WIDEST_PIXEL * intake.maximum_pixels
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise Refused(
                Reason.ABSURD_DIMENSIONS,
                f"The file has {size} bytes, more than an image of intake.maximum_pixels can need ({limit}). "
                "If the image is right, raise intake.maximum_pixels.",
            )
        return file.read()


def _identify(identity: Identity, meta: FileMetaDataset) -> tuple[str, str]:
    """The data set's own UIDs, or those of the file meta information where it has none."""
    return (
        identity.sop_class_uid or str(meta.get("MediaStorageSOPClassUID", "")),
        identity.sop_instance_uid or str(meta.get("MediaStorageSOPInstanceUID", "")),
    )


def _unreadable_file(error: OSError) -> Rejection:
    return Rejection(
        Reason.UNREADABLE,
        f"The file can't be opened or read ({error.strerror}). Check that it exists and may be read by this account.",
    )

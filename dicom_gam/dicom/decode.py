"""A received file becomes a radiograph, or a named refusal; never an exception, whatever the file holds."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from dicom_gam.dicom.acceptance import PixelLayout, Refused, read_layout, refuse_unaccepted
from dicom_gam.dicom.display import display
from dicom_gam.dicom.identity import LOOK_BYTES, Identity, is_uid, look
from dicom_gam.dicom.part10 import HEADER_LIMIT, inflate_pixels, no_pixels, read_meta, read_part10
from dicom_gam.dicom.stored_pixels import pixel_digest, read_stored_pixels
from dicom_gam.errors import StorageError
from dicom_gam.records import Radiograph, Reason, ReceivedInstance, Rejection

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import FileMetaDataset

    from dicom_gam.config import IntakeSettings

_META_LIMIT = 1024**2  # file meta information is well below a kilobyte
_WIDEST_PIXEL = 2  # bytes


def read_instance(
    path: Path, *, calling_ae_title: str = "", called_ae_title: str = "", peer_address: str = ""
) -> ReceivedInstance | Rejection:
    """Read who a file says it is, and digest it, in bounded memory and without decoding its pixels."""
    try:
        with path.open("rb") as file:
            head = file.read(_META_LIMIT + LOOK_BYTES)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
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
        return _decode(instance, intake)
    except OSError as error:
        msg = f"a received file can't be read ({error.strerror}): check the disk and the storage folder's permissions"
        raise StorageError(msg) from error
    except Refused as refused:
        return refused.rejection


def _decode(instance: ReceivedInstance, intake: IntakeSettings) -> Radiograph:
    file = _read_bounded(instance.path, HEADER_LIMIT + _WIDEST_PIXEL * intake.maximum_pixels)
    part10 = read_part10(file)
    dataset = part10.dataset
    refuse_unaccepted(dataset, part10.transfer_syntax_uid, intake)
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
    return Radiograph(instance, dataset, display(stored, dataset, layout), pixel_digest(stored))


def _read_bounded(path: Path, limit: int) -> bytes:
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

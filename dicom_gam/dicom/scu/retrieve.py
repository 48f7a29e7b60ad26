"""Getting studies from an archive: what it lists, what of that is wanted, and how an instance that comes is checked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from dicom_gam.dicom.arrival import Arrival, part_10_header
from dicom_gam.dicom.identity import is_uid, look
from dicom_gam.dicom.image.acceptance import (
    ACCEPTED_SOP_CLASSES,
    ACCEPTED_TRANSFER_SYNTAXES,
    RADIOGRAPHIC_MODALITIES,
    SECONDARY_CAPTURE_SOP_CLASSES,
)
from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dicom_gam.dicom.arrival import Receive


class RetrieveError(DicomGamError):
    """A source can't be reached, refuses to answer, or answers what makes no sense."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One instance that a source says it has; `sop_class_uid` and `modality` are empty where it does not say."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str = ""
    modality: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one instance: `receipt` is what `Reception.commit` returned, or `why` says why there is none."""

    sop_instance_uid: str
    receipt: object = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Our side of a retrieval: who we are, what we want, and where it goes.

    `calling_ae_title` and `peer_address` are what arrivals are said to come from.
    """

    ae_title: str
    calling_ae_title: str
    peer_address: str
    sop_classes: tuple[str, ...]
    maximum_instance_bytes: int
    receive: Receive


class RemoteArchive(Protocol):
    """An archive that studies are got from, whatever it speaks."""

    def find(self, study_instance_uid: str) -> list[Listed]:
        """Every instance that it has of a study, none when it knows no such study. Raises RetrieveError."""

    def get(self, listed: Sequence[Listed], done: Callable[[Taken], None]) -> None:
        """Have the instances come; `done` is told of each of them once. Raises RetrieveError when it all breaks off."""


def why_not_wanted(listed: Listed, extra_sop_classes: Sequence[str]) -> str:
    """Why an instance is not worth getting, because it would be refused as no radiograph; empty when it is wanted."""
    sop_class_uid, modality = listed.sop_class_uid, listed.modality
    if sop_class_uid in extra_sop_classes:
        return ""
    radiographic = modality in RADIOGRAPHIC_MODALITIES
    if not sop_class_uid:
        return "" if radiographic or not modality else "another modality"
    if sop_class_uid not in ACCEPTED_SOP_CLASSES:
        return "another SOP class"
    if sop_class_uid in SECONDARY_CAPTURE_SOP_CLASSES and modality and not radiographic:
        return "Secondary Capture of another modality"
    return ""


def take(
    station: Station, announced: Listed, said: tuple[str, str, str], dataset: Iterable[bytes | memoryview]
) -> object:
    """Take in one instance and return the receipt. Raises RetrieveError, or what `station.receive` raises.

    `said` is SOP Class, SOP Instance and Transfer Syntax UID by the command or the file header that came with it. The
    first part of `dataset` is what the identity of the data set is told from, so it should have `identity.LOOK_BYTES`.
    """
    parts = iter(dataset)
    first = next(parts, b"")
    why = _contradiction(station, announced, said, memoryview(first))
    if why:
        raise RetrieveError(why)
    sop_class_uid, sop_instance_uid, transfer_syntax_uid = said
    reception = station.receive(
        Arrival(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title=station.calling_ae_title,
            called_ae_title=station.ae_title,
            peer_address=station.peer_address,
            header=part_10_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid),
        )
    )
    try:
        size = 0
        for part in chain((first,), parts):
            size += len(part)
            if size > station.maximum_instance_bytes:
                raise RetrieveError(
                    f"it is larger than {station.maximum_instance_bytes} bytes: if it is a radiograph, "
                    "raise node.maximum_instance_bytes"
                )
            reception.write(part)
        return reception.commit()
    finally:
        reception.abandon()


def _contradiction(station: Station, announced: Listed, said: tuple[str, str, str], head: memoryview) -> str:
    """Why what came can't be what was asked for; empty when nothing speaks against it."""
    sop_class_uid, sop_instance_uid, transfer_syntax_uid = said
    if not head:
        return "the source sent an empty data set: look at the instance there"
    if sop_instance_uid != announced.sop_instance_uid:
        return "the source sent another SOP Instance UID than the one that was asked for: look at its log"
    if not is_uid(sop_class_uid) or sop_class_uid not in station.sop_classes:
        return "the source sent an object of a SOP class that was not asked for: look at the instance there"
    if announced.sop_class_uid not in ("", sop_class_uid):
        return "the source sent another SOP Class UID than it had announced: look at the instance there"
    if transfer_syntax_uid not in ACCEPTED_TRANSFER_SYNTAXES:
        name = transfer_syntax_uid if is_uid(transfer_syntax_uid) else "(not a UID)"
        return f"the source sent it in Transfer Syntax UID {name}, for which no strict decoder is built in"
    found = look(head, transfer_syntax_uid)
    if found.sop_instance_uid not in (None, sop_instance_uid):
        return "its data set holds another SOP Instance UID than was asked for: look at the instance at the source"
    if found.sop_class_uid not in (None, sop_class_uid):
        return "its data set holds another SOP Class UID than was announced: look at the instance at the source"
    return ""

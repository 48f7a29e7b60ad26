"""The way out: a C-STORE SCU that sends finished Part 10 files over one association."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import build_context

from dicom_gam.dicom.scu.compress import can_be_jpeg_ls, compress_to_jpeg_ls
from dicom_gam.dicom.scu.reactor import rest
from dicom_gam.dicom.scu.requestor import (
    MAXIMUM_CONTEXTS,
    NothingAcceptedError,
    association,
    describe,
    native_context,
)
from dicom_gam.dicom.statuses import explain, is_stored
from dicom_gam.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pydicom.dataset import FileDataset
    from pynetdicom.presentation import PresentationContext

    from dicom_gam.sections import Destination

_ECHO = "1.2.840.10008.1.1"  # the Verification SOP class
# What an object may be re-encoded as. Big endian is not among them: it would have every word of the pixels swapped,
# is retired (PS3.5 A.3), and who knows it knows little endian too. Nor is deflated, which nobody has alone.
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_UNPACKABLE = frozenset({
    JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL, RLELossless,
})  # fmt: skip
_CONVERTIBLE = _UNPACKABLE | {*_NATIVE, DeflatedExplicitVRLittleEndian}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the destination said about one object; `status` is None when it could not be offered at all.

    `hopeless`: another try won't help. `broken`: the association or connection ended over this object.
    """

    stored: bool
    status: int | None
    words: str
    hopeless: bool = False
    broken: bool = False


UNREADABLE = Answer(
    stored=False,
    status=None,
    words="it is no DICOM file, so it can't be sent: look at our own disk",
    hopeless=True,
)


def send(destination: Destination, calling_ae_title: str, files: Sequence[bytes]) -> Iterator[Answer]:
    """Send complete Part 10 files over one association and yield the answers, in order, as they come.

    Raises DeliveryError when the destination can't be reached or refuses the association. The iterator ends early
    after a `broken` answer, or when the destination has ended the association between two objects: what has no answer
    then is to be sent again. Closing it early releases the association.
    """
    for group in _groups(destination, [read_file(content) for content in files]):
        if not (yield from _send_group(destination, calling_ae_title, group)):
            return


def echo(destination: Destination, calling_ae_title: str) -> None:
    """Ask the destination for a C-ECHO. Raises DeliveryError that says what is wrong."""
    with association(destination, calling_ae_title, [native_context(_ECHO)]) as assoc:
        rest(assoc)
        status = assoc.send_c_echo()
        if "Status" not in status:
            msg = f"{describe(destination)} does not answer C-ECHO: see to its log"
            raise DeliveryError(msg)
        if status.Status != 0x0000:
            msg = f"{describe(destination)} answers C-ECHO with {explain(status.Status)}"
            raise DeliveryError(msg)


def read_file(content: bytes) -> FileDataset | None:
    """Parse a Part 10 file; None when it is none, or does not say what it is."""
    try:
        ds = dcmread(io.BytesIO(content))
    except (InvalidDicomError, EOFError):
        return None
    named = "SOPClassUID" in ds and "SOPInstanceUID" in ds and "TransferSyntaxUID" in ds.file_meta
    return ds if named else None


def _groups(destination: Destination, datasets: Sequence[FileDataset | None]) -> Iterator[list[FileDataset | None]]:
    """Cut the objects, in their order, into such as fit one association's presentation contexts."""
    group: list[FileDataset | None] = []
    for ds in datasets:
        if len(_offers(destination, [*group, ds])) > MAXIMUM_CONTEXTS:
            yield group
            group = []
        group.append(ds)
    if group:
        yield group


def _offers(
    destination: Destination, datasets: Sequence[FileDataset | None]
) -> dict[tuple[str, tuple[UID, ...]], None]:
    """What to offer for each SOP class: the objects' own syntaxes, each in a context of its own so that the
    destination can't choose another one instead, what they can be re-encoded as, and JPEG-LS where it is wanted.
    """  # noqa: D205
    wanted: dict[tuple[str, tuple[UID, ...]], None] = {}
    for ds in datasets:
        if ds is not None:
            own = UID(ds.file_meta.TransferSyntaxUID)
            wanted[str(ds.SOPClassUID), (own,)] = None
            others = tuple(syntax for syntax in _NATIVE if syntax != own) if own in _CONVERTIBLE else ()
            if others:
                wanted[str(ds.SOPClassUID), others] = None
            if destination.jpeg_ls and can_be_jpeg_ls(ds):
                wanted[str(ds.SOPClassUID), (JPEGLSLossless,)] = None
    return wanted


def _send_group(
    destination: Destination, calling_ae_title: str, datasets: Sequence[FileDataset | None]
) -> Generator[Answer, None, bool]:
    contexts: list[PresentationContext] = [
        build_context(uid, list(syntaxes)) for uid, syntaxes in _offers(destination, datasets)
    ]
    if not contexts:
        yield from (UNREADABLE for _ in datasets)
        return True
    try:
        with association(destination, calling_ae_title, contexts) as assoc:
            for message_id, ds in enumerate(datasets):
                if message_id and not assoc.is_established:
                    return False
                answer = UNREADABLE if ds is None else _send_one(assoc, destination, ds, message_id % 0xFFFF + 1)
                yield answer
                if answer.broken:
                    return False
    except NothingAcceptedError:
        yield from (UNREADABLE if ds is None else _refused(ds) for ds in datasets)
    return True


def _send_one(assoc: Any, destination: Destination, ds: FileDataset, message_id: int) -> Answer:
    own = UID(ds.file_meta.TransferSyntaxUID)
    syntax = _accepted_syntax(assoc.accepted_contexts, destination, ds)
    if syntax is None:
        return _refused(ds)
    try:
        if syntax != own and own in _UNPACKABLE:
            _unpack(ds)
        elif syntax != own and syntax == JPEGLSLossless:
            compress_to_jpeg_ls(ds)
        rest(assoc)
        response = assoc.send_c_store(ds, msg_id=message_id)
    except RuntimeError:  # the association ended before
        response = {}
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        words = f"it can't be encoded as {syntax.name}, which is all the destination accepts ({type(error).__name__})"
        return Answer(stored=False, status=None, words=words, hopeless=True)
    if "Status" not in response:
        words = f"{describe(destination)} closed the association or fell silent during C-STORE: see to its log"
        return Answer(stored=False, status=None, words=words, broken=True)
    changed = "compressed" if syntax == JPEGLSLossless else "re-encoded"
    words = explain(response.Status) + ("" if syntax == own else f"; {changed} from {own.name} as {syntax.name}")
    return Answer(is_stored(response.Status), int(response.Status), words)


def _accepted_syntax(contexts: Sequence[PresentationContext], destination: Destination, ds: FileDataset) -> UID | None:
    """The syntax that the object is going to be sent in: JPEG-LS where that is wanted, its own, or else one that it
    can be re-encoded as.
    """  # noqa: D205
    own = UID(ds.file_meta.TransferSyntaxUID)
    accepted = [UID(c.transfer_syntax[0]) for c in contexts if c.abstract_syntax == ds.SOPClassUID]
    if destination.jpeg_ls and JPEGLSLossless in accepted and can_be_jpeg_ls(ds):
        return JPEGLSLossless
    if own in accepted:
        return own
    return next((syntax for syntax in _NATIVE if syntax in accepted), None) if own in _CONVERTIBLE else None


def _refused(ds: FileDataset) -> Answer:
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    others = f" (nor in {' or '.join(s.name for s in _NATIVE if s != syntax)})" if syntax in _CONVERTIBLE else ""
    what = f"{UID(ds.SOPClassUID).name} in {syntax.name}{others}"
    words = f"the destination does not accept {what}: ask its administrator to allow it for our AE title"
    return Answer(stored=False, status=None, words=words)


def _unpack(ds: FileDataset) -> None:
    """Decompress in place, losslessly and under the same UID. Raises ValueError when colours would be converted."""
    before = ds.get("PhotometricInterpretation")
    if ds.get("SamplesPerPixel", 1) != 1 and before != "RGB":
        msg = "unpacking it would convert its colours"
        raise ValueError(msg)
    try:
        ds.decompress(as_rgb=False, generate_instance_uid=False)
    except RuntimeError as error:  # no decoder, or a broken stream
        msg = "it can't be decompressed"
        raise ValueError(msg) from error

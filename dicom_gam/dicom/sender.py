"""The way out: a C-STORE SCU that sends finished Part 10 files over one association."""

from __future__ import annotations

import io
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt

from dicom_gam.dicom.statuses import explain, is_stored
from dicom_gam.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydicom.dataset import FileDataset
    from pynetdicom.presentation import PresentationContext

    from dicom_gam.config import Destination

_MAXIMUM_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers up to 255
_ECHO = "1.2.840.10008.1.1"  # the Verification SOP class
_LOOK_S = 3.0
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the destination said about one object; `status` is None when it could not be offered at all."""

    stored: bool
    status: int | None
    words: str


_UNREADABLE = Answer(stored=False, status=None, words="it is no DICOM file, so it can't be sent: look at our own disk")


def send(destination: Destination, calling_ae_title: str, files: Sequence[bytes]) -> Iterator[Answer]:
    """Send complete Part 10 files over one association and yield the answers, in order, as they come.

    Raises DeliveryError when the destination can't be reached, refuses the association or falls silent: the objects
    without an answer then have to be sent again. Closing the iterator early releases the association.
    """
    datasets = [_read(content) for content in files]
    contexts = _contexts([ds for ds in datasets if ds is not None])
    if not contexts:
        yield from (_UNREADABLE for _ in datasets)
        return
    with _association(destination, calling_ae_title, contexts) as assoc:
        for message_id, ds in enumerate(datasets, start=1):
            yield _UNREADABLE if ds is None else _send_one(assoc, destination, ds, message_id % 0xFFFF)


def echo(destination: Destination, calling_ae_title: str) -> None:
    """Ask the destination for a C-ECHO. Raises DeliveryError that says what is wrong."""
    with _association(destination, calling_ae_title, [build_context(_ECHO)]) as assoc:
        status = assoc.send_c_echo() if assoc.accepted_contexts else None
        if status is None or "Status" not in status:
            msg = f"{_name(destination)} does not answer C-ECHO: see to its log"
            raise DeliveryError(msg)
        if status.Status != 0x0000:
            msg = f"{_name(destination)} answers C-ECHO with {explain(status.Status)}"
            raise DeliveryError(msg)


def _read(content: bytes) -> FileDataset | None:
    try:
        return dcmread(io.BytesIO(content))
    except (InvalidDicomError, EOFError):
        return None


def _contexts(datasets: Sequence[FileDataset]) -> list[PresentationContext]:
    """One context per SOP class and syntax; native ones offer implicit VR too, as some archives know nothing else."""
    wanted: dict[tuple[str, tuple[UID, ...]], None] = {}
    for ds in datasets:
        syntax = ds.file_meta.TransferSyntaxUID
        wanted[str(ds.SOPClassUID), _NATIVE if syntax in _NATIVE else (syntax,)] = None
    return [build_context(uid, list(syntaxes)) for uid, syntaxes in wanted][:_MAXIMUM_CONTEXTS]


def _send_one(assoc: Any, destination: Destination, ds: FileDataset, message_id: int) -> Answer:
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    offered = _NATIVE if syntax in _NATIVE else (syntax,)
    if not any(
        c.abstract_syntax == ds.SOPClassUID and c.transfer_syntax[0] in offered for c in assoc.accepted_contexts
    ):
        what = f"{UID(ds.SOPClassUID).name} in {syntax.name}"
        words = f"the destination does not accept {what}: ask its administrator to allow it for our AE title"
        return Answer(stored=False, status=None, words=words)
    try:
        response = assoc.send_c_store(ds, msg_id=message_id)
    except RuntimeError as error:  # the association ended between two objects
        msg = f"{_name(destination)} closed the association: it will be tried again"
        raise DeliveryError(msg) from error
    if "Status" not in response:
        msg = f"{_name(destination)} closed the association or fell silent during C-STORE: see to its log"
        raise DeliveryError(msg)
    return Answer(is_stored(response.Status), int(response.Status), explain(response.Status))


@contextmanager
def _association(destination: Destination, calling_ae_title: str, contexts: list[PresentationContext]) -> Iterator[Any]:
    _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log every PDU
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = destination.timeout_s
    try:
        assoc: Any = ae.associate(
            destination.host,
            destination.port,
            contexts,
            ae_title=destination.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_small_packets_at_once)],
        )
    except OSError as error:  # a host name that can't be resolved
        msg = f"{_name(destination)} can't be reached ({error.strerror}): check host and port"
        raise DeliveryError(msg) from error
    if not assoc.is_established:
        raise DeliveryError(f"{_name(destination)} {_why_not(assoc, destination)}")
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        else:
            assoc.kill()


def _why_not(assoc: Any, destination: Destination) -> str:
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        return f"rejected the association ({answer.reason_str}): check both AE titles with its administrator"
    if assoc.acceptor.primitive is not None:
        return "accepted none of our presentation contexts: ask its administrator to allow our SOP classes"
    try:  # pynetdicom keeps the cause to itself, so look once more
        socket.create_connection((destination.host, destination.port), min(destination.timeout_s, _LOOK_S)).close()
    except OSError as error:
        return f"can't be reached ({error.strerror or error}): check that it runs, and host, port and firewall"
    return "can be reached, but did not answer the association request: check that it is a DICOM port without TLS"


def _name(destination: Destination) -> str:
    return f"destination {destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"


def _send_small_packets_at_once(event: Any) -> None:
    """Nagle's algorithm costs 40 ms at every request."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

"""An association that we ask for: to store, to ask for storage commitment, to echo, to query and retrieve."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt

from dicom_gam.dicom.tls import client_context
from dicom_gam.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_gam.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pynetdicom.presentation import PresentationContext

    from dicom_gam.sections import Peer

MAXIMUM_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers up to 255
_MAXIMUM_PDU_SIZE = 131072
_LOOK_S = 3.0


class NothingAcceptedError(DeliveryError):
    """The peer answers, but accepts none of the presentation contexts that were offered."""


@contextmanager
def association(
    peer: Peer,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[tuple[Any, Any]] = (),
) -> Iterator[Any]:
    """Open an association and release it at the end. Raises as `open_association` does."""
    assoc = open_association(peer, calling_ae_title, contexts, handlers)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()
        else:
            assoc.kill()


def open_association(
    peer: Peer,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[tuple[Any, Any]] = (),
    roles: Sequence[Any] = (),
    *,
    patient: bool = False,
) -> Any:
    """Open an association; to end it is left to the caller.

    It ends when nothing comes for `peer.timeout_s`, unless `patient`: then silence is for the caller to judge.
    Raises DeliveryError that says why there is none, ConfigError when the files of the TLS settings can't be used.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own handlers log every PDU
    _config.LOG_RESPONSE_IDENTIFIERS = False  # an archive may answer with more than was asked for: names
    ae = AE(ae_title=calling_ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = _MAXIMUM_PDU_SIZE
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = peer.timeout_s
    ae.network_timeout = None if patient else peer.timeout_s
    try:
        assoc: Any = ae.associate(
            str(peer.host),
            peer.port or 0,
            list(contexts),
            ae_title=str(peer.ae_title),
            max_pdu=_MAXIMUM_PDU_SIZE,
            ext_neg=list(roles) or None,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_small_packets_at_once), *handlers],
            tls_args=(client_context(peer), str(peer.host)) if peer.tls else None,
        )
    except OSError as error:  # a host name that can't be resolved
        msg = f"{describe(peer)} can't be reached ({error.strerror}): check host and port"
        raise DeliveryError(msg) from error
    if assoc.is_established:
        return assoc
    if not assoc.is_rejected and assoc.acceptor.primitive is not None:
        wanted = UID(contexts[0].abstract_syntax or "").name
        why = f"accepts nothing of what we ask for ({wanted}): ask its administrator to allow it for our AE title"
        raise NothingAcceptedError(f"{describe(peer)} {why}")
    raise DeliveryError(f"{describe(peer)} {_why_not(assoc, peer)}")


def native_context(sop_class_uid: str) -> PresentationContext:
    """A context for what has no pixels, in the two syntaxes that everyone knows; big endian is retired."""
    return build_context(sop_class_uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])


def describe(peer: Peer) -> str:
    """Name a destination or source in a message."""
    where = peer.url or f"{peer.ae_title} at {peer.host}:{peer.port}"
    return f"{type(peer).__name__.lower()} {peer.name} ({where})"


def _why_not(assoc: Any, peer: Peer) -> str:
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        return f"rejected the association ({answer.reason_str}): check both AE titles with its administrator"
    timeout_s = min(peer.timeout_s, _LOOK_S)
    try:  # pynetdicom keeps the cause to itself, so look once more
        with closing(socket.create_connection((str(peer.host), peer.port or 0), timeout_s)) as connection:
            if peer.tls:
                client_context(peer).wrap_socket(connection, server_hostname=peer.host).close()
    except OSError as error:
        return _why_not_connected(error, peer)
    if peer.tls:
        return (
            "can be reached, but did not answer the association request over TLS: check that it is a DICOM port, and "
            "whether it asks for our certificate"
        )
    return "can be reached, but did not answer the association request: check that it is a DICOM port without TLS"


def _why_not_connected(error: OSError, peer: Peer) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that is not trusted ({error.verify_message}): check host, ca and its certificate"
    if isinstance(error, ssl.SSLError):
        return f"can be reached, but TLS fails ({error.reason or error}): check that it speaks TLS 1.2 or later there"
    if peer.tls and isinstance(error, TimeoutError | ConnectionResetError):
        return "does not finish the TLS handshake: check that it runs and that the port is one with TLS"
    return f"can't be reached ({error.strerror or error}): check that it runs, and host, port and firewall"


def _send_small_packets_at_once(event: Any) -> None:
    """Nagle's algorithm costs 40 ms at every request."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

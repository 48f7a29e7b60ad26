"""The doctor's look at the front door, and at the systems that the node speaks to."""

from __future__ import annotations

import errno
import resource
import socket
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dicom_gam.dicom.certificate import certificates, validity
from dicom_gam.dicom.scp.access import refusal, wide_open
from dicom_gam.dicom.scu.destination import probe
from dicom_gam.dicom.tls import client_context, server_context
from dicom_gam.errors import DicomGamError
from dicom_gam.sections import Destination, Peer
from dicom_gam.service.doctor_case import fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicom_gam.service.doctor_case import Case, Finding

EXPIRES_SOON_DAYS = 30
OTHER_DESCRIPTORS = 200  # database, logs, decoders, the connections to destinations
LOOK_S = 10.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (compared, not bound)


def check_running(case: Case) -> Iterator[Finding]:
    """Whether the node runs and answers, or else could."""
    node = case.settings.node
    address, place = local_address(case), f"{node.host}:{node.port}"
    if case.runs and node.port == 0:
        yield ok("the node runs (node.port is 0, so it can't be told from here where it listens)")
    elif case.runs:
        yield _answers(case, address, place)
    elif node.port and (taken := _taken(node.host, node.port)):
        yield fail(f"the node does not run, and its port {place} {taken}", "end the other program, or change node.port")
    else:
        yield warn(f"the node does not run; its port {place} is free", "start it: dicom-gam serve --config ...")


def check_access(case: Case) -> Iterator[Finding]:
    """Whether strangers may send, or nobody."""
    node, access = case.settings.node, case.settings.access
    refused = wide_open(node.host, access)
    if refused:
        yield fail(refused, "until then the node does not start")
    elif access.anyone_may_send:
        yield warn(f"whoever reaches {node.host}:{node.port} may send", "list the senders under [[access.callers]]")
    elif not access.callers:
        yield warn(
            f"only this machine itself may send: access.callers is empty, the node listens on {node.host}",
            "that will do for a trial; else list the senders under [[access.callers]] and set node.host",
        )
    elif _EVERY_ADDRESS.get(node.host, node.host) == node.host and _is_loopback(node.host):
        remedy = "set node.host to an address that they reach"
        yield warn(f"{len(access.callers)} senders may send, but the node listens on {node.host} alone", remedy)
    else:
        yield ok(f"access.callers lets in {len(access.callers)} (AE title and addresses each); all others are refused")


def check_certificates(case: Case) -> Iterator[Finding]:
    """Whether the certificates fit, are valid and stay so for a while."""
    tls = case.settings.tls
    if tls.certificate is None:
        remedy = "that will do on a trusted network only; else set tls.certificate and tls.key"
        local = _is_loopback(_EVERY_ADDRESS.get(case.settings.node.host, case.settings.node.host))
        local = local and case.settings.node.host not in _EVERY_ADDRESS
        text = "TLS is off: images arrive readable by whoever listens on the network"
        yield ok("TLS is off; the node listens on this machine only") if local else warn(text, remedy)
    else:
        server_context(tls)  # readable, and belonging together
        yield from _valid("tls.certificate", tls.certificate)
    for name, path in [("tls.client_ca", tls.client_ca)] + [
        (f"{kind} of {peer.name}", path)
        for peer in (*case.settings.destinations, *case.settings.sources)
        for kind, path in (("ca", peer.ca), ("certificate", peer.certificate))
    ]:
        if path is not None:
            yield from _valid(name, path)


def check_descriptors(case: Case) -> Iterator[Finding]:
    """Whether as many files may be open as there may be senders."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * case.settings.node.maximum_associations + OTHER_DESCRIPTORS  # a socket and a file each
    if 0 <= soft < needed:
        yield warn(
            f"{soft} files may be open in one process, {needed} are needed for node.maximum_associations",
            "raise it (LimitNOFILE= of the service, ulimit -n), or lower node.maximum_associations",
        )
    else:
        yield ok(f"{soft} may be open (in this shell), {needed} are needed")


def check_peers(case: Case) -> Iterator[Finding]:
    """Whether every destination and source answers."""
    title, peers = case.settings.node.ae_title, case.settings
    for kind, peer in [("destination", d) for d in peers.destinations] + [("source", s) for s in peers.sources]:
        where = peer.url or f"{peer.ae_title} at {peer.host}:{peer.port}"
        asked = Destination(**{key: getattr(peer, key) for key in Peer.model_fields})
        asked = asked.model_copy(update={"timeout_s": min(peer.timeout_s, LOOK_S)})
        try:
            probe(asked, title)
        except DicomGamError as error:
            yield fail(str(error).replace(f"destination {peer.name}", f"{kind} {peer.name}", 1), "")
        else:
            what = "answers" if peer.url else "answers C-ECHO"
            yield ok(f"{kind} {peer.name} ({where}) {what}")
    if not (peers.destinations or peers.sources):
        yield ok("no destination and no source is configured")


def local_address(case: Case) -> str:
    """Where this machine reaches the node."""
    return _EVERY_ADDRESS.get(case.settings.node.host, case.settings.node.host)


def admitted_title(case: Case) -> str | None:
    """A calling AE title under which this machine is let in by `access`; None when there is none."""
    settings = case.settings
    titles = [settings.node.ae_title, *(c.ae_title for c in settings.access.callers if c.ae_title != "*")]
    called, address = settings.node.ae_title.strip(), local_address(case)
    for title in titles:
        if refusal(title.strip(), called, address, settings.node.ae_title, settings.access) is None:
            return title
    return None


def itself(case: Case) -> Destination:
    """The node, as something to send to."""
    settings = case.settings
    tls = settings.tls
    # Its own certificate is what we trust, and what we show where it asks for one.
    ours = {"tls": True, "ca": tls.certificate, "certificate": tls.certificate, "key": tls.key} if tls.key else {}
    return Destination.model_validate(
        {
            "name": "this node",
            "ae_title": settings.node.ae_title,
            "host": local_address(case),
            "port": settings.node.port,
            "timeout_s": LOOK_S,
            **ours,
        }
    )


def _answers(case: Case, address: str, place: str) -> Finding:
    if case.settings.tls.certificate is not None:
        return _answers_tls(case, address, place)
    title = admitted_title(case)
    try:
        probe(itself(case), title or "DOCTOR")
    except DicomGamError as error:
        if title is None and "reject" in str(error):
            return ok(f"the node runs, and refuses us at {place}, as access.callers wants it")
        return fail(f"the node runs, but does not answer us at {place}: {error}", "see its log, then restart it")
    return ok(f"the node runs and answers C-ECHO at {place}")


def _answers_tls(case: Case, address: str, place: str) -> Finding:
    """With TLS a handshake tells enough: that it answers, and with the certificate that is in the file."""
    certificate = case.settings.tls.certificate
    assert certificate is not None
    context = client_context(Peer(name="this node", url="https://localhost"))
    context.check_hostname = False  # it is compared with the file below, which is more
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, case.settings.node.port), LOOK_S) as connection,
            context.wrap_socket(connection) as wrapped,
        ):
            shown, version = wrapped.getpeercert(binary_form=True), wrapped.version()
    except OSError as error:
        why = error.strerror or getattr(error, "reason", None) or type(error).__name__
        return fail(f"the node runs, but there is no TLS to be had at {place} ({why})", "see its log, then restart it")
    if shown != certificates(certificate)[0]:
        found = f"the node at {place} shows another certificate than {certificate}"
        return fail(found, "see tls.reload_failed in its log; restart it")
    return ok(f"the node runs and speaks {version} at {place} with the certificate of tls.certificate")


def _taken(host: str, port: int) -> str | None:
    """Why the port can't be listened on; None when it can."""
    try:
        info = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(info[0], info[1]) as probing:
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probing.bind(info[4])
            probing.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "is in use by another program"
        return f"can't be listened on ({error.strerror or error})"
    return None


def _valid(name: str, path: Path) -> Iterator[Finding]:
    now = datetime.now(UTC)
    dates = [validity(certificate) for certificate in certificates(path)]
    first, last = max(d.not_before for d in dates), min(d.not_after for d in dates)
    days = (last - now).days
    renew = "have it renewed; the node takes the new file by itself"
    if now < first:
        yield fail(f"{name} {path} is not valid before {first:%Y-%m-%d %H:%M} UTC", "compare the clock, or replace it")
    elif now > last:
        yield fail(f"{name} {path} has expired on {last:%Y-%m-%d}", renew)
    elif days < EXPIRES_SOON_DAYS:
        yield warn(f"{name} {path} expires in {days} days, on {last:%Y-%m-%d}", renew)
    else:
        yield ok(f"{name} is valid until {last:%Y-%m-%d}")


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"

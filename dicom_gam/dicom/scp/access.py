"""Who may send: a decision on titles and addresses, and nothing else."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.dicom.scp.upper_layer import encode_rejection

if TYPE_CHECKING:
    from dicom_gam.sections import AccessSettings, Caller

_EVERY_TITLE = "*"
_PERMANENT, _TRANSIENT = 1, 2
_SERVICE_USER, _ACSE_PROVIDER, _PRESENTATION_PROVIDER = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an association is refused: the three numbers of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and in words."""

    result: int
    source: int
    reason: int
    why: str

    def encode(self) -> bytes:
        """The A-ASSOCIATE-RJ that says so."""
        return encode_rejection(self.result, self.source, self.reason)


_CALLED = (_PERMANENT, _SERVICE_USER, 7)
_CALLING = (_PERMANENT, _SERVICE_USER, 3)
_LIMIT = (_TRANSIENT, _PRESENTATION_PROVIDER, 2)
WRONG_APPLICATION_CONTEXT = Refusal(_PERMANENT, _SERVICE_USER, 2, "Application context name not supported")
WRONG_PROTOCOL_VERSION = Refusal(_PERMANENT, _ACSE_PROVIDER, 2, "Protocol version not supported")


def refusal(
    calling_ae_title: str, called_ae_title: str, peer_address: str, ae_title: str, access: AccessSettings
) -> Refusal | None:
    """Say why this caller is refused, None when it is let in. Titles are compared without spaces around them."""
    if called_ae_title not in {title.strip() for title in (ae_title, *access.called_ae_titles)}:
        return Refusal(*_CALLED, "Called AE title not recognised: see node.ae_title and access.called_ae_titles")
    if not _is_ae_title(calling_ae_title):
        return Refusal(*_CALLING, "Calling AE title not recognised: it is no AE title")
    if access.anyone_may_send:
        return None
    address = plain_address(peer_address)
    if not access.callers:
        if is_loopback(address):
            return None
        why = "without access.callers only this machine itself may send"
        return Refusal(*_CALLING, f"Calling AE title not recognised: {why}")
    titled = [c for c in access.callers if c.ae_title == _EVERY_TITLE or c.ae_title.strip() == calling_ae_title]
    if any(_comes_from(address, caller) for caller in titled):
        return None
    why = "its address is not among the hosts of that title" if titled else "no access.callers entry has it"
    return Refusal(*_CALLING, f"Calling AE title not recognised: {why}")


def too_many(setting: str) -> Refusal:
    """The refusal of an association above a limit: a passing one."""
    return Refusal(*_LIMIT, f"Local limit exceeded: node.{setting} associations are open")


def wide_open(host: str, access: AccessSettings) -> str | None:
    """Say why a node on `host` must not start; None when it may."""
    if access.callers or access.anyone_may_send or host == "localhost" or is_loopback(host):
        return None
    return (
        f"node.host is {host}, which others can reach, but access.callers is empty: list who may send "
        "([[access.callers]] with ae_title and hosts), set node.host to 127.0.0.1, or let in whoever reaches the port "
        "by access.anyone_may_send = true"
    )


def plain_address(address: str) -> str:
    """The address without a zone; an IPv4 address that was mapped into IPv6 as the IPv4 address that it is."""
    try:
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_loopback(address: str) -> bool:
    """Whether it is an address of this machine that no other can reach."""
    try:
        return ipaddress.ip_address(plain_address(address)).is_loopback
    except ValueError:
        return False


def shown_title(title: str) -> str:
    """An AE title as it may stand in logs: printable ASCII, 16 characters at most."""
    return "".join(c if " " <= c <= "~" else "?" for c in title[:16])


def _comes_from(address: str, caller: Caller) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in _network(host) for host in caller.hosts)


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    network = ipaddress.ip_network(host, strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


def _is_ae_title(title: str) -> bool:
    return 1 <= len(title) <= 16 and all(" " <= c <= "~" and c != "\\" for c in title)

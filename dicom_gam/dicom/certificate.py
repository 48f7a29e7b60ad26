"""The validity of certificates in a PEM file: the only two fields of X.509 (RFC 5280 4.1.2.5) that are read here."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """The time in which a certificate is valid."""

    not_before: datetime
    not_after: datetime


def certificates(path: Path) -> list[bytes]:
    """The certificates of a PEM file in DER, in their order. Raises ConfigError."""
    try:
        text = path.read_text("ascii", "replace")
        found = [ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(text)]
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}): correct the path or its permissions") from error
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate in PEM: give one") from error
    if not found:
        raise ConfigError(f"{path} holds no certificate in PEM: give one")
    return found


def validity(certificate: bytes) -> Validity:
    """The validity of a certificate in DER. Raises ConfigError for one that is malformed."""
    try:
        _, whole = next(_elements(certificate))
        _, to_be_signed = next(_elements(whole))
        fields = [item for item in _elements(to_be_signed) if item[0] != _VERSION]
        _, dates = fields[3]  # after serial number, signature algorithm and issuer
        not_before, not_after = (_time(kind, value) for kind, value in _elements(dates))
    except (IndexError, ValueError, StopIteration) as error:
        raise ConfigError("a certificate is malformed: have it issued anew") from error
    return Validity(not_before, not_after)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of each DER element (X.690 8.1)."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("an element is cut short")
        yield tag, data[at : at + length]
        at += length


def _time(kind: int, value: bytes) -> datetime:
    """A UTCTime or a GeneralizedTime (RFC 5280 4.1.2.5.1: two digits below 50 are of this century)."""
    text = value.decode("ascii")
    if kind == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)

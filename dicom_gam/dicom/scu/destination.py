"""The ways to a destination: C-STORE or, where it has a url, STOW-RS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dicom_gam.dicom.scu import sender, stow
from dicom_gam.dicom.scu.sender import Answer

if TYPE_CHECKING:
    from dicom_gam.sections import Destination

Send = Callable[["Destination", str, Sequence[bytes]], Iterator[Answer]]


def send(destination: Destination, calling_ae_title: str, files: Sequence[bytes]) -> Iterator[Answer]:
    """Send by what the destination speaks; see `sender.send` and `stow.send`."""
    return send_for(destination)(destination, calling_ae_title, files)


def send_for(destination: Destination) -> Send:
    """What sends to this destination."""
    return sender.send if destination.url is None else stow.send


def probe(destination: Destination, calling_ae_title: str) -> None:
    """Ask whether the destination is there and lets us in. Raises DeliveryError that says what is wrong."""
    if destination.url is None:
        sender.echo(destination, calling_ae_title)
    else:
        stow.probe(destination, calling_ae_title)

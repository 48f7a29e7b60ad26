"""Looking at a node's destinations, pausing them and dealing with dead letters, also while the node runs."""

from __future__ import annotations

import getpass
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError
from dicom_gam.storage.states import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dicom_gam.sections import Destination
    from dicom_gam.service.store import Store
    from dicom_gam.storage.rows import Delivery, Hold, Pause


@dataclass(frozen=True, slots=True)
class DestinationReading:
    """Where a destination stands. `kind` is empty for one that is not among the settings (any more).

    `next_at` is when something is tried next, None when nothing waits; `causes` are the commonest of its dead letters.
    """

    name: str
    kind: str
    counts: Mapping[DeliveryState, int]
    next_at: float | None
    pause: Pause | None
    hold: Hold | None
    causes: Sequence[tuple[str, int]]


def read_destinations(store: Store, destinations: Sequence[Destination]) -> list[DestinationReading]:
    """Every destination of the settings, then those that only the outbox knows."""
    outbox = store.outbox
    counts = outbox.counts()
    kinds = {destination.name: _kind(destination) for destination in destinations}
    return [
        DestinationReading(
            name=name,
            kind=kinds.get(name, ""),
            counts=counts.get(name, dict.fromkeys(DeliveryState, 0)),
            next_at=outbox.next_due(name),
            pause=outbox.paused(name),
            hold=outbox.held(name),
            causes=outbox.causes(name),
        )
        for name in [*kinds, *sorted(counts.keys() - kinds.keys())]
    ]


def pause(store: Store, destinations: Sequence[Destination], name: str, why: str, *, by: str = "") -> None:
    """Have nothing sent to it after the object in hand. Raises ConfigError when no destination has this name."""
    _check(store, destinations, name)
    store.audit.append("destination.paused", destination=name, why=why, by=by or operator())
    store.outbox.pause(name, why, time.time())


def resume(store: Store, destinations: Sequence[Destination], name: str, *, by: str = "") -> bool:
    """End a pause; False when there was none. Raises ConfigError when there is no destination of this name."""
    _check(store, destinations, name)
    if store.outbox.paused(name) is None:
        return False
    store.audit.append("destination.resumed", destination=name, by=by or operator())
    return store.outbox.resume(name)


def retry(
    store: Store, destinations: Sequence[Destination], name: str, job_id: str | None = None, *, by: str = ""
) -> list[Delivery]:
    """Send dead letters again as if never tried, and what waits at once; return the dead letters.

    Raises ConfigError when there is no destination of this name.
    """
    _check(store, destinations, name)
    store.audit.append("destination.retried", destination=name, job_id=job_id, by=by or operator())
    return store.outbox.revive(name, time.time(), job_id)


def dismiss(
    store: Store,
    destinations: Sequence[Destination],
    name: str,
    why: str,
    job_id: str | None = None,
    *,
    everything: bool = False,
    by: str = "",
) -> list[Delivery]:
    """Do without dead letters for good, or (`everything`) without all that is undelivered; return what they were.

    Raises ConfigError when there is no destination of this name, or when all is to go while the node may still send.
    """
    _check(store, destinations, name)
    known = name in {destination.name for destination in destinations}
    if everything and known and store.outbox.paused(name) is None:
        msg = f"{name} may be sent to this very moment: pause it first (dicom-gam destinations pause {name} --why ...)"
        raise ConfigError(msg)
    store.audit.append(
        "destination.dismissed", destination=name, job_id=job_id, everything=everything, why=why, by=by or operator()
    )
    return store.outbox.dismiss(name, time.time(), job_id, everything=everything)


def _check(store: Store, destinations: Sequence[Destination], name: str) -> None:
    known = {destination.name for destination in destinations} | store.outbox.counts().keys()
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        msg = f"there is no destination {name!r}: give one that `dicom-gam destinations` shows ({there})"
        raise ConfigError(msg)


def _kind(destination: Destination) -> str:
    if destination.url is not None:
        return "STOW-RS"
    return "C-STORE" + (" over TLS" if destination.tls else "") + (" + commitment" if destination.commitment else "")


def operator() -> str:
    """Who gives a command on this machine: the name of the user that runs it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"

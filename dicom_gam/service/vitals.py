"""How a running node fares, as only its own process knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.service.loop import Pulse


@dataclass(frozen=True, slots=True)
class Vitals:
    """A look at a node's threads and processes.

    `receivers` of `receivers_wanted` processes are alive (0 of 0: the node receives within its own process). `about`
    is what makes the results: the device, and the bundles with their digests.
    """

    started_at: float
    accepting: bool
    receivers: int
    receivers_wanted: int
    loops: tuple[Pulse, ...]
    about: Mapping[str, Any]

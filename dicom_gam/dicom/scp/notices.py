"""Telling what happens at the front door, without letting strangers fill the audit log."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.dicom.arrival import Notice

_log = logging.getLogger(__name__)

TOLD_SINGLY = 5
WINDOW_S = 60.0
_MAXIMUM_SENDERS = 256  # kept apart at once; those beyond share a count
_IPV6_SITE = 64  # a host has a whole /64 of addresses to itself


@dataclass(slots=True)
class _Window:
    ends: float
    told: int = 0
    untold: int = 0
    keys: dict[str, Any] = field(default_factory=dict)


class Notices:
    """Passes events on to `notice`; one that can't be recorded is logged, as there is no answer left to change."""

    def __init__(self, notice: Notice, clock: Callable[[], float] = time.monotonic) -> None:
        self._notice = notice
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], _Window] = {}

    def tell(self, name: str, keys: dict[str, Any]) -> None:
        """Pass an event on."""
        try:
            self._notice(name, keys)
        except DicomGamError as error:
            _log.error("%s not recorded: %s", name, error)

    def tell_some(self, name: str, keys: dict[str, Any]) -> None:
        """Pass on what strangers can cause: the first few of an address, then one count a minute."""
        with self._lock:
            key = (name, _site(keys.get("peer_address", "")))
            if key not in self._windows and len(self._windows) >= _MAXIMUM_SENDERS:
                key = (name, "")
            window = self._windows.setdefault(key, _Window(self._clock() + WINDOW_S))
            window.keys = keys
            singly = window.told < TOLD_SINGLY
            if singly:
                window.told += 1
            else:
                window.untold += 1
        if singly:
            self.tell(name, keys)

    def flush(self, *, everything: bool = False) -> None:
        """Tell the counts of the minutes that are over, or of all."""
        now = self._clock()
        with self._lock:
            over = [key for key, window in self._windows.items() if everything or window.ends <= now]
            ended = [(key, self._windows.pop(key)) for key in over]
        for (name, site), window in ended:
            if window.untold:
                why = f"{window.untold} more within a minute; the last: {window.keys.get('why', '')}"
                keys = window.keys | {"count": window.untold, "why": why}
                self.tell(name, keys | ({} if site else {"peer_address": "several"}))


def _site(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), _IPV6_SITE), strict=False))
    return address

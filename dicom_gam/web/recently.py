"""What was seen a short while ago, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Recently:
    """Remembers keys for a time, the newest `most` of them; what is forgotten early only counts as new again."""

    def __init__(self, for_s: float, most: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._for_s = for_s
        self._most = most
        self._clock = clock
        self._seen: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, key: Hashable) -> bool:
        """Whether the key was added within the time."""
        with self._lock:
            since = self._seen.get(key)
        return since is not None and self._clock() - since < self._for_s

    def add(self, key: Hashable) -> None:
        """Remember the key from now on."""
        with self._lock:
            self._seen[key] = self._clock()
            self._seen.move_to_end(key)
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)

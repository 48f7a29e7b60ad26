"""Whether a recomputed result equals the kept one, figure by figure, within tolerances that are stated here once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a recomputed figure may lie from the kept one, as `absolute` + `relative` times its size, and why."""

    absolute: float
    relative: float
    why: str

    def allows(self, kept: float, made: float, loosened: float) -> bool:
        """Whether the two count as equal."""
        allowed = loosened * (self.absolute + self.relative * abs(kept))
        return math.isfinite(kept) and math.isfinite(made) and abs(kept - made) <= allowed


# One processor type and one batch give the very same bits. Another one adds float32 numbers in another order.
_ORDER = "float32 sums in another order: a batch of another size, another processor, another version of PyTorch"
PROBABILITY = Tolerance(1e-3, 0.0, _ORDER)
MEASURED = Tolerance(1e-3, 2e-3, _ORDER)
ATTENTION = Tolerance(5e-3, 0.0, _ORDER + "; the map is stretched to 0..1, which magnifies that")
EXACT = Tolerance(0.0, 0.0, "it follows from the input, the bundle and the settings alone")
PLACES = 2  # a p-value is a place in the calibration sample: a score that moves by a hair may pass a neighbour or two
BF16_LOOSENED = 16.0  # bfloat16 has 8 bits of precision: rounding in another order shows 16 times as much

_KINDS: Mapping[str, Tolerance] = MappingProxyType({"value": MEASURED, "threshold": MEASURED, "score": MEASURED})
_PLACED = ("odder", "equal", "p_value")
_BYTES = frozenset({"sha256", "size_bytes"})  # of encoded objects, which quote every figure to its last digit
_LATER = frozenset({"series_instance_uid"})  # what results of earlier versions don't name
_WORDS = frozenset({"reasons", "reason", "notes", "message"})
_FIGURE = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not equal: its name, what was kept, what was recomputed, and by how much they differ."""

    what: str
    kept: str
    made: str
    by: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the comparison of two results came to.

    `figures` were compared. `exact` says that every one of them, and every byte that was sent, is the very same.
    `largest` is the largest deviation of a figure that counts as equal, relative to its tolerance (0 to 1).
    `attention_by` is the largest deviation of the attention map, None when there is none to compare.
    """

    figures: int
    exact: bool
    same_bytes: bool
    largest: float
    differences: tuple[Difference, ...]
    attention_by: float | None = None


def compare(
    kept: Mapping[str, Any],
    made: Mapping[str, Any],
    attention: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    *,
    bf16: bool = False,
) -> Comparison:
    """Compare two summaries (`service.summary`), and the attention maps (h, w), kept and recomputed."""
    loosened = BF16_LOOSENED if bf16 else 1.0
    size = int(kept.get("verification", {}).get("rank", {}).get("size", 0))
    differences: list[Difference] = []
    figures, exact, same_bytes, largest = 0, True, True, 0.0
    for path, before, after in _pairs(kept, made, ()):
        figures += 1
        if before == after or (before is None and path[-1] in _LATER and kept.get(path[0])):
            continue
        exact = False
        if path[0] == "outputs" and path[-1] in _BYTES:
            same_bytes = False
            continue
        share = _deviation(path, before, after, size, loosened)
        if share > 1:
            differences.append(_difference(path, before, after))
        else:
            largest = max(largest, share)
    by, odd = _compare_maps(attention, loosened)
    exact = exact and by in (None, 0.0) and not odd
    return Comparison(figures, exact, same_bytes, largest, (*differences, *odd), by)


def _pairs(kept: Any, made: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Every leaf of either side with its path; None where one side has nothing."""
    if isinstance(kept, Mapping) or isinstance(made, Mapping):
        before, after = _mapping(kept), _mapping(made)
        for key in dict.fromkeys((*before, *after)):
            yield from _pairs(before.get(key), after.get(key), (*path, str(key)))
    elif _is_list(kept) or _is_list(made):
        yield from _pairs(_by_name(kept), _by_name(made), path)
    else:
        yield path, kept, made


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _by_name(items: Any) -> dict[str, Any]:
    """A list's items by their name or role, else by their number."""
    named = {}
    for number, item in enumerate(items or (), 1):
        own = item.get("name") or item.get("role") if isinstance(item, Mapping) else None
        named[str(own or number)] = item
    return named


def _deviation(path: tuple[str, ...], kept: Any, made: Any, size: int, loosened: float) -> float:
    """How far apart two unequal leaves are, in units of what is allowed; above 1 they differ."""
    if isinstance(kept, str) and isinstance(made, str):
        spoken = bool(_WORDS & set(path))  # a sentence rounds its figures, which are compared by themselves
        return 0.0 if spoken and _FIGURE.sub("#", kept) == _FIGURE.sub("#", made) else math.inf
    if not _is_number(kept) or not _is_number(made):
        return math.inf
    if path[-1] in _PLACED:
        allowed = PLACES * loosened / (size + 1 if path[-1] == "p_value" else 1)
        return float(abs(kept - made) / allowed) if size else math.inf
    tolerance = PROBABILITY if "probabilities" in path else _KINDS.get(path[-1], EXACT)
    if not tolerance.allows(kept, made, loosened):
        return math.inf
    return float(abs(kept - made) / (loosened * (tolerance.absolute + tolerance.relative * abs(kept))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _difference(path: tuple[str, ...], kept: Any, made: Any) -> Difference:
    by = abs(kept - made) if _is_number(kept) and _is_number(made) else None
    return Difference(".".join(path), _text(kept), _text(made), by)


def _text(value: Any) -> str:
    return "nothing" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _compare_maps(
    attention: tuple[NDArray[np.float32], NDArray[np.float32]] | None, loosened: float
) -> tuple[float | None, tuple[Difference, ...]]:
    if attention is None:
        return None, ()
    kept, made = attention
    if kept.shape != made.shape:
        return None, (Difference("attention_map", f"shape {kept.shape}", f"shape {made.shape}"),)
    by = float(np.abs(kept.astype(np.float64) - made).max())
    if by <= loosened * ATTENTION.absolute:
        return by, ()
    place = np.unravel_index(int(np.abs(kept - made).argmax()), kept.shape)
    return by, (Difference("attention_map", f"{kept[place]:.6g}", f"{made[place]:.6g}", by),)

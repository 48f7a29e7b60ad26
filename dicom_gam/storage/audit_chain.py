"""The form of one record of the audit log, how records hang together, and which of two neighbours is the bad one."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

GENESIS = "0" * 64  # what the first record holds as its previous digest
CHECKPOINT = "audit.checkpoint"
CHECKPOINT_START = b'{"event":"audit.checkpoint",'
LONGEST_BYTES = 16 * 1024**2  # of one record with its line's end
TIME_BYTES = 26  # `2026-01-02T12:00:00.250Z"}`: what stands after the fixed part of the tail
_FIELDS = {"number", "time", "event", "previous", "keys"}
_TAIL = re.compile(rb',"number":(0|[1-9][0-9]{0,17}),"previous":"([0-9a-f]{64})","time":"([^"\\]{24})"\}\Z')
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Tail(NamedTuple):
    """What every line ends with."""

    number: int
    previous: str
    time: str


def digest(line: bytes) -> str:
    """The SHA-256 of a line, given without its end, in hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def moment(time: datetime) -> str:
    """A time as records hold it: ISO 8601, UTC, milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(earlier: str, later: str) -> float:
    """How many seconds lie between two times of records; 0 when one of them is no time."""
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def record_line(number: int, time: str, event: str, previous: str, keys: Mapping[str, Any]) -> bytes:
    """A record as one line, without its end. Raises ValueError for what JSON can't hold."""
    return canonical({"number": number, "time": time, "event": event, "previous": previous, "keys": keys})


def canonical(record: Mapping[str, Any]) -> bytes:
    """The one way in which a record is written. Raises ValueError for what JSON can't hold."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def tail_start(number: int, previous: bytes) -> bytes:
    """What a line that is record `number` must have before its time. `previous` is a digest in hexadecimal."""
    return b',"number":%d,"previous":"%b","time":"' % (number, previous)


def tail_of(line: bytes) -> Tail | None:
    """The fields at the end of a line, None when it does not end as records do."""
    found = _TAIL.search(line[-200:])
    return None if found is None else Tail(int(found[1]), found[2].decode(), found[3].decode("latin-1"))


def fault(line: bytes, number: int, previous: str) -> str:
    """Say what is wrong with a line that should be record `number`, empty when nothing is."""
    wrong = form_fault(line)
    tail = tail_of(line)
    if wrong or tail is None:
        return wrong or _NOT_OURS
    if tail.number != number:
        return _out_of_order(tail)
    if tail.previous != previous:
        return "it does not follow the record before it, which was edited or replaced"
    return ""


_NOT_OURS = "it is not in the form in which dicom_gam writes records"


def form_fault(line: bytes) -> str:
    """Say what is wrong with the form of a line, whatever its place; empty when nothing is."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(record, dict) or set(record) != _FIELDS or _canonical_or_none(record) != line:
        return _NOT_OURS
    texts = isinstance(record["event"], str) and isinstance(record["keys"], dict) and tail_of(line) is not None
    return "" if texts and _TIME.fullmatch(record["time"]) else _NOT_OURS


def first_bad(
    number: int, before: bytes | None, line: bytes, after: bytes | None, promised: str | None
) -> tuple[int, str]:
    """Say which record is bad, and why, where `line` does not follow `before` as record `number`.

    `before` is None where the record before is known to be as it was written. Who is right, `before` or `line`, is
    told by the neighbour `after`: it holds the digest of what was written before it. Where there is none, `promised`,
    the digest that the head knows for record `number`, tells it.
    """
    wrong, tail = form_fault(line), tail_of(line)
    if wrong or tail is None:
        return number, wrong or _NOT_OURS
    next_tail = None if after is None else tail_of(after)
    vouched = (promised if next_tail is None else next_tail.previous) == digest(line)
    if tail.number == number:
        if vouched and before is not None:
            return number - 1, "it is not what the record after it was chained to: it was edited or replaced"
        return number, "it does not follow the record before it: it was edited, or put there by someone else"
    if vouched and before is not None and tail.number == number - 1 and before != line:
        return number - 1, "the record after it carries the same number and is the right one: it was inserted"
    return number, _out_of_order(tail)


def _out_of_order(tail: Tail) -> str:
    return f"it carries the number {tail.number}: records are missing, inserted or out of order"


def _canonical_or_none(record: Mapping[str, Any]) -> bytes | None:
    try:
        return canonical(record)
    except (ValueError, RecursionError):  # NaN has no place in JSON
        return None

"""How the node's processes log: lines of text, or lines of JSON for a log collector.

Our messages begin with the event's name, then `key=value` for what it is about, then words. As JSON each of these is a
field of its own, so that all lines of one job are found by `job_id`.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Mapping

LogForm = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# Their warnings quote values, which may be a patient's, or what is of no use to an administrator.
QUIET: Mapping[str, int] = MappingProxyType(
    {
        "pynetdicom": logging.CRITICAL,
        "pydicom": logging.CRITICAL,
        "httpx": logging.WARNING,
        "httpcore": logging.WARNING,
        "authlib": logging.INFO,  # below that it tells the secrets of a log-in
    }
)
_EVENT = re.compile(r"[a-z][a-z0-9_]*(?:[.-][a-z0-9_]+)+")
_PAIR = re.compile(r"""\s+([a-z][a-z0-9_]*)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"]\S*|)""")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def configure_logging(level: int, form: LogForm = "text") -> None:
    """Have this process log to standard error, from `level` on. Whatever was set up before is replaced."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines(TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for library, least in QUIET.items():
        logging.getLogger(library).setLevel(least)


def form_in_use() -> LogForm:
    """The form in which this process logs, so that its children can log alike."""
    return (
        "json" if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers) else "text"
    )


class TextLines(logging.Formatter):
    """Lines for people. A message stays in its line, so that no peer can forge another one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line, without control characters."""
        record.message = _CONTROL.sub(" ", record.message.replace("\n", " "))
        return super().formatMessage(record)


class JsonLines(JsonFormatter):
    """One JSON object a line: time, level, logger, event, message, and what the message says by `key=value`."""

    def __init__(self) -> None:
        super().__init__("%(message)s", json_ensure_ascii=True)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add ours before what the library adds: the message, the exception, and what `extra` held."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["time"] = moment.replace("+00:00", "Z")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        event, pairs = parsed(record.getMessage())
        if event:
            log_data["event"] = event
        super().add_fields(log_data, record, message_dict)
        for key, value in pairs.items():
            log_data[key if key not in log_data else f"{key}_"] = value


def parsed(message: str) -> tuple[str, dict[str, str]]:
    """Return a message's event and the values of its keys; no event, and no keys, of a message that has none."""
    event = _EVENT.match(message)
    if event is None or not _ends(message, event.end()):
        return "", {}
    pairs: dict[str, str] = {}
    end = event.end()
    while found := _PAIR.match(message, end):
        key, value = found.groups()
        pairs.setdefault(key, _plain(value))
        end = found.end()
    return event.group(), pairs


def _ends(message: str, place: int) -> bool:
    return place == len(message) or message[place] in " ,:\n"


def _plain(value: str) -> str:
    """The value without what follows it in the sentence, or without its quotes."""
    if value[:1] in {"'", '"'}:
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value.rstrip(",:;")

"""A node's first configuration: a few answers become a commented TOML file that `load_settings` accepts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_gam.config import DriftSettings, NodeSettings, ProcessingSettings, settings_from
from dicom_gam.errors import ConfigError
from dicom_gam.oversight_sections import WebSettings
from dicom_gam.sections import Caller, Destination, RetentionSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dicom_gam.sections import Section

HEADER = """# The configuration of one dicom_gam node. Lines that begin with # say what a key means, or show a default.
# Check it with `dicom-gam doctor --config {name}`. Every key there is, and what counts now:
# `dicom-gam config show --effective --config {name}`.
"""
NOBODY = """# Nobody but this machine itself may send yet. For each sender, a block like this:
# [[access.callers]]
# ae_title = "XRAY_ROOM_1"
# hosts = ["10.1.2.3"]
"""
NOWHERE = """# Results go nowhere yet. For each system that is to get them, a block like this:
# [[destinations]]
# name = "pacs"
# ae_title = "PACS"
# host = "10.1.2.4"
# port = 104
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a node needs to be told at first. `senders` are (AE title, address); `pacs` is (AE title, host, port)."""

    ae_title: str = "DICOM_GAM"
    port: int = 11112
    storage: Path = Path("dicom-gam-data")
    senders: tuple[tuple[str, str], ...] = ()
    pacs: tuple[str, str, int] | None = None
    dashboard: bool = True
    dashboard_port: int = 8180
    host: str = ""  # empty: every address when somebody else may send, else loopback

    @property
    def listens_at(self) -> str:
        """The address to listen on."""
        return self.host or ("0.0.0.0" if self.senders else "127.0.0.1")  # noqa: S104 (only known senders are let in)


def settings_text(answers: Answers, name: str = "node.toml") -> str:
    """The file's text. Raises ConfigError that names the answer which can't be right."""
    table = _table(answers)
    settings_from(table, "these answers")
    parts = [HEADER.format(name=name)]
    parts += [_section("node", NodeSettings, table["node"], ("receivers", "minimum_free_bytes"))]
    parts += [_section("processing", ProcessingSettings, table["processing"], ("device",))]
    parts += [_section("[access.callers]", Caller, caller) for caller in table["access"]["callers"]] or [NOBODY]
    parts += [_section("[destinations]", Destination, item) for item in table["destinations"]] or [NOWHERE]
    parts += [_section("web", WebSettings, table["web"], ("certificate", "key", "session_minutes"))]
    parts += [_section("retention", RetentionSettings, {}, ("images_days", "results_days", "quarantine_days"))]
    parts += [_section("drift", DriftSettings, {}, ("enabled", "false_alarm_rate"))]
    return "\n".join(parts)


def write_settings(answers: Answers, output: Path, *, overwrite: bool = False) -> None:
    """Write the file, for its owner and group to read. Raises ConfigError when it is there already, or can't be."""
    text = settings_text(answers, output.name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        with os.fdopen(os.open(output, flags, 0o640), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        msg = f"{output} is there already: give --output another name, or --overwrite to replace it"
        raise ConfigError(msg) from error
    except OSError as error:
        msg = f"{output} can't be written ({error.strerror}): give --output a place that you may write to"
        raise ConfigError(msg) from error


def _table(answers: Answers) -> dict[str, Any]:
    pacs = answers.pacs
    return {
        "node": {
            "ae_title": answers.ae_title,
            "host": answers.listens_at,
            "port": answers.port,
            "storage": str(answers.storage),
        },
        "processing": {"bundle": ProcessingSettings().bundle},
        "access": {"callers": [{"ae_title": title, "hosts": [host]} for title, host in answers.senders]},
        "destinations": []
        if pacs is None
        else [{"name": "pacs", "ae_title": pacs[0], "host": pacs[1], "port": pacs[2]}],
        "web": {"enabled": answers.dashboard, "port": answers.dashboard_port},
    }


def _section(title: str, model: type[Section], values: Mapping[str, Any], shown: tuple[str, ...] = ()) -> str:
    """A table of the file: what was answered, then some defaults as comments, each under what it means."""
    lines = _comment(str(model.__doc__).split("\n\n", maxsplit=1)[0])
    lines.append(f"[{title}]")
    for key in (*values, *shown):
        info = model.model_fields[key]
        lines += _comment(str(info.description))
        lines.append(f"{key} = {_toml(values[key])}" if key in values else f"# {key} = {_default(info.default)}")
    return "\n".join(lines) + "\n"


def _comment(words: str) -> list[str]:
    return [f"# {line}" for line in _wrapped(words, 98)]


def _wrapped(words: str, width: int) -> Iterator[str]:
    line = ""
    for word in words.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def _default(value: Any) -> str:
    return '"..."' if value is None else _toml(value)


def _toml(value: Any) -> str:
    """A value as TOML: JSON's text, numbers, booleans and lists are TOML too (except for DEL, which JSON leaves)."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

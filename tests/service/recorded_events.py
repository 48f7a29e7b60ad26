"""Every event name that the source can write into the audit log, found by reading the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dicom_gam

_SOURCE = Path(dicom_gam.__file__).parent
_NAME = re.compile(r"[a-z]+\.[a-z_]+|drift-[a-z]+")
_WRITERS = {"append", "extend", "tell", "tell_some", "record_act", "record", "_record", "_notice", "notice"}
_WRITERS |= {"_add_line", "_Request", "_finish"}
_HOLDERS = re.compile(r"(?i)_?events?|_?records?|name|checkpoint")
_LOOKS_LIKE_ONE = re.compile(rf"[\"']({_NAME.pattern})[\"']")
_THINGS = {"destination", "delivery", "result", "instance", "commitment"}


def recorded_events() -> set[str]:
    """All of them; a name that is put together at run time is not found."""
    return {name for path in sorted(_SOURCE.rglob("*.py")) for name in _of_file(path)}


def _of_file(path: Path) -> Iterator[str]:
    text = path.read_text("utf-8")
    if not _LOOKS_LIKE_ONE.search(text):  # parsing every file takes seconds
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _called(node.func) in _WRITERS:
            for argument in node.args:
                yield from _names(argument)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            held = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            if any(_HOLDERS.fullmatch(name) for name in held):
                yield from _names(node.value)
        elif isinstance(node, ast.Call):
            yield from (name for argument in node.args[:4] for name in _names(argument) if _is_handed_on(name))


def _is_handed_on(name: str) -> bool:
    """Whether a name that is handed to another function, which writes it, is an event: by what it begins with."""
    return name.split(".")[0] in _THINGS


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Dict):  # a table that is asked for an event's name has it as a value, not as a key
        for value in node.values:
            yield from _names(value)
        return
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and _NAME.fullmatch(part.value):
            yield part.value


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")

"""Write a bundle's manifest as TOML text; the standard library only reads it."""

from __future__ import annotations

import json
from typing import Any

from dicom_gam.bundle.manifest import Manifest


def manifest_text(manifest: Manifest) -> str:
    """bundle.toml: plain keys first, then tables, then the classes, one [[classes]] table each."""
    table = manifest.model_dump(mode="json")
    classes = table.pop("classes")
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"{key} = {_value(value)}" for key, value in plain.items()]
    for name, inner in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in inner.items())]
    for entry in classes:
        lines += ["", "[[classes]]", *(f"{key} = {_value(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, float):
        return repr(value)  # JSON has another spelling for inf and nan
    text = json.dumps(value, ensure_ascii=False)  # strings, integers and booleans are written as in JSON
    return text.replace("\x7f", "\\u007f")  # which alone of TOML's control characters needs no escape there

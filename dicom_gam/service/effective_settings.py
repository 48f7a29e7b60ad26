"""The configuration as it is in effect: every key with its value, where that comes from, and what it is for.

Secrets are not in the settings, only the paths of their files; what a URL holds of user and password is masked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from dicom_gam.sections import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from dicom_gam.config import Settings

_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class EffectiveKey:
    """One key. `section` is its table, such as `node` or `destinations.0`; a number counts from 0, as in messages.

    `value` and `default` are JSON-ready; `default` is None as well for a key that must be given (`required`).
    """

    section: str
    key: str
    value: Any
    default: Any
    is_set: bool
    required: bool
    description: str

    @property
    def name(self) -> str:
        """The key with its section before it."""
        return f"{self.section}.{self.key}" if self.section else self.key

    @property
    def text(self) -> str:
        """The value as one would write it into the file, or `not set`."""
        return _text(self.value)

    @property
    def default_text(self) -> str:
        """The default likewise."""
        return "must be given" if self.required else _text(self.default)


def effective(settings: Settings) -> list[EffectiveKey]:
    """Every key of the configuration, section by section; a list of tables that is empty is one key."""
    return list(_keys(settings, ""))


def title_of(settings: Settings, section: str) -> str:
    """What a section is called: its own name where it has one, such as `destinations.0: pacs`."""
    place, _, number = section.partition(".")
    items = getattr(settings, place, None)
    if isinstance(items, tuple) and number.isdecimal():
        return f"{section}: {items[int(number)].name}"
    return section or "lists"


def masked(text: str) -> str:
    """The text without user names and passwords in its URLs."""
    return _USER_INFO.sub("***@", text)


def _keys(section: Section, place: str) -> Iterator[EffectiveKey]:
    deeper: list[tuple[str, Section]] = []
    for key, info in type(section).model_fields.items():
        value = getattr(section, key)
        inner = f"{place}.{key}" if place else key
        if isinstance(value, Section):
            deeper.append((inner, value))
        elif isinstance(value, tuple) and value and all(isinstance(item, Section) for item in value):
            deeper += [(f"{inner}.{number}", item) for number, item in enumerate(value)]
        else:
            yield _key(section, place, key, info, value)
    for inner, item in deeper:
        yield from _keys(item, inner)


def _key(section: Section, place: str, key: str, info: FieldInfo, value: Any) -> EffectiveKey:
    default = None if info.default is PydanticUndefined else info.default
    is_set = key in section.model_fields_set and not _anchored_default(value, default)
    description = info.description or f"any number of [[{key}]] tables"
    return EffectiveKey(place, key, _plain(value), _plain(default), is_set, info.is_required(), description)


def _anchored_default(value: Any, default: Any) -> bool:
    """Whether it is a default path that only was made absolute, which counts as set to pydantic."""
    return isinstance(value, Path) and isinstance(default, Path) and value.parts[-len(default.parts) :] == default.parts


def _plain(value: Any) -> Any:
    return _mask(to_jsonable_python(value))


def _mask(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    return [_mask(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)

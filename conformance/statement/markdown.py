"""Tables in Markdown, and the filling in of templates."""

import re
from collections.abc import Iterable, Mapping, Sequence

_PLACE = re.compile(r"\{\{([a-z0-9_ ]+)\}\}")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; bars within cells are escaped."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def cell(value: object) -> str:
    """One line of text that a table can hold."""
    return " ".join(str(value).split()).replace("|", "\\|")


def code(value: object) -> str:
    """Text as it is, in a fixed width; nothing stays nothing."""
    text = " ".join(str(value).split())
    return f"`{text}`" if text else ""


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every place filled. Raises ValueError for a place without a part, or a part without a place."""
    places = set(_PLACE.findall(template))
    if places != parts.keys():
        msg = f"without a part: {sorted(places - parts.keys())}; without a place: {sorted(parts.keys() - places)}"
        raise ValueError(msg)
    return _PLACE.sub(lambda match: parts[match[1]], template)

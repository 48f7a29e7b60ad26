"""A dossier as one HTML file that holds all it needs, has no script, and can be printed."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from dicom_gam.service.dossier_blocks import Code, Facts, Heading, Table, Words
from dicom_gam.service.dossier_document import document, title_of
from dicom_gam.service.dossier_words import plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from dicom_gam.service.dossier import Dossier
    from dicom_gam.service.dossier_blocks import Block
    from dicom_gam.service.dossier_pictures import Picture


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def _style() -> str:
    return (resources.files("dicom_gam.service") / "dossier.css").read_text("utf-8")


def write_html(dossier: Dossier, file: IO[bytes]) -> None:
    """Write it. Everything that came from outside is escaped."""
    title = escape(title_of(dossier))
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{title}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
    )
    file.write(head.encode())
    for block in document(dossier):
        file.writelines(part.encode() for part in _block(block))
    file.write(f"</main>\n<footer><p>dicom_gam {escape(dossier.version)}</p></footer>\n</body>\n</html>\n".encode())


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        name = ' class="new"' if block.new_page else ""
        yield f"<h{block.level}{name}>{escape(block.text)}</h{block.level}>\n"
    elif isinstance(block, Words):
        yield f'<p class="{block.tone}">{escape(block.text)}</p>\n'
    elif isinstance(block, Facts):
        yield "<dl>\n"
        for name, value in block.rows:
            yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n"
        yield "</dl>\n"
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Code):
        yield f"<pre>{escape(block.text)}</pre>\n"
    else:
        yield _picture(block)


def _table(table: Table) -> Iterator[str]:
    total = sum(share for _, share in table.columns)
    yield f'<div class="scroll"><table>\n<caption>{escape(table.caption)}</caption>\n<colgroup>'
    for _, share in table.columns:
        yield f'<col width="{100 * share / total:.1f}%">'
    yield "</colgroup>\n<thead><tr>"
    for title, _ in table.columns:
        yield f'<th scope="col">{escape(title)}</th>' if title else "<td></td>"
    yield "</tr></thead>\n<tbody>\n"
    for place, row in enumerate(table.rows):
        tone = table.tones[place] if table.tones else "plain"
        yield (f'<tr class="{tone}">' if tone != "plain" else "<tr>")
        yield "".join(f"<td>{escape(cell)}</td>" for cell in row)
        yield "</tr>\n"
    yield "</tbody>\n</table></div>\n"


def _picture(picture: Picture) -> str:
    caption = escape(plain(picture.caption))
    if not picture.png:
        return f'<p class="warn">{caption}: {escape(plain(picture.why_not))}.</p>\n'
    data = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>\n'
    )

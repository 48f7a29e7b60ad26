"""Work lists: files that name the studies to fetch."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from dicom_gam.dicom.identity import is_uid
from dicom_gam.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

COLUMN = "study_instance_uid"
MAXIMUM_BYTES = 16 * 1024**2


def read_work_list(path: Path) -> list[str]:
    """The Study Instance UIDs of a work list, in order, each once. Raises ConfigError that names the line.

    It is either CSV (comma, semicolon or tab) with a heading `study_instance_uid` among others, or plain text with one
    UID a line. Empty lines and lines that begin with # are left out. No message quotes a line: it may hold a name.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        msg = f"{path}: can't be read ({error.strerror}). Give the path of an existing work list."
        raise ConfigError(msg) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text. Save the work list as CSV in UTF-8.") from error
    if len(content) > MAXIMUM_BYTES:
        raise ConfigError(f"{path}: is larger than {MAXIMUM_BYTES} bytes. Give a list of Study Instance UIDs.")
    uids = _uids(path, text)
    if not uids:
        msg = f"{path}: names no study. Write a column {COLUMN}, or one Study Instance UID a line."
        raise ConfigError(msg)
    return list(dict.fromkeys(uids))


def _uids(path: Path, text: str) -> list[str]:
    column: int | None = None
    uids = []
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells) or cells[0].startswith("#"):
                continue
            if column is None:
                names = [cell.lower().replace("_", "").replace(" ", "") for cell in cells]
                wanted = COLUMN.replace("_", "")
                column = names.index(wanted) if wanted in names else 0
                if wanted in names:
                    continue
                if len(cells) > 1:
                    raise ConfigError(f"{path}: has no column {COLUMN}. Add that heading to the column of UIDs.")
            if column >= len(cells) or not is_uid(cells[column]):
                msg = f"{path}, line {rows.line_num}: there is no Study Instance UID. Correct or remove the line."
                raise ConfigError(msg)
            uids.append(cells[column])
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num}: is no CSV ({error}). Correct the line.") from error
    return uids

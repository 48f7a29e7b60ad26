"""Writing dossiers to files; each export is put on record before anybody has it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.service.audit_review import moment_of
from dicom_gam.service.dossier import Scope, ScopeKind, assemble
from dicom_gam.service.dossier_html import write_html
from dicom_gam.service.dossier_pdf import write_pdf
from dicom_gam.service.dossier_tables import SCHEMA, write_csv, write_json
from dicom_gam.storage.audit_index import AuditIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

    from dicom_gam.service.dossier import Dossier
    from dicom_gam.service.store import Store

FORMATS = ("html", "pdf", "csv", "json")
SCHEMA_FILE = "dossier.schema.json"
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {"html": "text/html; charset=utf-8", "pdf": "application/pdf", "csv": "text/csv; charset=utf-8",
     "json": "application/json", "zip": "application/zip"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """A file of an export."""

    path: Path
    size_bytes: int
    sha256: str


def export(
    store: Store, scope: Scope, formats: Sequence[str], folder: Path, *, by: str, address: str = ""
) -> list[Written]:
    """Write a dossier into a folder, and put the export on record; files appear there only after that.

    Raises ConfigError for a format that there is none of, or when nothing is on record about it; StorageError.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ConfigError(f"there is no format {', '.join(unknown) or 'given'}: choose of {', '.join(FORMATS)}")
    index = AuditIndex(store.folder)
    try:
        dossier = assemble(store, index, scope, by)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dossier-", dir=folder) as partly:
            made = [_written(dossier, name, Path(partly), index) for name in dict.fromkeys(formats)]
            store.audit.append("audit.exported", **_keys(dossier, made), by=by, address=address)
            return [_moved(written, folder) for written in made]
    except OSError as error:
        msg = f"the dossier can't be written to {folder} ({error.strerror}): give another folder, or make room"
        raise StorageError(msg) from error
    finally:
        index.close()


def export_zip(store: Store, scope: Scope, formats: Sequence[str], *, by: str, address: str) -> tuple[str, IO[bytes]]:
    """The same as one open file without a name, for a download; return the name to offer and the file.

    One format comes as it is, several in a zip.
    """
    with tempfile.TemporaryDirectory(prefix="dossier-") as place:
        made = export(store, scope, formats, Path(place), by=by, address=address)
        files = [written.path for written in made if written.path.name != SCHEMA_FILE]
        if len(files) == 1:
            return files[0].name, files[0].open("rb")
        zipped = Path(place) / f"{files[0].stem}.zip"
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            for written in made:
                archive.write(written.path, written.path.name)
        return zipped.name, zipped.open("rb")


def scope_of(study: str, job: str, since: str, until: str) -> Scope:
    """What a person asks for by a study, a job or a span of time, in words. Raises ConfigError unless it is one."""
    study, job, since, until = (words.strip() for words in (study, job, since, until))
    if sum(map(bool, (study, job, since or until))) != 1:
        raise ConfigError("say what the dossier is about: a study, or a job, or a span of time, and only one of them")
    if study:
        return Scope(ScopeKind.STUDY, study)
    if job:
        return Scope(ScopeKind.JOB, job)
    return Scope(ScopeKind.PERIOD, since=moment_of(since), until=moment_of(until, end=True))


def name_of(scope: Scope) -> str:
    """What a dossier's files are called, without the ending; nothing in it can lead out of a folder."""
    if scope.kind is ScopeKind.PERIOD:
        ends = (
            f"{datetime.fromtimestamp(end, UTC):%Y%m%dT%H%M%SZ}" if end is not None else ""
            for end in (scope.since, scope.until)
        )
        return "dossier-" + "-to-".join(end or "open" for end in ends)
    kept = "".join(character for character in scope.name if character.isalnum() or character == ".").strip(".")
    return f"dossier-{scope.kind.value}-{kept[:64] or 'unnamed'}"


def _written(dossier: Dossier, name: str, folder: Path, index: AuditIndex) -> Written:
    path = folder / f"{name_of(dossier.scope)}.{name}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w+b") as file:
        if name == "html":
            write_html(dossier, file)
        elif name == "pdf":
            write_pdf(dossier, file)
        elif name == "csv":
            write_csv(dossier, file, index.line_of)
        else:
            write_json(dossier, file, index.line_of)
    if name == "json":
        (folder / SCHEMA_FILE).write_text(json.dumps(SCHEMA, indent=1), "utf-8")
    with path.open("rb") as file:
        return Written(path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _moved(written: Written, folder: Path) -> Written:
    target = folder / written.path.name
    schema = written.path.with_name(SCHEMA_FILE)
    os.replace(written.path, target)
    if written.path.suffix == ".json":
        os.replace(schema, folder / SCHEMA_FILE)
    return Written(target, written.size_bytes, written.sha256)


def _keys(dossier: Dossier, made: Sequence[Written]) -> dict[str, Any]:
    scope = dossier.scope
    about: dict[str, Any] = {"what": scope.kind.value}
    if scope.kind is ScopeKind.STUDY:
        about["study_instance_uid"] = scope.name
    elif scope.kind is ScopeKind.JOB:
        about["job_id"] = scope.name
    else:
        about |= {"since": scope.since, "until": scope.until}
    files = [{"name": one.path.name, "size_bytes": one.size_bytes, "sha256": one.sha256} for one in made]
    return about | {"records": dossier.count, "first": dossier.first, "last": dossier.last, "files": files}

"""The page Audit: search the log, check that it is whole, export dossiers. All of that is put on record itself."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from flask import Blueprint, flash, redirect, render_template, request, send_file, url_for

from dicom_gam.errors import AuditError, ConfigError, DicomGamError
from dicom_gam.service.audit_review import chain_state, moment_of
from dicom_gam.service.dossier_export import FORMATS, MEDIA_TYPES, export_zip, scope_of
from dicom_gam.service.dossier_words import plain, said
from dicom_gam.storage.audit_index import AuditIndex
from dicom_gam.web.access import Permission, guard, needs, record_act, visitor
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from werkzeug.wrappers import Response

    from dicom_gam.storage.audit_reader import AuditRecord

pages = Blueprint("audit", __name__)
PER_PAGE = 50
_LONGEST = 200
_HIGHEST = 2**53


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for, as it was typed; `number` is what `before` says, None for the newest."""

    event: str = ""
    text: str = ""
    since: str = ""
    until: str = ""
    before: str = ""

    @property
    def number(self) -> int | None:
        """The number below which records are wanted. Raises ConfigError."""
        if not self.before:
            return None
        if not (self.before.isascii() and self.before.isdigit()) or not 0 < int(self.before[:20]) < _HIGHEST:
            raise ConfigError(f"{self.before[:20]!r} is no number of a record: go back to the newest records")
        return int(self.before)

    @property
    def filters(self) -> dict[str, str]:
        """What narrows the search, without what is empty."""
        named = {"event": self.event, "text": self.text, "since": self.since, "until": self.until}
        return {name: words for name, words in named.items() if words}


@dataclass(frozen=True, slots=True)
class Row:
    """One record as the page shows it."""

    number: int
    time: str
    event: str
    words: str
    by: str
    job_id: str
    keys: str


@pages.get("/audit")
@needs(Permission.AUDIT)
def page() -> str | tuple[str, int]:
    """Show the records that are looked for, newest first."""
    search = Search(**{name: request.args.get(name, "").strip()[:_LONGEST] for name in Search.__slots__})
    try:
        with closing(AuditIndex(site().store.folder)) as index:
            events = index.events()
            records = _found(index, search)
    except DicomGamError as error:
        return _shown(search, (), (), fault=str(error)), 400 if isinstance(error, ConfigError) else 503
    _record_search(search, records)
    return _shown(search, records, events)


@pages.post("/audit/verify")
@needs(Permission.AUDIT)
def verify() -> Response:
    """Check the whole log, and say what came of it."""
    state = chain_state(site().store)
    record_act("audit.verified", whole=state.whole, records=state.records, bad_record=state.bad_record)
    if state.whole:
        flash(f"The audit log is whole. {state.words} It is {state.signatures}.", "good")
    else:
        where = "" if state.bad_record is None else f" The first bad record is number {state.bad_record}."
        flash(f"THE AUDIT LOG IS BROKEN.{where} {plain(state.words)}", "bad")
    return redirect(url_for("audit.page", _anchor="verify"), 303)


@pages.post("/audit/export")
@needs(Permission.AUDIT)
def export() -> Response | tuple[str, int]:
    """Hand out a dossier as a file."""
    wanted = {name: request.form.get(name, "")[:_LONGEST] for name in ("study", "job", "from", "to")}
    chosen = request.form.get("format", "all")
    formats = FORMATS if chosen == "all" else (chosen,)
    who = visitor()
    try:
        scope = scope_of(wanted["study"], wanted["job"], wanted["from"], wanted["to"])
        name, file = export_zip(site().store, scope, formats, by=who.name, address=who.address)
    except (ConfigError, AuditError) as error:
        with closing(AuditIndex(site().store.folder)) as index:
            events = index.events() if isinstance(error, ConfigError) else ()
        return _shown(Search(), (), events, refused=str(error), wanted=wanted), 400
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    return send_file(file, media_type, as_attachment=True, download_name=name)


def _found(index: AuditIndex, search: Search) -> list[AuditRecord]:
    since, until = moment_of(search.since), moment_of(search.until, end=True)
    if since is not None and until is not None and since >= until:
        raise ConfigError("this span of time ends before it begins: exchange its ends")
    return index.search(
        event=search.event, text=search.text, since=since, until=until, before=search.number, limit=PER_PAGE + 1
    )


def _record_search(search: Search, records: Sequence[AuditRecord]) -> None:
    """Put the search on record, the same one once in ten minutes.

    A text that is nowhere in the log might be a patient's name, typed by mistake: it must not get in there so.
    """
    key = (visitor().name, visitor().address, "audit", search)
    if guard().looks.holds(key):
        return
    filters = search.filters
    if not records:
        filters.pop("text", None)
        filters.pop("event", None)
    record_act("audit.searched", filters=filters, found=min(len(records), PER_PAGE))
    guard().looks.add(key)


def _shown(
    search: Search,
    records: Sequence[AuditRecord],
    events: Sequence[str],
    *,
    fault: str = "",
    refused: str = "",
    wanted: dict[str, str] | None = None,
) -> str:
    rows = [_row(record) for record in records[:PER_PAGE]]
    asked = wanted or {name: request.args.get(name, "")[:_LONGEST] for name in ("study", "job")}
    return render_template(
        "audit.html",
        search=search,
        rows=rows,
        events=events,
        older=rows[-1].number if len(records) > PER_PAGE else None,
        fault=fault,
        refused=refused,
        wanted=asked,
        formats=FORMATS,
    )


def _row(record: AuditRecord) -> Row:
    job_id = record.keys.get("job_id")
    return Row(
        record.number,
        _local(record.time),
        record.event,
        plain(said(record)),
        plain(record.keys.get("by") or record.keys.get("user") or ""),
        job_id if isinstance(job_id, str) else "",
        json.dumps(record.keys, indent=1, sort_keys=True),
    )


def _local(time: str) -> str:
    """A record's time for people, as every page shows times."""
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S %z}"

"""A dossier as data: CSV for a spreadsheet, JSON for a program. They hold every record, written as they are read."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from dicom_gam.service.dossier import ScopeKind, outcome_of
from dicom_gam.service.dossier_words import plain, said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO

    from dicom_gam.service.dossier import Dossier
    from dicom_gam.storage.audit_reader import AuditRecord

    Line = Callable[[AuditRecord], tuple[bytes, str]]  # a record's line as it stands in the log, and its SHA-256

COLUMNS = (
    "number", "time", "event", "job_id", "study_instance_uid", "sop_instance_uid", "destination", "by", "in_words",
    "keys", "previous", "sha256",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\ufe66", "\uff0b", "\uff1d", "\uff0d", "\uff20")
FORMAT = "dicom_gam dossier 1"


def write_csv(dossier: Dossier, file: IO[bytes], line_of: Line) -> None:
    """One row for each record, RFC 4180; what a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for record in dossier.records():
        line, digest = line_of(record)
        keys = record.keys
        source = keys.get("input")
        about: Mapping[str, Any] = source if isinstance(source, dict) else keys
        row = (
            record.number, record.time, record.event, keys.get("job_id"),
            about.get("study_instance_uid") or keys.get("study_instance_uid"),
            about.get("sop_instance_uid") or keys.get("sop_instance_uid"), keys.get("destination"),
            keys.get("by") or keys.get("user"), said(record), json.dumps(keys, sort_keys=True),
            json.loads(line)["previous"], digest,
        )  # fmt: skip
        writer.writerow([cell(value) for value in row])
    text.detach()


def cell(value: object) -> str:
    """A value as a spreadsheet may hold it: on one line, and no formula."""
    words = "" if value is None else str(value)
    harmful = words.startswith(_FORMULA) or words.lstrip().startswith(_FORMULA)
    return ("'" if harmful else "") + plain(words)


def write_json(dossier: Dossier, file: IO[bytes], line_of: Line) -> None:
    """What `SCHEMA` describes. Each record stands on a line of its own, byte for byte as in the log."""
    head = json.dumps(_head(dossier), sort_keys=True, ensure_ascii=True, allow_nan=False)
    file.write(head[:-1].encode() + b',"records":[\n')
    before = b""
    for record in dossier.records():
        line, digest = line_of(record)
        file.write(before + b'{"sha256":"' + digest.encode() + b'","record":' + line + b"}")
        before = b",\n"
    file.write(b"\n]}\n")


def _head(dossier: Dossier) -> dict[str, Any]:
    scope, chain = dossier.scope, dossier.chain
    head: dict[str, Any] = {
        "$schema": "dossier.schema.json",
        "format": FORMAT,
        "scope": {"kind": scope.kind.value, "name": scope.name, "since": scope.since, "until": scope.until},
        "made_at": dossier.made_at,
        "made_by": dossier.made_by,
        "version": dossier.version,
        "log": {
            "whole": chain.whole, "records": chain.records, "words": chain.words, "bad_record": chain.bad_record,
            "last_sha256": chain.head, "signatures": chain.signatures, "key_fingerprints": list(chain.fingerprints),
        },
        "range": {"count": dossier.count, "first": dossier.first, "last": dossier.last},
        "events": dict(sorted(dossier.events.items())),
        "settings": dict(dossier.settings),
    }  # fmt: skip
    if scope.kind is ScopeKind.PERIOD:
        head["jobs"] = [
            {"job_id": line.job_id, "received": line.received, "sender": line.sender, "outcome": line.outcome,
             "sop_instance_uid": line.sop_instance_uid, "why": line.why, "bundle": line.bundle, "sent": line.sent,
             "failed": line.failed}
            for line in dossier.lines
        ]  # fmt: skip
        return head
    head["jobs"] = [
        {
            "job_id": story.job_id,
            "outcome": "" if story.conclusion is None else outcome_of(story.conclusion),
            "arrival_record": None if story.arrival is None else story.arrival.number,
            "conclusion_record": None if story.conclusion is None else story.conclusion.number,
            "deliveries": [
                {"destination": delivery.what.destination, "role": delivery.what.role,
                 "sop_instance_uid": delivery.what.sop_instance_uid, "sha256": delivery.what.blob,
                 "state": delivery.state.value, "attempts": delivery.attempts, "status": delivery.status,
                 "words": delivery.cause, "transaction_uid": delivery.transaction_uid}
                for delivery in story.deliveries
            ],
            "reviews": [
                {"kind": review.kind.value, "reviewer": review.reviewer, "reviewed_at": review.reviewed_at,
                 "class_name": review.class_name, "words": review.words}
                for review in story.reviews
            ],
        }
        for story in dossier.images
    ]  # fmt: skip
    return head


_TEXT, _COUNT, _DIGEST = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"type": "string", "pattern": "^[0-9a-f]{64}$"},
)
_NUMBER_OR_NONE = {"type": ["number", "null"]}
SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "An audit dossier of dicom_gam",
    "type": "object",
    "required": ["format", "scope", "made_at", "made_by", "version", "log", "range", "events", "jobs", "records"],
    "properties": {
        "format": {"const": FORMAT},
        "scope": {
            "type": "object",
            "required": ["kind", "name", "since", "until"],
            "properties": {"kind": {"enum": ["study", "job", "period"]}, "name": _TEXT, "since": _NUMBER_OR_NONE,
                           "until": _NUMBER_OR_NONE},
        },
        "made_at": {"type": "number", "description": "seconds since the epoch, UTC"},
        "made_by": _TEXT,
        "version": _TEXT,
        "log": {
            "type": "object",
            "required": ["whole", "records", "words", "bad_record", "last_sha256"],
            "properties": {"whole": {"type": "boolean"}, "records": _COUNT, "words": _TEXT,
                           "bad_record": {"type": ["integer", "null"]}, "last_sha256": _TEXT},
        },
        "range": {
            "type": "object",
            "required": ["count", "first", "last"],
            "properties": {"count": _COUNT, "first": _COUNT, "last": _COUNT},
        },
        "events": {"type": "object", "additionalProperties": _COUNT},
        "settings": {"type": "object", "additionalProperties": _TEXT},
        "jobs": {
            "type": "array",
            "items": {"type": "object", "required": ["job_id", "outcome"],
                      "properties": {"job_id": _TEXT, "outcome": _TEXT}},
        },
        "records": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["sha256", "record"],
                "properties": {
                    "sha256": _DIGEST,
                    "record": {
                        "type": "object",
                        "required": ["number", "time", "event", "previous", "keys"],
                        "additionalProperties": False,
                        "properties": {"number": {"type": "integer", "minimum": 1},
                                       "time": {"type": "string", "format": "date-time"},
                                       "event": _TEXT, "previous": _DIGEST, "keys": {"type": "object"}},
                    },
                },
            },
        },
    },
}  # fmt: skip

"""What the audit log's index holds: its tables, and what of a record goes into them."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dicom_gam.storage.audit_reader import START

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.storage.audit_reader import AuditRecord

LAYOUT_NUMBER = 1
# `latest` is the latest time of any record so far, so it never falls, though `time` does when the clock steps back.
LAYOUT = f"""
BEGIN IMMEDIATE;
DROP TABLE IF EXISTS records;
DROP TABLE IF EXISTS mentions;
DROP TABLE IF EXISTS progress;
CREATE TABLE records (
  number INTEGER PRIMARY KEY,
  time REAL NOT NULL,
  latest REAL NOT NULL,
  event TEXT NOT NULL,
  job_id TEXT NOT NULL,
  sop_instance_uid TEXT NOT NULL,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  length INTEGER NOT NULL
) STRICT;
CREATE INDEX records_by_event ON records (event, number);
CREATE INDEX records_by_latest ON records (latest, number);
CREATE TABLE mentions (
  name TEXT NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (name, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE progress (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  number INTEGER NOT NULL,
  segment INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  last_segment INTEGER NOT NULL,
  last_offset INTEGER NOT NULL,
  last_sha256 TEXT NOT NULL,
  latest REAL NOT NULL,
  stepped_back REAL NOT NULL
) STRICT;
INSERT INTO progress VALUES (1, {START.number}, {START.segment}, {START.offset}, 0, 0, '', 0, 0);
PRAGMA user_version = {LAYOUT_NUMBER};
COMMIT;
"""  # noqa: S608 (constants only)
# What of a record it can be found by.
_NAMED = (
    "job_id", "predecessor", "unchanged_since_job", "sop_instance_uid", "study_instance_uid", "transaction_uid",
    "destination", "calling_ae_title", "sender", "peer_address", "by", "user", "address",
)  # fmt: skip
_LONGEST_NAME = 200


def names_in(keys: Mapping[str, Any]) -> set[str]:
    """What a record can be found by: jobs, UIDs, destinations, AE titles, addresses, persons."""
    found = {value for name in _NAMED if (value := keys.get(name)) is not None}
    for name in ("job_ids", "predecessors"):
        several = keys.get(name)
        found.update(several if isinstance(several, list) else ())
    source, outputs = keys.get("input"), keys.get("outputs")
    if isinstance(source, dict):
        found.update((source.get("sop_instance_uid"), source.get("study_instance_uid")))
    for output in outputs if isinstance(outputs, list) else ():
        found.add(output.get("sop_instance_uid") if isinstance(output, dict) else None)
    return {name for name in found if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME}


def seconds_of(time: str) -> float:
    """The time of a record in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def image_of(keys: Mapping[str, Any]) -> str:
    """The SOP Instance UID that a record is about, empty when there is none."""
    source = keys.get("input")
    return text_of((source if isinstance(source, dict) else keys).get("sop_instance_uid"))


def is_record(line: bytes, number: int) -> bool:
    """Whether a line is the record of this number."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.get("number") == number


def text_of(value: object) -> str:
    """The value when it is text, else nothing."""
    return value if isinstance(value, str) else ""


def digest_of(record: AuditRecord) -> str:
    """What tells a record from any other that could stand at its place."""
    content = json.dumps([record.number, record.time, record.event, record.keys, record.length], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

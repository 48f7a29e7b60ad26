"""Looking into the audit log: whether it is whole, and from when to when."""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from dicom_gam.errors import AuditError, ConfigError, DicomGamError
from dicom_gam.service.audit_check import check_log, signatures_told
from dicom_gam.service.loop import Loop, describe
from dicom_gam.storage.audit_index import AuditIndex
from dicom_gam.storage.sqlite import SqliteAuditHead

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicom_gam.service.store import Store

_log = logging.getLogger(__name__)

INDEX_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class ChainState:
    """Whether the log's chain is whole. `records` is how many were checked, `bad_record` the first bad one.

    `head` is the SHA-256 of the last record as the database knew it, `signatures` how far they reach, in words;
    `fingerprints` are the SHA-256 of the public keys that signed.
    """

    whole: bool
    records: int
    words: str
    head: str = ""
    bad_record: int | None = None
    signatures: str = ""
    fingerprints: tuple[str, ...] = ()


@contextmanager
def indexing(folder: Path) -> Iterator[None]:
    """Keep the index of the audit log up to date as long as the block runs, so that no page has to wait for it."""

    def step() -> float:
        with closing(AuditIndex(folder)) as index:
            index.catch_up()
        return INDEX_EVERY_S

    def failed(error: Exception) -> None:
        _log.error("audit.index_failed %s", error if isinstance(error, DicomGamError) else describe(error))

    loop = Loop("audit index", step, failed, pause_s=60.0)
    loop.start()
    try:
        yield
    finally:
        loop.stop()
        loop.join(10.0)


def chain_state(store: Store) -> ChainState:
    """Walk over the whole log, as `dicom-gam audit verify` does; a broken log is an answer, not an error."""
    head = SqliteAuditHead(store.database).read()
    digest = head.sha256 if head else ""
    try:
        found = check_log(store.folder)
    except AuditError as error:
        return ChainState(False, 0, str(error), digest, error.record)
    words = f"All {found.records} records were checked: none was edited, deleted, inserted, reordered or cut off."
    return ChainState(
        True, found.records, words, digest, signatures=signatures_told(found), fingerprints=found.fingerprints
    )


def moment_of(text: str, *, end: bool = False) -> float | None:
    """A time that a person has written, in seconds since the epoch; local unless it has an offset; None for nothing.

    With `end` a day alone is meant until its end. Raises ConfigError.
    """
    words = text.strip()
    if not words:
        return None
    try:
        found = datetime.fromisoformat(words)
        if end and _is_day(words):
            found += timedelta(days=1)
        return found.astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        msg = f"{words[:40]!r} is no time: write it as 2026-11-20 or 2026-11-20T14:00"
        raise ConfigError(msg) from error


def _is_day(words: str) -> bool:
    try:
        date.fromisoformat(words)
    except ValueError:
        return False
    return True

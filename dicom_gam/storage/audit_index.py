"""An index over the audit log: which records name a job, a study, a person; what happened when.

It is derived from the log and can be deleted at any time: `audit-index.sqlite` beside the log, filled from where it
stopped, dropped and built anew when it is damaged, of another layout, or not of this log. Records themselves are always
read from the log. Any number of processes may use it at once.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dicom_gam.errors import AuditError
from dicom_gam.storage.audit_index_file import IndexFile
from dicom_gam.storage.audit_index_layout import (
    digest_of,
    image_of,
    is_record,
    names_in,
    seconds_of,
    text_of,
)
from dicom_gam.storage.audit_reader import START, AuditReader, AuditRecord, Place
from dicom_gam.storage.audit_segments import segment_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import TypeVar

    _T = TypeVar("_T")

INDEX_FILE = "audit-index.sqlite"
LOG_FILE = "audit.jsonl"
BATCH = 4000  # records a transaction
_AT_ONCE = 500  # names in one query, below SQLite's limit of variables


class AuditIndex:
    """The index of the audit log in a storage folder. Every answer is up to date. Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._file = IndexFile(folder / INDEX_FILE)
        self._log = folder / LOG_FILE
        self._reader = AuditReader(self._log)

    def catch_up(self) -> int:
        """Take in what the log holds since the last time; return how many records. Raises AuditError, StorageError."""
        return self._file.tried(self._catch_up)

    def of_job(self, job_id: str) -> list[AuditRecord]:
        """Return every record that names a job or its image, oldest first."""
        return self.mentioning([job_id])

    def of_study(self, study_instance_uid: str) -> list[AuditRecord]:
        """Return every record of the study, its jobs and their images, oldest first; so also from before it was known.

        A study that no record names (its images were refused before they were read) has none.
        """
        return self.mentioning([study_instance_uid])

    def mentioning(self, names: Iterable[str]) -> list[AuditRecord]:
        """Return every record of these studies, jobs, images or storage commitments, and of the jobs they name."""

        def numbers() -> list[Place]:
            self._catch_up()
            direct = self._numbers(names)
            jobs = self._column("job_id", direct)
            of_jobs = direct | self._numbers(jobs)
            images = self._column("sop_instance_uid", of_jobs)
            of_images = of_jobs | self._numbers(images)
            return self._places(of_images | self._numbers(self._column("job_id", of_images)))

        return list(self._read(self._file.tried(numbers)))

    def search(
        self,
        *,
        event: str = "",
        text: str = "",
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[AuditRecord]:
        """Return records, newest first: numbers below `before`, times in [since, until) in seconds since the epoch.

        `event` is whole, or a beginning that ends in a dot. `text` is a job, UID, destination, AE title, address or
        person; when nothing is named so, whatever begins with it.
        """

        def places() -> list[Place]:
            self._catch_up()
            return self._search(event.strip(), text.strip(), since, until, before, limit)

        found = self._file.tried(places)
        return list(self._read(found[::-1]))[::-1]

    def between(self, since: float | None = None, until: float | None = None) -> Iterator[AuditRecord]:
        """Walk over the records whose time is in [since, until), oldest first, without holding them all."""

        def bounds() -> tuple[Place | None, int]:
            self._catch_up()
            first, last = self._bounds(since, until)
            return next(iter(self._places({first})), None), last

        place, last = self._file.tried(bounds)
        while place is not None and place.number <= last:
            records, place = self._reader.read(place, min(BATCH, last - place.number + 1))
            if not records:
                return
            for record in records:
                if (since is None or seconds_of(record.time) >= since) and (
                    until is None or seconds_of(record.time) < until
                ):
                    yield record

    def events(self) -> list[str]:
        """Return the kinds of events that there are, in alphabetical order."""

        def read() -> list[str]:
            self._catch_up()
            rows = self._file.open().execute(
                "WITH RECURSIVE kinds (event) AS (SELECT min(event) FROM records UNION ALL"
                " SELECT (SELECT min(event) FROM records WHERE records.event > kinds.event) FROM kinds"
                " WHERE kinds.event IS NOT NULL) SELECT event FROM kinds WHERE event IS NOT NULL"
            )
            return [row[0] for row in rows]

        return self._file.tried(read)

    def line_of(self, record: AuditRecord) -> tuple[bytes, str]:
        """A record as it stands in the log, without the line's end, and its SHA-256. Raises AuditError."""
        for path in (segment_path(self._log, record.place.segment), self._log):
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(record.place.offset)
                line = file.read(record.length)[:-1]
                if is_record(line, record.number):
                    return line, hashlib.sha256(line).hexdigest()
        msg = f"record {record.number} of the audit log is not at its place: run dicom-gam audit verify"
        raise AuditError(msg, record.number)

    def close(self) -> None:
        """Close the index; later calls raise StorageError."""
        self._file.close()

    def _catch_up(self) -> int:
        count = 0
        if not self._is_of_this_log():
            self._file.remove()
        while True:
            place = Place(*self._file.open().execute("SELECT number, segment, offset FROM progress").fetchone())
            records, after = self._reader.read(place, BATCH)
            if not records:
                return count
            if self._take_in(place, records, after):
                count += len(records)

    def _is_of_this_log(self) -> bool:
        """Whether the last record that was taken in is still in the log, at its place and as it was."""
        number, segment, offset, digest = (
            self._file.open()
            .execute("SELECT number - 1, last_segment, last_offset, last_sha256 FROM progress")
            .fetchone()
        )
        if number < START.number:
            return True
        try:
            records, _ = self._reader.read(Place(number, segment, offset), 1)
        except (AuditError, KeyError, TypeError, ValueError):  # what begins there is no record
            return False
        return bool(records) and digest_of(records[0]) == digest

    def _take_in(self, place: Place, records: list[AuditRecord], after: Place) -> bool:
        """Add records in one transaction; False when another process has done so in the meantime."""
        connection = self._file.open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            now = connection.execute("SELECT number, segment, offset, latest, stepped_back FROM progress").fetchone()
            current = Place(*now[:3]) == place
            if current:
                self._insert(records, after, *now[3:])
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return current

    def _insert(self, records: list[AuditRecord], after: Place, latest: float, stepped_back: float) -> None:
        rows = []
        for record in records:
            time = seconds_of(record.time)
            latest = max(latest, time)
            stepped_back = max(stepped_back, latest - time)
            rows.append(
                (record.number, time, latest, record.event, text_of(record.keys.get("job_id")), image_of(record.keys),
                 record.place.segment, record.place.offset, record.length)
            )  # fmt: skip
        connection = self._file.open()
        connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.executemany(
            "INSERT OR IGNORE INTO mentions VALUES (?, ?)",
            sorted((name, record.number) for record in records for name in names_in(record.keys)),
        )
        last = records[-1]
        connection.execute(
            "UPDATE progress SET number = ?, segment = ?, offset = ?, last_segment = ?, last_offset = ?,"
            " last_sha256 = ?, latest = ?, stepped_back = ?",
            (after.number, after.segment, after.offset, last.place.segment, last.place.offset, digest_of(last), latest,
             stepped_back),
        )  # fmt: skip

    def _search(
        self, event: str, text: str, since: float | None, until: float | None, before: int | None, limit: int
    ) -> list[Place]:
        first, last = self._bounds(since, until)
        terms = ["number BETWEEN ? AND ?"]
        values: list[Any] = [first, last if before is None else min(last, before - 1)]
        if event:
            terms.append("event >= ? AND event < ?" if event.endswith(".") else "event = ?")
            values += _range(event) if event.endswith(".") else [event]
        for term, bound in (("time >= ?", since), ("time < ?", until)):
            if bound is not None:
                terms.append(term)
                values.append(bound)
        if text:
            named = self._file.open().execute("SELECT 1 FROM mentions WHERE name = ? LIMIT 1", (text,)).fetchone()
            condition = "name = ?" if named else "name >= ? AND name < ?"
            terms.append(f"number IN (SELECT number FROM mentions WHERE {condition})")  # noqa: S608
            values += [text] if named else _range(text)
        rows = self._file.open().execute(
            f"SELECT number, segment, offset FROM records WHERE {' AND '.join(terms)}"  # noqa: S608 (constants only)
            " ORDER BY number DESC LIMIT ?",
            (*values, limit),
        )
        return [Place(*row) for row in rows.fetchall()]

    def _bounds(self, since: float | None, until: float | None) -> tuple[int, int]:
        """The first and last number that a span of time can lie between, however the clock has stepped back."""
        connection = self._file.open()
        count, stepped_back = connection.execute("SELECT number - 1, stepped_back FROM progress").fetchone()
        first, last = 1, count
        if since is not None:
            query = "SELECT number FROM records WHERE latest >= ? ORDER BY latest, number LIMIT 1"
            row = connection.execute(query, (since,)).fetchone()
            first = count + 1 if row is None else row[0]
        if until is not None:
            query = "SELECT number FROM records WHERE latest < ? ORDER BY latest DESC, number DESC LIMIT 1"
            row = connection.execute(query, (until + stepped_back,)).fetchone()
            last = 0 if row is None else row[0]
        return first, last

    def _numbers(self, names: Iterable[str]) -> set[int]:
        return {
            row[0]
            for places, some in _by(list(names))
            for row in self._file.open().execute(f"SELECT number FROM mentions WHERE name IN ({places})", some)  # noqa: S608
        }

    def _column(self, column: str, numbers: set[int]) -> set[str]:
        query = f"SELECT DISTINCT {column} FROM records WHERE number IN ({{}}) AND {column} != ''"  # noqa: S608
        return {
            row[0]
            for places, some in _by(sorted(numbers))
            for row in self._file.open().execute(query.format(places), some)
        }

    def _places(self, numbers: set[int]) -> list[Place]:
        return [
            Place(*row)
            for places, some in _by(sorted(numbers))
            for row in self._file.open().execute(
                f"SELECT number, segment, offset FROM records WHERE number IN ({places}) ORDER BY number",  # noqa: S608
                some,
            )
        ]

    def _read(self, places: list[Place]) -> Iterator[AuditRecord]:
        """Read records, those that follow each other in one go. Raises AuditError when the log lacks one."""
        start = 0
        while start < len(places):
            end = start + 1
            while end < len(places) and places[end].number == places[end - 1].number + 1:
                end += 1
            records, _ = self._reader.read(places[start], end - start)
            if [record.number for record in records] != [place.number for place in places[start:end]]:
                msg = f"record {places[start].number} of the audit log is not at its place: run dicom-gam audit verify"
                raise AuditError(msg, places[start].number)
            yield from records
            start = end


def _range(beginning: str) -> list[str]:
    """What lies between: every text that begins so."""
    return [beginning, beginning + "\U0010ffff"]


def _by(values: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The values in portions, each with its question marks."""
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        yield ", ".join("?" for _ in some), some

"""What people look results up by and see over time: headers, figures, and what they said about results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.records import ImageHeader
from dicom_gam.storage.rows import SIMILARITIES, Review, ReviewKind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from dicom_gam.storage.rows import Conclusion
    from dicom_gam.storage.sqlite import Database

_FIGURES = ", ".join("?" for _ in range(9 + len(SIMILARITIES)))


def record_oversight(connection: sqlite3.Connection, job_id: str, conclusion: Conclusion, now: float) -> None:
    """Keep header and figures of a finished job within the caller's transaction."""
    row = connection.execute("SELECT number, calling_ae_title FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    header, figures = conclusion.header, conclusion.figures
    if header is not None:
        connection.execute(
            "INSERT OR REPLACE INTO job_headers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row["number"], header.patient_name, header.patient_id, header.accession_number, header.study_date,
             header.study_description, header.modality, header.body_part_examined),
        )  # fmt: skip
    if figures is not None:
        connection.execute(
            f"INSERT OR REPLACE INTO job_figures VALUES ({_FIGURES})",  # noqa: S608 (constants only)
            (row["number"], now, row["calling_ae_title"], figures.bundle_name, figures.bundle_version,
             figures.bundle_digest, figures.class_name, conclusion.outcome, figures.p_value,
             *(figures.similarities.get(name) for name in SIMILARITIES)),
        )  # fmt: skip


def forget_headers(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """A patient's data goes with the image: forget the headers of these jobs within the caller's transaction."""
    connection.executemany("DELETE FROM job_headers WHERE number = ?", [(number,) for number in numbers])


class SqliteReviews:
    """`protocols.Reviews` over a `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, review: Review) -> int:
        """Keep what a person said; return its number. Raises StorageError when there is no such job."""
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM jobs WHERE job_id = ?", (review.job_id,)).fetchone() is None:
                msg = f"there is no job {review.job_id!r}: look it up in the list of studies"
                raise StorageError(msg)
            cursor = connection.execute(
                "INSERT INTO reviews (job_id, kind, class_name, words, reviewer, reviewed_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (review.job_id, review.kind.value, review.class_name, review.words, review.reviewer,
                 review.reviewed_at),
            )  # fmt: skip
        return int(cursor.lastrowid or 0)

    def of_job(self, job_id: str) -> list[Review]:
        """Return what was said about a job's result, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM reviews WHERE job_id = ? ORDER BY review_id", (job_id,))
            return [_review(row) for row in rows.fetchall()]

    def all_of(self, kinds: Iterable[ReviewKind]) -> list[Review]:
        """Return every review of these kinds, oldest first."""
        wanted = [kind.value for kind in kinds]
        places = ", ".join("?" for _ in wanted)
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT * FROM reviews WHERE kind IN ({places}) ORDER BY review_id",  # noqa: S608 (places only)
                wanted,
            )
            return [_review(row) for row in rows.fetchall()]


def header_of(database: Database, job_id: str) -> ImageHeader | None:
    """What a job's image is looked up by; None when it was never known or is forgotten."""
    with database.reading() as connection:
        row = connection.execute(
            "SELECT job_headers.*, study_instance_uid FROM job_headers JOIN jobs USING (number) WHERE job_id = ?",
            (job_id,),
        ).fetchone()
    if row is None:
        return None
    return ImageHeader(**{key: row[key] for key in row.keys() if key != "number"})  # noqa: SIM118 (a Row is no dict)


def _review(row: sqlite3.Row) -> Review:
    return Review(
        job_id=row["job_id"],
        kind=ReviewKind(row["kind"]),
        reviewer=row["reviewer"],
        reviewed_at=row["reviewed_at"],
        class_name=row["class_name"],
        words=row["words"],
        review_id=row["review_id"],
    )

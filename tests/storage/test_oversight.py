"""Headers, figures and reviews: what people look results up by, see over time, and say."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from dicom_gam.core.similarity import SIMILARITIES as COMPUTED
from dicom_gam.errors import StorageError
from dicom_gam.records import ImageHeader, ReceivedInstance
from dicom_gam.storage.layouts import LAYOUTS
from dicom_gam.storage.rows import SIMILARITIES, Conclusion, Horizon, JobFigures, NewJob, Review, ReviewKind
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.sqlite_oversight import SqliteReviews, header_of
from dicom_gam.storage.sqlite_retention import SqliteRetention
from dicom_gam.storage.states import JobEvent

HEADER = ImageHeader("Doe^Jane", "P1", "A1", "1.2.9", "20250304", "Chest", "CR", "CHEST")
FIGURES = JobFigures("bundle", "1", "d" * 64, "chest", 0.25, {"iou": 0.5, "kl": None})


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "node.sqlite")
    yield opened
    opened.close()


def finished(database: Database) -> str:
    jobs = SqliteJobQueue(database, Path)
    instance = ReceivedInstance(Path("x"), "1.2", "1.2.3", "1.2.840.10008.1.2.1", "digest", 7, "ROOM_1")
    jobs.add(NewJob("job", "blob", instance, 1.0))
    (job,) = jobs.claim("w", 1, 10.0, 1.0)
    conclusion = Conclusion(JobEvent.FINISH, "PASS", "", "", "1.2.9", {}, "", HEADER, FIGURES)
    assert jobs.finish(job.lease, conclusion, (), 5.0)
    return "job"


def figures(database: Database) -> dict:
    with database.reading() as connection:
        return dict(connection.execute("SELECT * FROM job_figures").fetchone())


def test_the_similarities_are_those_that_are_computed():
    assert set(SIMILARITIES) == set(COMPUTED) - {"soft_iou"}  # a companion of iou, which it moves along with


def test_a_finished_job_is_known_by_its_header_and_its_figures(database):
    assert header_of(database, finished(database)) == HEADER
    kept = figures(database)
    assert (kept["sender"], kept["outcome"], kept["p_value"], kept["iou"], kept["kl"], kept["ssim"]) == (
        "ROOM_1", "PASS", 0.25, 0.5, None, None
    )  # fmt: skip


@pytest.mark.requirement("SAF-06")
def test_a_patients_data_goes_with_the_image_and_the_figures_stay(database):
    job_id = finished(database)
    horizon = Horizon(100.0, 100)
    assert [image.job_id for image in SqliteRetention(database).purge(horizon, horizon, 10, 100.0)] == [job_id]
    assert header_of(database, job_id) is None
    assert figures(database)["p_value"] == 0.25


def test_what_people_say_is_kept_in_order_and_found_by_its_kind(database):
    job_id = finished(database)
    reviews = SqliteReviews(database)
    for kind, words in ((ReviewKind.DISAGREE, "no"), (ReviewKind.AGREE, "yes, after all")):
        reviews.add(Review(job_id, kind, "rad", 6.0, "chest", words))
    assert [(said.kind, said.words) for said in reviews.of_job(job_id)] == [
        (ReviewKind.DISAGREE, "no"),
        (ReviewKind.AGREE, "yes, after all"),
    ]
    assert [said.words for said in reviews.all_of([ReviewKind.AGREE])] == ["yes, after all"]


def test_nothing_can_be_said_about_a_job_that_is_not_there(database):
    with pytest.raises(StorageError, match="there is no job 'other'"):
        SqliteReviews(database).add(Review("other", ReviewKind.COMMENT, "rad", 1.0))


def test_results_of_an_earlier_layout_gain_their_figures_and_odd_ones_do_no_harm(tmp_path):
    path = tmp_path / "old.sqlite"
    measurements = [{"name": "attention.iou", "value": 0.5}, {"name": "attention.kl", "value": "nan"}]
    whole = {
        "bundle": {"name": "b", "version": "1", "digest": "d"},
        "verification": {
            "p_value": 0.25,
            "rank": {"class_name": "chest"},
            "checks": [{"measurements": []}, {"measurements": measurements}],
        },
    }
    with sqlite3.connect(path) as connection:
        connection.executescript(" ".join(LAYOUTS[:3]))
        for number, result in enumerate((json.dumps(whole), "{}", None)):
            connection.execute(
                "INSERT INTO jobs (job_id, state, blob, sop_class_uid, sop_instance_uid, transfer_syntax_uid, digest,"
                " size_bytes, calling_ae_title, called_ae_title, peer_address, received_at,"
                " finished_at, outcome, result)"
                " VALUES (?, 'done', ?, '1.2', ?, '1.2', 'x', 1, 'ROOM', 'B', '::1', 5.0, 6.0, 'PASS', ?)",
                (f"job{number}", f"blob{number}", f"1.2.{number}", result),
            )
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    later = Database(path)
    with later.reading() as connection:
        rows = [
            tuple(row)
            for row in connection.execute("SELECT bundle_name, class_name, p_value, iou, kl FROM job_figures")
        ]
    later.close()
    assert rows == [("b", "chest", 0.25, 0.5, None), ("", "", None, None, None)]

"""The drift of streams in storage: each finished job counts once, with its result or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.layouts import LAYOUTS, SCHEMA_VERSION
from dicom_gam.storage.protocols import DriftStore, JobQueue
from dicom_gam.storage.rows import Conclusion, DriftSample, DriftStep, NewJob, PastImages
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_drift import SqliteDrift
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.states import JobEvent, JobState

CONCLUSION = Conclusion(JobEvent.FINISH, "PASS")
SAMPLE = DriftSample("MODALITY", "anatomy", "1", "d" * 64, "hand", size=4, odder=1, equal=0, chance=0.5)


class Rule:
    """Counts: evidence is the number of images, the alarm comes with the third. Remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, DriftSample, PastImages]] = []
        self.broken = False

    def __call__(self, state: str, sample: DriftSample, past: PastImages, /) -> DriftStep:
        self.shown.append((state, sample, past))
        if self.broken:
            raise StorageError("the rule is broken")
        images = int(state or "0") + 1
        return DriftStep(str(images), float(images), float(max(images, 2)), images >= 3)


@dataclass
class Store:
    rule: Rule
    jobs: JobQueue
    drift: DriftStore
    finish: Callable[..., bool]


@pytest.fixture
def opened(tmp_path: Path, new_job: Callable[..., NewJob]) -> Iterator[Store]:
    database = Database(tmp_path / "node.sqlite")
    rule = Rule()
    jobs = SqliteJobQueue(database, lambda name: tmp_path / name, rule)
    numbers = iter(range(1000))

    def finish(sample: DriftSample | None = SAMPLE, now: float = 10.0) -> bool:
        jobs.add(new_job(next(numbers)))
        (job,) = jobs.claim("w", 1, 10.0, 0.0)
        return jobs.finish(job.lease, CONCLUSION, (), now, sample)

    yield Store(rule, jobs, SqliteDrift(database), finish)
    database.close()


def test_a_finished_job_moves_its_stream_on(opened):
    assert opened.finish(now=10.0)
    assert opened.finish(now=20.0)
    (reading,) = opened.drift.readings()
    assert (reading.sender, reading.bundle_name, reading.bundle_version) == ("MODALITY", "anatomy", "1")
    assert (reading.bundle_digest, reading.images) == ("d" * 64, 2)
    assert (reading.log10_evidence, reading.log10_maximum) == (2.0, 2.0)
    assert (reading.started_at, reading.updated_at, reading.alarm_at) == (10.0, 20.0, None)
    assert [state for state, _, _ in opened.rule.shown] == ["", "1"]


def test_a_job_without_a_sample_moves_nothing(opened):
    assert opened.finish(None)
    assert opened.drift.readings() == []


def test_a_queue_without_a_rule_ignores_samples(tmp_path, new_job):
    database = Database(tmp_path / "node.sqlite")
    jobs = SqliteJobQueue(database, lambda name: tmp_path / name)
    jobs.add(new_job(1))
    (job,) = jobs.claim("w", 1, 10.0, 0.0)
    assert jobs.finish(job.lease, CONCLUSION, (), 1.0, SAMPLE)
    assert SqliteDrift(database).readings() == []
    database.close()


def test_senders_and_bundles_are_streams_of_their_own(opened):
    for sample in (SAMPLE, replace(SAMPLE, sender="OTHER"), replace(SAMPLE, bundle_digest="e" * 64), SAMPLE):
        opened.finish(sample)
    found = {(reading.sender, reading.bundle_digest[0]): reading.images for reading in opened.drift.readings()}
    assert found == {("MODALITY", "d"): 2, ("OTHER", "d"): 1, ("MODALITY", "e"): 1}


def test_the_past_is_ranked_by_place_within_the_class_and_the_stream(opened):
    places = [(0, 0), (0, 1), (1, 0), (1, 2), (1, 0), (3, 0), (3, 1), (4, 0)]  # (odder, equal), some of them twice
    for odder, equal in places:
        opened.finish(replace(SAMPLE, odder=odder, equal=equal))
    opened.finish(replace(SAMPLE, odder=0, class_name="chest"))
    opened.finish(replace(SAMPLE, odder=0, sender="OTHER"))
    for odder, equal in [(1, 0), (1, 2), (3, 0)]:
        opened.finish(replace(SAMPLE, odder=odder, equal=equal))
    past = [past for _, _, past in opened.rule.shown]
    assert past[:8] == [
        PastImages(0, 0, 0),
        PastImages(1, 1, 0),
        PastImages(2, 2, 0),
        PastImages(3, 3, 0),
        PastImages(4, 2, 1),  # before it (0, 0) and (0, 1) are odder, (1, 0) ties, (1, 2) is more usual
        PastImages(5, 5, 0),
        PastImages(6, 6, 0),
        PastImages(7, 7, 0),
    ]
    assert past[8:10] == [PastImages(0, 0, 0)] * 2
    assert past[10:] == [PastImages(8, 2, 2), PastImages(9, 5, 1), PastImages(10, 7, 1)]


@pytest.mark.requirement("DRF-02")
def test_a_lost_lease_counts_nothing_and_the_job_counts_once_when_it_is_done_again(opened, new_job):
    opened.jobs.add(new_job(500))
    (first,) = opened.jobs.claim("slow", 1, 10.0, 0.0)
    opened.jobs.recover(5, 100.0)
    (second,) = opened.jobs.claim("quick", 1, 10.0, 100.0)
    assert not opened.jobs.finish(first.lease, CONCLUSION, (), 101.0, SAMPLE)
    assert opened.jobs.finish(second.lease, CONCLUSION, (), 102.0, SAMPLE)
    assert not opened.jobs.finish(second.lease, CONCLUSION, (), 103.0, SAMPLE)
    assert [reading.images for reading in opened.drift.readings()] == [1]


@pytest.mark.requirement("DRF-02")
def test_result_and_drift_are_stored_together_or_not_at_all(opened, new_job):
    opened.finish()
    opened.rule.broken = True
    opened.jobs.add(new_job(500))
    (job,) = opened.jobs.claim("w", 1, 10.0, 0.0)
    with pytest.raises(StorageError, match="broken"):
        opened.jobs.finish(job.lease, CONCLUSION, (), 11.0, SAMPLE)
    assert opened.jobs.get(job.job_id).state is JobState.PROCESSING
    assert [reading.images for reading in opened.drift.readings()] == [1]
    opened.rule.broken = False
    assert opened.jobs.finish(job.lease, CONCLUSION, (), 12.0, SAMPLE)
    assert [reading.images for reading in opened.drift.readings()] == [2]
    assert opened.rule.shown[-1][2].count == 1


@pytest.mark.requirement("DRF-03")
def test_an_alarm_keeps_its_first_moment_and_waits_until_it_is_announced(opened):
    for now in (10.0, 20.0):
        opened.finish(now=now)
    assert opened.drift.unannounced() == []
    for now in (30.0, 40.0):
        opened.finish(now=now)
    (waiting,) = opened.drift.unannounced()
    assert (waiting.alarm_at, waiting.images) == (30.0, 4)
    opened.drift.announced(waiting)
    opened.finish(now=50.0)
    assert opened.drift.unannounced() == []
    assert [reading.alarm_at for reading in opened.drift.readings()] == [30.0]


def test_reset_forgets_one_sender_in_every_bundle_and_it_starts_anew(opened):
    for sample in (SAMPLE, SAMPLE, SAMPLE, replace(SAMPLE, bundle_digest="e" * 64), replace(SAMPLE, sender="OTHER")):
        opened.finish(sample)
    forgotten = opened.drift.reset("MODALITY")
    assert sorted(reading.images for reading in forgotten) == [1, 3]
    assert [reading.sender for reading in opened.drift.readings()] == ["OTHER"]
    assert opened.drift.reset("MODALITY") == []
    opened.finish()
    assert opened.rule.shown[-1][0] == ""
    assert opened.rule.shown[-1][2] == PastImages(0, 0, 0)


def test_an_alarm_after_a_reset_is_announced_again(opened):
    for _ in range(3):
        opened.finish()
    opened.drift.announced(opened.drift.unannounced()[0])
    opened.drift.reset("MODALITY")
    for _ in range(3):
        opened.finish(now=99.0)
    assert [reading.alarm_at for reading in opened.drift.unannounced()] == [99.0]


@pytest.mark.requirement("DRF-02")
def test_streams_survive_a_restart(tmp_path, opened):
    opened.finish()
    again = Database(tmp_path / "node.sqlite")
    assert SqliteDrift(again).readings() == opened.drift.readings()
    again.close()


OLD_JOB = """INSERT INTO jobs (job_id, state, blob, sop_class_uid, sop_instance_uid, transfer_syntax_uid, sha256,
  dataset_sha256, size_bytes, calling_ae_title, called_ae_title, peer_address, received_at)
  VALUES ('job', 'received', 'blob', '1.2', '1.2.3', '1.2.840.10008.1.2', 'f', 'd', 1, 'A', 'B', '127.0.0.1', 5.0)"""


@pytest.mark.parametrize("layout", range(1, SCHEMA_VERSION))
def test_a_database_of_an_earlier_layout_keeps_its_jobs_and_gains_what_is_new(tmp_path, layout):
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as connection:
        before, since = LAYOUTS[: min(layout, 2)], LAYOUTS[2:layout]  # the job is older than the third layout
        connection.executescript(f"{' '.join(before)} {OLD_JOB}; {' '.join(since)} PRAGMA user_version = {layout};")
    connection.close()
    later = Database(path)
    jobs = SqliteJobQueue(later, lambda name: tmp_path / name, Rule())
    (job,) = jobs.claim("w", 1, 10.0, 0.0)
    assert (job.job_id, job.received_at, job.predecessor) == ("job", 5.0, "")
    assert jobs.finish(job.lease, CONCLUSION, (), 1.0, SAMPLE)
    assert [reading.images for reading in SqliteDrift(later).readings()] == [1]
    with later.reading() as connection:
        version: Any = connection.execute("PRAGMA user_version").fetchone()
        assert version[0] == SCHEMA_VERSION
    later.close()

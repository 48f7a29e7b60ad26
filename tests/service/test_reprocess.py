"""Reprocessing on a real storage folder; a few lines here do what the worker does."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydicom import dcmread

from dicom_gam.config import Settings
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.records import AIResult, ResultObject, ResultReference, Task
from dicom_gam.sections import Rule
from dicom_gam.service.node import Node
from dicom_gam.service.reprocess import EVENT, Selection, Unchanged, predecessors, reprocess, unchanged
from dicom_gam.service.store import Store, hold_intake, open_store, own
from dicom_gam.service.summary import result_summary
from dicom_gam.storage.audit import records, verify
from dicom_gam.storage.rows import Conclusion, Job, NewDelivery, NewJob
from dicom_gam.storage.sqlite import SqliteAuditHead
from dicom_gam.storage.states import DeliveryState, JobEvent, JobState
from tests.service.fakes import (
    CT,
    RESULT_SERIES,
    TORN_CONNECTIONS,
    events,
    failed,
    image,
    inbox_files,
    process,
    result_uids,
    save,
    store,
    storescu,
)

pytestmark = TORN_CONNECTIONS
A, B, C = "2.25.21", "2.25.22", "2.25.23"
EVERYTHING = Selection(everything=True)


class House:
    """A storage folder, its settings, and a worker of one step."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self.folder = settings.node.storage

    def receive(self, uid: str, *, at: float = 1000.0, shade: int = 7, sop_class_uid: str | None = None) -> Job:
        file = save(image(uid, shade=shade, **({"sop_class_uid": sop_class_uid} if sop_class_uid else {})),
                    self.folder / "arrival")  # fmt: skip
        name = os.urandom(16).hex()
        stored = self.store.inbox.write(name, (file.read_bytes(),))
        instance = replace(read_instance(file, calling_ae_title="MODALITY"), path=stored.path)
        receipt = self.store.jobs.add(NewJob(name, name, instance, at))
        return self.store.jobs.get(receipt.job_id)

    def work(
        self, made: Callable[[Sequence[Task]], list[AIResult]] = process, destinations: Sequence[str] = ("PACS",)
    ) -> list[Unchanged | None]:
        found = []
        store = self.store
        for job in store.jobs.claim("w", 99, 60.0, time.time()):
            created = datetime.fromtimestamp(job.received_at, UTC)
            before = predecessors(job, store.jobs, store.results)
            (result,) = made([Task(job.instance, created, job.bundle, before)])
            same = unchanged(job, result, destinations, store.jobs, store.outbox, store.results)
            found.append(same)
            deliveries = self.keep(result, destinations) if same is None else same.deliveries
            event = JobEvent.REJECT if result.rejection else JobEvent.GIVE_UP if result.error else JobEvent.FINISH
            summary = result_summary(result)
            end = Conclusion(event, result.outcome, study_instance_uid=result.study_instance_uid, result=summary)
            assert store.jobs.finish(job.lease, end, deliveries, time.time())
        return found

    def keep(self, result: AIResult, destinations: Sequence[str]) -> list[NewDelivery]:
        kept = []
        for item in result.objects:
            name = self.store.results.write(os.urandom(16).hex(), (item.content,)).path.stem
            blob = result_summary(replace(result, objects=(item,)))["outputs"][0]["sha256"]
            self.store.results.link(name, blob)
            kept += [
                NewDelivery(to, result.study_instance_uid, item.role, item.sop_class_uid, item.sop_instance_uid,
                            item.transfer_syntax_uid, blob)
                for to in destinations
            ]  # fmt: skip
        return kept

    def again(self, selection: Selection = EVERYTHING, **how: object) -> list[str]:
        """The UIDs of what is queued."""
        return [item.sop_instance_uid for item in reprocess(self.settings, selection, **how).queued]

    def why_not(self, selection: Selection, **how: object) -> str:
        """Why the one thing that is selected is left out."""
        done = reprocess(self.settings, selection, **how)
        assert done.queued == ()
        (left,) = done.left_out
        return left.why


def by_another_bundle(tasks: Sequence[Task]) -> list[AIResult]:
    """As `process`, with the UIDs that another bundle would give."""
    results = process(tasks)
    return [replace(result, objects=tuple(_renamed(item) for item in result.objects)) for result in results]


def _renamed(item: ResultObject) -> ResultObject:
    ds = dcmread(io.BytesIO(item.content))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{item.sop_instance_uid[:-2]}77"
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return replace(item, sop_instance_uid=ds.SOPInstanceUID, content=buffer.getvalue())


@pytest.fixture
def house(tmp_path):
    settings = Settings(
        node={"storage": tmp_path / "node", "minimum_free_bytes": 0}, rules=(Rule(name="all", bundle="new"),)
    )
    with open_store(settings, create=True) as store:
        yield House(settings, store)


@pytest.mark.requirement("RUL-04")
def test_a_finished_image_is_queued_once_more_with_its_own_bytes_and_points_back(house):
    first = house.receive(A)
    house.work()
    (queued,) = reprocess(house.settings, EVERYTHING, bundle="new").queued
    assert (queued.predecessor, queued.sop_instance_uid) == (first.job_id, A)
    job = house.store.jobs.get(queued.job_id)
    assert (job.state, job.bundle, job.predecessor) == (JobState.RECEIVED, "new", first.job_id)
    assert job.instance.path != first.instance.path
    assert job.instance.path.read_bytes() == first.instance.path.read_bytes()
    assert job.instance.digest == first.instance.digest
    assert job.instance.calling_ae_title == "MODALITY"
    assert job.received_at == pytest.approx(time.time(), abs=600)


def test_each_jobs_file_is_deleted_by_itself(house):
    first = house.receive(A)
    house.work()
    (queued,) = reprocess(house.settings, EVERYTHING).queued
    house.store.inbox.remove(first.job_id)
    house.work()
    assert house.store.jobs.get(queued.job_id).state is JobState.DONE
    assert house.again() == [A]  # from the file of the second job


def test_every_request_is_audited_and_the_log_stays_whole(house):
    first = house.receive(A)
    house.work()
    (queued,) = reprocess(house.settings, EVERYTHING, bundle="new").queued
    assert events(house.settings, EVENT) == [
        {"job_id": queued.job_id, "predecessor": first.job_id, "bundle": "new", "sop_instance_uid": A}
    ]
    assert verify(house.folder / "audit.jsonl", SqliteAuditHead(house.store.database).read()) == 1
    assert "SECRET" not in str(list(records(house.folder / "audit.jsonl")))


def test_it_works_while_a_node_owns_the_folder_and_its_receivers_write(house):
    house.receive(A)
    house.work()
    held = [own(house.folder), hold_intake(house.folder)]
    try:
        assert house.again() == [A]
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_rejected_failed_and_done_images_can_be_processed_again(house):
    house.receive(A)
    house.receive(B, sop_class_uid=CT)
    house.work()
    house.receive(C)
    house.work(lambda tasks: [failed(tasks[0].instance, "out of memory")])
    assert [house.store.jobs.of_instance(uid)[0].state for uid in (A, B, C)] == [
        JobState.DONE, JobState.REJECTED, JobState.FAILED,
    ]  # fmt: skip
    assert house.again() == [A, B, C]


def test_a_study_an_instance_and_jobs_select_what_they_name(house):
    jobs = [house.receive(uid) for uid in (A, B, C)]
    house.work()
    assert house.again(Selection(study_instance_uid="2.25.1000"), dry_run=True) == [A, B, C]
    assert house.again(Selection(study_instance_uid="2.25.1"), dry_run=True) == []
    assert house.again(Selection(sop_instance_uid=B), dry_run=True) == [B]
    assert house.again(Selection(job_ids=(jobs[2].job_id, jobs[0].job_id, jobs[2].job_id)), dry_run=True) == [C, A]


def test_a_time_selects_by_when_the_image_came_however_often_it_was_processed(house):
    house.receive(A, at=1000.0)
    house.receive(B, at=2000.0)
    house.work()
    assert house.again() == [A, B]
    house.work()
    assert house.again(Selection(since=2000.0)) == [B]


@pytest.mark.parametrize(
    "several", [{}, {"sop_instance_uid": A, "everything": True}, {"since": 0.0, "study_instance_uid": "1.2"}]
)
def test_a_selection_is_made_in_exactly_one_way(several):
    with pytest.raises(ConfigError, match="in one way"):
        Selection(**several)


def test_a_dry_run_changes_nothing(house):
    house.receive(A)
    house.work()
    (would,) = reprocess(house.settings, EVERYTHING, dry_run=True).queued
    assert would.job_id == ""
    assert len(house.store.jobs.jobs()) == len(inbox_files(house.settings)) == 1
    assert events(house.settings, EVENT) == []


def test_an_image_that_still_waits_is_left_out_so_that_two_commands_queue_it_once(house):
    house.receive(A)
    assert "is not finished yet" in house.why_not(EVERYTHING)
    house.work()
    assert house.again() == [A]
    assert "is not finished yet" in house.why_not(EVERYTHING)


def test_a_quarantined_image_is_never_processed(house):
    house.receive(A)
    conflict = house.receive(A, shade=8)
    house.work()
    assert conflict.state is JobState.QUARANTINED
    assert "quarantined" in house.why_not(Selection(job_ids=(conflict.job_id,)))
    (queued,) = reprocess(house.settings, EVERYTHING).queued
    assert house.store.jobs.get(queued.job_id).instance.digest != conflict.instance.digest


@pytest.mark.parametrize("how", ["marked", "lost"])
def test_an_image_whose_file_is_gone_is_left_out_with_the_remedy(house, how):
    first = house.receive(A)
    house.work()
    if how == "marked":
        with house.store.database.transaction() as connection:
            connection.execute("UPDATE jobs SET purged_at = 1.0")
    else:
        first.instance.path.unlink()
    assert "have it sent again" in house.why_not(EVERYTHING)


def test_unknown_images_and_jobs_are_told(house):
    assert "never received it" in house.why_not(Selection(sop_instance_uid=A))
    assert "no such job" in house.why_not(Selection(job_ids=("f" * 32,)))


@pytest.mark.requirement("RUL-05")
def test_what_a_bundle_was_asked_for_already_is_left_out_so_that_a_command_can_be_given_again(house):
    for uid in (A, B):
        house.receive(uid)
    house.work()
    assert house.again(Selection(sop_instance_uid=A), bundle="new") == [A]
    house.work(by_another_bundle)
    done = reprocess(house.settings, EVERYTHING, bundle="new")
    assert [item.sop_instance_uid for item in done.queued] == [B]
    assert "--again" in done.left_out[0].why
    house.work(by_another_bundle)
    assert house.again(bundle="new", again=True) == [A, B]


def test_a_bundle_that_the_node_does_not_load_is_refused_before_anything_is_queued(house):
    house.receive(A)
    house.work()
    with pytest.raises(ConfigError, match=r"'lost' is none that this node loads \(radiograph-anatomy, new\)"):
        reprocess(house.settings, EVERYTHING, bundle="lost")
    assert len(house.store.jobs.jobs()) == 1


def test_a_bundle_may_be_named_by_its_path_from_here(house, tmp_path, monkeypatch):
    settings = house.settings.model_copy(update={"rules": (Rule(name="all", bundle=str(tmp_path / "site")),)})
    house.receive(A)
    house.work()
    monkeypatch.chdir(tmp_path)
    (queued,) = reprocess(settings, EVERYTHING, bundle="./site").queued
    assert house.store.jobs.get(queued.job_id).bundle == str(tmp_path / "site")


def test_a_folder_that_is_no_nodes_storage_is_refused(tmp_path):
    with pytest.raises(StorageError, match="not the storage folder"):
        reprocess(Settings(node={"storage": tmp_path / "none"}), EVERYTHING)


def test_a_full_disk_leaves_neither_a_job_nor_a_file(house, monkeypatch):
    house.receive(A)
    house.work()

    def full(*_: object) -> None:
        raise StorageError("the database is full: free some space")

    monkeypatch.setattr("dicom_gam.storage.sqlite_jobs._insert", full)
    with pytest.raises(StorageError, match="full"):
        reprocess(house.settings, EVERYTHING)
    assert len(house.store.jobs.jobs()) == len(inbox_files(house.settings)) == 1


def test_the_report_before_is_found_with_its_place_in_the_study(house):
    first = house.receive(A)
    assert predecessors(first, house.store.jobs, house.store.results) == ()
    house.work()
    house.again()
    (job,) = house.store.jobs.claim("w", 1, 60.0, time.time())
    (found,) = predecessors(job, house.store.jobs, house.store.results)
    assert found == ResultReference("2.25.1000", RESULT_SERIES, "1.2.840.10008.5.1.4.1.1.7", result_uids(A)[0])


def test_a_failed_attempt_in_between_does_not_hide_the_report_before_it(house):
    house.receive(A)
    house.work()
    house.again()
    house.work(lambda tasks: [failed(tasks[0].instance, "no GPU")])
    house.again()
    (job,) = house.store.jobs.claim("w", 1, 60.0, time.time())
    (found,) = predecessors(job, house.store.jobs, house.store.results)
    assert found.sop_instance_uid == result_uids(A)[0]


@pytest.mark.requirement("RUL-04")
def test_the_latest_report_is_the_predecessor_and_not_the_first(house):
    house.receive(A)
    house.work()
    house.again()
    house.work(by_another_bundle)
    house.again()
    (job,) = house.store.jobs.claim("w", 1, 60.0, time.time())
    (found,) = predecessors(job, house.store.jobs, house.store.results)
    assert found.sop_instance_uid == f"{result_uids(A)[0][:-2]}77"


@pytest.mark.parametrize("gone", [False, True])
def test_a_result_of_an_earlier_version_has_its_series_in_its_file_as_long_as_that_is_here(house, gone):
    first = house.receive(A)
    house.work()
    old = house.store.jobs.get(first.job_id).result
    for output in old["outputs"]:
        del output["series_instance_uid"]
    house.again()
    (job,) = house.store.jobs.claim("w", 1, 60.0, time.time())

    class OldJobs:
        def get(self, job_id: str) -> Job:
            return replace(house.store.jobs.get(job_id), result=old)

    if gone:
        shutil.rmtree(house.folder / "results")
    found = predecessors(job, OldJobs(), house.store.results)
    assert [reference.series_instance_uid for reference in found] == ([] if gone else [RESULT_SERIES])


def deliveries_of(house: House) -> list[tuple[str, str]]:
    """Every object that is on its way or delivered, with its destination."""
    jobs = house.store.jobs.jobs()
    return [
        (d.what.destination, d.what.sop_instance_uid) for job in jobs for d in house.store.outbox.deliveries(job.job_id)
    ]


@pytest.mark.requirement("RUL-04")
def test_a_new_bundle_makes_new_objects_and_they_are_sent(house):
    house.receive(A)
    house.work()
    house.again()
    assert house.work(by_another_bundle) == [None]
    assert len(set(deliveries_of(house))) == len(deliveries_of(house)) == 4


@pytest.mark.requirement("RUL-05")
def test_when_nothing_has_changed_nothing_is_sent_twice_and_the_job_says_so(house):
    first = house.receive(A)
    house.work()
    house.again()
    (same,) = house.work()
    assert same.made_by == first.job_id
    assert "nothing has changed" in same.message
    assert "not sent again" in same.message
    assert len(deliveries_of(house)) == 2


def test_going_back_to_an_earlier_bundle_makes_what_exists_already(house):
    first = house.receive(A)
    house.work()
    house.again()
    house.work(by_another_bundle)
    house.again()
    (same,) = house.work()
    assert same.made_by == first.job_id
    assert len(deliveries_of(house)) == 4


def test_a_destination_that_never_got_the_results_is_given_the_old_files_byte_for_byte(house):
    house.receive(A)
    house.work()
    house.again()
    (same,) = house.work(destinations=("PACS", "RIS"))
    assert "they go only to RIS" in same.message
    assert [d.destination for d in same.deliveries] == ["RIS", "RIS"]
    (old, new) = (
        [
            d
            for job in house.store.jobs.jobs()
            for d in house.store.outbox.deliveries(job.job_id)
            if d.what.destination == name
        ]
        for name in ("PACS", "RIS")
    )
    assert {(d.what.sop_instance_uid, d.what.blob) for d in old} == {
        (d.what.sop_instance_uid, d.what.blob) for d in new
    }
    assert all(d.state is DeliveryState.PENDING for d in new)
    assert all(house.store.results.path(d.what.blob).is_file() for d in new)
    house.again()
    (same,) = house.work(destinations=("PACS", "RIS"))
    assert same.deliveries == ()


def test_old_files_that_are_gone_are_told_and_not_made_anew_under_the_same_uid(house):
    house.receive(A)
    house.work()
    for name in list(house.store.results.names()):
        house.store.results.remove(name)
    house.again()
    (same,) = house.work(destinations=("PACS", "RIS"))
    assert same.deliveries == ()
    assert "deleted since" in same.message
    assert "RIS can't be given" in same.message


def test_a_first_job_is_never_taken_for_a_repetition(house):
    house.receive(A)
    assert house.work() == [None]


def test_a_rejection_that_comes_again_is_no_repetition_of_objects(house):
    house.receive(A, sop_class_uid=CT)
    house.work()
    house.again()
    assert house.work() == [None]


@pytest.mark.requirement("RUL-04")
def test_a_running_node_takes_a_request_up_and_sends_the_new_results_alone(settings, archive, tmp_path):
    """With DCMTK as the sender; the new bundle is asked for by the task, as the pipeline sees it."""
    configured = settings(("pacs", archive.port))
    asked: list[Task] = []

    def by_bundle(tasks: Sequence[Task]) -> list[AIResult]:
        asked.extend(tasks)
        return [(by_another_bundle if task.bundle else process)([task])[0] for task in tasks]

    with Node(configured, by_bundle) as node:
        assert storescu(node.port, save(image(A), tmp_path / "a.dcm"), options=()).returncode == 0
        assert node.wait_idle(20)
        reprocess(configured, EVERYTHING)  # nothing has changed
        assert node.wait_idle(20)
        assert sorted(archive.received) == sorted(result_uids(A))
        reprocess(configured, EVERYTHING, bundle="radiograph-anatomy")
        assert node.wait_idle(20)
        latest, same, first = node.jobs()
    new = [f"{uid[:-2]}77" for uid in result_uids(A)]
    assert sorted(archive.received) == sorted([*result_uids(A), *new])
    assert all(len(copies) == 1 for copies in archive.received.values())
    assert (latest.predecessor, same.predecessor) == (same.job_id, first.job_id)
    assert "nothing has changed" in same.message
    assert [reference.sop_instance_uid for reference in asked[-1].predecessors] == [result_uids(A)[0]]


def test_a_request_to_a_node_that_stands_still_is_done_when_it_starts(settings, archive):
    configured = settings(("pacs", archive.port))
    with Node(configured, process) as node:
        assert store(node.port, [image(A)]) == [0x0000]
        assert node.wait_idle(20)
    reprocess(configured, EVERYTHING)
    with Node(configured, by_another_bundle) as node:
        assert node.wait_idle(20)
        assert [job.state for job in node.jobs()] == [JobState.DONE, JobState.DONE]
    assert len(archive.received) == 4

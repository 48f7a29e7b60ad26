import sqlite3
import threading

import pytest

from dicom_gam.errors import StorageError
from dicom_gam.storage.rows import Conclusion, ReceiptKind
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.states import JobEvent, JobState

DONE = Conclusion(JobEvent.FINISH, "PASS", study_instance_uid="1.2.9", result={"p": 0.25})


def test_a_new_job_is_there_after_reopening_with_all_that_was_known_at_receipt(backend, new_job):
    added = new_job(1)
    assert backend.jobs.add(added).kind is ReceiptKind.NEW
    found = backend.reopen().jobs.get(added.job_id)
    assert found.state is JobState.RECEIVED
    assert found.instance.sop_instance_uid == "1.2.3.1"
    assert found.instance.calling_ae_title == "MODALITY"
    assert found.instance.size_bytes == 101
    assert found.received_at == 1001.0
    assert found.instance.path.name == f"{added.blob}.dcm"


@pytest.mark.requirement("STO-05")
def test_the_same_data_set_again_makes_no_second_job(backend, new_job):
    first = backend.jobs.add(new_job(1))
    second = backend.jobs.add(new_job(2, uid="1.2.3.1"))
    assert (second.kind, second.job_id) == (ReceiptKind.DUPLICATE, first.job_id)
    assert sum(backend.jobs.counts().values()) == 1


@pytest.mark.requirement("STO-06")
def test_other_bytes_under_the_same_uid_are_quarantined_and_the_first_job_goes_on(backend, new_job):
    backend.jobs.add(new_job(1))
    receipt = backend.jobs.add(new_job(2, uid="1.2.3.1", data="b"))
    assert receipt.kind is ReceiptKind.CONFLICT
    quarantined = backend.jobs.get(receipt.job_id)
    assert quarantined.state is JobState.QUARANTINED
    assert new_job(1).job_id in quarantined.message
    assert quarantined.finished_at == quarantined.received_at
    assert [job.job_id for job in backend.jobs.claim("w", 9, 10.0, 0.0)] == [new_job(1).job_id]


def test_a_quarantined_data_set_that_comes_again_is_a_duplicate(backend, new_job):
    backend.jobs.add(new_job(1))
    backend.jobs.add(new_job(2, uid="1.2.3.1", data="b"))
    assert backend.jobs.add(new_job(3, uid="1.2.3.1", data="b")).kind is ReceiptKind.DUPLICATE


def test_jobs_are_claimed_first_in_first_out_and_only_once(backend, new_job):
    for number in (1, 2, 3):
        backend.jobs.add(new_job(number))
    assert [job.instance.size_bytes for job in backend.jobs.claim("w", 2, 10.0, 0.0)] == [101, 102]
    assert [job.instance.size_bytes for job in backend.jobs.claim("w", 2, 10.0, 0.0)] == [103]
    assert backend.jobs.claim("w", 2, 10.0, 0.0) == []


def test_threads_that_claim_at_once_never_get_the_same_job(backend, new_job):
    for number in range(40):
        backend.jobs.add(new_job(number))
    claimed, lock = [], threading.Lock()

    def work() -> None:
        while batch := backend.jobs.claim("w", 3, 10.0, 0.0):
            with lock:
                claimed.extend(job.job_id for job in batch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(new_job(number).job_id for number in range(40))


def test_a_finished_job_keeps_its_result_and_its_deliveries(backend, new_job, new_delivery):
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    deliveries = [new_delivery("A"), new_delivery("B")]
    assert backend.jobs.finish(job.lease, DONE, deliveries, 50.0)
    after = backend.reopen()
    found = after.jobs.get(job.job_id)
    assert (found.state, found.outcome, found.result, found.finished_at) == (JobState.DONE, "PASS", {"p": 0.25}, 50.0)
    assert [d.what for d in after.outbox.deliveries(job.job_id)] == deliveries


@pytest.mark.requirement("STO-02")
def test_result_and_deliveries_are_committed_together_or_not_at_all(backend, new_job, new_delivery):
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    with pytest.raises(StorageError):
        backend.jobs.finish(job.lease, DONE, [new_delivery(), new_delivery()], 50.0)  # the same one twice
    assert backend.jobs.get(job.job_id).state is JobState.PROCESSING
    assert backend.outbox.deliveries(job.job_id) == []


@pytest.mark.requirement("STO-08")
def test_a_worker_whose_lease_was_taken_over_can_not_finish(backend, new_job, new_delivery):
    backend.jobs.add(new_job(1))
    (slow,) = backend.jobs.claim("slow", 1, 10.0, 0.0)
    assert [job.state for job in backend.jobs.recover(3, now=10.0)] == [JobState.RECEIVED]
    (quick,) = backend.jobs.claim("quick", 1, 10.0, 11.0)
    assert backend.jobs.finish(slow.lease, DONE, [new_delivery()], 12.0) is False
    assert backend.outbox.deliveries(slow.job_id) == []
    assert backend.jobs.finish(quick.lease, DONE, [new_delivery()], 12.0) is True
    assert backend.jobs.finish(quick.lease, DONE, [new_delivery()], 13.0) is False


@pytest.mark.requirement("STO-08")
def test_a_lease_that_still_holds_is_not_taken_back(backend, new_job):
    backend.jobs.add(new_job(1))
    backend.jobs.claim("w", 1, 10.0, 0.0)
    assert backend.jobs.recover(3, now=9.9) == []


def test_a_renewed_lease_holds_longer_and_a_lost_one_is_not_renewed(backend, new_job):
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    assert backend.jobs.renew([job.lease], 10.0, 9.0) == 1
    assert backend.jobs.recover(3, now=18.9) == []
    backend.jobs.recover(3, now=19.0)
    assert backend.jobs.renew([job.lease], 10.0, 19.0) == 0


@pytest.mark.requirement("STO-08")
def test_at_start_every_job_in_work_goes_back_whatever_its_lease(backend, new_job):
    backend.jobs.add(new_job(1))
    backend.jobs.claim("w", 1, 1000.0, 0.0)
    assert [job.state for job in backend.jobs.recover(3, now=1.0, everything=True)] == [JobState.RECEIVED]


@pytest.mark.requirement("STO-10")
def test_an_image_that_ends_the_service_again_and_again_is_given_up(backend, new_job):
    backend.jobs.add(new_job(1))
    for _ in range(2):
        backend.jobs.claim("w", 1, 10.0, 0.0)
        (job,) = backend.jobs.recover(2, now=1.0, everything=True)
    assert job.state is JobState.FAILED
    assert "attempt 2" in job.message
    assert job.finished_at == 1.0


def test_a_job_that_was_attempted_before_comes_alone(backend, new_job):
    for number in (1, 2, 3):
        backend.jobs.add(new_job(number))
    backend.jobs.claim("w", 1, 10.0, 0.0)
    backend.jobs.recover(3, now=0.0, everything=True)
    assert [job.instance.size_bytes for job in backend.jobs.claim("w", 9, 10.0, 0.0)] == [101]
    assert [job.instance.size_bytes for job in backend.jobs.claim("w", 9, 10.0, 0.0)] == [102, 103]


def test_a_job_for_another_attempt_waits_until_its_time(backend, new_job):
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    assert backend.jobs.retry(job.lease, "out of memory", not_before=5.0)
    assert backend.jobs.claim("w", 1, 10.0, 4.9) == []
    assert backend.jobs.waiting(4.9) == 0
    (again,) = backend.jobs.claim("w", 1, 10.0, 5.0)
    assert (again.attempts, again.message) == (2, "out of memory")


@pytest.mark.requirement("STO-12")
def test_a_clock_that_went_back_by_a_year_holds_up_neither_retries_nor_leases(backend, new_job):
    year = 365 * 86400.0
    backend.jobs.add(new_job(1))
    backend.jobs.add(new_job(2))
    first, _ = backend.jobs.claim("w", 2, 10.0, year)
    backend.jobs.retry(first.lease, "", not_before=year + 5)
    assert [job.job_id for job in backend.jobs.claim("w", 1, 10.0, 0.0)] == [first.job_id]
    assert len(backend.jobs.recover(3, now=0.0)) == 1


def test_counts_name_every_state(backend, new_job):
    backend.jobs.add(new_job(1))
    assert backend.jobs.counts() == dict.fromkeys(JobState, 0) | {JobState.RECEIVED: 1}


def test_the_list_of_jobs_begins_with_the_newest_and_filters_by_state(backend, new_job):
    for number in (1, 2, 3):
        backend.jobs.add(new_job(number))
    backend.jobs.claim("w", 1, 10.0, 0.0)
    assert [job.instance.size_bytes for job in backend.jobs.jobs()] == [103, 102, 101]
    assert [job.instance.size_bytes for job in backend.jobs.jobs(limit=1)] == [103]
    assert [job.instance.size_bytes for job in backend.jobs.jobs(state=JobState.PROCESSING)] == [101]


def finish(backend, number, conclusion=DONE):
    (job,) = backend.jobs.claim("w", 1, 10.0, 0.0)
    assert int(job.job_id, 16) == number
    backend.jobs.finish(job.lease, conclusion, (), 50.0)


def test_the_same_bytes_are_processed_again_when_asked_for_and_the_request_is_kept(backend, new_job):
    backend.jobs.add(new_job(1))
    finish(backend, 1)
    asked = new_job(2, uid="1.2.3.1", of=new_job(1).job_id, bundle="new")
    assert backend.jobs.add(asked).kind is ReceiptKind.NEW
    (job,) = backend.reopen().jobs.claim("w", 9, 10.0, 0.0)
    assert (job.job_id, job.predecessor, job.bundle) == (asked.job_id, new_job(1).job_id, "new")


def test_a_reprocessed_image_that_is_sent_again_is_still_a_duplicate_of_its_first_job(backend, new_job):
    backend.jobs.add(new_job(1))
    finish(backend, 1)
    backend.jobs.add(new_job(2, uid="1.2.3.1", of=new_job(1).job_id))
    receipt = backend.jobs.add(new_job(3, uid="1.2.3.1"))
    assert (receipt.kind, receipt.job_id) == (ReceiptKind.DUPLICATE, new_job(1).job_id)


def test_the_jobs_of_an_instance_come_newest_first_and_without_those_of_others(backend, new_job):
    backend.jobs.add(new_job(1))
    backend.jobs.add(new_job(2))
    backend.jobs.add(new_job(3, uid="1.2.3.1", data="b"))
    backend.jobs.add(new_job(4, uid="1.2.3.1", of=new_job(1).job_id))
    assert [int(job.job_id, 16) for job in backend.jobs.of_instance("1.2.3.1")] == [4, 3, 1]
    assert backend.jobs.of_instance("1.2.3.9") == []


def test_instances_are_found_by_study_each_once_however_often_it_was_processed(backend, new_job):
    for number in (1, 2, 3):
        backend.jobs.add(new_job(number))
    finish(backend, 1)
    finish(backend, 2, Conclusion(JobEvent.FINISH, "PASS", study_instance_uid="1.2.10"))
    finish(backend, 3)
    backend.jobs.add(new_job(4, uid="1.2.3.1", of=new_job(1).job_id))
    finish(backend, 4)
    assert backend.jobs.instances(study_instance_uid="1.2.9") == ["1.2.3.1", "1.2.3.3"]
    assert backend.jobs.instances(study_instance_uid="1.2.11") == []


def test_instances_are_found_by_when_the_image_came_and_not_by_when_it_was_processed_again(backend, new_job):
    for number in (1, 2, 3):
        backend.jobs.add(new_job(number))  # at 1000 s and as many
    backend.jobs.add(new_job(9, uid="1.2.3.1", of=new_job(1).job_id))
    assert backend.jobs.instances(since=1002.0) == ["1.2.3.2", "1.2.3.3"]
    assert backend.jobs.instances() == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]


def test_a_database_that_another_program_holds_is_a_storage_error_that_says_so(backend, new_job, tmp_path):
    other = sqlite3.connect(tmp_path / "node.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="another program holds it"):
            backend.jobs.add(new_job(1))
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert backend.jobs.add(new_job(1)).kind is ReceiptKind.NEW


@pytest.mark.requirement("STO-01")
def test_commits_are_synced_in_full(tmp_path):
    database = Database(tmp_path / "x.sqlite")
    with database.reading() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    database.close()


def test_a_database_of_a_later_layout_is_refused_with_the_remedy(tmp_path):
    database = Database(tmp_path / "x.sqlite")
    with database.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StorageError, match="layout 99"):
        Database(tmp_path / "x.sqlite")


def test_a_file_that_is_no_database_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "x.sqlite").write_bytes(b"not a database, but long enough to look at" * 30)
    with pytest.raises(StorageError, match="not a database: move it aside"):
        Database(tmp_path / "x.sqlite")


def test_an_attempt_that_our_own_storage_spoilt_is_not_counted(backend, new_job):
    backend.jobs.add(new_job(1))
    (job,) = backend.jobs.claim("w", 1, 10.0, 100.0)
    assert backend.jobs.retry(job.lease, "the disk is full", 105.0, counted=False)
    (again,) = backend.jobs.claim("w", 1, 10.0, 106.0)
    assert again.attempts == 1

import threading
import time

import pytest

from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.service.node import Node, verify_audit_log
from dicom_gam.service.store import AUDIT_FILE, DATABASE_FILE
from dicom_gam.storage.audit import records
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_jobs import SqliteJobQueue
from dicom_gam.storage.states import JobState
from tests.service.fakes import (
    CT,
    TORN_CONNECTIONS,
    events,
    failed,
    image,
    inbox_files,
    process,
    result_uids,
    save,
    slowly,
    store,
    storescu,
    uids,
    until,
)

pytestmark = TORN_CONNECTIONS


def test_an_image_sent_by_dcmtk_comes_back_as_both_result_objects(settings, archive, tmp_path):
    (uid,) = uids(1)
    with Node(settings(("pacs", archive.port)), process) as node:
        sent = storescu(node.port, save(image(uid), tmp_path / "a.dcm"), options=())
        assert sent.returncode == 0, sent.stderr
        assert node.wait_idle(10)
        assert node.job_counts()[JobState.DONE] == 1
    assert sorted(archive.received) == sorted(result_uids(uid))


@pytest.mark.requirement("VER-10")
def test_a_job_keeps_all_figures_of_its_result(settings):
    (uid,) = uids(1)
    with Node(settings(), process) as node:
        assert store(node.port, [image(uid)]) == [0x0000]
        assert node.wait_idle(10)
        (job,) = node.jobs()
    assert (job.outcome, job.message, job.study_instance_uid) == ("FAIL", "attention is elsewhere", "2.25.1000")
    assert job.result["prediction"]["probabilities"] == {"hand": 0.75, "chest": 0.2, "garbage": 0.05}
    (measurement,) = job.result["verification"]["checks"][0]["measurements"]
    assert measurement == {
        "name": "ATT_IOU",
        "value": "nan",
        "threshold": 0.5,
        "bound": "min",
        "p_value": 0.02,
        "passed": False,
    }
    assert [item["sop_instance_uid"] for item in job.result["outputs"]] == result_uids(uid)


@pytest.mark.requirement("DEC-08")
def test_a_ct_is_rejected_by_name_and_nothing_is_delivered(settings, archive):
    with Node(settings(("pacs", archive.port)), process) as node:
        assert store(node.port, [image(uids(1)[0], CT)]) == [0x0000]
        assert node.wait_idle(10)
        (job,) = node.jobs()
        assert (job.state, job.reason) == (JobState.REJECTED, "not-accepted-sop-class")
    assert archive.received == {}


@pytest.mark.requirement("AUD-05", "SAF-02")
def test_the_audit_log_tells_the_whole_story_of_an_image_and_no_name(settings, archive):
    configured = settings(("pacs", archive.port))
    (uid,) = uids(1)
    with Node(configured, process, about={"bundle": "fake"}) as node:
        store(node.port, [image(uid)])
        assert node.wait_idle(10)
    storage = configured.node.storage
    assert verify_audit_log(storage) == len(list(records(storage / AUDIT_FILE)))
    names = [record["event"] for record in records(storage / AUDIT_FILE)]
    story = [
        "node.started",
        "association.accepted",
        "instance.stored",
        "job.started",
        "job.result",
        "delivery.sent",
        "delivery.sent",
        "node.stopped",
    ]
    assert [name for name in names if name in story] == story
    (stored,) = events(configured, "instance.stored")
    assert (stored["calling_ae_title"], stored["sop_instance_uid"]) == ("MODALITY", uid)
    (result,) = events(configured, "job.result")
    assert result["verification"]["checks"][0]["p_value"] == 0.02
    text = (storage / AUDIT_FILE).read_text()
    assert "SECRET" not in text


@pytest.mark.requirement("STO-10")
def test_a_bug_on_one_image_fails_that_image_alone_after_all_its_attempts(settings):
    bad, good = uids(2)
    tries = []

    def partly(tasks):
        tries.extend(task.instance.sop_instance_uid for task in tasks)
        return [
            failed(task.instance, "IndexError at x.py:1") if task.instance.sop_instance_uid == bad else result
            for task, result in zip(tasks, process(tasks), strict=True)
        ]

    configured = settings(processing={"attempts": 2})
    with Node(configured, partly) as node:
        store(node.port, [image(bad), image(good)])
        assert node.wait_idle(10)
        by_uid = {job.instance.sop_instance_uid: job for job in node.jobs()}
    assert (by_uid[bad].state, by_uid[good].state) == (JobState.FAILED, JobState.DONE)
    assert by_uid[bad].message == "IndexError at x.py:1"
    assert tries.count(bad) == 2
    assert [keys["attempts"] for keys in events(configured, "job.failed")] == [2]


@pytest.mark.requirement("STO-10")
def test_a_processor_that_raises_costs_the_neighbours_an_attempt_but_not_their_results(settings):
    bad, good, other = uids(3)

    def raises(tasks):
        if any(task.instance.sop_instance_uid == bad for task in tasks):
            raise ValueError("SECRET^NAME")
        return process(tasks)

    configured = settings(processing={"attempts": 2, "batch_wait_ms": 300})
    with Node(configured, raises) as node:
        store(node.port, [image(bad), image(good), image(other)])
        assert node.wait_idle(10)
        states = {job.instance.sop_instance_uid: job.state for job in node.jobs()}
        message = next(job.message for job in node.jobs() if job.state is JobState.FAILED)
    assert states == {bad: JobState.FAILED, good: JobState.DONE, other: JobState.DONE}
    assert message.startswith("ValueError at ")
    assert "SECRET" not in (configured.node.storage / AUDIT_FILE).read_text() + message


def test_results_of_the_wrong_number_are_a_failure_and_not_a_mix_up(settings):
    with Node(settings(processing={"attempts": 1}), lambda *_: []) as node:
        store(node.port, [image("1.2.3")])
        assert node.wait_idle(10)
        assert node.job_counts()[JobState.FAILED] == 1


def test_waiting_images_are_processed_in_batches(settings):
    sizes = []

    def count(tasks):
        sizes.append(len(tasks))
        return process(tasks)

    with Node(settings(processing={"batch_size": 4, "batch_wait_ms": 500}), count) as node:
        store(node.port, [image(uid) for uid in uids(6)])
        assert node.wait_idle(10)
    assert sum(sizes) == 6
    assert max(sizes) == 4


def test_a_long_batch_keeps_its_lease_by_heartbeat(settings):
    configured = settings(processing={"lease_s": 0.3})
    with Node(configured, slowly(1.0)) as node:
        store(node.port, [image("1.2.3")])
        until(lambda: node.job_counts()[JobState.PROCESSING])
        time.sleep(0.6)
        assert node._store.jobs.recover(9, time.time()) == []
        assert node.wait_idle(10)
        (job,) = node.jobs()
    assert (job.state, job.attempts) == (JobState.DONE, 1)


@pytest.mark.requirement("STO-11")
def test_stopping_finishes_the_batch_in_hand_and_leaves_the_rest_for_the_next_start(settings, archive):
    configured = settings(("pacs", archive.port), processing={"batch_size": 1})
    names = uids(5)
    node = Node(configured, slowly(0.3))
    node.start()
    store(node.port, [image(uid) for uid in names])
    until(lambda: node.job_counts()[JobState.PROCESSING])
    node.stop()
    assert node.wait(0)
    database = Database(configured.node.storage / DATABASE_FILE)
    left = SqliteJobQueue(database, lambda name: configured.node.storage / name).counts()
    database.close()
    assert left[JobState.PROCESSING] == 0
    assert left[JobState.DONE] >= 1
    assert left[JobState.DONE] + left[JobState.RECEIVED] == 5
    with Node(configured, process) as again:
        assert again.wait_idle(10)
        assert again.job_counts()[JobState.DONE] == 5
        assert {job.attempts for job in again.jobs()} == {1}
    assert len(archive.received) == 10
    assert verify_audit_log(configured.node.storage) > 0


def test_stopping_with_drain_finishes_everything_that_waits(settings):
    configured = settings(processing={"batch_size": 1})
    node = Node(configured, slowly(0.05))
    node.start()
    store(node.port, [image(uid) for uid in uids(5)])
    node.stop(drain=True)
    with Node(configured, process) as again:
        assert again.job_counts()[JobState.DONE] == 5


def test_a_second_node_on_the_same_storage_is_refused(node, settings):
    with pytest.raises(StorageError, match="another node runs on it"):
        Node(settings(), process).start()
    assert store(node.port, [image("1.2.3")]) == [0x0000]


def test_a_port_in_use_is_a_config_error_and_the_storage_is_free_again(settings, archive):
    with pytest.raises(ConfigError, match=r"Address already in use.*node\.port"):
        Node(settings(node={"port": archive.port}), process).start()
    with Node(settings(), process) as node:
        assert store(node.port, [image("1.2.3")]) == [0x0000]


def test_at_start_half_written_files_are_removed_and_files_without_a_job_put_aside(settings):
    configured = settings()
    with Node(configured, process):
        pass
    inbox = configured.node.storage / "inbox"
    (inbox / "incoming" / "half").write_bytes(b"x")
    (inbox / "ab").mkdir()
    (inbox / "ab" / ("ab" * 16 + ".dcm")).write_bytes(b"never acknowledged")
    with Node(configured, process) as node:
        assert node.wait_idle(5)
    assert inbox_files(configured) == []
    assert (configured.node.storage / "stray" / ("ab" * 16 + ".dcm")).read_bytes() == b"never acknowledged"
    (told,) = events(configured, "storage.recovered")
    assert told == {"temporaries_removed": 1, "strays_moved": 1}


def test_many_senders_at_once_all_get_through(settings, archive):
    names = uids(24)
    answers = []
    with Node(settings(("pacs", archive.port)), process) as node:
        threads = [
            threading.Thread(target=lambda part=part: answers.extend(store(node.port, [image(uid) for uid in part])))
            for part in (names[0::6], names[1::6], names[2::6], names[3::6], names[4::6], names[5::6])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert node.wait_idle(20)
    assert answers == [0x0000] * 24
    assert sorted(archive.received) == sorted(uid for name in names for uid in result_uids(name))

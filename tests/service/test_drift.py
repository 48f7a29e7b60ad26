"""Drift as the running node sees it: what counts, who is told, and that a crash neither loses nor repeats."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from dicom_gam.core.drift import DriftState, chance_of, smoothed_p_value, update
from dicom_gam.errors import StorageError
from dicom_gam.records import AIResult, CalibrationRank, Task, Verdict
from dicom_gam.service.drift import drift_rule
from dicom_gam.service.drift_review import read_drift, reset_drift
from dicom_gam.service.node import Node, verify_audit_log
from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.rows import DriftSample, PastImages
from tests.service.fakes import BUNDLE, CT, TORN_CONNECTIONS, events, failed, image, process, store, uids

pytestmark = TORN_CONNECTIONS

Process = Callable[[Sequence[Task]], list[AIResult]]


def ranked(odder: int, equal: int = 0, size: int = 999, verdict: Verdict = Verdict.FAIL) -> Process:
    """The fake processor, all of whose images lie at one place among the calibration images."""

    def run(tasks: Sequence[Task]) -> list[AIResult]:
        rank = CalibrationRank("hand", size, odder, equal)
        return [
            result
            if result.verification is None
            else replace(result, verification=replace(result.verification, rank=rank, verdict=verdict))
            for result in process(tasks)
        ]

    return run


VERY_ODD = ranked(0)


def send(node: Node, count: int, seed: str = "", calling: str = "MODALITY") -> None:
    assert store(node.port, [image(uid) for uid in uids(count, seed)], calling=calling) == [0] * count
    assert node.wait_idle(20)


@pytest.mark.requirement("DRF-02")
def test_every_verified_image_counts_once_whatever_its_verdict(settings):
    for number, verdict in enumerate(Verdict):
        with Node(settings(), ranked(500, verdict=verdict)) as node:
            send(node, 2, str(number))
            (reading,) = node.drift_readings()
            assert (reading.sender, reading.bundle_digest, reading.images) == (
                "MODALITY",
                BUNDLE.digest,
                2 * number + 2,
            )


def test_images_that_can_t_be_used_do_not_count(settings):
    with Node(settings(), VERY_ODD) as node:
        assert store(node.port, [image(uids(1)[0], CT)]) == [0]
        assert node.wait_idle(10)
        assert node.drift_readings() == []


@pytest.mark.requirement("DRF-02")
def test_an_image_sent_twice_counts_once(settings):
    with Node(settings(), VERY_ODD) as node:
        send(node, 1)
        send(node, 1)
        assert [reading.images for reading in node.drift_readings()] == [1]


@pytest.mark.requirement("DRF-02")
def test_an_image_whose_first_attempt_failed_counts_once(settings):
    tried: list[str] = []

    def at_second_try(tasks: Sequence[Task]) -> list[AIResult]:
        again = [task.instance.sop_instance_uid in tried for task in tasks]
        tried.extend(task.instance.sop_instance_uid for task in tasks)
        done = VERY_ODD(tasks)
        return [r if ok else failed(t.instance, "not yet") for t, r, ok in zip(tasks, done, again, strict=True)]

    with Node(settings(), at_second_try) as node:
        send(node, 2)
        assert [reading.images for reading in node.drift_readings()] == [2]


def test_evidence_is_that_of_the_images_in_their_order_as_the_mathematics_has_it(settings):
    with Node(settings(), ranked(20, 2, 99)) as node:
        for number in range(4):
            send(node, 1, str(number))
        (reading,) = node.drift_readings()
        jobs = [job.instance.sop_instance_uid for job in reversed(node.jobs())]
    state = DriftState()
    for past, uid in enumerate(jobs):
        chance = chance_of(f"{BUNDLE.digest} {uid}")
        state = update(state, smoothed_p_value(20, 2 + past, 99 + past, chance))
    assert reading.log10_evidence == pytest.approx(state.log_evidence / math.log(10))
    assert reading.log10_maximum == pytest.approx(state.log_maximum / math.log(10))


@pytest.mark.requirement("DRF-03", "SAF-02")
def test_an_alarm_is_logged_and_audited_once_without_a_patient(settings, caplog):
    configured = settings()
    with caplog.at_level(logging.WARNING, "dicom_gam"):
        for seed in ("a", "b"):
            with Node(configured, VERY_ODD) as node:
                send(node, 12, seed)
                (reading,) = node.drift_readings()
    assert reading.alarm_at is not None
    (record,) = events(configured, "drift-alarm")
    assert (record["sender"], record["bundle"], record["digest"]) == ("MODALITY", BUNDLE.name, BUNDLE.digest)
    assert record["log10_evidence"] >= 3
    lines = [entry.getMessage() for entry in caplog.records if entry.getMessage().startswith("drift-alarm")]
    assert len(lines) == 1
    assert "sender='MODALITY'" in lines[0]
    assert "SECRET" not in (configured.node.storage / AUDIT_FILE).read_text() + caplog.text


def test_usual_images_raise_no_alarm(settings):
    configured = settings()
    places = iter(range(0, 1000, 25))  # evenly among the calibration images

    def usual(tasks: Sequence[Task]) -> list[AIResult]:
        return [ranked(next(places))([one])[0] for one in tasks]

    with Node(configured, usual) as node:
        send(node, 40)
        (reading,) = node.drift_readings()
    assert (reading.images, reading.alarm_at) == (40, None)
    assert events(configured, "drift-alarm") == []


def test_one_sender_s_drift_is_not_another_s(settings):
    def by_sender(tasks: Sequence[Task]) -> list[AIResult]:
        return [ranked(0 if one.instance.calling_ae_title == "DRIFTING" else 500)([one])[0] for one in tasks]

    with Node(settings(), by_sender) as node:
        send(node, 10, "a", calling="DRIFTING")
        send(node, 10, "b", calling="STEADY")
        found = {reading.sender: reading.alarm_at is not None for reading in node.drift_readings()}
    assert found == {"DRIFTING": True, "STEADY": False}


def test_the_alarm_level_is_the_setting_s(settings):
    table = settings().model_dump()
    strict = type(settings()).model_validate(table | {"drift": {"false_alarm_rate": 1e-30}})
    with Node(strict, VERY_ODD) as node:
        send(node, 12)
        (reading,) = node.drift_readings()
    assert 3 < reading.log10_maximum < 30
    assert reading.alarm_at is None


def test_switched_off_nothing_is_watched(settings):
    off = type(settings()).model_validate(settings().model_dump() | {"drift": {"enabled": False}})
    with Node(off, VERY_ODD) as node:
        send(node, 12)
        assert node.drift_readings() == []


@pytest.mark.requirement("DRF-03")
def test_an_alarm_that_a_crash_kept_back_is_told_at_the_next_start(settings, monkeypatch):
    configured = settings()
    with monkeypatch.context() as patched:
        patched.setattr("dicom_gam.service.worker.announce_alarms", lambda *_: None)  # it never came to that
        with Node(configured, VERY_ODD) as node:
            send(node, 12)
    assert events(configured, "drift-alarm") == []
    with Node(configured, VERY_ODD):
        pass
    assert len(events(configured, "drift-alarm")) == 1


def test_reset_is_audited_starts_anew_and_works_while_the_node_runs(settings):
    configured = settings()
    with Node(configured, VERY_ODD) as node:
        send(node, 12, "a")
        (forgotten,) = reset_drift(configured.node.storage, "MODALITY")
        assert forgotten.images == 12
        assert node.drift_readings() == []
        send(node, 1, "b")
        assert [reading.images for reading in read_drift(configured.node.storage)] == [1]
    (record,) = events(configured, "drift-reset")
    assert record["sender"] == "MODALITY"
    assert (record["streams"][0]["images"], record["streams"][0]["digest"]) == (12, BUNDLE.digest)
    assert verify_audit_log(configured.node.storage) > 0


def test_reset_of_an_unknown_sender_names_the_known_ones(settings):
    configured = settings()
    with Node(configured, VERY_ODD) as node:
        send(node, 1)
    with pytest.raises(StorageError, match=r"'TYPO'.*MODALITY"):
        reset_drift(configured.node.storage, "TYPO")
    assert events(configured, "drift-reset") == []


def test_a_folder_that_is_no_storage_is_refused(tmp_path):
    with pytest.raises(StorageError, match="not the storage folder"):
        read_drift(tmp_path)


def test_a_state_of_another_version_starts_the_evidence_anew_and_holds_up_no_result(caplog):
    sample = DriftSample("MODALITY", "fake", "1", BUNDLE.digest, "hand", 999, 500, 0, 0.5)
    with caplog.at_level(logging.WARNING):
        anew = drift_rule(0.001)('{"of": "another version"}', sample, PastImages(7, 3, 1))
    assert anew == drift_rule(0.001)("", sample, PastImages(7, 3, 1))
    assert "drift.state_unreadable" in caplog.text

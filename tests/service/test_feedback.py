"""What readers say: kept, and turned into labelled images without a patient's name."""

from __future__ import annotations

import csv
import json
import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_gam.cli.main import app
from dicom_gam.config import Settings
from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.records import ReceivedInstance
from dicom_gam.service.feedback import export_feedback, feedback_cases, feedback_csv, give_feedback, read_feedback
from dicom_gam.service.store import AUDIT_FILE, Store, open_store
from dicom_gam.storage.rows import Job, NewJob, Review, ReviewKind
from dicom_gam.training.images import read_manifest
from tests.web.made_site import made_conclusion, made_settings

AGREE, DISAGREE, COMMENT = ReviewKind.AGREE, ReviewKind.DISAGREE, ReviewKind.COMMENT
PASSED, FAILED, REJECTED = 0, 3, 5  # numbers of made jobs that end so; 0 and 1 are of one patient


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return made_settings(tmp_path / "node")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings, create=True) as opened:
        yield opened


def add(store: Store, number: int, name: str = "", predecessor: str = "") -> Job:
    """Process a made image, whose file is in the inbox."""
    job_id = name or f"{number:032x}"
    store.inbox.write(job_id, (b"an image",))
    sop = f"2.25.{number + 1}"
    instance = ReceivedInstance(
        store.inbox.path(job_id), "1.2", sop, "1.2.840.10008.1.2.1", f"{number:064x}", 8, "ROOM_1", "GAM", "::1"
    )
    store.jobs.add(NewJob(job_id, job_id, instance, time.time(), predecessor=predecessor))
    (job,) = store.jobs.claim("test", 1, 60.0, time.time())
    conclusion, _ = made_conclusion(number, sop, random.Random(1))
    store.jobs.finish(job.lease, conclusion, (), time.time())
    found = store.jobs.get(job_id)
    assert found is not None
    return found


def labels(store: Store) -> list[str]:
    return [case.label for case in feedback_cases(store)]


@pytest.mark.requirement("WEB-40")
def test_who_agrees_with_a_pass_names_the_predicted_class(store):
    give_feedback(store, add(store, PASSED), AGREE, "rad")
    (case,) = feedback_cases(store)
    assert (case.label, case.predicted, case.verdict) == ("chest", "chest", "PASS")
    assert (case.kind, case.reviewer) == (AGREE, "rad")
    assert case.path.read_bytes() == b"an image"


@pytest.mark.requirement("WEB-40")
@pytest.mark.parametrize("number", [FAILED, REJECTED])
def test_who_agrees_that_a_result_is_not_to_be_used_names_no_class(store, number):
    job = add(store, number)
    give_feedback(store, job, AGREE, "rad")
    assert labels(store) == []
    assert sum(read_feedback(store).left_out.values()) == 1
    give_feedback(store, job, AGREE, "rad", class_name="hand")
    assert labels(store) == ["hand"]


def test_who_disagrees_names_what_they_see(store):
    give_feedback(store, add(store, PASSED), DISAGREE, "rad", class_name="hand")
    assert labels(store) == ["hand"]


@pytest.mark.requirement("WEB-41")
def test_one_s_latest_word_counts_and_all_are_kept(store):
    job = add(store, PASSED)
    give_feedback(store, job, AGREE, "rad")
    give_feedback(store, job, DISAGREE, "rad", class_name="hand")
    assert labels(store) == ["hand"]
    give_feedback(store, job, DISAGREE, "rad")
    assert labels(store) == []
    give_feedback(store, job, AGREE, "rad")
    give_feedback(store, job, COMMENT, "rad", words="well exposed")  # takes nothing back
    assert labels(store) == ["chest"]
    assert [review.kind for review in store.reviews.of_job(job.job_id)] == [AGREE, DISAGREE, DISAGREE, AGREE, COMMENT]


@pytest.mark.requirement("WEB-42")
@pytest.mark.parametrize("other", ["hand", ""])
def test_an_image_that_readers_see_differently_is_left_out_with_the_reason(store, other):
    job = add(store, PASSED)
    give_feedback(store, job, AGREE, "rad")
    give_feedback(store, job, DISAGREE, "other", class_name=other)
    assert labels(store) == []
    (why,) = read_feedback(store).left_out
    assert "differ" in why


def test_an_image_that_was_processed_twice_is_one_image(store):
    first = add(store, PASSED)
    second = add(store, PASSED, "a" * 32, predecessor=first.job_id)
    give_feedback(store, first, AGREE, "rad")
    give_feedback(store, second, DISAGREE, "rad", class_name="hand")
    (case,) = feedback_cases(store)
    assert (case.label, case.job_id) == ("hand", second.job_id)


@pytest.mark.requirement("WEB-42")
def test_a_deleted_image_is_left_out_and_counted(store):
    job = add(store, PASSED)
    give_feedback(store, job, AGREE, "rad")
    job.instance.path.unlink()
    feedback = read_feedback(store)
    assert feedback.cases == ()
    assert [(count, "deleted" in why) for why, count in feedback.left_out.items()] == [(1, True)]


def test_what_a_reader_says_in_an_override_counts_too(store):
    job = add(store, FAILED)
    store.reviews.add(Review(job.job_id, ReviewKind.OVERRIDDEN, "rad", time.time(), "hand", "clearly"))
    store.reviews.add(Review(job.job_id, ReviewKind.DISMISSED, "op", time.time(), "", "done"))
    assert labels(store) == ["hand"]


@pytest.mark.requirement("WEB-43")
def test_an_export_holds_a_pseudonym_that_is_the_same_for_a_patient_and_another_at_another_node(store, tmp_path):
    other_settings = made_settings(tmp_path / "other")
    with open_store(other_settings, create=True) as other:
        groups = []
        for place in (store, other):
            for number in (0, 1, 2):
                give_feedback(place, add(place, number), AGREE, "rad")
            groups.append([case.group for case in feedback_cases(place)])
    first, second = groups
    assert first[0] == first[1] != first[2]
    assert not set(first) & set(second)
    text = feedback_csv(feedback_cases(store))
    assert not [word for word in ("Doe", "Jane", "P000000", "A0000000") if word in text]


@pytest.mark.requirement("WEB-44")
def test_an_export_is_a_manifest_that_calibrate_reads(store, tmp_path):
    give_feedback(store, add(store, PASSED), AGREE, "=HYPERLINK()")
    output = tmp_path / "feedback.csv"
    export_feedback(store, output, by="me")
    (image,) = read_manifest(output, ["chest", "hand", "garbage"])
    assert (image.label, image.source) == ("chest", "ROOM_1")
    assert image.path.read_bytes() == b"an image"
    with output.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reviewer"] == "'=HYPERLINK()"
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    with pytest.raises(StorageError, match="exists already"):
        export_feedback(store, output, by="me")


@pytest.mark.parametrize(
    ("number", "kind", "said", "told"),
    [
        (PASSED, AGREE, {"class_name": "hand"}, "choose disagree"),
        (PASSED, DISAGREE, {"class_name": "ghost"}, "none of the bundle's"),
        (PASSED, COMMENT, {}, "needs words"),
        (PASSED, COMMENT, {"words": "x" * 501}, "too many"),
        (PASSED, ReviewKind.OVERRIDDEN, {}, "no feedback"),
    ],
)
def test_feedback_that_makes_no_sense_is_refused_in_words(store, number, kind, said, told):
    with pytest.raises(ConfigError, match=told):
        give_feedback(store, add(store, number), kind, "rad", **said)
    assert store.reviews.of_job(f"{number:032x}") == []


@pytest.mark.requirement("WEB-45")
@pytest.mark.parametrize("words", ["this is JANE0, surely", "see p000000", "accession A0000000 is wrong"])
def test_words_that_name_the_patient_are_refused_as_they_would_go_into_the_audit_log(store, settings, words):
    job = add(store, PASSED)
    with pytest.raises(ConfigError, match="patient"):
        give_feedback(store, job, COMMENT, "rad", words=words)
    assert words not in (settings.node.storage / AUDIT_FILE).read_text()


def test_feedback_is_put_on_record_with_who_gave_it(store, settings):
    give_feedback(store, add(store, PASSED), DISAGREE, "rad", class_name="hand", words="a  thumb", address="10.0.0.9")
    last = json.loads((settings.node.storage / AUDIT_FILE).read_text().splitlines()[-1])
    assert last["event"] == "result.reviewed"
    assert last["keys"] | {"study_instance_uid": ""} == {
        "job_id": f"{PASSED:032x}", "study_instance_uid": "", "kind": "disagree", "class_name": "hand",
        "words": "a thumb", "by": "rad", "address": "10.0.0.9",
    }  # fmt: skip


@pytest.mark.requirement("WEB-44")
def test_the_command_exports_and_says_what_was_left_out(store, settings, tmp_path, capsys):
    give_feedback(store, add(store, PASSED), AGREE, "rad")
    give_feedback(store, add(store, FAILED), AGREE, "rad")
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nstorage = "{settings.node.storage}"\n')
    arguments = ["feedback", "export", "--config", str(config), "--output", str(tmp_path / "out.csv")]
    app([*arguments, "--since", "2020-01-01"], standalone_mode=False)
    told = capsys.readouterr().out
    assert "1 images" in told
    assert "left out 1: nobody says what they see" in told
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2

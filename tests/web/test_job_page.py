"""The page of a job: verdict in words, chart, downloads, feedback, timeline."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
from flask import Flask
from lxml import html
from pydicom.dataset import Dataset

from dicom_gam.service.result_view import CheckView, MeasurementView
from dicom_gam.service.store import Store
from dicom_gam.storage.audit_reader import START, AuditRecord
from dicom_gam.storage.rows import Job
from dicom_gam.web.app import make_app
from dicom_gam.web.score_chart import LANES_FROM, LANES_TO, LINE, score_chart
from dicom_gam.web.site import Site
from dicom_gam.web.timeline import timeline
from tests.dicom.example_results import encoded, real_source
from tests.web.logged_in import logged_in
from tests.web.made_site import made_settings, made_store

GARBAGE = "garbage"


pytestmark = pytest.mark.usefixtures("forgotten")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with made_store(made_settings(tmp_path_factory.mktemp("jobs") / "node"), jobs=20) as made:
        yield made


@pytest.fixture(scope="module")
def app(store: Store) -> Flask:
    made = make_app(Site(made_settings(store.folder), store))
    made.config["TESTING"] = True
    return made


@pytest.fixture(scope="module")
def with_files(store: Store) -> Job:
    """A PASS whose SR, overlay, attention map and image are really there."""
    job = job_with(store, "PASS")
    source: Dataset = real_source("RG1_UNCR.dcm")
    objects = {item.role: item.content for item in encoded(source, "PASS")}
    for output in (job.result or {})["outputs"]:
        content = objects[output["role"]]
        digest = hashlib.sha256(content).hexdigest()
        store.results.write(digest, (content,))
        _replace(store, job, f"{output['sha256']}", digest, output["role"])
    return job


def _replace(store: Store, job: Job, old: str, new: str, role: str) -> None:
    with store.database.transaction() as connection:
        (text,) = connection.execute("SELECT result FROM jobs WHERE job_id = ?", (job.job_id,)).fetchone()
        result = json.loads(text)
        for output in result["outputs"]:
            if output["role"] == role:
                output["sha256"] = new
        connection.execute("UPDATE jobs SET result = ? WHERE job_id = ?", (json.dumps(result), job.job_id))


def job_with(store: Store, outcome: str) -> Job:
    return next(job for job in reversed(store.jobs.jobs(limit=50)) if job.outcome == outcome)


def text_of(page: str, xpath: str = "//main") -> str:
    return " ".join(" ".join(node.text_content() for node in html.fromstring(page).xpath(xpath)).split())


@pytest.mark.requirement("WEB-46")
@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("PASS", "found nothing against the AI result"),
        ("FAIL", "Do not use the AI result"),
        ("REJECT", "The AI must not judge this image"),
        ("UNUSABLE", "only 3 of 12 rows of pixels are there"),
        ("ERROR", "Processing failed"),
    ],
)
def test_the_verdict_comes_first_and_in_words(viewer, store, outcome, told):
    page = viewer.get(f"/jobs/{job_with(store, outcome).job_id}").text
    first = text_of(page, "(//section)[1]")
    assert outcome in first
    assert told in first


@pytest.mark.requirement("WEB-47")
@pytest.mark.parametrize("outcome", ["FAIL", "REJECT"])
def test_without_pass_no_class_is_shown_but_under_a_warning_that_it_is_no_finding(viewer, store, outcome):
    tree = html.fromstring(viewer.get(f"/jobs/{job_with(store, outcome).job_id}").text)
    (analysis,) = tree.xpath("//details[summary='For analysis, not a finding']")
    assert "Not a finding" in analysis.text_content()
    assert "chest" in analysis.text_content()
    analysis.drop_tree()
    for choice in tree.xpath("//select[@name='class_name'] | //dl | //h1 | //ul[@class='reviews']"):
        choice.drop_tree()  # what readers may say, and what the image's own header says
    assert "chest" not in tree.text_content().lower()


def test_with_pass_the_class_is_shown(viewer, store):
    page = viewer.get(f"/jobs/{job_with(store, 'PASS').job_id}").text
    assert "Predicted: chest" in text_of(page)
    assert "not a finding" not in text_of(page).lower()


def test_the_chart_says_in_words_what_it_draws_and_a_table_has_the_same_figures(viewer, store):
    job = job_with(store, "FAIL")
    tree = html.fromstring(viewer.get(f"/jobs/{job.job_id}").text)
    (chart,) = tree.xpath("//svg[contains(@class, 'scores')]")
    count = sum(len(check["measurements"]) for check in job.result["verification"]["checks"])
    assert chart.get("role") == "img"
    assert f"{count} scores" in chart.get("aria-label")
    assert "Outside of its limit: attention IoU" in chart.get("aria-label")
    assert len(tree.xpath("//table[caption[contains(., 'Scores')]]/tbody/tr[not(@class)]")) == count


def check_of(*measurements: MeasurementView) -> CheckView:
    return CheckView("attention", "Attention", True, False, 0.4, 1.0, 3.0, "", measurements)


@pytest.mark.requirement("WEB-48")
@pytest.mark.parametrize("bound", ["min", "max"])
@pytest.mark.parametrize("value", [-math.inf, -5.0, 0.4999, 0.5, 0.5001, 7.0, math.inf, math.nan])
def test_a_mark_lies_right_of_the_line_exactly_when_the_score_is_within_its_limit(bound, value):
    passed = value >= 0.5 if bound == "min" else value <= 0.5
    chart = score_chart([check_of(MeasurementView("attention.kl", "KL", value, 0.5, bound, None, passed))])
    (lane,) = chart.groups[0].lanes
    assert (lane.x > LINE) == passed
    assert lane.word == ("within" if passed else "outside")
    assert LANES_FROM < lane.x < LANES_TO
    assert abs(lane.x - LINE) >= 9


def test_a_better_score_never_lies_further_left():
    values = [0.0, 0.2, 0.45, 0.49, 0.5, 0.51, 0.6, 0.9, 1.0]
    views = [MeasurementView("attention.iou", "IoU", value, 0.5, "min", None, value >= 0.5) for value in values]
    places = [lane.x for lane in score_chart([check_of(*views)]).groups[0].lanes]
    assert places == sorted(places)


@pytest.mark.requirement("WEB-34")
def test_looking_at_a_job_is_on_record(viewer, store, on_record):
    job = job_with(store, "REJECT")
    viewer.get(f"/jobs/{job.job_id}")
    (look,) = on_record("access.looked")
    assert (look["what"], look["job_id"], look["study_instance_uid"]) == ("job", job.job_id, job.study_instance_uid)


@pytest.mark.requirement("WEB-37")
def test_downloads_are_named_by_us_kept_by_nobody_and_each_put_on_record(viewer, store, with_files, on_record):
    for role in ("sr", "overlay"):
        answer = viewer.get(f"/jobs/{with_files.job_id}/objects/{role}")
        assert answer.status_code == 200
        assert answer.data[128:132] == b"DICM"
        assert answer.headers["Content-Disposition"].endswith(f"{with_files.job_id[:12]}-{role}.dcm")
        assert "no-store" in answer.headers["Cache-Control"]
    assert [(look["what"], look["part"]) for look in on_record("access.looked")] == [
        ("download", "sr"), ("download", "overlay"),
    ]  # fmt: skip


@pytest.mark.requirement("WEB-36")
def test_the_overlay_is_served_as_a_picture_for_this_person_only(viewer, with_files):
    answer = viewer.get(f"/jobs/{with_files.job_id}/overlay.png")
    assert answer.mimetype == "image/png"
    assert answer.data.startswith(b"\x89PNG")
    assert answer.headers["Cache-Control"] == "no-store"
    assert f"/jobs/{with_files.job_id}/overlay.png" in viewer.get(f"/jobs/{with_files.job_id}").text


def test_the_report_s_tree_is_on_the_page(viewer, with_files):
    text = text_of(viewer.get(f"/jobs/{with_files.job_id}").text, "//ul[@class='tree']")
    assert "Imaging Measurement Report" in text
    assert "Predicted class: Thoracic structure" in text


@pytest.mark.parametrize(
    "path",
    [
        "objects/../../node.sqlite",
        "objects/%2e%2e%2fnode.sqlite",
        "objects/region",
        "objects/" + "0" * 64,
        "objects/SR",
    ],
)
def test_only_a_role_of_the_job_s_own_objects_is_served(viewer, with_files, path, on_record):
    assert viewer.get(f"/jobs/{with_files.job_id}/{path}").status_code in (404, 308)
    assert on_record("access.looked") == []


def test_what_was_deleted_is_said_and_not_offered(viewer, store):
    job = job_with(store, "FAIL")
    page = viewer.get(f"/jobs/{job.job_id}").text
    assert "deleted (retention.results_days)" in page
    assert f"/jobs/{job.job_id}/overlay.png" not in page
    for path in ("overlay.png", "objects/sr", "attention-map"):
        assert viewer.get(f"/jobs/{job.job_id}/{path}").status_code == 404


def test_the_image_itself_is_for_operators_only(app, store, with_files):
    store.inbox.write(with_files.job_id, (b"image",))
    assert logged_in(app, "viewer").get(f"/jobs/{with_files.job_id}/image").status_code == 403
    with logged_in(app, "operator").get(f"/jobs/{with_files.job_id}/image") as answer:
        assert answer.data == b"image"


@pytest.mark.parametrize(
    "path", ["/jobs/nothing", "/jobs/" + "0" * 32, "/jobs/%2e%2e%2f", "/jobs/" + "0" * 32 + "/overlay.png"]
)
def test_a_job_that_is_not_there_is_not_found(viewer, path):
    assert viewer.get(path).status_code == 404


@pytest.mark.requirement("WEB-49")
def test_a_purged_image_s_page_says_that_the_patient_is_forgotten(viewer, store):
    job = job_with(store, "UNUSABLE")
    with store.database.transaction() as connection:
        (number,) = connection.execute("SELECT number FROM jobs WHERE job_id = ?", (job.job_id,)).fetchone()
        connection.execute("DELETE FROM job_headers WHERE number = ?", (number,))
        connection.execute("UPDATE jobs SET purged_at = 1.0 WHERE number = ?", (number,))
    page = viewer.get(f"/jobs/{job.job_id}").text
    assert "forgotten since the image was deleted" in text_of(page)
    assert "Doe" not in page


@pytest.mark.requirement("WEB-38")
def test_the_timeline_tells_every_step_with_its_reason_and_who_looked(viewer, store):
    job = job_with(store, "FAIL")
    viewer.get(f"/jobs/{job.job_id}")
    tree = html.fromstring(viewer.get(f"/jobs/{job.job_id}").text)
    steps = [" ".join(step.text_content().split()) for step in tree.xpath("//ol[@class='timeline']/li")]
    assert "received from" in steps[0].lower()
    assert any("Verdict FAIL" in step and "the network looked elsewhere" in step for step in steps)
    (who,) = tree.xpath("//details[summary='Who looked at it']")
    assert "viewer from 127.0.0.1" in who.text_content()


def test_an_event_without_words_is_shown_by_its_name():
    record = AuditRecord(7, "2026-11-20T10:00:00.000Z", "comet.seen", {"job_id": "a", "by": "rad"}, START, 1)
    (step,) = timeline([record], "a")
    assert "comet.seen" in step.words
    assert (step.by, step.tone, step.of_job) == ("rad", "", "")


@pytest.mark.requirement("WEB-39")
def test_feedback_is_kept_shown_and_put_on_record(viewer, store, on_record):
    job = job_with(store, "PASS")
    data = {"kind": "disagree", "class_name": "hand", "words": "<b>a thumb</b>"}
    answer = viewer.post(f"/jobs/{job.job_id}/feedback", data=data)
    assert (answer.status_code, answer.location) == (303, f"/jobs/{job.job_id}#feedback")
    page = viewer.get(answer.location).text
    assert "disagree, sees hand – viewer" in text_of(page, "//ul[@class='reviews']")
    assert "&lt;b&gt;a thumb" in page
    (said,) = on_record("result.reviewed")
    assert (said["kind"], said["by"], said["words"]) == ("disagree", "viewer", "<b>a thumb</b>")


@pytest.mark.parametrize(
    "data", [{}, {"kind": "overridden"}, {"kind": "agree", "class_name": "hand"}, {"kind": "comment"}]
)
def test_feedback_that_makes_no_sense_is_not_kept_and_said_so(viewer, store, data, on_record):
    job = job_with(store, "PASS")
    before = store.reviews.of_job(job.job_id)
    answer = viewer.post(f"/jobs/{job.job_id}/feedback", data=data, follow_redirects=True)
    assert html.fromstring(answer.text).xpath("//p[@class='notice bad' and @role='status']")
    assert store.reviews.of_job(job.job_id) == before
    assert on_record("result.reviewed") == []


def test_who_may_not_comment_sees_no_form_and_can_t_post(app, store):
    auditor, job = logged_in(app, "auditor"), job_with(store, "PASS")
    assert "/feedback" not in auditor.get(f"/jobs/{job.job_id}").text
    assert auditor.post(f"/jobs/{job.job_id}/feedback", data={"kind": "agree"}).status_code == 403


def test_an_operator_can_send_a_dead_letter_again_from_the_page(app, store):
    dead = next(
        job for job in store.jobs.jobs(limit=50) if "dead" in [d.state for d in store.outbox.deliveries(job.job_id)]
    )
    page = logged_in(app, "operator").get(f"/jobs/{dead.job_id}").text
    assert f'name="one" value="{dead.job_id}/pacs"' in page
    assert "Send again" not in logged_in(app, "viewer").get(f"/jobs/{dead.job_id}").text


def test_the_page_keeps_to_the_content_policy(viewer, store):
    page = viewer.get(f"/jobs/{job_with(store, 'FAIL').job_id}").text
    assert not re.findall(r"<[^>]+\s(?:style|on\w+)=", page)
    assert [script for script in re.findall(r"<script[^>]*>([^<]*)", page) if script.strip()] == []


def test_the_attention_map_is_served_as_numpy(viewer, store, with_files):
    buffer = io.BytesIO()
    np.save(buffer, np.eye(4, dtype="<f4"), allow_pickle=False)
    name = hashlib.sha256(buffer.getvalue()).hexdigest()
    store.evidence.write(name, (buffer.getvalue(),))
    with store.database.transaction() as connection:
        (text,) = connection.execute("SELECT result FROM jobs WHERE job_id = ?", (with_files.job_id,)).fetchone()
        changed = json.loads(text) | {"attention_map": {"sha256": name, "shape": [4, 4]}}
        connection.execute("UPDATE jobs SET result = ? WHERE job_id = ?", (json.dumps(changed), with_files.job_id))
    served = viewer.get(f"/jobs/{with_files.job_id}/attention-map").data
    np.testing.assert_array_equal(np.load(io.BytesIO(served), allow_pickle=False), np.eye(4, dtype=np.float32))

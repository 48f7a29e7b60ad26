"""Recomputing kept results: a real pipeline on a real storage folder, and what is done to the folder in between."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dicom_gam
from dicom_gam.config import Settings
from dicom_gam.service.comparison import ATTENTION, BF16_LOOSENED, MEASURED, PLACES, PROBABILITY, compare
from dicom_gam.service.evidence import kept_attention_map
from dicom_gam.service.reprocess import Selection, reprocess
from dicom_gam.service.reproduce import EVENT, Outcome, Reproduction, reproduce
from dicom_gam.service.store import AUDIT_FILE, open_store
from dicom_gam.storage.rows import Job
from tests.service.reproducible import make_results, reproducible_settings

USABLE, UNUSABLE, SKIPPED = 0, 1, 2  # places in the order of arrival


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_bundle_dir) -> Path:
    folder = tmp_path_factory.mktemp("reproducible") / "node"
    make_results(reproducible_settings(folder, tiny_bundle_dir))
    return folder


@pytest.fixture
def settings(made: Path, tmp_path: Path, tiny_bundle_dir: Path) -> Settings:
    """A copy of the folder, for each test to change."""
    shutil.copytree(made, tmp_path / "node")
    return reproducible_settings(tmp_path / "node", tiny_bundle_dir)


def jobs_of(settings: Settings) -> list[Job]:
    with open_store(settings) as store:
        return store.jobs.jobs()[::-1]


def again(settings: Settings, place: int = USABLE, **how: Any) -> Reproduction:
    (found,) = reproduce(settings, [jobs_of(settings)[place].job_id], **how)
    return found


def rewrite(settings: Settings, place: int, change: Any) -> None:
    """Change the kept result of a job behind the node's back."""
    job = jobs_of(settings)[place]
    result = copy.deepcopy(dict(job.result))
    change(result)
    with open_store(settings) as store, store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET result = ? WHERE job_id = ?", (json.dumps(result), job.job_id))


@pytest.mark.requirement("REP-01")
def test_every_kind_of_result_is_recomputed_to_the_bit_and_that_is_all_that_changes(settings):
    before = [(job.state, job.result) for job in jobs_of(settings)]
    found = list(reproduce(settings, None))
    assert [item.outcome for item in found] == [Outcome.EQUAL] * 3, found
    assert [item.verdict for item in found] == [found[0].verdict, "UNUSABLE", "SKIPPED"]
    assert all(item.comparison.exact and item.comparison.same_bytes for item in found)
    assert found[USABLE].comparison.attention_by == 0.0
    assert found[USABLE].comparison.figures > 100
    assert [(job.state, job.result) for job in jobs_of(settings)] == before


@pytest.mark.requirement("REP-02")
def test_the_audit_log_notes_each_reproduction_and_its_outcome(settings):
    rewrite(settings, USABLE, lambda result: result["prediction"].update(label="stripes"))
    found = again(settings)
    line = (settings.node.storage / AUDIT_FILE).read_text().splitlines()[-1]
    assert (f'"{EVENT}"' in line, found.job_id in line, '"different"' in line) == (True, True, True)
    assert "prediction.label" in line
    assert "SECRET" not in line


def tamper(result: dict[str, Any]) -> None:
    result["verification"]["verdict"] = "NEITHER"
    result["verification"]["reasons"].append("attention: elsewhere")
    result["verification"]["checks"][0]["score"] += 0.5
    result["prediction"]["probabilities"]["disc"] = 2.0
    result["input"]["pixel_sha256"] = "0" * 64
    result["outputs"][0]["sop_instance_uid"] = "2.25.1"


@pytest.mark.requirement("REP-01")
def test_each_kept_figure_that_is_not_what_comes_out_is_named_with_both_values_and_no_other(settings):
    rewrite(settings, USABLE, tamper)
    found = again(settings)
    assert found.outcome is Outcome.DIFFERENT
    named = {difference.what.removesuffix(".3"): difference for difference in found.comparison.differences}
    reasons = [name for name in named if name.startswith("verification.reasons")]
    assert named.keys() - set(reasons) == {
        "verification.verdict", "verification.checks.input.score", "prediction.probabilities.disc",
        "input.pixel_sha256", "outputs.sr.sop_instance_uid",
    }  # fmt: skip
    assert (len(reasons), named[reasons[0]].made) == (1, "nothing")
    assert round(named["verification.checks.input.score"].by, 6) == 0.5
    assert named["verification.verdict"].kept == "NEITHER"


@pytest.mark.requirement("REP-01")
@pytest.mark.parametrize(
    ("place", "what", "change"),
    [
        (UNUSABLE, "rejection.reason", lambda r: r["rejection"].update(reason="truncated-pixels")),
        (SKIPPED, "skipped", lambda r: r.update(skipped="another rule")),
    ],
)
def test_another_reason_to_make_no_report_is_a_difference_too(settings, place, what, change):
    rewrite(settings, place, change)
    found = again(settings, place)
    assert [difference.what for difference in found.comparison.differences] == [what]


@pytest.mark.requirement("REP-01")
def test_an_attention_map_that_is_not_the_kept_one_differs_although_all_figures_agree(settings):
    job = jobs_of(settings)[USABLE]
    buffer = io.BytesIO()
    with open_store(settings) as store:
        attention = kept_attention_map(job.result["attention_map"]["sha256"], store.evidence).copy()
        attention[0, 0] += 0.25
        np.save(buffer, attention)
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        store.evidence.write(name, (buffer.getvalue(),))
    rewrite(settings, USABLE, lambda result: result["attention_map"].update(sha256=name))
    (difference,) = again(settings).comparison.differences
    assert (difference.what, round(difference.by, 3)) == ("attention_map", 0.25)


@pytest.mark.requirement("REP-03")
def test_an_image_that_has_been_changed_on_disk_is_not_taken_for_the_one_that_came(settings):
    path = jobs_of(settings)[USABLE].instance.path
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = again(settings)
    assert found.outcome is Outcome.IMPOSSIBLE
    assert "is not what was received" in found.why


@pytest.mark.requirement("REP-03")
def test_without_its_image_a_result_can_not_be_reproduced_unless_another_job_has_the_same_bytes(settings):
    job = jobs_of(settings)[USABLE]
    reprocess(settings, Selection(job_ids=(job.job_id,)))
    job.instance.path.unlink()
    assert again(settings).outcome is Outcome.EQUAL
    jobs_of(settings)[-1].instance.path.unlink()
    found = again(settings)
    assert (found.outcome, "has been deleted" in found.why) == (Outcome.IMPOSSIBLE, True)


@pytest.mark.requirement("REP-04")
def test_another_bundle_is_never_used_in_place_of_the_one_that_made_the_result(settings, tiny_bundle_dir, tmp_path):
    other = settings.processing.model_copy(update={"bundle": "radiograph-anatomy"})
    settings = settings.model_copy(update={"processing": other})
    found = again(settings)
    assert (found.outcome, "is not here: give it by --bundle" in found.why) == (Outcome.IMPOSSIBLE, True)
    elsewhere = shutil.copytree(tiny_bundle_dir, tmp_path / "moved")
    assert again(settings, bundle=str(elsewhere)).outcome is Outcome.EQUAL


@pytest.mark.requirement("REP-04")
def test_the_settings_that_made_the_result_count_and_not_those_of_today(settings):
    today = settings.model_copy(update={"output": settings.output.model_copy(update={"manufacturer": "Another"})})
    assert again(today).comparison.exact
    shutil.rmtree(settings.node.storage / "evidence")
    found = again(today)
    assert (found.outcome, "restore" in found.why) == (Outcome.IMPOSSIBLE, True)


@pytest.mark.requirement("REP-03")
def test_a_result_says_what_version_made_it_and_another_version_with_the_same_figures_is_no_difference(settings):
    assert jobs_of(settings)[USABLE].result["made_with"] == f"dicom_gam {dicom_gam.__version__}"
    rewrite(settings, USABLE, lambda result: result.update(made_with="dicom_gam 0.0.1"))
    assert again(settings).outcome is Outcome.EQUAL


def test_what_a_rule_skipped_needs_the_rules(settings):
    found = again(settings.model_copy(update={"rules": ()}), SKIPPED)
    assert (found.outcome, "--config" in found.why) == (Outcome.IMPOSSIBLE, True)


@pytest.mark.requirement("REP-03")
def test_a_job_that_waits_or_is_not_known_is_told_and_the_others_are_still_done(settings):
    usable = jobs_of(settings)[USABLE]
    reprocess(settings, Selection(job_ids=(usable.job_id,)), again=True)
    waiting = jobs_of(settings)[-1].job_id
    found = list(reproduce(settings, ["0" * 32, waiting, usable.job_id]))
    assert [item.outcome for item in found] == [Outcome.IMPOSSIBLE, Outcome.IMPOSSIBLE, Outcome.EQUAL]
    assert ("no such job" in found[0].why, "not finished yet" in found[1].why) == (True, True)


def kept_summary(**figures: Any) -> dict[str, Any]:
    measurement = {"name": "input.feature_distance", "value": figures.get("value", 2.0), "passed": True}
    return {
        "outcome": figures.get("outcome", "PASS"),
        "prediction": {"probabilities": {"disc": figures.get("probability", 0.9)}},
        "verification": {
            "p_value": figures.get("p_value", 0.5),
            "rank": {"size": 199, "odder": figures.get("odder", 99)},
            "reasons": [figures.get("words", "input: feature distance 2.78 > 2.21 (p = 0.02)")],
            "checks": [{"name": "input", "measurements": [measurement]}],
        },
        "outputs": [{"role": "sr", "sop_instance_uid": "2.25.5", "sha256": figures.get("sha256", "a" * 64)}],
    }


@pytest.mark.requirement("REP-05")
@pytest.mark.parametrize(
    ("figure", "kept", "near", "far"),
    [
        ("probability", 0.9, 0.9 + PROBABILITY.absolute * 0.9, 0.9 + PROBABILITY.absolute * 1.1),
        ("value", 2.0, 2.0 + MEASURED.absolute, 2.0 + MEASURED.absolute + 2.1 * MEASURED.relative),
        ("p_value", 0.5, 0.5 + PLACES / 201, 0.5 + (PLACES + 1) / 200),
        ("odder", 99, 99 - PLACES, 99 - PLACES - 1),
        ("words", "input: distance 2.78 > 2.21", "input: distance 2.79 > 2.21", "early: distance 2.78 > 2.21"),
    ],
)
def test_a_figure_may_move_by_its_tolerance_and_not_further(figure, kept, near, far):
    before = kept_summary(**{figure: kept})
    close = compare(before, kept_summary(**{figure: near}), None)
    assert (close.differences, close.exact) == ((), False)
    assert compare(before, kept_summary(**{figure: far}), None).differences


@pytest.mark.requirement("REP-05")
def test_bytes_that_differ_while_every_figure_agrees_are_told_and_are_no_difference():
    found = compare(kept_summary(), kept_summary(sha256="b" * 64), None)
    assert (found.differences, found.exact, found.same_bytes) == ((), False, False)


@pytest.mark.requirement("REP-05")
def test_an_object_too_many_a_number_that_is_none_and_a_lost_verdict_are_differences():
    extra = kept_summary()
    extra["outputs"].append({"role": "region", "sop_instance_uid": "2.25.6"})
    assert [d.what for d in compare(kept_summary(), extra, None).differences] == [
        "outputs.region.role", "outputs.region.sop_instance_uid"]  # fmt: skip
    assert compare(kept_summary(), kept_summary(value="nan"), None).differences
    assert not compare(kept_summary(value="nan"), kept_summary(value="nan"), None).differences
    gone = kept_summary() | {"verification": None}
    assert "verification.p_value" in [d.what for d in compare(kept_summary(), gone, None).differences]


@pytest.mark.requirement("REP-05")
def test_bfloat16_is_given_more_room_and_a_map_of_another_shape_none():
    flat = np.zeros((2, 2), np.float32)
    off = flat + np.float32(ATTENTION.absolute * BF16_LOOSENED * 0.9)
    assert compare({}, {}, (flat, off)).differences
    assert not compare({}, {}, (flat, off), bf16=True).differences
    assert compare({}, {}, (flat, np.zeros((4, 4), np.float32)), bf16=True).differences

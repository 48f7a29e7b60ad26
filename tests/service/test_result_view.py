"""A result as people look at it: from the very files and records that were kept of it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_gam.config import settings_from
from dicom_gam.errors import StorageError
from dicom_gam.records import AIResult
from dicom_gam.service.evidence import keep_evidence
from dicom_gam.service.result_view import (
    TreeItem,
    attention_map_file,
    kept_input,
    kept_object,
    overlay_picture,
    report_tree,
    result_view,
)
from dicom_gam.service.store import Store, open_store
from dicom_gam.service.summary import result_summary
from dicom_gam.storage.rows import Conclusion, Job, NewJob
from dicom_gam.storage.states import JobEvent
from tests.dicom.example_results import BUNDLE, encoded, prediction, radiograph, real_source, verification


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    table: dict[str, Any] = {"node": {"storage": tmp_path_factory.mktemp("view") / "node", "minimum_free_bytes": 0}}
    with open_store(settings_from(table), create=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(store: Store) -> Callable[..., Job]:
    """A job that ended with a verdict, and all that is kept of it; one for each verdict."""
    made: dict[str, Job] = {}

    def make(verdict: str) -> Job:
        if verdict not in made:
            made[verdict] = _finish(store, f"{len(made):032x}", verdict)
        return made[verdict]

    return make


def _finish(store: Store, job_id: str, verdict: str, **changes: Any) -> Job:
    source = radiograph(real_source("RG1_UNCR.dcm"))
    store.inbox.write(job_id, (b"the image",))
    store.jobs.add(NewJob(job_id, job_id, source.instance, time.time(), predecessor="an earlier one"))
    result = AIResult(
        source.instance, BUNDLE, "5e" * 32, prediction=prediction(), verification=verification(verdict),
        objects=encoded(source, verdict),
    )  # fmt: skip
    summary = result_summary(result) | keep_evidence(result, store.evidence) | changes
    for item, output in zip(result.objects, summary["outputs"], strict=True):
        if "unchanged_since_job" not in changes:
            store.results.write(output["sha256"], (item.content,))
    (job,) = store.jobs.claim("test", 1, 60.0, time.time())
    conclusion = Conclusion(JobEvent.FINISH, verdict, "", "", "1.2.3", summary)
    store.jobs.finish(job.lease, conclusion, (), time.time())
    found = store.jobs.get(job_id)
    assert found is not None
    return found


def words(item: TreeItem) -> list[str]:
    return [f"{item.name}: {item.value}", *(line for child in item.children for line in words(child))]


def test_a_view_holds_every_figure_that_was_computed(store, finished):
    view, expected = result_view(store, finished("FAIL")), verification("FAIL")
    assert view.reasons == expected.reasons
    assert (view.p_value, view.alpha) == (expected.p_value, expected.alpha)
    assert [check.name for check in view.checks] == [check.name for check in expected.checks]
    for shown, check in zip(view.checks, expected.checks, strict=True):
        assert [(m.name, m.value, m.threshold, m.bound, m.passed) for m in shown.measurements] == [
            (m.name, m.value, m.threshold, m.bound, m.passed) for m in check.measurements
        ]
    assert dict(view.probabilities) == dict(zip(prediction().class_names, prediction().probabilities, strict=True))


@pytest.mark.requirement("WEB-36")
def test_the_picture_is_the_one_in_the_kept_overlay_object(store, finished):
    output = result_view(store, finished("PASS")).output("overlay")
    shown = np.asarray(Image.open(io.BytesIO(overlay_picture(store, output))))
    np.testing.assert_array_equal(shown, dcmread(io.BytesIO(kept_object(store, output))).pixel_array)


@pytest.mark.requirement("WEB-35")
@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
def test_the_tree_of_a_report_without_pass_names_no_class(store, finished, verdict):
    view = result_view(store, finished(verdict))
    lines = words(report_tree(kept_object(store, view.output("sr"))))
    assert "Finding: Undetermined" in lines
    assert f"Verification verdict: {verdict}" in lines
    assert not [line for line in lines if "chest" in line.lower() or "thora" in line.lower()]


def test_the_tree_of_a_passed_report_has_finding_figures_and_limits(store, finished):
    view = result_view(store, finished("PASS"))
    tree = report_tree(kept_object(store, view.output("sr")))
    lines = words(tree)
    assert tree.name == "Imaging Measurement Report"
    assert "Predicted class: Thoracic structure" in lines
    assert "Attention intersection over union: 0.62" in lines
    assert "Smallest acceptable value: 0.5" in lines
    assert f"Visual explanation: image {view.output('overlay').sop_instance_uid}" in lines


def test_the_attention_map_comes_back_as_it_was(store, finished):
    job = finished("PASS")
    loaded = np.load(io.BytesIO(attention_map_file(store, result_view(store, job))), allow_pickle=False)
    np.testing.assert_array_equal(loaded, verification().attention_map)


@pytest.mark.requirement("WEB-37")
def test_a_kept_file_that_has_changed_on_the_disk_is_not_handed_out(store, finished):
    job = finished("REJECT")
    output = result_view(store, job).output("overlay")
    path = store.results.path(output.blob)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + b"\xff")
        with pytest.raises(StorageError, match="damaged"):
            overlay_picture(store, output)
        path.unlink()
        assert result_view(store, job).output("overlay") is None
    finally:
        path.write_bytes(whole)


def test_a_reprocessing_that_changed_nothing_shows_the_files_of_the_job_that_made_them(store, finished):
    first = finished("PASS")
    again = _finish(store, "f" * 32, "PASS", unchanged_since_job=first.job_id)
    view = result_view(store, again)
    assert view.made_by == first.job_id
    assert view.outputs == result_view(store, first).outputs


def test_what_is_no_report_is_refused_with_a_remedy():
    with pytest.raises(StorageError, match="process the image again"):
        report_tree(b"no DICOM at all")


def test_a_score_that_is_no_number_is_shown_as_none(store):
    measured = {"name": "attention.iou", "value": "nan", "threshold": "-inf", "bound": "min", "p_value": None,
                "passed": False}  # fmt: skip
    check = {"name": "attention", "passed": False, "p_value": "nan", "score": "inf", "threshold": 3.0,
             "measurements": [measured]}  # fmt: skip
    changed = _finish(store, "e" * 32, "REJECT", verification={"checks": [check]})
    (shown,) = result_view(store, changed).checks
    assert np.isnan(shown.p_value)
    assert np.isinf(shown.score)
    assert np.isnan(shown.measurements[0].value)


def test_a_deleted_image_is_not_handed_out(store, finished):
    job = finished("PASS")
    assert kept_input(job) == job.instance.path
    job.instance.path.unlink()
    with pytest.raises(StorageError, match="deleted"):
        kept_input(job)

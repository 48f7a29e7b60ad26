"""One batch through the pipeline, with the built-in bundle and real files."""

import io
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.config import BUILT_IN_BUNDLE, Settings
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.errors import ConfigError
from dicom_gam.pipeline import Pipeline
from dicom_gam.records import Reason, ResultReference, Task, Verdict
from dicom_gam.sections import Condition, DecodingSettings, Rule
from dicom_gam.service.summary import result_summary

NOON = datetime(2026, 11, 20, 12, tzinfo=timezone(timedelta(hours=1)))


def sample(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), f"{name} is missing: pip install pydicom-data"
    return Path(found)


@pytest.fixture(scope="module")
def anatomy():
    return load_bundle(BUILT_IN_BUNDLE)


@pytest.fixture(scope="module")
def pipeline(anatomy):
    return pipeline_of({BUILT_IN_BUNDLE: anatomy})


def pipeline_of(bundles, *rules):
    settings = Settings(
        decoding=DecodingSettings(processes=0),
        rules=rules,
        destinations=[{"name": name, "ae_title": name, "host": "127.0.0.1", "port": 104} for name in ("PACS", "RIS")],
    )
    return Pipeline(bundles, settings, DecoderPool(settings))


def tasks(*instances, bundle="", predecessors=()):
    return [Task(instance, NOON, bundle, predecessors) for instance in instances]


@pytest.fixture(scope="module")
def chest():
    return read_instance(sample("RG1_UNCR.dcm"))


def edited(tmp_path, name, **changes):
    ds = pydicom.dcmread(sample(name))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(tmp_path / "edited.dcm")
    return read_instance(tmp_path / "edited.dcm")


def test_a_chest_radiograph_passes_with_report_and_overlay(pipeline, chest):
    [result] = pipeline(tasks(chest))
    assert (result.outcome, result.prediction.label) == ("PASS", "chest")
    assert [item.role for item in result.objects] == ["sr", "overlay"]
    assert result.study_instance_uid == str(pydicom.dcmread(chest.path).StudyInstanceUID)


@pytest.mark.requirement("VER-07")
def test_a_lower_leg_which_the_bundle_does_not_know_is_rejected_without_a_finding(pipeline):
    [result] = pipeline(tasks(read_instance(sample("RG3_UNCR.dcm"))))
    assert result.verification.verdict is Verdict.REJECT
    report = pydicom.dcmread(io.BytesIO(result.objects[0].content))
    assert not _codes(report) & {"816094009", "85562004", "72696002", "421060004"}
    assert [item.role for item in result.objects] == ["sr", "overlay", "rejection"]


@pytest.mark.requirement("VER-14")
def test_bad_neighbours_change_nothing_about_an_image(pipeline, chest, tmp_path):
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(sample("RG3_J2KR.dcm").read_bytes()[:-20000])
    batch = [read_instance(cut), chest, read_instance(sample("CT_small.dcm"))]
    alone = pipeline(tasks(chest))[0]
    first, second, third = pipeline(tasks(*batch))
    assert first.rejection.reason is Reason.TRUNCATED_PIXELS
    assert third.rejection.reason is Reason.NOT_ACCEPTED_SOP_CLASS
    assert [o.content for o in second.objects] == [o.content for o in alone.objects]


@pytest.mark.requirement("VER-13")
def test_a_batch_gives_the_results_of_its_images_one_by_one(pipeline, chest):
    leg = read_instance(sample("RG3_UNCR.dcm"))
    together = pipeline(tasks(chest, leg, chest))
    for result, instance in zip(together, [chest, leg, chest], strict=True):
        [alone] = pipeline(tasks(instance))
        assert result.outcome == alone.outcome
        for a, b in zip(result.verification.measurements, alone.verification.measurements, strict=True):
            assert a.value == pytest.approx(b.value, abs=1e-4)


def test_a_body_part_that_contradicts_the_picture_is_remarked_on(pipeline, tmp_path):
    [result] = pipeline(tasks(edited(tmp_path, "RG1_UNCR.dcm", BodyPartExamined="KNEE")))
    assert result.verification.verdict is Verdict.PASS
    assert "BodyPartExamined says KNEE" in result.verification.notes[0]


def test_an_inverted_chest_does_not_pass(pipeline, tmp_path):
    [result] = pipeline(tasks(edited(tmp_path, "RG1_UNCR.dcm", PhotometricInterpretation="MONOCHROME2")))
    assert result.verification.verdict is not Verdict.PASS


@pytest.mark.requirement("VER-07")
def test_noise_in_a_radiographs_clothes_does_not_pass(pipeline, tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**15, (1955, 1841), dtype=np.uint16)
    [result] = pipeline(tasks(edited(tmp_path, "RG1_UNCR.dcm", PixelData=noise.tobytes())))
    assert result.verification.verdict is Verdict.REJECT


CHESTS = Rule(name="chests", when=Condition(body_part_examined=("CHEST",)), bundle="tiny", destinations=("PACS",))
OTHERS = Rule(name="others", when=Condition(study_description=("*",)), destinations=("RIS",))


@pytest.fixture(scope="module")
def tiny(tiny_bundle_dir):
    return load_bundle(str(tiny_bundle_dir))


@pytest.mark.requirement("RUL-03")
def test_each_image_is_judged_by_its_rules_bundle_whatever_is_in_the_batch(anatomy, tiny, pipeline, tmp_path):
    leg, chest = read_instance(sample("RG3_UNCR.dcm")), edited(tmp_path, "RG1_UNCR.dcm", BodyPartExamined="CHEST")
    both = pipeline_of({BUILT_IN_BUNDLE: anatomy, "tiny": tiny}, CHESTS, OTHERS)
    first, second, third, fourth = both(tasks(leg, chest, read_instance(sample("CT_small.dcm")), leg))
    assert [r.bundle.name for r in (first, second, fourth)] == [
        "radiograph-anatomy",
        "tiny-shapes",
        "radiograph-anatomy",
    ]
    assert [r.rule for r in (first, second, third, fourth)] == ["others", "chests", "others", "others"]
    assert [r.destinations for r in (first, second, third)] == [("RIS",), ("PACS",), ("RIS",)]
    assert second.prediction.class_names == tiny.manifest.class_names
    assert third.rejection.reason is Reason.NOT_ACCEPTED_SOP_CLASS
    [alone] = pipeline(tasks(leg))
    assert first.prediction.label == fourth.prediction.label == alone.prediction.label
    assert first.objects[0].sop_instance_uid == alone.objects[0].sop_instance_uid
    assert tiny.identity.digest in str(pydicom.dcmread(io.BytesIO(second.objects[0].content)))


def test_an_image_that_the_rules_leave_out_is_skipped_and_its_neighbours_are_not(anatomy, chest, tmp_path):
    hands = Rule(name="no hands", when=Condition(body_part_examined=("HAND",)), process=False)
    hand = edited(tmp_path, "RG1_UNCR.dcm", BodyPartExamined="HAND")
    skipped, done = pipeline_of({BUILT_IN_BUNDLE: anatomy}, hands, Rule(name="rest"))(tasks(hand, chest))
    assert (skipped.outcome, skipped.rule, skipped.objects) == ("SKIPPED", "no hands", ())
    assert "no hands" in skipped.skipped
    assert skipped.bundle == anatomy.identity
    assert (done.outcome, done.rule) == ("PASS", "rest")


@pytest.mark.requirement("RUL-04", "RES-10")
def test_a_task_may_ask_for_another_bundle_and_gets_other_uids_that_point_to_the_report_before(
    anatomy, tiny, pipeline, chest
):
    both = pipeline_of({BUILT_IN_BUNDLE: anatomy, "tiny": tiny})
    [old] = pipeline(tasks(chest))
    before = old.objects[0]
    predecessor = ResultReference(old.study_instance_uid, "2.25.5", before.sop_class_uid, before.sop_instance_uid)
    [new] = both(tasks(chest, bundle="tiny", predecessors=(predecessor,)))
    assert new.bundle == tiny.identity
    assert not {o.sop_instance_uid for o in old.objects} & {o.sop_instance_uid for o in new.objects}
    report = pydicom.dcmread(io.BytesIO(new.objects[0].content))
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.sop_instance_uid


def test_a_bundle_that_is_not_loaded_is_an_error_of_that_image_alone_that_says_what_to_do(pipeline, chest):
    lost, done = pipeline([*tasks(chest, bundle="lost"), *tasks(chest)])
    assert lost.outcome == "ERROR"
    assert "'lost'" in lost.error
    assert "loaded are: radiograph-anatomy" in lost.error
    assert result_summary(lost)["error"] == lost.error
    assert done.outcome == "PASS"


def test_a_pipeline_without_its_default_bundle_does_not_begin(tiny):
    with pytest.raises(ConfigError, match="radiograph-anatomy"):
        pipeline_of({"tiny": tiny})


def test_an_empty_batch_gives_no_results(pipeline):
    assert pipeline([]) == []


def _codes(ds) -> set[str]:
    found = {str(ds.CodeValue)} if "CodeValue" in ds else set()
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                found |= _codes(item)
    return found

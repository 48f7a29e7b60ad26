"""One batch through the pipeline, with the built-in bundle and real files."""

import io
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.config import Settings
from dicom_gam.dicom.decode import read_instance
from dicom_gam.pipeline import Pipeline
from dicom_gam.records import Reason, Verdict

NOON = datetime(2026, 11, 20, 12, tzinfo=timezone(timedelta(hours=1)))


def sample(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), f"{name} is missing: pip install pydicom-data"
    return Path(found)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(load_bundle("radiograph-anatomy"), Settings())


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
    [result] = pipeline([chest], [NOON])
    assert (result.outcome, result.prediction.label) == ("PASS", "chest")
    assert [item.role for item in result.objects] == ["sr", "overlay"]
    assert result.study_instance_uid == str(pydicom.dcmread(chest.path).StudyInstanceUID)


def test_a_lower_leg_which_the_bundle_does_not_know_is_rejected_without_a_finding(pipeline):
    [result] = pipeline([read_instance(sample("RG3_UNCR.dcm"))], [NOON])
    assert result.verification.verdict is Verdict.REJECT
    report = pydicom.dcmread(io.BytesIO(result.objects[0].content))
    assert not _codes(report) & {"43799004", "85562004", "72696002", "421060004"}


def test_bad_neighbours_change_nothing_about_an_image(pipeline, chest, tmp_path):
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(sample("RG3_J2KR.dcm").read_bytes()[:-20000])
    batch = [read_instance(cut), chest, read_instance(sample("CT_small.dcm"))]
    alone = pipeline([chest], [NOON])[0]
    first, second, third = pipeline(batch, [NOON] * 3)
    assert first.rejection.reason is Reason.TRUNCATED_PIXELS
    assert third.rejection.reason is Reason.NOT_ACCEPTED_SOP_CLASS
    assert [o.content for o in second.objects] == [o.content for o in alone.objects]


def test_a_batch_gives_the_results_of_its_images_one_by_one(pipeline, chest):
    leg = read_instance(sample("RG3_UNCR.dcm"))
    together = pipeline([chest, leg, chest], [NOON] * 3)
    for result, instance in zip(together, [chest, leg, chest], strict=True):
        [alone] = pipeline([instance], [NOON])
        assert result.outcome == alone.outcome
        for a, b in zip(result.verification.measurements, alone.verification.measurements, strict=True):
            assert a.value == pytest.approx(b.value, abs=1e-4)


def test_a_body_part_that_contradicts_the_picture_is_remarked_on(pipeline, tmp_path):
    [result] = pipeline([edited(tmp_path, "RG1_UNCR.dcm", BodyPartExamined="KNEE")], [NOON])
    assert result.verification.verdict is Verdict.PASS
    assert "BodyPartExamined says KNEE" in result.verification.notes[0]


def test_an_inverted_chest_does_not_pass(pipeline, tmp_path):
    [result] = pipeline([edited(tmp_path, "RG1_UNCR.dcm", PhotometricInterpretation="MONOCHROME2")], [NOON])
    assert result.verification.verdict is not Verdict.PASS


def test_noise_in_a_radiographs_clothes_does_not_pass(pipeline, tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**15, (1955, 1841), dtype=np.uint16)
    [result] = pipeline([edited(tmp_path, "RG1_UNCR.dcm", PixelData=noise.tobytes())], [NOON])
    assert result.verification.verdict is Verdict.REJECT


def _codes(ds) -> set[str]:
    found = {str(ds.CodeValue)} if "CodeValue" in ds else set()
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                found |= _codes(item)
    return found

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from dicom_gam.config import IntakeSettings, OutputSettings
from dicom_gam.dicom.image.acceptance import Refused, refuse_unaccepted
from dicom_gam.dicom.result.rejection_note import build_rejection_note
from dicom_gam.dicom.result.result_file import result_file_bytes
from dicom_gam.records import BundleIdentity, Measurement, Reason
from tests.dicom.example_results import (
    BUNDLE,
    bare_source,
    check,
    dx_source,
    encoded,
    origin,
    real_source,
    verification,
)
from tests.dicom.test_results import SOURCES, complaints, of_source, tool


def note_bytes(source: Dataset | None = None, bundle: BundleIdentity = BUNDLE, **changes: object) -> bytes:
    made_from = origin(dx_source() if source is None else source, "REJECT", bundle=bundle)
    return result_file_bytes(build_rejection_note(made_from, verification("REJECT", **changes)))


def note(source: Dataset | None = None, **changes: object) -> Dataset:
    return dcmread(io.BytesIO(note_bytes(source, **changes)))


def item(content: Dataset, name: str) -> Dataset:
    (found,) = [i for i in content.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == name]
    return found


@pytest.mark.requirement("RES-24", "RES-02")
@pytest.mark.parametrize("source", SOURCES)
def test_the_note_is_valid_dicom_from_every_kind_of_source(source, tmp_path):
    path = tmp_path / "note.dcm"
    path.write_bytes(note_bytes(SOURCES[source]()))
    assert complaints(path) - of_source(source) == set()


@pytest.mark.parametrize("verdict", ["PASS", "FAIL"])
def test_an_image_that_was_not_rejected_gets_no_note(verdict):
    assert "rejection" not in [item.role for item in encoded(dx_source(), verdict)]


def test_settings_without_it_give_no_note():
    settings = OutputSettings(overlay_long_side=256, objects=("sr", "overlay"))
    assert "rejection" not in [item.role for item in encoded(dx_source(), "REJECT", settings=settings)]


def test_the_note_has_a_series_of_key_objects():
    ds = note()
    assert ds.SOPClassUID == KeyObjectSelectionDocumentStorage
    assert (ds.Modality, ds.SeriesNumber, ds.SeriesDescription) == ("KO", 9806, "AI rejection note - REJECT")


@pytest.mark.requirement("RES-24")
def test_the_title_is_one_for_which_archives_hide_no_image():
    ds = note()
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113010"
    assert item(ds, "113011").ConceptCodeSequence[0].CodeValue == "111221"
    assert "113001" not in str(ds)
    assert "113037" not in str(ds)


def test_the_note_points_to_the_source_image_and_to_nothing_else():
    source, ds = dx_source(), note()
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (evidence,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (source.StudyInstanceUID, source.SeriesInstanceUID)
    (selected,) = [i for i in ds.ContentSequence if i.ValueType == "IMAGE"]
    for reference in (evidence, selected.ReferencedSOPSequence[0]):
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_the_description_says_the_verdict_and_the_failed_figures():
    said = item(note(), "113012").TextValue
    assert said.startswith("AI VERIFICATION: INPUT REJECTED. Rejected: garbage probability 0.97 > 0.35, ")
    assert "feature distance 88.00 > 30.00" in said


def test_many_failed_figures_are_counted_and_a_figure_that_is_no_number_is_said_so():
    failed = replace(check("attention", False), advisory=True)
    odd = replace(
        check("early", False), measurements=(Measurement("early.iou", math.nan, 0.5, "min", None),) * 4, reason="x"
    )
    said = item(note(checks=(failed, odd)), "113012").TextValue
    assert "early IoU could not be measured" in said
    assert "and 1 more" in said
    assert "attention" not in said  # advisory: it decided nothing


def test_without_figures_the_description_still_says_why():
    assert "Rejected: unlike the images that the AI is for." in item(note(checks=()), "113012").TextValue


@pytest.mark.requirement("SAF-01")
def test_no_attribute_names_a_class_though_a_reason_lists_them():
    reasons = ("the network does not recognise chest or hand",)
    said = str(note(bare_source(), reasons=reasons, notes=("BodyPartExamined says CHEST",))).lower()
    assert "chest" not in said
    assert "hand" not in said


def test_the_observer_is_the_bundle_in_this_software():
    ds = note()
    assert item(ds, "121005").ConceptCodeSequence[0].CodeValue == "121007"
    assert item(ds, "121013").TextValue == f"{BUNDLE.name} {BUNDLE.version}"
    assert item(ds, "121012").UID.startswith("2.25.")


def test_a_bundle_without_a_maker_gets_a_note():
    assert "121014" not in str(note(bundle=replace(BUNDLE, manufacturer="")))


@pytest.mark.requirement("DEC-10")
def test_the_note_is_known_as_our_own():
    with pytest.raises(Refused) as refused:
        refuse_unaccepted(note(), ExplicitVRLittleEndian, IntakeSettings())
    assert refused.value.rejection.reason is Reason.OWN_RESULT


def test_equal_arguments_give_an_equal_note():
    assert note_bytes() == note_bytes()


def test_a_name_in_another_script_stays_as_it_is():
    source = dx_source()
    source.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    source.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert str(note(source).PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, about the UID that we may not change
def test_a_uid_with_leading_zeros_is_referred_to_as_it_is():
    source = bare_source()
    source.SOPInstanceUID = "1.2.003"
    (selected,) = [i for i in note(source).ContentSequence if i.ValueType == "IMAGE"]
    assert selected.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.003"


def test_dcmtk_reads_the_note_as_a_key_object_selection(tmp_path):
    path = tmp_path / "note.dcm"
    path.write_bytes(note_bytes(real_source("RG3_UNCR.dcm")))
    said = tool("dsrdump", "dcmtk", "+Pc", str(path))
    assert "Key Object Selection Document" in said
    assert '<CONTAINER:(113010,DCM,"Quality Issue")=SEPARATE>' in said
    assert "E: " not in said

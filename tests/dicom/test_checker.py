from __future__ import annotations

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.sr._concepts_dict import concepts

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.checker.checker import DEFECTS, check_results
from dicom_gam.dicom.checker.templates import CHECK_CONCEPTS, GROUPS, SHARES
from dicom_gam.dicom.checker.values import is_own_uid
from dicom_gam.dicom.result.codes import PRIVATE_CODES
from dicom_gam.dicom.result.results import encode_results
from dicom_gam.dicom.uids import instance_uid
from dicom_gam.records import CodedConcept, ResultReference
from tests.dicom.example_results import (
    BUNDLE,
    CONCEPTS,
    CREATED,
    ODD_VERIFICATIONS,
    SETTINGS_DIGEST,
    bare_source,
    check,
    dx_source,
    encoded,
    mg_source,
    prediction,
    radiograph,
    real_source,
    sc_source,
    verification,
)
from tests.dicom.negative_controls import (
    ALL,
    CONTROLS,
    Control,
    caught,
    clean,
    group,
    named,
    source_file,
    spoilt,
    written,
)

SOURCES = {
    "CR chest": lambda: real_source("RG1_UNCR.dcm"),
    "CR lower leg": lambda: real_source("RG3_UNCR.dcm"),
    "DX": dx_source,
    "MG": mg_source,
    "SC": sc_source,
}
SMALL = OutputSettings(overlay_long_side=256, objects=ALL)


def files(*arguments: object, **changes: object) -> list[bytes]:
    return [item.content for item in encoded(*arguments, **{"settings": SMALL} | changes)]


@pytest.mark.requirement("CHK-01")
@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_results_of_every_source_are_clean(source, verdict):
    assert check_results(files(SOURCES[source](), verdict)) == ()
    plain = SMALL.model_copy(update={"sr": "comprehensive", "objects": ("sr", "overlay")})
    assert check_results(files(SOURCES[source](), verdict, settings=plain)) == ()


ODDITIES = ODD_VERIFICATIONS | {
    "infinite threshold": {"checks": (replace(check("input"), threshold=float("inf")),)},
}


@pytest.mark.requirement("CHK-01")
@pytest.mark.parametrize("oddity", ODDITIES)
def test_the_results_of_odd_verifications_are_clean(oddity):
    assert check_results(files(dx_source(), "FAIL", **ODDITIES[oddity])) == ()


def test_a_set_with_its_source_at_hand_is_clean():
    for verdict in ("PASS", "REJECT"):
        assert check_results([item.content for item in clean(verdict)], [source_file()]) == ()


def test_an_overlay_alone_is_clean_and_a_report_alone_leads_nowhere():
    report, overlay, *_ = files(dx_source())
    assert check_results([overlay]) == ()
    assert {defect.name for defect in check_results([report])} == {"unresolved-reference"}
    item = dcmread(io.BytesIO(overlay))
    assert check_results([report], absent={item.SOPInstanceUID: item.SOPClassUID}) == ()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_source_with_leading_zeros_in_its_uid_may_be_referred_to():
    source = radiograph(bare_source())
    source = replace(source, instance=replace(source.instance, sop_instance_uid="1.2.003"))
    assert check_results(files(source)) == ()


@pytest.mark.requirement("CHK-01")
@pytest.mark.parametrize("terms", ["ISO_IR 192", "ISO_IR 100", ["", "ISO 2022 IR 87"], "GB18030"])
def test_names_of_every_script_are_clean(terms):
    source = dx_source()
    source.SpecificCharacterSet = terms
    source.PatientName = "Müller^Jörg" if terms == "ISO_IR 100" else "Yamada^Tarou=山田^太郎"
    assert check_results(files(source)) == ()


def test_a_report_may_supersede_one_that_is_not_at_hand():
    earlier = ResultReference("1.2.826.0.1.3680043.10.999.1.1", "2.25.7", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.9")
    made = encode_results(
        radiograph(dx_source()),
        prediction(),
        verification(),
        bundle=BUNDLE,
        class_concepts=CONCEPTS,
        settings=SMALL,
        settings_digest=SETTINGS_DIGEST,
        created=CREATED,
        predecessors=(earlier,),
    )
    assert "PredecessorDocumentsSequence" in dcmread(io.BytesIO(made[0].content))
    assert check_results([item.content for item in made]) == ()


@pytest.mark.requirement("CHK-02")
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_deliberate_defect_is_caught_by_its_name(control):
    found = caught(control)
    assert control.expected in {defect.name for defect in found}
    assert all(defect.name in DEFECTS and defect.message for defect in found)


@pytest.mark.parametrize("verdict", ["PASS", "REJECT"])
def test_parsing_and_writing_a_set_anew_is_no_defect_of_its_own(verdict):
    def touch(made):
        for role in [item.role for item in clean(verdict)]:
            assert made[role].SOPInstanceUID

    assert check_results(spoilt(Control("nothing", "", verdict, touch))) == ()


@pytest.mark.requirement("CHK-02")
def test_every_name_but_one_has_a_control():
    assert DEFECTS.keys() - {control.expected for control in CONTROLS} == {"unreadable-source"}
    assert [d.name for d in check_results(files(dx_source()), [b"no DICOM"])] == ["unreadable-source"]
    assert {control.expected for control in CONTROLS} <= DEFECTS.keys()


@pytest.mark.requirement("SAF-02")
def test_no_defect_shows_a_patients_data():
    for control in CONTROLS:
        for defect in caught(control):
            told = f"{defect.place} {defect.message}"
            assert not any(secret in told for secret in ("Doe", "Jane", "ID-1", "ID-2", "Roe"))


def test_a_class_in_the_sites_own_words_is_clean_and_one_in_anothers_words_is_not():
    def found(value: str, meaning: str) -> set[str]:
        concept = CodedConcept(value, "SCT", meaning)
        return {d.name for d in check_results(files(dx_source(), concepts={"chest": concept}))}

    assert found("816094009", "Chest") == set()
    assert found("816094009", "Brustkorb") == set()
    assert found("999999999", "Something new") == set()
    assert found("51185008", "Chest") == set()  # as the standard had it once
    assert found("816094009", "Hand") == {"wrong-meaning"}
    assert found("43799004", "Chest") == {"wrong-meaning"}  # which is the chest cavity


def test_a_private_scheme_of_a_bundle_must_be_named():
    made = list(files(dx_source(), concepts={"chest": CodedConcept("1", "99SITE", "Chest")}))
    assert check_results(made) == ()
    report = dcmread(io.BytesIO(made[0]))
    del report.CodingSchemeIdentificationSequence[1]
    buffer = io.BytesIO()
    report.save_as(buffer)
    assert {d.name for d in check_results([buffer.getvalue(), *made[1:]])} == {"unknown-scheme"}


def test_the_dictionary_of_dcm_codes_holds_those_that_no_context_group_lists():
    assert any(not groups for entries in concepts["DCM"].values() for _, groups in entries.values())


def test_every_code_of_our_table_has_a_place_in_the_tree():
    used = set(SHARES | CHECK_CONCEPTS)
    rows = [row for entry in GROUPS.values() for row in entry.rows]
    while rows:
        row = rows.pop()
        used |= row.concepts | (row.values or frozenset())
        rows += row.children
    assert {f"{code.value}/{code.scheme}" for code in PRIVATE_CODES} <= used


def test_own_uids_are_name_based_uuids():
    assert is_own_uid(instance_uid("1.2", "a", "b", "sr"))
    for other in ("2.25.1", "2.25.0" + instance_uid("1", "a", "b", "c")[5:], "1.2.3", "2.25.x", "2.25." + "9" * 39):
        assert not is_own_uid(other)


def test_a_tie_with_the_threshold_is_judged_by_the_exact_value():
    report = dcmread(io.BytesIO(files(dx_source())[0]))
    score = named(group(report, "attention verification"), "ATT_IOU")
    score.MeasuredValueSequence[0].FloatingPointValue = np.nextafter(0.5, 0.0)
    score.MeasuredValueSequence[0].NumericValue = "0.5"
    names = {defect.name for defect in check_results([written(report), files(dx_source())[1]])}
    assert names == {"threshold-contradiction"}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_becomes_of_the_bytes_nothing_is_raised(data):
    objects = [item.content for item in clean(data.draw(st.sampled_from(["PASS", "REJECT"])))]
    which = data.draw(st.integers(0, len(objects) - 1))
    content = bytearray(objects[which][:48_000])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(128, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "number"])):
            case "flip":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case "number":
                content[at : at + 4] = struct.pack("<I", data.draw(st.sampled_from([0, 1, 0xFFFF, 0xFFFFFFFF])))
        if len(content) < 200:
            break
    objects[which] = bytes(content)
    for defect in check_results(objects[which : which + 2], objects[:1]):
        assert defect.name in DEFECTS


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_judged(content):
    assert check_results([content, bytes(128) + b"DICM" + content], [content])

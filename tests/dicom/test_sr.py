from __future__ import annotations

import io
import math
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.attended_region import attended_parts
from dicom_gam.dicom.result.result_file import series_of
from dicom_gam.dicom.result.results import encode_results
from dicom_gam.errors import EncodingError
from dicom_gam.records import BundleIdentity, CodedConcept, Measurement, ResultObject, ResultReference
from tests.dicom.example_results import (
    BUNDLE,
    CONCEPTS,
    CREATED,
    SETTINGS_DIGEST,
    blob,
    check,
    dx_source,
    encoded,
    measurement,
    prediction,
    radiograph,
    thorax,
    verification,
)

VERDICTS = ("PASS", "FAIL", "REJECT")


def report(verdict: str = "PASS", **changes: object) -> Dataset:
    return dcmread(io.BytesIO(encoded(dx_source(), verdict, **changes)[0].content))


def walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def name(item: Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeValue


def children(item: Dataset, concept: str) -> list[Dataset]:
    return [child for child in item.get("ContentSequence", []) if name(child) == concept]


def only(item: Dataset, concept: str) -> Dataset:
    (child,) = children(item, concept)
    return child


def groups(root: Dataset) -> dict[str, Dataset]:
    """The measurement groups by their tracking identifier."""
    return {only(group, "112039").TextValue: group for group in children(only(root, "126010"), "125007")}


def coded(item: Dataset) -> tuple[str, str]:
    code = item.ConceptCodeSequence[0]
    return code.CodeValue, code.CodingSchemeDesignator


def number(item: Dataset) -> float:
    return item.MeasuredValueSequence[0].FloatingPointValue


def texts(root: Dataset) -> list[str]:
    return [item.TextValue for item in walk(root) if item.ValueType == "TEXT"]


def all_items(dataset: Dataset) -> Iterator[Dataset]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from all_items(item)


@pytest.mark.requirement("RES-04")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_tree_has_what_the_measurement_report_template_requires(verdict):
    root = report(verdict)
    required = {  # TID 1500 rows 1 to 6 and, through 1001, TID 1002 and 1004
        "121049": ("HAS CONCEPT MOD", "CODE"),
        "121005": ("HAS OBS CONTEXT", "CODE"),
        "121012": ("HAS OBS CONTEXT", "UIDREF"),
        "121058": ("HAS CONCEPT MOD", "CODE"),
        "126010": ("CONTAINS", "CONTAINER"),
    }
    assert (name(root), root.ValueType, root.ContinuityOfContent) == ("126000", "CONTAINER", "SEPARATE")
    assert root.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    found = {concept: only(root, concept) for concept in required}
    assert {k: (v.RelationshipType, v.ValueType) for k, v in found.items()} == required


@pytest.mark.requirement("RES-04")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_group_says_what_it_tracks_and_which_algorithm_measured_it(verdict):
    for group in children(only(report(verdict), "126010"), "125007"):
        required = {  # TID 4108, TID 4019
            "112039": ("HAS OBS CONTEXT", "TEXT"),
            "112040": ("HAS OBS CONTEXT", "UIDREF"),
            "111001": ("HAS CONCEPT MOD", "TEXT"),
            "111003": ("HAS CONCEPT MOD", "TEXT"),
            "111000": ("HAS CONCEPT MOD", "CODE"),
        }
        found = {concept: only(group, concept) for concept in required}
        assert {k: (v.RelationshipType, v.ValueType) for k, v in found.items()} == required


@pytest.mark.requirement("RES-04")
def test_the_groups_follow_their_templates():
    templates = {k: g.ContentTemplateSequence[0].TemplateIdentifier for k, g in groups(report()).items()}
    assert templates == {
        "classification": "1501",
        "attention verification": "1501",
        "attended region": "1410",
        "early feature verification": "1501",
        "authenticity verification": "1501",
        "overall verdict": "1501",
    }


@pytest.mark.requirement("RES-19")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_standard_code_in_the_report_means_what_the_standard_says(verdict):
    own = {(c.value, c.scheme, c.meaning) for c in (*codes.PRIVATE_CODES, *CONCEPTS.values())}
    for item in (i for i in all_items(report(verdict)) if "CodeValue" in i):
        triple = (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
        if triple in own or triple[1] == "RFC5646":
            continue
        known = {table[triple[0]][0] for table in concepts[triple[1]].values() if triple[0] in table}
        plain = {meaning.rpartition(" (")[0] or meaning for meaning in known}  # SNOMED's "Source (attribute)"
        assert triple[2].casefold() in {meaning.casefold() for meaning in known | plain}, triple


def test_a_pass_finds_the_predicted_class():
    group = groups(report("PASS", label="hand"))["classification"]
    assert coded(only(group, "121071")) == ("85562004", "SCT")
    assert coded(only(group, "PRED_CLASS")) == ("85562004", "SCT")


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
def test_without_a_pass_the_finding_is_undetermined(verdict):
    assert coded(only(groups(report(verdict))["classification"], "121071")) == ("373068000", "SCT")


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
@pytest.mark.parametrize("label", ["chest", "hand"])
def test_without_a_pass_the_predicted_class_is_nowhere_in_the_report(verdict, label):
    concept = CONCEPTS[label]
    for item in all_items(report(verdict, label=label)):
        assert item.get("CodeValue") != concept.value
        assert concept.meaning not in str(item.get("TextValue", ""))


@pytest.mark.requirement("RES-07")
@pytest.mark.parametrize(("verdict", "quality"), [("PASS", "111237"), ("FAIL", "111236"), ("REJECT", "111235")])
def test_the_verdict_stands_in_our_code_and_in_the_standards(verdict, quality):
    group = groups(report(verdict))["overall verdict"]
    assert coded(only(group, "VERDICT")) == (verdict, "99DGAM")
    assert coded(only(group, "111050")) == (quality, "DCM")


def test_reasons_and_notes_stand_in_the_report_in_words():
    failed = groups(report("FAIL", reasons=("attention: IoU too low",)))["overall verdict"]
    assert [item.TextValue for item in children(failed, "121106")] == [
        "AI VERIFICATION: FAIL - DO NOT USE AI RESULT",
        "attention: IoU too low",
    ]
    passed = groups(report("PASS", notes=("check the body part",)))["overall verdict"]
    assert [item.TextValue for item in children(passed, "121106")] == ["AI VERIFICATION: PASS", "check the body part"]


@pytest.mark.requirement("RES-05")
def test_a_score_carries_its_threshold_its_p_value_and_its_result():
    score = only(groups(report("FAIL"))["attention verification"], "ATT_IOU")
    assert number(score) == 0.31
    assert score.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "1"
    properties = {name(item): item for item in score.ContentSequence}
    assert list(properties) == ["THR_MIN", "P_VALUE", "RESULT"]
    assert {item.RelationshipType for item in properties.values()} == {"HAS PROPERTIES"}
    assert (number(properties["THR_MIN"]), number(properties["P_VALUE"])) == (0.5, 0.004)
    assert coded(properties["RESULT"]) == ("FAIL", "99DGAM")


def test_an_upper_limit_is_called_so():
    score = only(groups(report())["early feature verification"], "EARLY_CHAN_DIST")
    assert number(only(score, "THR_MAX")) == 25.0
    assert coded(only(score, "RESULT")) == ("PASS", "99DGAM")


def test_a_score_without_a_p_value_has_none():
    scores = tuple(replace(m, p_value=None) for m in check("early").measurements)
    checks = (check("input"), check("attention"), replace(check("early"), measurements=scores))
    group = groups(report(checks=checks))["early feature verification"]
    assert children(only(group, "EARLY_IOU"), "P_VALUE") == []


@pytest.mark.parametrize(("value", "qualifier"), [(math.nan, "114000"), (math.inf, "114002"), (-math.inf, "114001")])
def test_a_score_that_is_no_number_is_absent_with_the_reason(value, qualifier):
    odd = replace(check("attention"), measurements=(Measurement("attention.kl", value, 0.9, "max", None),))
    group = groups(report(checks=(check("input"), odd, check("early"))))["attention verification"]
    score = only(group, "ATT_KL")
    assert len(score.MeasuredValueSequence) == 0
    assert score.NumericValueQualifierCodeSequence[0].CodeValue == qualifier


@pytest.mark.requirement("RES-05")
def test_every_measurement_stands_in_its_group():
    expected = {
        "classification": {"CLS_PROB", "PROB_GARBAGE", "FEAT_DIST", "CHECK_SCORE"},
        "attention verification": {
            *("ATT_IOU", "ATT_DICE", "ATT_SOFT_IOU", "ATT_SSIM", "ATT_COSINE", "ATT_PEARSON", "ATT_KL", "ATT_EMD"),
            "CHECK_SCORE",
        },
        "attended region": {"ATT_AREA_FRAC"},
        "early feature verification": {
            *("EARLY_IOU", "EARLY_DICE", "EARLY_SOFT_IOU", "EARLY_SSIM", "EARLY_COSINE", "EARLY_PEARSON"),
            *("EARLY_KL", "EARLY_EMD", "EARLY_CHAN_DIST", "CHECK_SCORE"),
        },
        "authenticity verification": {"FREQ_DIST", "CHECK_SCORE"},
        "overall verdict": {"P_COMBINED", "ALPHA"},
    }
    found = {k: {name(i) for i in g.ContentSequence if i.ValueType == "NUM"} for k, g in groups(report()).items()}
    assert found == expected


@pytest.mark.parametrize(
    ("verdict", "results"), [("PASS", "PASS PASS PASS"), ("FAIL", "PASS FAIL PASS"), ("REJECT", "FAIL PASS PASS")]
)
def test_each_check_has_its_own_result(verdict, results):
    found = groups(report(verdict))
    pairs = [
        ("classification", "INPUT_CHECK"),
        ("attention verification", "ATT_CHECK"),
        ("early feature verification", "EARLY_CHECK"),
    ]
    assert [coded(only(found[group], code))[0] for group, code in pairs] == results.split()


def test_the_checks_score_stands_with_its_threshold_and_its_p_value():
    together = only(groups(report())["attention verification"], "CHECK_SCORE")
    assert [number(together), *(number(only(together, code)) for code in ("THR_MAX", "P_VALUE"))] == [1.2, 3.1, 0.3]


def test_an_advisory_check_says_that_it_is_none_of_the_verdict():
    checks = (check("input"), check("attention"), check("early"), replace(check("authenticity", False), advisory=True))
    found = groups(report(checks=checks))
    assert coded(only(found["authenticity verification"], "AUTH_CHECK"))[0] == "FAIL"
    assert coded(only(found["authenticity verification"], "RESULT"))[0] == "ADVISORY"
    assert children(found["attention verification"], "RESULT") == []


def test_a_threshold_that_no_score_could_pass_is_absent_with_its_reason():
    endless = replace(check("authenticity"), advisory=True, threshold=math.inf)
    checks = (check("input"), check("attention"), check("early"), endless)
    item = only(only(groups(report(checks=checks))["authenticity verification"], "CHECK_SCORE"), "THR_MAX")
    assert not item.MeasuredValueSequence
    assert item.NumericValueQualifierCodeSequence[0].CodeValue == "114002"


def test_the_attention_groups_point_to_the_overlay():
    source = dx_source()
    content, overlay = encoded(source)
    found = groups(dcmread(io.BytesIO(content.content)))
    for group in ("attention verification", "attended region"):
        image = only(found[group], "130401")
        reference = image.ReferencedSOPSequence[0]
        assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (
            overlay.sop_class_uid,
            overlay.sop_instance_uid,
        )
        assert coded(only(found[group], "121071")) == ("130403", "DCM")


def test_what_the_overlay_does_not_show_does_not_point_to_it():
    early = groups(report())["early feature verification"]
    assert children(early, "130401") == []
    assert coded(only(early, "121071")) == ("EARLY_CHECK", "99DGAM")


@pytest.mark.requirement("RES-06")
def test_the_attended_region_is_outlined_on_the_source_image():
    region = only(groups(report())["attended region"], "111030")
    assert (region.ValueType, region.GraphicType) == ("SCOORD", "POLYLINE")
    np.testing.assert_allclose(
        np.reshape(region.GraphicData, (-1, 2)), attended_parts(blob(), *thorax().shape)[0].outline, rtol=1e-6
    )
    image = region.ContentSequence[0]
    assert (image.RelationshipType, image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == (
        "SELECTED FROM",
        dx_source().SOPInstanceUID,
    )


def test_the_attended_region_is_an_outline():
    assert coded(only(groups(report())["attended region"], "130400")) == ("111041", "DCM")


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_status": "degenerate", "attention_map": np.zeros((8, 8), np.float32)},
        {"attention_map": np.full((8, 8), np.nan, np.float32)},
    ],
    ids=["degenerate", "not a number"],
)
def test_a_map_that_points_nowhere_gives_no_region(changes):
    assert "attended region" not in groups(report("FAIL", **changes))


@pytest.mark.requirement("RES-08")
def test_the_algorithm_is_identified_with_its_digest_and_operating_points():
    group = groups(report())["attention verification"]
    assert [only(group, code).TextValue for code in ("111001", "111003", "122405")] == [
        "radiograph-anatomy",
        "1.0.0",
        "Example Maker",
    ]
    parameters = {item.TextValue for item in children(group, "111002")}
    assert {
        f"bundle digest: {BUNDLE.digest}",
        "attention method: hirescam",
        "false-alarm rate: 0.05",
        "attention.iou min 0.5",
        "attention.kl max 0.9",
    } <= parameters


@pytest.mark.requirement("SAF-04")
def test_the_report_is_complete_unverified_and_final():
    root = report()
    assert (root.CompletionFlag, root.VerificationFlag, root.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "FINAL")


@pytest.mark.requirement("RES-20")
def test_the_private_coding_scheme_is_identified_without_a_uid():
    (item,) = report().CodingSchemeIdentificationSequence
    assert item.CodingSchemeDesignator == "99DGAM"
    assert "CodingSchemeUID" not in item


def test_the_evidence_is_the_source_and_the_overlay():
    source = dx_source()
    content, overlay = encoded(source)
    (study,) = dcmread(io.BytesIO(content.content)).CurrentRequestedProcedureEvidenceSequence
    images = [s.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence]
    assert (study.StudyInstanceUID, images) == (
        source.StudyInstanceUID,
        [source.SOPInstanceUID, overlay.sop_instance_uid],
    )


@pytest.mark.requirement("RES-09")
@pytest.mark.parametrize(
    ("setting", "sop_class"),
    [("comprehensive-3d", "1.2.840.10008.5.1.4.1.1.88.34"), ("comprehensive", "1.2.840.10008.5.1.4.1.1.88.33")],
)
def test_the_kind_of_report_follows_the_settings(setting, sop_class):
    assert report(settings=OutputSettings(sr=setting, overlay_long_side=256)).SOPClassUID == sop_class


def test_an_unknown_measurement_is_refused():
    odd = replace(check("attention"), measurements=(replace(measurement("attention.iou"), name="attention.new"),))
    with pytest.raises(EncodingError, match=r"attention\.new"):
        report(checks=(check("input"), odd, check("early")))


def test_words_that_the_sources_character_set_lacks_lose_their_accents():
    bundle = BundleIdentity("Schädel", "1.0.0", "ab" * 32, "köpfe", "Größe GmbH")
    concepts = {"chest": CodedConcept("51185008", "SCT", "Thorax é")}
    root = report(bundle=bundle, concepts=concepts)
    group = groups(root)["classification"]
    assert only(group, "111001").TextValue == "Schadel"
    assert only(group, "121071").ConceptCodeSequence[0].CodeMeaning == "Thorax e"


def test_a_long_list_of_notes_is_kept_whole():
    notes = tuple(f"note {i} " + "x" * 500 for i in range(20))
    assert set(notes) <= set(texts(report(notes=notes)))


def test_the_example_verification_is_what_the_tests_take_it_for():
    assert [c.passed for c in verification("FAIL").checks] == [True, False, True, True]


STUDY = "1.2.826.0.1.3680043.10.999.1.1"  # that of `dx_source`
EARLIER = (
    ResultReference(STUDY, "2.25.11", Comprehensive3DSRStorage, "2.25.111"),
    ResultReference(STUDY, "2.25.11", Comprehensive3DSRStorage, "2.25.112"),
    ResultReference(STUDY, "2.25.12", ComprehensiveSRStorage, "2.25.121"),
)


def superseding(predecessors: tuple[ResultReference, ...], sr: str = "comprehensive-3d") -> tuple[ResultObject, ...]:
    return encode_results(
        radiograph(dx_source()),
        prediction(),
        verification(),
        bundle=BUNDLE,
        class_concepts=CONCEPTS,
        settings=OutputSettings(overlay_long_side=256, sr=sr),
        settings_digest=SETTINGS_DIGEST,
        created=CREATED,
        predecessors=predecessors,
    )


@pytest.mark.requirement("RES-10")
def test_a_report_names_the_reports_it_supersedes_by_study_and_series():
    (study,) = dcmread(io.BytesIO(superseding(EARLIER)[0].content)).PredecessorDocumentsSequence
    assert study.StudyInstanceUID == STUDY
    assert [
        (
            series.SeriesInstanceUID,
            [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in series.ReferencedSOPSequence],
        )
        for series in study.ReferencedSeriesSequence
    ] == [
        ("2.25.11", [(Comprehensive3DSRStorage, "2.25.111"), (Comprehensive3DSRStorage, "2.25.112")]),
        ("2.25.12", [(ComprehensiveSRStorage, "2.25.121")]),
    ]


@pytest.mark.requirement("RES-10")
def test_a_first_report_has_no_predecessors_and_no_empty_sequence_that_says_so():
    assert "PredecessorDocumentsSequence" not in report()
    assert superseding(()) == encoded(dx_source())


def test_predecessors_change_neither_the_overlay_nor_any_uid():
    (first, overlay), (second, same) = superseding(()), superseding(EARLIER)
    assert overlay.content == same.content
    assert first.sop_instance_uid == second.sop_instance_uid
    assert first.content != second.content


@pytest.mark.parametrize("sr", ["comprehensive-3d", "comprehensive"])
def test_a_report_with_predecessors_is_valid(sr, tmp_path):
    file = tmp_path / "sr.dcm"
    file.write_bytes(superseding(EARLIER, sr)[0].content)
    said = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, timeout=60, check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert [line for line in lines if line.startswith(("Error", "Warning")) and "99DGAM" not in line] == []
    assert lines, "dciodvfy says at least what kind of object it looked at"


def test_the_series_of_a_result_is_found_in_its_file_and_in_nothing_else():
    sr, overlay = encoded(dx_source())
    for item in (sr, overlay):
        assert series_of(item.content) == dcmread(io.BytesIO(item.content)).SeriesInstanceUID
    assert series_of(b"no DICOM") == series_of(b"") == ""


def test_each_part_of_an_attended_region_has_a_group_an_outline_and_a_tracking_uid_of_its_own():
    attention = np.zeros((8, 8), np.float32)
    attention[0:2, 0:2] = attention[4:8, 4:8] = 1
    found = groups(report("FAIL", attention_map=attention))
    first, second = found["attended region"], found["attended region 2"]
    assert only(first, "112040").UID != only(second, "112040").UID
    boxes = [np.reshape(only(group, "111030").GraphicData, (-1, 2)).min(0).tolist() for group in (first, second)]
    assert boxes[0] > boxes[1] == [0, 0]


def test_no_remark_names_a_class_without_a_pass():
    loose = ("the network does not recognise chest or hand", "input: does not match")
    rejected = texts(report("REJECT", reasons=loose, notes=("looks like chest",)))
    failed = texts(report("FAIL", notes=("looks like chest",)))
    assert "input: does not match" in rejected
    assert not [words for words in (*rejected, *failed) if "chest" in words]

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_gam.dicom.image.rules import ATTRIBUTES, decide, explain
from dicom_gam.records import Decision, ReceivedInstance
from dicom_gam.sections import Condition, Rule

CR = "1.2.840.10008.5.1.4.1.1.1"


def chest(**changes: object) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality, ds.BodyPartExamined = CR, "CR", "CHEST"
    ds.StationName, ds.StudyDescription = "ROOM1", "Thorax p.a."
    for keyword, value in changes.items():
        put(ds, keyword, value)
    return ds


def put(ds: Dataset, keyword: str, value: object) -> None:
    tag = tag_for_keyword(keyword)
    ds.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))


def received(calling: str = "MODALITY", called: str = "DICOM_GAM") -> ReceivedInstance:
    return ReceivedInstance(Path("x.dcm"), CR, "1.2.3", "1.2.840.10008.1.2.1", "0" * 64, 1, calling, called)


def decided(*rules: Rule, dataset: Dataset | None = None, asked: str = "", **association: str) -> Decision:
    return decide(rules, dataset or chest(), received(**association), asked, "default")


def matches(dataset: Dataset | None = None, calling: str = "MODALITY", **when: object) -> bool:
    return decided(Rule(name="r", when=Condition(**when)), dataset=dataset, calling=calling).rule == "r"


def test_without_rules_every_image_goes_to_the_default_bundle_and_to_all_destinations():
    assert decided() == Decision("", "default", None, None)


def test_an_image_that_no_rule_matches_is_skipped_with_the_way_to_find_out_why():
    decision = decided(Rule(name="hands", when=Condition(body_part_examined=("HAND",))))
    assert (decision.rule, decision.skipped is None) == ("", False)
    assert "no rule matches" in decision.skipped
    assert "dicom-gam rules test" in decision.skipped


@pytest.mark.requirement("RUL-01")
def test_the_first_rule_that_matches_counts_with_its_bundle_and_destinations():
    rules = (
        Rule(name="hands", when=Condition(body_part_examined=("HAND",)), bundle="a"),
        Rule(name="chests", when=Condition(body_part_examined=("CHEST",)), bundle="b", destinations=("PACS",)),
        Rule(name="rest", bundle="c"),
    )
    assert decided(*rules) == Decision("chests", "b", ("PACS",), None)
    assert decided(*rules, dataset=chest(BodyPartExamined="KNEE")) == Decision("rest", "c", None, None)


def test_a_rule_without_a_bundle_takes_the_default_one():
    assert decided(Rule(name="all")).bundle == "default"


def test_a_rule_that_says_so_keeps_images_from_being_processed_and_is_named():
    decision = decided(Rule(name="no chests", process=False), Rule(name="rest"))
    assert decision.rule == "no chests"
    assert "'no chests'" in decision.skipped


def test_a_bundle_that_was_asked_for_goes_before_the_rules_bundle_and_changes_nothing_else():
    rule = Rule(name="chests", bundle="b", destinations=("PACS",))
    assert decided(rule, asked="new") == Decision("chests", "new", ("PACS",), None)
    assert decided(asked="new") == Decision("", "new", None, None)


@pytest.mark.parametrize("rule", [Rule(name="none", process=False), Rule(name="r", when=Condition(modality=("MG",)))])
def test_asking_for_a_bundle_does_not_open_what_the_rules_keep_shut(rule):
    assert decided(rule, asked="new").skipped is not None


@pytest.mark.requirement("RUL-01")
def test_every_key_that_is_given_must_match():
    assert matches(modality=("CR",), body_part_examined=("CHEST",))
    assert not matches(modality=("CR",), body_part_examined=("HAND",))


def test_a_key_matches_when_one_of_its_patterns_does():
    assert matches(modality=("DX", "CR"))


@pytest.mark.parametrize("pattern", ["thorax*", "THORAX P.A.", "*p.?.", "  Thorax p.a.  ", "*"])
def test_patterns_know_stars_and_question_marks_and_heed_neither_case_nor_padding(pattern):
    assert matches(study_description=(pattern,))


@pytest.mark.parametrize("pattern", ["Thorax", "?", "Thorax p?a?x", "Thorax p[.]a[.]", ""])
def test_a_pattern_must_match_the_whole_value_and_nothing_but_star_and_question_mark_is_special(pattern):
    assert not matches(study_description=(pattern,))


def test_brackets_in_a_pattern_stand_for_themselves():
    assert matches(chest(StudyDescription="Knee [left]"), study_description=("knee [left]",))
    assert not matches(chest(StudyDescription="Knee l"), study_description=("knee [left]",))


def test_padding_of_the_value_is_not_heeded():
    assert matches(chest(StationName=" ROOM1 "), station_name=("ROOM1",))


def test_letters_beyond_ascii_match_without_case():
    assert matches(chest(StudyDescription="SCHÄDEL"), study_description=("schädel",))


@pytest.mark.parametrize("absent", [None, "", "   "])
def test_an_absent_or_empty_value_matches_the_star_alone(absent):
    dataset = chest(ViewPosition=absent)
    assert matches(dataset, view_position=("*",))
    assert not matches(dataset, view_position=("?*", "**", ""))
    del dataset.ViewPosition
    assert matches(dataset, view_position=("*",))
    assert not matches(dataset, view_position=("AP",))


def test_an_attribute_of_several_values_matches_when_one_of_them_does():
    dataset = chest(StudyDescription=["Thorax", "", "Hand"])
    assert matches(dataset, study_description=("hand",))
    assert not matches(dataset, study_description=("knee",))


def test_ae_titles_are_those_of_the_association():
    assert matches(calling="ROOM_1", calling_ae_title=("room_?",))
    assert not matches(calling="", calling_ae_title=("room_?",))
    assert matches(called_ae_title=("DICOM_GAM",))


def test_every_key_of_a_condition_looks_at_something_of_its_own():
    association = {"calling_ae_title", "called_ae_title"}
    assert set(ATTRIBUTES) | association == set(Condition.model_fields)
    for key, keyword in ATTRIBUTES.items():
        dataset = Dataset()
        put(dataset, keyword, "1.2.77")
        rules = [Rule(name=other, when=Condition(**{other: ("1.2.77",)})) for other in Condition.model_fields]
        assert [found.rule.name for found in explain(rules, dataset, received()) if found.matched] == [key]


@pytest.mark.requirement("RUL-02")
def test_an_explanation_shows_what_was_found_and_wanted_for_each_key_of_each_rule():
    rule = Rule(name="r", when=Condition(modality=("MG", "DX"), body_part_examined=("C*",), view_position=("AP",)))
    (found,) = explain([rule], chest(), received())
    assert not found.matched
    assert [(key.key, key.values, key.patterns, key.matched) for key in found.keys] == [
        ("modality", ("CR",), ("MG", "DX"), False),
        ("body_part_examined", ("CHEST",), ("C*",), True),
        ("view_position", (), ("AP",), False),
    ]


@pytest.mark.parametrize(
    ("vr", "value"),
    [("SQ", [Dataset()]), ("OB", b"CR"), ("US", 7), ("US", [7, 8]), ("FD", 0.5), ("PN", "CR"), ("AT", 0x00100010)],
)
def test_an_attribute_of_the_wrong_kind_is_as_if_it_were_absent(vr, value):
    dataset = Dataset()
    dataset.add(DataElement(0x00080060, vr, value))
    assert matches(dataset, modality=("*",))
    assert not matches(dataset, modality=("CR",))


def test_values_and_patterns_made_to_be_slow_are_matched_at_once():
    dataset = chest(StudyDescription="a" * 5_000_000)
    assert not matches(dataset, study_description=("*a" * 200 + "b",))
    assert not matches(dataset, study_description=("*a?a" * 200 + "*b",))


def test_of_ten_thousand_values_only_the_first_are_looked_at():
    (found,) = explain(
        [Rule(name="r", when=Condition(manufacturer=("z",)))], chest(Manufacturer=["a"] * 10_000), received()
    )
    assert len(found.keys[0].values) <= 64


@pytest.mark.requirement("RUL-01")
@settings(max_examples=100, deadline=None)
@given(pattern=st.text(alphabet="ab*?[]!-. ", max_size=12), value=st.text(alphabet="ab[]!-. ", max_size=12))
def test_matching_is_what_its_definition_says(pattern, value):
    """Against the obvious recursive definition."""

    def defined(p: str, v: str) -> bool:
        if not p:
            return not v
        if p[0] == "*":
            return defined(p[1:], v) or (bool(v) and defined(p, v[1:]))
        return bool(v) and p[0] in ("?", v[0]) and defined(p[1:], v[1:])

    p, v = pattern.strip(" "), value.strip(" ")
    assert matches(chest(StudyDescription=value), study_description=(pattern,)) == (
        p == "*" or (bool(v) and defined(p, v))
    )

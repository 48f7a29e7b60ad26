from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts

from dicom_gam.core.measure import MEASUREMENTS as TAKEN
from dicom_gam.dicom.result import codes
from dicom_gam.errors import EncodingError
from dicom_gam.records import Verdict
from tests.dicom.example_results import CONCEPTS, prediction


def meanings(scheme: str, value: str) -> set[str]:
    """Every meaning that pydicom's dictionaries of the standard give a code."""
    return {table[value][0] for table in concepts[scheme].values() if value in table}


@pytest.mark.requirement("RES-19")
@pytest.mark.parametrize("concept", codes.STANDARD_CODES, ids=lambda concept: concept.meaning)
def test_a_standard_code_means_what_the_standard_says(concept):
    assert concept.meaning in meanings(concept.scheme, concept.value)


def test_private_codes_are_unique_and_fit_their_attributes():
    values = [concept.value for concept in codes.PRIVATE_CODES]
    assert len(set(values)) == len(values)
    assert all(1 <= len(c.value) <= 16 and 1 <= len(c.meaning) <= 64 for c in codes.PRIVATE_CODES)
    assert {c.scheme for c in codes.PRIVATE_CODES} == {"99DGAM"}


@pytest.mark.requirement("RES-19")
def test_every_private_code_of_the_module_stands_in_the_table():
    named = [v for v in vars(codes).values() if isinstance(v, codes.CodedConcept) and v.scheme == codes.PRIVATE_SCHEME]
    assert set(named) <= set(codes.PRIVATE_CODES)


@pytest.mark.requirement("RES-19")
def test_every_measurement_that_is_taken_has_a_code():
    assert [codes.measurement_code(spec.name).concept.scheme for spec in TAKEN] == ["99DGAM"] * len(TAKEN)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("attention.iou", "ATT_IOU"),
        ("attention.wasserstein", "ATT_EMD"),
        ("early.soft_iou", "EARLY_SOFT_IOU"),
        ("early.channel_distance", "EARLY_CHAN_DIST"),
        ("input.garbage_probability", "PROB_GARBAGE"),
        ("input.feature_distance", "FEAT_DIST"),
    ],
)
def test_a_measurement_has_its_code(name, code):
    assert codes.measurement_code(name).concept.value == code


def test_a_measurement_that_the_table_lacks_is_refused_by_name():
    with pytest.raises(EncodingError, match=r"attention\.hausdorff.*codes\.py"):
        codes.measurement_code("attention.hausdorff")


@pytest.mark.requirement("SAF-01")
def test_the_predicted_class_is_a_finding_only_on_pass():
    found = [codes.finding(prediction("hand"), verdict, CONCEPTS).value for verdict in Verdict]
    assert found == ["85562004", "373068000", "373068000"]


@pytest.mark.requirement("SAF-03")
def test_a_garbage_class_that_passed_is_refused():
    with pytest.raises(EncodingError, match="'other' passed but has no coded concept"):
        codes.finding(prediction("other"), Verdict.PASS, CONCEPTS)

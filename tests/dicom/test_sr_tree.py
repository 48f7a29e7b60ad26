"""The templated tree is, byte for byte, the tree that highdicom and pydicom build and encode afresh."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result.encoded_template import compiled, sentinels
from dicom_gam.dicom.result.reference import sanitised_reference
from dicom_gam.dicom.result.result_file import Origin
from dicom_gam.dicom.result.sr import report_content
from dicom_gam.dicom.result.sr_tree import build_tree, encoded_tree
from dicom_gam.errors import EncodingError
from dicom_gam.records import Verdict
from tests.dicom.example_results import (
    BUNDLE,
    CONCEPTS,
    CREATED,
    SETTINGS_DIGEST,
    check,
    dx_source,
    encoded,
    prediction,
    radiograph,
    verification,
)


def content(verdict="PASS", character_set=None, **changes):
    source = dx_source()
    if character_set:
        source.SpecificCharacterSet = character_set
    origin = Origin(
        sanitised_reference(radiograph(source)), BUNDLE, OutputSettings(), SETTINGS_DIGEST, Verdict(verdict), CREATED
    )
    return report_content(origin, prediction(), verification(verdict, **changes), CONCEPTS, "2.25.777")


def afresh(shape, values) -> bytes:
    tree = Dataset()
    tree.ContentSequence = build_tree(shape, values).ContentSequence
    return written(tree, list(shape.character_set))


def written(dataset: Dataset, character_set: list[str]) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset, character_set or "iso8859")
    return buffer.getvalue()


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_status": "degenerate", "attention_map": np.zeros((8, 8), np.float32)},
        {"checks": (check("input"), check("attention", False), check("early"))},
        {"alpha": float("nan"), "notes": ("odd", "even note")},
    ],
    ids=["plain", "degenerate", "three checks", "notes"],
)
@pytest.mark.requirement("RES-04")
def test_a_filled_template_is_the_tree_built_afresh(verdict, changes):
    shape, values = content(verdict, **changes)
    assert encoded_tree(shape, values) == afresh(shape, values)


@pytest.mark.parametrize(
    ("character_set", "words"),
    [
        ("ISO_IR 192", "Überlagerung 肺 ёж"),
        ("GB18030", "肺部 检查"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "肺のX線"),
        ("ISO_IR 100", "Größe à gauche"),
    ],
)
def test_remarks_are_written_in_the_sources_character_set(character_set, words):
    shape, values = content("FAIL", character_set, reasons=(words,))
    assert words == values["remark 1"]
    assert encoded_tree(shape, values) == afresh(shape, values)


numbers = st.floats(allow_nan=True, allow_infinity=True)
words = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=40)


@pytest.mark.requirement("RES-05")
@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=4, max_size=4), words, st.integers(0, 10**36))
def test_no_value_of_one_image_stays_in_the_next_ones_report(figures, remark, number):
    first = check("attention")
    scores = tuple(replace(m, value=v) for m, v in zip(first.measurements, figures, strict=False))
    odd = replace(first, measurements=(*scores, *first.measurements[len(scores) :]), score=figures[0])
    checks = (check("input"), odd, check("early"))
    shape, values = content("FAIL", checks=checks, reasons=(remark, f"2.25.{number}"))
    assert encoded_tree(shape, values) == afresh(shape, values)


def test_a_sentinel_without_a_place_is_an_error_that_names_it():
    tree = Dataset()
    tree.PatientComments = "no slot"
    with pytest.raises(EncodingError, match="no place for lost"):
        compiled(tree, sentinels([("lost", "text")]), [])


def test_a_slot_deep_in_nested_sequences_sets_every_length_above_it():
    marks = sentinels([("name", "text"), ("size", "number")])

    def tree(name, size) -> Dataset:
        inner, outer, root = Dataset(), Dataset(), Dataset()
        inner.CodeMeaning, inner.NumericValue = name, size
        outer.ConceptNameCodeSequence = Sequence([inner])
        outer.ValueType = "NUM"
        root.ContentSequence = Sequence([outer])
        return root

    template = compiled(tree(marks["name"], marks["size"]), marks, [])
    for name, size in (("x", 0.5), ("a longer name", 123456.75)):
        assert template.filled({"name": name, "size": size}) == written(tree(name, size), [])


def test_the_tree_is_the_last_element_of_the_report():
    report = dcmread(io.BytesIO(encoded(dx_source())[0].content))
    assert max(report.keys()) == report["ContentSequence"].tag

"""Rows, shares and tables by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.bundle.verifier import prepare
from dicom_gam.records import Verdict
from dicom_gam.training.evaluation import (
    Outcome,
    class_table,
    interval,
    negative_table,
    outcomes,
    share,
    tabulate,
    total,
)

OUTCOMES = [Outcome("disc", Verdict.PASS), Outcome("stripes", Verdict.FAIL), Outcome("garbage", Verdict.REJECT)]


def test_interval_of_none_of_ten_is_clopper_and_pearson_s() -> None:
    low, high = interval(0, 10)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_share_is_written_with_its_interval_or_a_dash() -> None:
    assert share(10, 10) == "100.0 % (69-100)"
    assert share(0, 0) == "-"


def test_rows_count_images_by_label_and_group() -> None:
    rows = tabulate(["a", "a", "b"], ["disc", "disc", "disc"], OUTCOMES)
    assert [(r.label, r.group, r.n, r.right) for r in rows] == [("disc", "a", 2, 1), ("disc", "b", 1, 0)]


def test_total_adds_up_images_and_verdicts() -> None:
    summed = total(tabulate(["a", "a", "b"], ["disc"] * 3, OUTCOMES), "all", "all")
    assert (summed.n, summed.right) == (3, 1)
    assert summed.verdicts == {Verdict.PASS: 1, Verdict.FAIL: 1, Verdict.REJECT: 1}


def test_whatever_is_not_pass_is_a_false_alarm_for_a_real_image() -> None:
    table = class_table(tabulate(["a"] * 3, ["disc"] * 3, OUTCOMES))
    assert "| disc | a | 3 | 33.3 % (1-91) | 1 | 1 | 1 | 66.7 % (9-99) |" in table


def test_pass_is_the_harmful_outcome_for_a_negative() -> None:
    table = negative_table(tabulate(["a"] * 3, ["garbage"] * 3, OUTCOMES))
    assert "| a | 3 | 1 | 1 | 1 | 33.3 % (1-91) |" in table


def test_nothing_to_verify_has_no_outcomes(tiny_bundle_dir: Path) -> None:
    bundle = load_bundle(str(tiny_bundle_dir))
    assert outcomes(bundle, prepare([], bundle.manifest.preprocessing.record())) == []

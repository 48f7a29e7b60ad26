"""What an evaluation counts, on cases made by hand, and a small whole one."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.core.calibration import realised_interval
from dicom_gam.core.verdict import ALARMED_SCORE
from dicom_gam.evidence.cases import verify_images
from dicom_gam.evidence.evaluate import (
    Extent,
    detections,
    embedding,
    evaluate,
    false_fails,
    source_rows,
)
from dicom_gam.evidence.evaluate_report import headline, report_html
from dicom_gam.evidence.evaluate_summary import (
    accepted_accuracy,
    foreign_not_passed,
    own_false_alarms,
    report_json,
    wrongly_passed,
)
from dicom_gam.evidence.scores import ALL, check_scores, measurement_scores
from dicom_gam.records import Verdict
from tests.evidence.made_cases import made_case
from tests.evidence.test_cases import pictures  # noqa: F401 (a fixture)

WRONG = (0.1, 0.8, 0.1)
TINY = Extent(manipulated=2, explained=2, embedded=40)


def test_accuracy_is_counted_over_all_images_and_over_those_that_passed():
    cases = [
        made_case(),
        made_case(probabilities=WRONG),
        made_case(probabilities=WRONG, verdict=Verdict.FAIL),
        made_case(verdict=Verdict.REJECT),
        made_case(kind="far", label="garbage"),
    ]
    (row,) = source_rows(cases)
    assert (row.accuracy.count, row.accuracy.n) == (2, 4)
    assert (row.accuracy_accepted.count, row.accuracy_accepted.n) == (1, 2)
    assert row.verdicts == {"PASS": 2, "FAIL": 1, "REJECT": 1}


def test_sources_and_roles_are_kept_apart():
    cases = [made_case(family="a"), made_case(family="b"), made_case(family="b", role="unseen", kind="unseen source")]
    assert [(r.source, r.provenance) for r in source_rows(cases)] == [
        ("a", "other images in training"),
        ("b", "other images in training"),
        ("b", "never in training"),
    ]


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir):
    return load_bundle(str(tiny_bundle_dir))


def test_false_alarms_at_every_level_come_from_the_same_p_values(bundle):
    cases = [made_case(odder=n) for n in (0, 3, 6, 50)]  # p = 0.01, 0.04, 0.07, 0.51
    counted = {row.alpha: row.rate.count for row in false_fails(cases, bundle)}
    assert counted == {0.01: 1, 0.05: 2, 0.1: 3}


def test_an_image_taken_for_another_class_raises_no_false_alarm(bundle):
    rows = false_fails([made_case(odder=0, probabilities=WRONG)], bundle)
    assert {row.rate.count for row in rows} == {0}


def test_a_level_that_the_calibration_cannot_support_promises_nothing(bundle):
    rows = {row.alpha: row for row in false_fails([made_case()], bundle)}
    size = bundle.calibration[0].size
    assert size == 80
    assert rows[0.01].promised is None
    assert rows[0.01].likely is None
    assert rows[0.1].promised == realised_interval(size, 0.1)


def test_the_likely_number_of_alarms_is_that_of_simulated_calibrations(bundle):
    (row,) = (r for r in false_fails([made_case()] * 50, bundle) if r.alpha == 0.1)
    g = np.random.default_rng(0)
    rates = beta.rvs(8, 73, size=200_000, random_state=g)  # k = 0.1 * 81 = 8
    simulated = binom.rvs(50, rates, random_state=g)
    assert row.likely == tuple(np.quantile(simulated, [0.025, 0.975]).astype(int))


def test_each_family_is_compared_with_all_expected_images():
    expected = [made_case(score=s) for s in range(100)]
    odd = [
        made_case(kind="far", label="garbage", family="CT", score=200, verdict=Verdict.REJECT),
        made_case(kind="far", label="garbage", family="CT", score=50, role="test"),
        made_case(kind="near", label="garbage", family="breast", score=-1, role="unseen"),
        made_case(kind="covariate", family="blurred", score=97.5, verdict=Verdict.FAIL),
    ]
    rows = {row.family: row for row in detections(expected, odd)}
    assert list(rows) == ["CT", "breast", "blurred"]
    assert rows["CT"].separation.auroc == pytest.approx((1 + 0.505) / 2)
    assert rows["CT"].separation.fpr_at_95_tpr == 0.5
    assert (rows["CT"].wrongly_passed.count, rows["CT"].wrongly_passed.n) == (1, 2)
    assert rows["breast"].separation.auroc == 0.0
    assert rows["breast"].provenance == "never in training"
    assert rows["blurred"].provenance == "made from held-out images"


def test_an_embedding_of_too_few_images_is_left_out():
    assert embedding([made_case(score=s) for s in range(7)], 100, seed=0) == []


def test_an_embedding_holds_at_most_as_many_images_as_asked_for():
    points = embedding([made_case(score=s) for s in range(30)], 12, seed=0)
    assert len(points) == 12


@pytest.fixture(scope="module")
def evaluated(tiny_bundle_dir, pictures):  # noqa: F811
    return evaluate(str(tiny_bundle_dir), pictures, torch.device("cpu"), TINY, seed=0)


def test_leaving_no_check_out_is_the_largest_of_all_checks(bundle, pictures):  # noqa: F811
    cases, _ = verify_images(bundle, pictures, manipulated=1, seed=0)
    scores = check_scores(cases, bundle)
    checks = bundle.manifest.checks
    alone = np.max([scores[f"{check} alone"] for check in checks], axis=0)
    possible = scores[ALL] < ALARMED_SCORE  # the rest never passes, and comes after all that might
    assert possible.sum() >= 6
    assert np.allclose(alone[possible], scores[ALL][possible])
    assert (alone[~possible] >= ALARMED_SCORE).all()
    for check in checks:
        others = np.max([scores[f"{other} alone"] for other in checks if other != check], axis=0)
        assert np.array_equal(scores[f"without {check}"], others)


def test_a_measurements_score_is_above_that_of_its_threshold_exactly_when_the_measurement_fails(bundle, pictures):  # noqa: F811
    cases, _ = verify_images(bundle, pictures, manipulated=1, seed=0)
    scores = measurement_scores(cases, bundle)
    for i, case in enumerate(cases):
        for check in case.verification.checks:
            for measurement in check.measurements:
                if not measurement.name.endswith("dice") and abs(scores[measurement.name][i] - check.threshold) > 1e-6:
                    assert (scores[measurement.name][i] <= check.threshold) == measurement.passed


def test_the_same_seed_gives_the_same_figures_but_for_the_cost(evaluated, tiny_bundle_dir, pictures):  # noqa: F811
    again = evaluate(str(tiny_bundle_dir), pictures, torch.device("cpu"), TINY, seed=0)
    first, second = report_json(evaluated), report_json(again)
    for found in (first, second):
        for method in found["methods"]["methods"]:
            assert method.pop("cost") > 0
    assert first == second


def test_the_json_holds_every_part_and_no_number_that_json_lacks(evaluated):
    text = json.dumps(report_json(evaluated), allow_nan=False)
    found = json.loads(text)
    assert {field.name for field in dataclasses.fields(evaluated)} <= found.keys()
    assert found["bundle"]["name"] == "tiny-shapes"
    assert "examples" not in found["methods"]


def test_expected_images_of_sources_never_used_are_summed_up_apart(evaluated):
    assert foreign_not_passed(evaluated).n == 0
    foreign = [made_case(role="unseen", kind="unseen source", verdict=v) for v in (Verdict.PASS, Verdict.REJECT)]
    found = dataclasses.replace(evaluated, sources=tuple(source_rows([*foreign, made_case(verdict=Verdict.FAIL)])))
    assert (foreign_not_passed(found).count, foreign_not_passed(found).n) == (1, 2)
    assert "did not pass 50.0 %" in headline(found)


def test_the_summary_adds_up_the_rows(evaluated):
    accepted = accepted_accuracy(evaluated)
    assert accepted.n == sum(row.verdicts["PASS"] for row in evaluated.sources)
    assert own_false_alarms(evaluated).n == 6
    assert own_false_alarms(evaluated, 0.05).count <= own_false_alarms(evaluated).count
    assert wrongly_passed(evaluated)["far"].n == 3


def test_every_method_and_both_controls_are_compared_and_reported(evaluated):
    page = report_html(evaluated)
    for name in [m.name for m in evaluated.methods.methods] + list(evaluated.methods.controls):
        assert f"{name}</th>" in page
    assert headline(evaluated) in page.replace("&#x27;", "'")


def test_images_that_were_wrongly_judged_are_listed_worst_first(evaluated):
    assert all(case.expected and not case.passed for case in evaluated.worst_expected)
    assert all(case.passed and not case.expected for case in evaluated.worst_odd)
    scores = [case.verification.score for case in evaluated.worst_odd]
    assert scores == sorted(scores)

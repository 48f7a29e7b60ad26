"""Judging whether a network belongs at a site: the tiny bundle at sites of discs, stripes and noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dicom_gam.bundle.bundle import Bundle, bundle_files, load_bundle, load_network
from dicom_gam.bundle.files import WEIGHTS
from dicom_gam.core.calibration import oddness
from dicom_gam.core.measure import MEASUREMENTS
from dicom_gam.errors import BundleError
from dicom_gam.evidence.criteria import Conclusion, Criterion, Share, conclude_all, share_criterion, shift_criterion
from dicom_gam.evidence.shift import Shift
from dicom_gam.evidence.site_images import SiteImage
from dicom_gam.evidence.suitability import Examined, compare_site, examine_site, with_references
from dicom_gam.evidence.suitability_report import headline, report_json
from tests.tiny_bundle import DISC, NOISE, STRIPES, fold

SUITABLE, UNSUITABLE, INCONCLUSIVE = Conclusion.SUITABLE, Conclusion.UNSUITABLE, Conclusion.INCONCLUSIVE


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path) -> Bundle:
    return load_bundle(str(tiny_bundle_dir))


def examined(bundle: Bundle, seed: int, count: int, kinds: tuple[int, ...] = (DISC, STRIPES)) -> list[Examined]:
    found = fold(seed, count, kinds)
    images = [SiteImage(Path(f"{i}.png"), group=str(i)) for i in range(len(found.labels))]
    return examine_site(bundle, images, found.prepared)


def labelled(items: Sequence[Examined], labels: Sequence[str]) -> list[Examined]:
    return [replace(e, image=replace(e.image, label=label)) for e, label in zip(items, labels, strict=True)]


@pytest.mark.requirement("EVD-04")
def test_the_images_it_was_made_for_are_suitable(bundle):
    found = compare_site(bundle, examined(bundle, 50, 40))
    assert found.conclusion is SUITABLE
    assert all(c.conclusion is SUITABLE for c in found.criteria)
    assert found.accuracy is None


def test_another_mixture_of_classes_is_no_shift(bundle):
    assert compare_site(bundle, examined(bundle, 50, 60, (DISC,))).conclusion is SUITABLE


@pytest.mark.requirement("EVD-04")
def test_noise_is_unsuitable_by_input_attention_and_early_features(bundle):
    found = compare_site(bundle, examined(bundle, 50, 40, (NOISE,)))
    assert found.conclusion is UNSUITABLE
    above = {c.name.partition(".")[0] for c in found.criteria if c.conclusion is UNSUITABLE}
    assert {"images not passed", "input", "attention", "early"} <= above
    assert found.garbage.count == 40
    assert headline(found).startswith("UNSUITABLE: on 40 images more than is tolerated: images not passed")


@pytest.mark.requirement("EVD-04")
def test_a_randomised_head_is_unsuitable_by_the_references_of_the_sound_network(bundle, tiny_bundle_dir):
    weights = safetensors.torch.load(bundle_files(str(tiny_bundle_dir))[WEIGHTS])
    g = torch.Generator().manual_seed(3)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = torch.rand(weights[name].shape, generator=g) - 0.5
    altered = load_network(bundle.manifest, safetensors.torch.save(weights), "the test", torch.device("cpu"))
    candidate = with_references(replace(bundle, network=altered), bundle)
    assert compare_site(candidate, examined(candidate, 50, 25)).conclusion is UNSUITABLE


def test_a_few_foreign_images_among_sound_ones_are_inconclusive_and_more_images_would_settle_it(bundle):
    items = [*examined(bundle, 50, 12), *examined(bundle, 50, 9, (NOISE,))]
    found = compare_site(bundle, items)
    assert found.conclusion is INCONCLUSIVE
    assert found.images_needed is not None
    assert found.images_needed > len(items)
    assert f"about {found.images_needed} images" in headline(found)


def test_an_effect_is_the_share_of_pairs_with_the_calibration_images_of_the_class(bundle):
    items = examined(bundle, 50, 16)
    found = compare_site(bundle, items)
    for column, metric in enumerate(found.metrics):
        pairs = []
        for item in items:
            reference = bundle.calibration[item.target].oddness[:, column]
            own = oddness(item.values)[column]
            pairs.append(np.mean((own > reference) + 0.5 * (own == reference)))
        assert metric.auc == pytest.approx(np.mean(pairs))
        assert metric.site_median == pytest.approx(np.median([item.values[column] for item in items]))


def test_alarmed_calibration_images_count_as_odder_than_any_site_image(bundle):
    items = examined(bundle, 50, 40, (DISC,))
    plain = compare_site(bundle, items)
    own = bundle.calibration[DISC]
    alarmed = replace(own, combined=np.append(own.combined, [np.inf] * 20))
    careful = compare_site(replace(bundle, calibration={**bundle.calibration, DISC: alarmed}), items)
    n = len(own.oddness)
    for before, after in zip(plain.metrics, careful.metrics, strict=True):
        assert after.auc == pytest.approx(before.auc * n / (n + 20))


def test_the_reference_median_weighs_classes_as_the_site_does(bundle):
    items = examined(bundle, 50, 30, (DISC,))
    found = compare_site(bundle, items)
    column = next(i for i, spec in enumerate(MEASUREMENTS) if spec.name == "early.channel_distance")
    expected = np.quantile(bundle.calibration[DISC].oddness[:, column], 0.5, method="inverted_cdf")
    assert found.metrics[column].reference_median == pytest.approx(expected)


def test_dice_has_ious_p_value_and_no_say_of_its_own(bundle):
    metrics = {m.name: m for m in compare_site(bundle, examined(bundle, 50, 20)).metrics}
    assert not metrics["attention.dice"].deciding
    assert metrics["attention.dice"].holm_p == metrics["attention.iou"].holm_p
    assert metrics["attention.dice"].auc == pytest.approx(metrics["attention.iou"].auc)


def test_an_advisory_check_is_shown_and_does_not_decide(bundle):
    advisory = replace(bundle, manifest=bundle.manifest.model_copy(update={"checks": ("input",)}))
    found = compare_site(advisory, examined(advisory, 50, 20))
    assert {c.name for c in found.criteria} == {
        "images not passed",
        "input.garbage_probability",
        "input.class_probability",
        "input.feature_distance",
    }
    assert len(found.metrics) == len(MEASUREMENTS)


def test_labels_give_the_accuracy_and_wrong_classes_are_not_suitable(bundle):
    items = examined(bundle, 50, 20)
    right = compare_site(bundle, labelled(items, ["disc"] * 20 + ["stripes"] * 20))
    assert right.accuracy == Share.of(40, 40)
    assert right.conclusion is SUITABLE
    half = compare_site(bundle, labelled(items, ["stripes"] * 20 + [""] * 20))
    assert half.accuracy == Share.of(0, 20)
    assert half.conclusion is UNSUITABLE
    assert "images given a wrong class" in headline(half)


def test_bundles_of_other_classes_or_layers_are_not_compared(bundle):
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"early_layers": ("stem",)}))
    with pytest.raises(BundleError, match=r"differ in early_layers\. Judge it by its own references"):
        with_references(other, bundle)


def test_a_candidate_keeps_its_network_and_takes_the_rest_from_the_trusted_bundle(bundle):
    trusted = replace(bundle, manifest=bundle.manifest.model_copy(update={"alpha": 0.2}))
    candidate = replace(bundle, identity=replace(bundle.identity, name="candidate"))
    judged = with_references(candidate, trusted)
    assert (judged.alpha, judged.identity.name) == (0.2, "candidate")
    assert judged.network is candidate.network
    assert judged.references is trusted.references


def test_json_holds_every_figure_and_image_in_plain_types(bundle):
    found = compare_site(bundle, examined(bundle, 50, 20, (NOISE,)))
    told = json.loads(json.dumps(report_json(found), allow_nan=False))
    assert (told["format"], told["conclusion"], told["against"]) == (1, "UNSUITABLE", None)
    assert [m["name"] for m in told["metrics"]] == [spec.name for spec in MEASUREMENTS]
    assert set(told["metrics"][0]) >= {"auc", "low", "high", "p_value", "holm_p", "site_median", "reference_median"}
    assert len(told["images"]) == 20
    scores = [image["score"] for image in told["images"]]
    assert scores == sorted(scores, reverse=True)
    assert told["images"][0]["label"] is None


def test_a_share_is_settled_when_its_exact_interval_leaves_the_limit():
    found = [share_criterion("x", Share.of(count, 50), 0.3).conclusion for count in (7, 8, 21, 22, 23)]
    assert found == [SUITABLE, SUITABLE, INCONCLUSIVE, INCONCLUSIVE, UNSUITABLE]


def test_only_a_significant_effect_speaks_against_a_network():
    shift = Shift(0.9, (0.8, 0.95), 0.01, 0.1, 0.001)
    assert shift_criterion("x", shift, 0.04, 0.75).conclusion is UNSUITABLE
    assert shift_criterion("x", shift, 0.06, 0.75).conclusion is INCONCLUSIVE
    assert shift_criterion("x", shift, 0.001, 0.96).conclusion is SUITABLE


def criterion(conclusion: Conclusion, estimate: float = 0.5, needed: int | None = None) -> Criterion:
    return Criterion("x", estimate, 0.4, 0.8, 0.6, conclusion, needed)


def test_one_unsuitable_criterion_decides_and_suitable_takes_all():
    assert conclude_all([criterion(SUITABLE), criterion(UNSUITABLE), criterion(INCONCLUSIVE)])[0] is UNSUITABLE
    assert conclude_all([criterion(SUITABLE), criterion(INCONCLUSIVE)])[0] is INCONCLUSIVE
    assert conclude_all([criterion(SUITABLE), criterion(SUITABLE)]) == (SUITABLE, None)


def test_the_images_needed_are_those_of_the_quickest_way_to_a_conclusion():
    below = [criterion(INCONCLUSIVE, 0.5, 100), criterion(INCONCLUSIVE, 0.55, 300)]
    assert conclude_all(below) == (INCONCLUSIVE, 300)
    assert conclude_all([*below, criterion(INCONCLUSIVE, 0.7, 200)]) == (INCONCLUSIVE, 200)
    assert conclude_all([*below, criterion(INCONCLUSIVE, 0.59, None)]) == (INCONCLUSIVE, None)


def test_the_mean_attention_map_of_a_class_is_scaled_as_the_reference_is(bundle):
    items = examined(bundle, 50, 20, (DISC,))
    (found,) = compare_site(bundle, items).classes
    mean = np.mean([item.verification.attention_map for item in items], axis=0)
    assert (found.name, found.not_passed.n) == ("disc", 20)
    np.testing.assert_allclose(found.site_map, mean / mean.max(), rtol=1e-6)
    assert found.reference_map.max() == pytest.approx(1)

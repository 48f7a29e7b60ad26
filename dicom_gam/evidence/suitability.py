"""Is this network suitable for this site? A site's images against what the bundle knows of its own.

The site's attention maps, early features and inputs are compared with the bundle's calibration images, measurement by
measurement, by how large the difference is and not by whether there is any: a sound network fine-tuned, or a sound one
in a new place, differs a little, and given images enough any difference is significant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import Prepared, conclude, examine, prepare
from dicom_gam.core.calibration import oddness, value_at
from dicom_gam.core.measure import MEASUREMENTS
from dicom_gam.errors import BundleError, TrainingError
from dicom_gam.evidence.criteria import (
    LIMITS,
    Conclusion,
    Criterion,
    Limits,
    Share,
    conclude_all,
    share_criterion,
    shift_criterion,
)
from dicom_gam.evidence.shift import Array, Power, Shift, Stratum, holm, power, shifts
from dicom_gam.evidence.site_images import Intake, LeftOut, SiteImage, find_images, read_images
from dicom_gam.records import BundleIdentity, CheckName, Prediction, Verdict, Verification

FEWEST = 30
BATCH = 32
LISTED = 5  # bad files named in an error


@dataclass(frozen=True, slots=True)
class Metric:
    """One measurement at the site and in the calibration. Medians weigh the calibration's classes as the site's.

    `auc` is P(a site image is odder than a calibration image of the class it was taken for); `holm_p` is `p_value`
    corrected for the number of measurements; Dice has IoU's, whose function it is. `deciding` is False for Dice and for
    measurements of advisory checks.
    """

    name: str
    check: CheckName
    deciding: bool
    site_median: float
    reference_median: float
    auc: float
    low: float
    high: float
    p_value: float
    holm_p: float


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """One image of the site: the class it was taken for, its measurements (M,), and the verdict."""

    image: SiteImage
    target: int
    values: Array
    prediction: Prediction
    verification: Verification


@dataclass(frozen=True, slots=True, eq=False)
class ClassFindings:
    """The site's images taken for one class: their mean attention map (h, w) and the bundle's, of maximum 1."""

    name: str
    not_passed: Share
    calibration_size: int
    site_map: NDArray[np.float32]
    reference_map: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """One measurement's values: the site's (m,), the calibration's (n,) and, as the site's classes, their weights."""

    name: str
    site: Array
    reference: Array
    weights: Array


@dataclass(frozen=True, slots=True, eq=False)
class Suitability:
    """Everything the report tells, `images` oddest first. `against` is whose references were used, if not its own."""

    bundle: BundleIdentity
    against: BundleIdentity | None
    alpha: float
    limits: Limits
    conclusion: Conclusion
    images_needed: int | None
    criteria: tuple[Criterion, ...]
    metrics: tuple[Metric, ...]
    not_passed: Share
    garbage: Share
    accuracy: Share | None
    power: Power
    classes: tuple[ClassFindings, ...]
    distributions: tuple[Distribution, ...]
    images: tuple[Examined, ...]
    left_out: tuple[LeftOut, ...] = ()
    further_images: int = 0


def judge_site(bundle: Bundle, source: Path, against: Bundle | None = None, limits: Limits = LIMITS) -> Suitability:
    """Judge a bundle on a folder of images or a CSV of them, by its own references or those of the bundle `against`.

    Raises TrainingError when fewer than FEWEST images of different patients can be read, BundleError when the two
    bundles can't be compared.
    """
    judged = bundle if against is None else with_references(bundle, against)
    found = find_images(source, bundle.manifest.class_names)
    intake = Intake([])
    examined: list[Examined] = []
    readable = read_images(track(found, "looking at the site's images"), intake)
    while batch := list(islice(readable, BATCH)):
        prepared = prepare((pixels for _, pixels in batch), bundle.manifest.preprocessing.record())
        examined += examine_site(judged, [image for image, _ in batch], prepared)
    if len(examined) < FEWEST:
        raise TrainingError(_too_few(source, len(examined), intake))
    result = compare_site(judged, examined, limits)
    trusted = None if against is None else against.identity
    return replace(result, against=trusted, left_out=tuple(intake.left_out), further_images=intake.further_images)


def with_references(candidate: Bundle, trusted: Bundle) -> Bundle:
    """The candidate's network to be judged by the trusted bundle's references, calibration and operating point.

    Raises BundleError unless both are the same architecture, classes, layers and preprocessing: feature distances are
    measured in the trusted network's own channels, and have no meaning for a network built otherwise.
    """
    same = (
        "architecture",
        "options",
        "class_names",
        "preprocessing",
        "attention_layer",
        "attention_method",
        "early_layers",
    )
    other = [name for name in same if getattr(candidate.manifest, name) != getattr(trusted.manifest, name)]
    if other:
        raise BundleError(
            f"{candidate.identity.name} can't be judged by the references of {trusted.identity.name}: they differ in "
            f"{', '.join(other)}. Judge it by its own references (without --against)."
        )
    return replace(candidate, manifest=trusted.manifest, references=trusted.references, calibration=trusted.calibration)


def examine_site(bundle: Bundle, images: Sequence[SiteImage], prepared: Prepared) -> list[Examined]:
    """Verify a batch of the site's images."""
    findings = examine(bundle, prepared)
    targets = findings.explanation.targets.tolist()
    results = conclude(bundle, findings, bundle.alpha)
    rows = zip(images, targets, findings.values, results, strict=True)
    return [Examined(image, target, values, *result) for image, target, values, result in rows]


def compare_site(bundle: Bundle, examined: Sequence[Examined], limits: Limits = LIMITS) -> Suitability:
    """Compare images of different patients with the calibration, and conclude. Raises ValueError without any."""
    if not examined:
        raise ValueError("there is no image to compare")
    strata = [_stratum(bundle, examined, index) for index in bundle.calibration]
    found = shifts(strata)
    metrics = _metrics(bundle, examined, found)
    not_passed = Share.of(sum(e.verification.verdict is not Verdict.PASS for e in examined), len(examined))
    garbage = Share.of(sum(e.prediction.label == e.prediction.garbage_class for e in examined), len(examined))
    accuracy = _accuracy(examined)
    criteria = [share_criterion("images not passed", not_passed, bundle.alpha + limits.excess)]
    if accuracy is not None:
        wrong = Share.of(accuracy.n - accuracy.count, accuracy.n)
        criteria.append(share_criterion("images given a wrong class", wrong, limits.errors))
    criteria += [
        shift_criterion(m.name, s, m.holm_p, limits.of(m.name))
        for m, s in zip(metrics, found, strict=True)
        if m.deciding
    ]
    conclusion, needed = conclude_all(criteria)
    sizes = [(len(s.site), len(s.reference)) for s in strata]
    tests = sum(spec.counted for spec in MEASUREMENTS)
    return Suitability(
        bundle=bundle.identity,
        against=None,
        alpha=bundle.alpha,
        limits=limits,
        conclusion=conclusion,
        images_needed=needed,
        criteria=tuple(criteria),
        metrics=tuple(metrics),
        not_passed=not_passed,
        garbage=garbage,
        accuracy=accuracy,
        power=power(sizes, tests, limits.auc, bundle.alpha + limits.excess),
        classes=tuple(_class_findings(bundle, examined)),
        distributions=tuple(_distribution(bundle, examined, column) for column in range(len(MEASUREMENTS))),
        images=tuple(sorted(examined, key=lambda e: -e.verification.score)),
    )


def _accuracy(examined: Sequence[Examined]) -> Share | None:
    labelled = [e for e in examined if e.image.label]
    right = sum(e.prediction.label == e.image.label for e in labelled)
    return Share.of(right, len(labelled)) if labelled else None


def _stratum(bundle: Bundle, examined: Sequence[Examined], index: int) -> Stratum:
    """One class. Its calibration images that were alarmed whatever their scores are not in `oddness`.

    They count as odder than anything: the test can only become more careful by it.
    """
    calibration = bundle.calibration[index]
    alarmed = int(np.isinf(calibration.combined).sum())
    padding = np.full((alarmed, len(MEASUREMENTS)), np.inf)
    own = [oddness(e.values) for e in examined if e.target == index]
    return Stratum(np.array(own).reshape(-1, len(MEASUREMENTS)), np.concatenate([calibration.oddness, padding]))


def _metrics(bundle: Bundle, examined: Sequence[Examined], found: Sequence[Shift]) -> list[Metric]:
    counted = [i for i, spec in enumerate(MEASUREMENTS) if spec.counted]
    corrected = dict(zip(counted, holm([found[i].p_value for i in counted]), strict=True))
    metrics: list[Metric] = []
    for i, (spec, shift) in enumerate(zip(MEASUREMENTS, found, strict=True)):
        holm_p = corrected[i] if spec.counted else metrics[-1].holm_p  # Dice comes right after IoU
        values = _distribution(bundle, examined, i)
        reference = _weighted_median(values.reference, values.weights)
        deciding = spec.counted and spec.check in bundle.manifest.checks
        site = float(np.median(values.site))
        metrics.append(
            Metric(spec.name, spec.check, deciding, site, reference, shift.auc, *shift.interval, shift.p_value, holm_p)
        )
    return metrics


def _distribution(bundle: Bundle, examined: Sequence[Examined], column: int) -> Distribution:
    spec = MEASUREMENTS[column]
    reference, weights = [], []
    for index, calibration in bundle.calibration.items():
        count = sum(e.target == index for e in examined)
        if count:
            reference += [value_at(float(odd), spec) for odd in calibration.oddness[:, column]]
            weights += [count / len(calibration.oddness)] * len(calibration.oddness)
    return Distribution(
        spec.name, np.array([e.values[column] for e in examined]), np.array(reference), np.array(weights)
    )


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _class_findings(bundle: Bundle, examined: Sequence[Examined]) -> list[ClassFindings]:
    found = []
    for index, calibration in bundle.calibration.items():
        own = [e.verification for e in examined if e.target == index]
        if own:
            mean = np.mean([v.attention_map for v in own], axis=0)
            found.append(
                ClassFindings(
                    bundle.manifest.class_names[index],
                    Share.of(sum(v.verdict is not Verdict.PASS for v in own), len(own)),
                    calibration.size,
                    mean / max(float(mean.max()), 1e-12),  # as the reference is scaled
                    bundle.references.classes[index].attention[0].cpu().numpy(),  # the mean map comes first
                )
            )
    return found


def _too_few(source: Path, count: int, intake: Intake) -> str:
    told = [f"{source}: {count} usable images of different patients; {FEWEST} are needed to say anything about a site"]
    if intake.left_out:
        named = [f"{item.path.name}: {item.reason}" for item in intake.left_out[:LISTED]]
        named += ["…"] * (len(intake.left_out) > LISTED)
        told.append(f"{len(intake.left_out)} files could not be used ({'; '.join(named)})")
    if intake.further_images:
        told.append(
            f"{intake.further_images} are further images of the same patients; if PatientID doesn't tell the patients "
            "apart, as after anonymisation, list the files in a CSV with the columns path and group"
        )
    return ". ".join([*told, "Add images of other patients."])

"""Judge a bundle on images that were never used to make it: the evidence for what its verdicts are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import betabinom
from torch import Tensor

from dicom_gam.bundle.bundle import Bundle, assemble, bundle_files, whole_network
from dicom_gam.bundle.files import WEIGHTS
from dicom_gam.bundle.verifier import prepare
from dicom_gam.core.calibration import alarms_allowed, realised_interval, score_threshold
from dicom_gam.core.measure import CHECKS
from dicom_gam.errors import TrainingError
from dicom_gam.evidence.cases import ODD_KINDS, Case, Kind, Unusable, verify_images
from dicom_gam.evidence.detection import Array, Separation, separation
from dicom_gam.evidence.methods import MethodComparison, compare_methods
from dicom_gam.evidence.scores import check_scores, measurement_scores
from dicom_gam.records import BundleIdentity, CheckName, Verdict
from dicom_gam.training.evaluation import interval
from dicom_gam.training.images import LabelledImage, load_pixels

ALPHAS = (0.01, 0.05)  # false-alarm rates that are looked at besides the bundle's own
PROVENANCE = {"test": "other images in training", "unseen": "never in training", "": "not said"}
MADE = "made from held-out images"
FEWEST_EMBEDDED = 8


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: full by default, a tenth of it for a quick look."""

    manipulated: int = 120
    explained: int = 32
    embedded: int = 1500


QUICK = Extent(manipulated=12, explained=8, embedded=300)


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion with its exact 95 % interval; `low` and `high` are 0 and 1 when nothing was counted."""

    count: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, n: int) -> Rate:
        """`count` of `n`."""
        return cls(count, n, *(interval(count, n) if n else (0.0, 1.0)))


@dataclass(frozen=True, slots=True)
class SourceRow:
    """Expected images of one class and source. `accuracy_accepted` is that of the images with verdict PASS."""

    label: str
    source: str
    provenance: str
    accuracy: Rate
    accuracy_accepted: Rate
    verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class FalseFail:
    """How many expected images of one class and source would raise a false alarm at the level `alpha`.

    `promised` is the 95 % interval of the rate that this one calibration really has (Beta), for images exchangeable
    with its own; `likely` holds the 2.5 and 97.5 % points of the number of alarms among n such images (Beta-binomial).
    Both are None where the calibration can't support the level.
    """

    label: str
    source: str
    provenance: str
    alpha: float
    calibration_size: int
    rate: Rate
    promised: tuple[float, float] | None
    likely: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Detection:
    """What became of one family of odd images; `wrongly_passed` is the harmful outcome."""

    kind: Kind
    family: str
    provenance: str
    separation: Separation
    wrongly_passed: Rate
    verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Contribution:
    """How one score (of all checks, one alone, all but one) or one measurement tells a kind of odd images."""

    what: str
    name: str
    kind: Kind
    separation: Separation


@dataclass(frozen=True, slots=True)
class Point:
    """One image in the plane of the embedding."""

    x: float
    y: float
    verdict: str
    kind: Kind
    family: str


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that was measured.

    `worst_expected` are the expected images that were not passed, oddest first; `worst_odd` the odd ones that were,
    the least odd, and so the most dangerous, first.
    """

    bundle: BundleIdentity
    alpha: float
    deciding: tuple[CheckName, ...]
    seed: int
    extent: Extent
    counts: dict[str, int]
    unusable: tuple[Unusable, ...]
    sources: tuple[SourceRow, ...]
    false_fails: tuple[FalseFail, ...]
    detections: tuple[Detection, ...]
    contributions: tuple[Contribution, ...]
    methods: MethodComparison
    points: tuple[Point, ...]
    worst_expected: tuple[Case, ...]
    worst_odd: tuple[Case, ...]


def evaluate(
    name_or_path: str, images: Sequence[LabelledImage], device: torch.device, extent: Extent, seed: int = 0
) -> Evaluation:
    """Measure the bundle of that name or path on images, normally the `held_out` rows of a manifest.

    Raises BundleError for an unusable bundle, TrainingError when no expected image can be read.
    """
    content = bundle_files(name_or_path)
    bundle = assemble(content, name_or_path, device)
    cases, unusable = verify_images(bundle, images, extent.manipulated, seed)
    expected = [case for case in cases if case.kind == "expected"] or [case for case in cases if case.expected]
    if not expected:
        raise TrainingError(
            f"none of the {len(images)} images shows what {bundle.manifest.name} is for "
            f"({', '.join(c.name for c in bundle.manifest.classes)}): add some, nothing can be compared without them"
        )
    contents = _contents(bundle, [case for case in cases if case.expected], extent.explained, seed)
    network = whole_network(bundle.manifest, content[WEIGHTS], bundle.identity.name, device)
    methods = compare_methods(bundle, network, contents, seed)
    odd = [case for case in cases if not case.expected]
    return Evaluation(
        bundle.identity,
        bundle.alpha,
        tuple(check for check in CHECKS if check in bundle.manifest.checks),
        seed,
        extent,
        dict(Counter(case.kind for case in cases)),
        tuple(unusable),
        tuple(source_rows(cases)),
        tuple(false_fails(cases, bundle)),
        tuple(detections(expected, odd)),
        tuple(contributions(expected, odd, bundle)),
        methods,
        tuple(embedding(cases, extent.embedded, seed)),
        tuple(sorted((c for c in cases if c.expected and not c.passed), key=lambda c: -c.verification.score)),
        tuple(sorted((c for c in odd if c.passed), key=lambda c: (ODD_KINDS.index(c.kind), c.verification.score))),
    )


def source_rows(cases: Sequence[Case]) -> list[SourceRow]:
    """Accuracy and verdicts of the expected images, by class and source."""
    rows = []
    for (label, source, role), own in _grouped(
        [c for c in cases if c.expected], lambda c: (c.image.label, c.image.source, c.image.role)
    ).items():
        right, accepted = (_accuracy(part) for part in (own, [case for case in own if case.passed]))
        rows.append(SourceRow(label, source, PROVENANCE[role], right, accepted, _verdicts(own)))
    return rows


def false_fails(cases: Sequence[Case], bundle: Bundle) -> list[FalseFail]:
    """False alarms among expected images, by class and source, at the bundle's level and at ALPHAS.

    An image that the network takes for another real class raises no false alarm, but a true one.
    """
    rows = []
    for (label, source, role), own in _grouped(
        [c for c in cases if c.expected], lambda c: (c.image.label, c.image.source, c.image.role)
    ).items():
        index = bundle.manifest.class_names.index(label)
        sample = bundle.calibration[index]
        for alpha in sorted({*ALPHAS, bundle.alpha}):
            supported = score_threshold(sample.combined, alpha) is not None
            alarms = Rate.of(sum(case.target == index and case.alarmed(alpha) for case in own), len(own))
            promised = realised_interval(sample.size, alpha) if supported else None
            likely = _likely(sample.size, alpha, len(own)) if supported else None
            rows.append(FalseFail(label, source, PROVENANCE[role], alpha, sample.size, alarms, promised, likely))
    return rows


def detections(expected: Sequence[Case], odd: Sequence[Case]) -> list[Detection]:
    """Each family of odd images against the expected ones, by the combined score."""
    usual = _scores(expected)
    rows = []
    groups = _grouped(odd, lambda c: (ODD_KINDS.index(c.kind), c.family, _provenance(c)))
    for (kind, family, provenance), own in groups.items():
        found = separation(usual, _scores(own))
        verdicts = _verdicts(own)
        passed = Rate.of(sum(case.passed for case in own), len(own))
        rows.append(Detection(ODD_KINDS[kind], family, provenance, found, passed, verdicts))
    return rows


def contributions(expected: Sequence[Case], odd: Sequence[Case], bundle: Bundle) -> list[Contribution]:
    """Each score and each single measurement against each kind of odd images."""
    rows = []
    for what, scores_of in (("score", check_scores), ("measurement", measurement_scores)):
        usual = scores_of(expected, bundle)
        for kind in ODD_KINDS:
            own = [case for case in odd if case.kind == kind]
            if own:
                found = scores_of(own, bundle)
                rows += [Contribution(what, name, kind, separation(usual[name], found[name])) for name in usual]
    return rows


def embedding(cases: Sequence[Case], limit: int, seed: int) -> list[Point]:
    """Features of at most `limit` images in the plane by t-SNE (van der Maaten & Hinton 2008); none for under 8.

    Features are standardised first. Neighbours mean something in such a plane, distances between groups do not.
    """
    from sklearn.manifold import TSNE  # noqa: PLC0415 (a second's import that no other command needs)

    order = np.random.default_rng(seed).permutation(len(cases))[:limit]
    chosen = [cases[i] for i in sorted(order)]
    if len(chosen) < FEWEST_EMBEDDED:
        return []
    features = np.stack([case.features for case in chosen]).astype(np.float64)
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return [
        Point(float(x), float(y), case.verification.verdict.value, case.kind, case.family)
        for (x, y), case in zip(plane, chosen, strict=True)
    ]


def _contents(bundle: Bundle, cases: Sequence[Case], limit: int, seed: int) -> Tensor:
    """Contents (n, s, s) of expected images that the network got right, as many of one class as of another."""
    by_label = _grouped([c for c in cases if _right(c)] or list(cases), lambda c: (c.image.label,))
    shuffled = [np.random.default_rng(seed).permutation(len(own)) for own in by_label.values()]
    ranked = sorted(
        (place, label, index)
        for (label,), order in zip(by_label, shuffled, strict=True)
        for place, index in enumerate(order.tolist())
    )
    chosen = [by_label[(label,)][index] for _, label, index in ranked[:limit]]
    pixels = (load_pixels(case.image.path) for case in chosen)
    return prepare(pixels, bundle.manifest.preprocessing.record()).content


def _likely(size: int, alpha: float, n: int) -> tuple[int, int]:
    """The central 95 % of the alarms among `n` new images: binomial, its rate Beta over calibrations."""
    allowed = alarms_allowed(size, alpha)
    low, high = betabinom.ppf([0.025, 0.975], n, allowed, size + 1 - allowed)
    return int(low), int(high)


def _grouped(cases: Sequence[Case], key: Callable[[Case], Any]) -> dict[Any, list[Case]]:
    groups: dict[Any, list[Case]] = {}
    for case in sorted(cases, key=key):
        groups.setdefault(key(case), []).append(case)
    return groups


def _provenance(case: Case) -> str:
    return MADE if case.kind in ("covariate", "fabricated") else PROVENANCE[case.image.role]


def _accuracy(cases: Sequence[Case]) -> Rate:
    return Rate.of(sum(map(_right, cases)), len(cases))


def _right(case: Case) -> bool:
    return case.prediction.label == case.image.label


def _scores(cases: Sequence[Case]) -> Array:
    return np.array([case.verification.score for case in cases], dtype=np.float64)


def _verdicts(cases: Sequence[Case]) -> dict[str, int]:
    counted = Counter(case.verification.verdict for case in cases)
    return {verdict.value: counted[verdict] for verdict in Verdict}

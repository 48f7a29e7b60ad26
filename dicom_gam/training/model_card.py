"""The model card: what a bundle is, what it was made from, and what it was measured to do. All figures are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import Prepared
from dicom_gam.core.calibration import realised_interval, smallest_alpha
from dicom_gam.core.measure import CHECKS
from dicom_gam.training.augmentation import SYNTHETIC_FAMILIES, synthetic_negatives
from dicom_gam.training.evaluation import Row, class_table, negative_table, outcomes, tabulate, total
from dicom_gam.training.fitting import Curve, Labelled
from dicom_gam.training.images import LabelledImage
from dicom_gam.training.specification import Specification


@dataclass(frozen=True, slots=True)
class Words:
    """What a card says about how its network came to be.

    `figures` stand above every figure, `making` is the section on the training.
    """

    figures: str
    making: str


def model_card(
    specification: Specification,
    bundle: Bundle,
    words: Words,
    split: Mapping[str, Sequence[LabelledImage]],
    folds: Mapping[str, Labelled],
) -> str:
    """Markdown. `folds` are "test" (other patients of the training sources) and "unseen" (other sources, families)."""
    manifest = bundle.manifest
    sections = [
        f"# {manifest.name} {manifest.version}",
        specification.card.summary,
        "## Intended use\n\n" + manifest.intended_use,
        f"## Figures\n\n{words.figures} Intervals are exact 95 % binomial intervals.",
        _figures(bundle, folds),
        f"## Training\n\n{words.making}\n\n" + _split_table(split),
        "## Calibration\n\n" + calibration_text(bundle),
        "## Data, licences, attributions\n\n" + _sources(specification),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in specification.card.limits),
    ]
    return "\n\n".join(sections) + "\n"


def trained_words(specification: Specification, curve: Curve, started_from: str) -> Words:
    """Of a network that was trained here; `started_from` says where the first weights came from."""
    schedule = specification.training
    return Words(
        "Every figure is computed by `dicom-gam train` on images that were not used to train, tune or calibrate.",
        f"Seed {schedule.seed}, {schedule.steps} steps of {schedule.batch_size}; validation accuracy at the end "
        f"{100 * curve.accuracy[-1][1]:.1f} %, including negatives. The curve is in `training.png`."
        f"{_guidance(specification, curve)}{started_from}",
    )


def _guidance(specification: Specification, curve: Curve) -> str:
    """What was done in training besides learning the classes."""
    schedule, words = specification.training, ""
    if schedule.cue_weight > 0:
        agreement = f", agreement at the end {curve.agreement[-1][1]:.2f} (cosine)" if curve.agreement else ""
        words += f" Attention was pulled towards given regions with weight {schedule.cue_weight:g}{agreement}."
    if schedule.outlier_weight > 0:
        words += f" Outlier exposure had weight {schedule.outlier_weight:g}."
    left_out = [family for family in SYNTHETIC_FAMILIES if family not in schedule.synthetic_families]
    return words + (f" Families of generated negatives left out: {', '.join(left_out)}." if left_out else "")


def _figures(bundle: Bundle, folds: Mapping[str, Labelled]) -> str:
    names = bundle.manifest.class_names
    garbage = bundle.manifest.garbage_class
    parts = []
    titles = {
        "test": ("Other patients of the training sources", "Negatives of families seen in training, other images"),
        "unseen": ("Sources never seen in training", "Negatives of families never seen in training"),
    }
    for role, (real_title, negative_title) in titles.items():
        fold = folds[role]
        rows = tabulate(fold.sources, [names[i] for i in fold.labels.tolist()], outcomes(bundle, fold.prepared))
        real, negative = [r for r in rows if r.label != garbage], [r for r in rows if r.label == garbage]
        if real:
            everything = total(real, "all", "all")
            parts.append(f"### {real_title}\n\n{class_table([*real, everything])}")
        if negative:
            parts.append(f"### {negative_title}\n\n{negative_table([*negative, total(negative, 'all', garbage)])}")
    parts.append("### Negatives made from test images\n\n" + negative_table(_synthetic(bundle, folds["test"])))
    return "\n\n".join(parts)


def _synthetic(bundle: Bundle, test: Labelled) -> list[Row]:
    garbage = bundle.manifest.garbage_class
    real = test.labels != bundle.manifest.garbage_index
    prepared = test.prepared[real]
    made = synthetic_negatives(prepared.content, test.labels[real], torch.Generator().manual_seed(1))
    rows = []
    for family, images in made.items():  # altered at the network's resolution: what they came as is the original's
        altered = Prepared(images, prepared.frequency)
        rows += tabulate([family] * len(images), [garbage] * len(images), outcomes(bundle, altered))
    return rows


def _split_table(split: Mapping[str, Sequence[LabelledImage]]) -> str:
    roles = list(split)
    counts = Counter((image.label, image.family, role) for role, images in split.items() for image in images)
    lines = [f"| class | source or family | {' | '.join(roles)} |", "|---" * (2 + len(roles)) + "|"]
    for label, family in sorted({(label, family) for label, family, _ in counts}):
        cells = " | ".join(str(counts[label, family, role]) for role in roles)
        lines.append(f"| {label} | {family} | {cells} |")
    return "\n".join(lines)


def calibration_text(bundle: Bundle) -> str:
    """Markdown: what the operating point promises, and how sure each class's calibration sample makes it."""
    manifest, alpha = bundle.manifest, bundle.alpha
    advisory = [check for check in CHECKS if check not in manifest.checks]
    lines = [
        f"Operating point: of exchangeable images of a class at most {100 * alpha:g} % (alpha = {alpha:g}) are not "
        f"passed, all reasons together: taken for garbage, {', '.join(manifest.checks)}. Min-p over the checks, "
        "recalibrated on a second fold; one image per patient where patients are known. "
        "An image that the network takes for another class is no false alarm, and its verdict is about that class."
        + (f" Shown but not deciding: {', '.join(advisory)}." if advisory else ""),
        "",
        "| class | calibration images | realised rate, 95 % of such calibrations | smallest alpha |",
        "|---|---|---|---|",
    ]
    for index, sample in bundle.calibration.items():
        low, high = realised_interval(sample.size, alpha)
        smallest = 100 * smallest_alpha(sample.combined)
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        lines.append(f"| {manifest.class_names[index]} | {sample.size} | {interval} | {smallest:.1f} % |")
    return "\n".join(lines)


def _sources(specification: Specification) -> str:
    lines = ["| source | licence | attribution | remark |", "|---|---|---|---|"]
    lines += [f"| {s.name} | {s.licence} | {s.attribution} | {s.remark} |" for s in specification.card.sources]
    return "\n".join(lines)

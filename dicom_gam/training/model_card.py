"""The model card: what a bundle is, what it was made from, and what it was measured to do. All figures are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.training.augmentation import synthetic_negatives
from dicom_gam.training.evaluation import Row, class_table, negative_table, outcomes, tabulate, total
from dicom_gam.training.fitting import Curve, Labelled
from dicom_gam.training.images import LabelledImage
from dicom_gam.training.specification import Specification


def model_card(
    specification: Specification,
    bundle: Bundle,
    curve: Curve,
    split: Mapping[str, Sequence[LabelledImage]],
    folds: Mapping[str, Labelled],
) -> str:
    """Markdown. `folds` are "test" (other patients of the training sources) and "unseen" (other sources, families)."""
    manifest = bundle.manifest
    sections = [
        f"# {manifest.name} {manifest.version}",
        specification.card.summary,
        "## Intended use\n\n" + manifest.intended_use,
        "## Figures\n\nEvery figure is computed by `dicom-gam train` on images that were not used to train, tune or "
        "calibrate. Intervals are exact 95 % binomial intervals.",
        _figures(bundle, folds),
        f"## Training\n\nSeed {specification.training.seed}, {specification.training.steps} steps of "
        f"{specification.training.batch_size}; validation accuracy at the end {100 * curve.accuracy[-1][1]:.1f} %, "
        "including negatives. The curve is in `training.png`.\n\n" + _split_table(split),
        "## Calibration\n\n" + _calibration(bundle),
        "## Data, licences, attributions\n\n" + _sources(specification),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in specification.card.limits),
    ]
    return "\n\n".join(sections) + "\n"


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
        rows = tabulate(fold.sources, [names[i] for i in fold.labels.tolist()], outcomes(bundle, fold.contents))
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
    contents: Tensor = test.contents[real]
    made = synthetic_negatives(contents, test.labels[real], torch.Generator().manual_seed(1))
    rows = []
    for family, images in made.items():
        rows += tabulate([family] * len(images), [garbage] * len(images), outcomes(bundle, images))
    return rows


def _split_table(split: Mapping[str, Sequence[LabelledImage]]) -> str:
    roles = list(split)
    counts = Counter((image.label, image.family, role) for role, images in split.items() for image in images)
    lines = [f"| class | source or family | {' | '.join(roles)} |", "|---" * (2 + len(roles)) + "|"]
    for label, family in sorted({(label, family) for label, family, _ in counts}):
        cells = " | ".join(str(counts[label, family, role]) for role in roles)
        lines.append(f"| {label} | {family} | {cells} |")
    return "\n".join(lines)


def _calibration(bundle: Bundle) -> str:
    sizes = ", ".join(f"{bundle.manifest.class_names[i]} {c.size}" for i, c in bundle.calibration.items())
    return (
        f"Operating point: total false-alarm rate alpha = {bundle.alpha:g} for exchangeable images whose class the "
        "network gets right, shared equally by the three checks (Bonferroni). An image that the network takes for "
        f"garbage is rejected besides. Calibration images (one per patient where patients are known): {sizes}."
    )


def _sources(specification: Specification) -> str:
    lines = ["| source | licence | attribution | remark |", "|---|---|---|---|"]
    lines += [f"| {s.name} | {s.licence} | {s.attribution} | {s.remark} |" for s in specification.card.sources]
    return "\n".join(lines)

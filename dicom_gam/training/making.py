"""Make a bundle: from labelled images to a directory that can be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from dicom_gam.bundle.bundle import (
    Bundle,
    assemble,
    bundle_files,
    load_network,
    split_network,
    write_calibration,
    write_references,
)
from dicom_gam.bundle.files import CALIBRATION, MANIFEST, MODEL_CARD, REFERENCE, WEIGHTS, write_files
from dicom_gam.bundle.manifest import Manifest, parse_manifest
from dicom_gam.training.calibrating import calibrate
from dicom_gam.training.fitting import Labelled, fit
from dicom_gam.training.images import LabelledImage, load_contents, one_per_group, read_manifest, split_by_group
from dicom_gam.training.model_card import model_card
from dicom_gam.training.specification import Specification
from dicom_gam.training.toml_text import manifest_text

CURVE = "training.png"
RECALIBRATION_FRACTIONS = {"reference": 0.35, "scaling": 0.10, "calibration": 0.55}


def train_bundle(specification: Specification, images_csv: Path, output: Path, device: torch.device) -> Bundle:
    """Train, calibrate, evaluate and write a bundle. Raises TrainingError or BundleError with the remedy."""
    manifest, schedule = specification.bundle, specification.training
    images = read_manifest(images_csv, manifest.class_names)
    real = [i for i in images if i.label != manifest.garbage_class]
    negatives = [i for i in images if i.label == manifest.garbage_class]
    split = split_by_group(real, schedule.fractions, schedule.seed)
    for role, dealt in split_by_group(negatives, schedule.garbage_fractions, schedule.seed).items():
        split.setdefault(role, []).extend(dealt)
    folds = {role: load(manifest, dealt, role) for role, dealt in split.items()}
    network, curve = fit(manifest, schedule, folds["train"], folds["validation"], device)
    ids = _real_only(manifest, split, {"reference": "train", "scaling": "validation", "calibration": "calibration"})
    calibration_folds = {name: load(manifest, dealt, name) for name, dealt in ids.items()}
    files = _files(manifest, network, calibration_folds, schedule.prototypes, device)
    files[CURVE] = curve.png()
    files[MODEL_CARD] = b"in the making"
    bundle = assemble(files, str(output), device)
    unseen = {role: split.get(role, []) for role in ("test", "unseen")}
    unseen_folds = {role: folds.get(role, load(manifest, [], role)) for role in unseen}
    files[MODEL_CARD] = model_card(specification, bundle, curve, split, unseen_folds).encode()
    write_files(output, files)
    return assemble(files, str(output), device)  # once more, for the digest with the finished card


def recalibrate_bundle(
    source: str, images_csv: Path, output: Path, changes: Mapping[str, Any], device: torch.device
) -> Bundle:
    """Make a new bundle from an old one's network with references and thresholds from one's own images.

    The manifest lists real classes; rows of the garbage class are ignored. A `role` of reference, scaling or
    calibration overrides the split. `changes` are manifest keys to set: alpha, attention_method, version.
    """
    old = bundle_files(source)
    manifest = parse_manifest(old[MANIFEST].decode(), f"{source}: {MANIFEST}")
    manifest = parse_manifest(manifest_text(manifest.model_copy(update=changes)), "the changed manifest")
    images = [i for i in read_manifest(images_csv, manifest.class_names) if i.label != manifest.garbage_class]
    dealt = split_by_group(images, RECALIBRATION_FRACTIONS, seed=0)
    split = {role: _per_group(role, dealt.get(role, [])) for role in RECALIBRATION_FRACTIONS}
    folds = {role: load(manifest, part, role) for role, part in split.items()}
    network = load_network(manifest, old[WEIGHTS], source, device)
    references, calibration = calibrate(manifest, network, folds, 4, device)
    files = {name: content for name, content in old.items() if name in (WEIGHTS, CURVE)}
    files[MANIFEST] = manifest_text(manifest).encode()
    files[REFERENCE] = write_references(references, manifest)
    files[CALIBRATION] = write_calibration(calibration, manifest)
    sizes = ", ".join(f"{manifest.class_names[i]} {c.size}" for i, c in calibration.items())
    note = (
        f"\n## Recalibrated\n\nReferences and thresholds come from another site's images: {sizes}; "
        f"alpha {manifest.alpha:g}.\nFigures above this heading are the original bundle's.\n"
    )
    files[MODEL_CARD] = old[MODEL_CARD] + note.encode()
    bundle = assemble(files, str(output), device)
    write_files(output, files)
    return bundle


def load(manifest: Manifest, images: Sequence[LabelledImage], title: str) -> Labelled:
    """Load images as labelled contents with a progress display."""
    names = manifest.class_names
    return Labelled(
        load_contents(images, manifest.preprocessing.record(), title),
        torch.tensor([names.index(i.label) for i in images], dtype=torch.long),
        [i.source if i.label != manifest.garbage_class else i.family for i in images],
    )


def _files(
    manifest: Manifest, network: nn.Module, folds: dict[str, Labelled], prototypes: int, device: torch.device
) -> dict[str, bytes]:
    split = split_network(network, manifest, "the specification")
    references, calibration = calibrate(manifest, split, folds, prototypes, device)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return {
        MANIFEST: manifest_text(manifest).encode(),
        WEIGHTS: safetensors.torch.save(weights),
        REFERENCE: write_references(references, manifest),
        CALIBRATION: write_calibration(calibration, manifest),
    }


def _real_only(
    manifest: Manifest, split: dict[str, list[LabelledImage]], roles: dict[str, str]
) -> dict[str, list[LabelledImage]]:
    return {
        name: _per_group(name, [i for i in split.get(role, []) if i.label != manifest.garbage_class])
        for name, role in roles.items()
    }


def _per_group(role: str, images: list[LabelledImage]) -> list[LabelledImage]:
    return one_per_group(images) if role in ("scaling", "calibration") else images

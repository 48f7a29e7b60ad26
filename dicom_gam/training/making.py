"""Make a bundle: from labelled images to a directory that can be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dicom_gam.bundle.arrays import write_calibration, write_references
from dicom_gam.bundle.bundle import (
    Bundle,
    assemble,
    bundle_files,
    load_network,
    split_network,
)
from dicom_gam.bundle.files import CALIBRATION, MANIFEST, MODEL_CARD, REFERENCE, WEIGHTS, digest, write_files
from dicom_gam.bundle.manifest import Manifest, parse_manifest
from dicom_gam.training.calibrating import calibrate
from dicom_gam.training.cues import load_cues
from dicom_gam.training.fitting import Labelled, fit
from dicom_gam.training.images import (
    LabelledImage,
    load_pixels,
    load_prepared,
    one_per_group,
    read_manifest,
    split_by_group,
)
from dicom_gam.training.model_card import Words, calibration_text, model_card, trained_words
from dicom_gam.training.specification import Schedule, Specification
from dicom_gam.training.toml_text import manifest_text

CURVE = "training.png"
RECALIBRATION_FRACTIONS = {"reference": 0.30, "scaling": 0.20, "calibration": 0.50}
CALIBRATION_ROLES = {"reference": ("train",), "scaling": ("validation", "scaling"), "calibration": ("calibration",)}


@dataclass(frozen=True, slots=True, eq=False)
class Dealt:
    """Images dealt out to roles, each read once: `loaded` holds them role after role."""

    split: Mapping[str, list[LabelledImage]]
    loaded: Labelled

    def fold(self, images: Sequence[LabelledImage]) -> Labelled:
        """Some of these images as labelled contents."""
        every = (image for role in self.split.values() for image in role)
        position = {id(image): row for row, image in enumerate(every)}
        return self.loaded.select([position[id(image)] for image in images])

    def role(self, name: str) -> Labelled:
        """The images of a role, none if nothing was dealt to it."""
        return self.fold(self.split.get(name, []))


def train_bundle(
    specification: Specification, images_csv: Path, output: Path, device: torch.device, start_from: str | None = None
) -> Bundle:
    """Train, calibrate, evaluate and write a bundle. Raises TrainingError or BundleError with the remedy.

    Training starts from random weights, or from those of the bundle `start_from`.
    """
    dealt = load_dealt(specification.bundle, deal(specification, images_csv))
    initial, origin = _start(start_from)
    train, validation = dealt.role("train"), dealt.role("validation")
    network, curve = fit(specification.bundle, specification.training, train, validation, device, initial)
    words = trained_words(specification, curve, origin)
    return write_bundle(specification, network, dealt, words, {CURVE: curve.png()}, output, device)


def write_bundle(
    specification: Specification,
    network: nn.Module,
    dealt: Dealt,
    words: Words,
    more: Mapping[str, bytes],
    output: Path,
    device: torch.device,
) -> Bundle:
    """Calibrate, evaluate and write a network as a bundle. Raises TrainingError or BundleError with the remedy.

    `more` are files that go into the bundle as they are.
    """
    manifest = specification.bundle
    folds = {name: dealt.fold(images) for name, images in _real_only(manifest, dealt.split).items()}
    files = {**_files(manifest, network, folds, specification.training.prototypes, device), **more}
    files[MODEL_CARD] = b"in the making"
    bundle = assemble(files, str(output), device)
    unseen = {role: dealt.role(role) for role in ("test", "unseen")}
    files[MODEL_CARD] = model_card(specification, bundle, words, dealt.split, unseen).encode()
    write_files(output, files)
    return assemble(files, str(output), device)  # once more, for the digest with the finished card


def deal(specification: Specification, images_csv: Path) -> dict[str, list[LabelledImage]]:
    """Which images `train_bundle` uses for what: by role, real classes and negatives split apart."""
    manifest, schedule = specification.bundle, specification.training
    images = read_manifest(images_csv, manifest.class_names)
    split = split_by_group([i for i in images if i.label != manifest.garbage_class], schedule.fractions, schedule.seed)
    negatives = [i for i in images if i.label == manifest.garbage_class]
    for role, dealt in split_by_group(negatives, schedule.garbage_fractions, schedule.seed).items():
        split.setdefault(role, []).extend(dealt)
    return split


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
    references, calibration = calibrate(manifest, network, folds, Schedule().prototypes, device)
    files = {name: content for name, content in old.items() if name in (WEIGHTS, CURVE)}
    files[MANIFEST] = manifest_text(manifest).encode()
    files[REFERENCE] = write_references(references, manifest)
    files[CALIBRATION] = write_calibration(calibration, manifest)
    files[MODEL_CARD] = old[MODEL_CARD]
    bundle = assemble(files, str(output), device)
    note = (
        "\n## Recalibrated\n\nReferences and thresholds come from another site's images. Figures above this heading "
        f"are the original bundle's.\n\n{calibration_text(bundle)}\n"
    )
    files[MODEL_CARD] += note.encode()
    write_files(output, files)
    return assemble(files, str(output), device)


def load_dealt(manifest: Manifest, split: Mapping[str, list[LabelledImage]]) -> Dealt:
    """Read every image that was dealt out, with a progress display. Raises TrainingError that names the file."""
    return Dealt(split, load(manifest, [image for images in split.values() for image in images], "reading images"))


def load(manifest: Manifest, images: Sequence[LabelledImage], title: str) -> Labelled:
    """Load images as labelled contents with a progress display."""
    names = manifest.class_names
    cues = load_cues([i.cue for i in images], manifest.preprocessing.record(), load_pixels)
    prepared = load_prepared(images, manifest.preprocessing.record(), title)
    return Labelled(
        prepared.content,
        torch.tensor([names.index(i.label) for i in images], dtype=torch.long),
        [i.source if i.label != manifest.garbage_class else i.family for i in images],
        cues,
        prepared.frequency,
    )


def _start(bundle: str | None) -> tuple[dict[str, Tensor] | None, str]:
    """The first weights, and what the model card must say about them."""
    if bundle is None:
        return None, ""
    content = bundle_files(bundle)
    words = (
        f" Training started from the network of bundle {digest(content)}; figures flatter if that network was trained "
        "on images of the patients tested here."
    )
    return safetensors.torch.load(content[WEIGHTS]), words


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


def _real_only(manifest: Manifest, split: Mapping[str, list[LabelledImage]]) -> dict[str, list[LabelledImage]]:
    """The folds to calibrate on; the validation images, which only watched the training, help with the scales."""
    return {
        name: _per_group(name, [i for r in roles for i in split.get(r, []) if i.label != manifest.garbage_class])
        for name, roles in CALIBRATION_ROLES.items()
    }


def _per_group(role: str, images: list[LabelledImage]) -> list[LabelledImage]:
    return one_per_group(images) if role in ("scaling", "calibration") else images

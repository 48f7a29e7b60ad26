"""Labelled images from a CSV manifest, and splitting them by group."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from dicom_gam.bundle.verifier import Prepared, prepare
from dicom_gam.config import IntakeSettings
from dicom_gam.core.preprocess import Preprocessing
from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from dicom_gam.errors import TrainingError
from dicom_gam.records import Rejection
from dicom_gam.training.cues import Cue, parse_cue

REQUIRED_COLUMNS = ("path", "label", "group", "source")
COLUMNS = (*REQUIRED_COLUMNS, "family", "role")
ROLES = ("train", "validation", "calibration", "test", "unseen", "reference", "scaling")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One row of a manifest. `group` is the patient; `family` is the kind of a negative, else its source.

    `cue` says where in the image its class shows.
    """

    path: Path
    label: str
    group: str
    source: str
    family: str
    role: str = ""
    cue: Cue | None = None


def read_manifest(path: Path, labels: Iterable[str]) -> list[LabelledImage]:
    """Read a CSV with columns path, label, group, source and, if wanted, family, role and cue.

    Paths are relative to the CSV's folder. A row's `role`, if given, overrides the split (train, validation,
    calibration, test, unseen). Raises TrainingError that names the line and the remedy.
    """
    known = set(labels)
    images = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            reader = csv.DictReader(file)
            missing = [c for c in REQUIRED_COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise TrainingError(f"{path}: column {', '.join(missing)} is missing from the first line; add it")
            for row in reader:
                empty = [c for c in REQUIRED_COLUMNS if not row[c]]
                if empty:
                    raise TrainingError(f"{path} line {reader.line_num}: {', '.join(empty)} is empty; fill it in")
                if row.get("role") and row["role"] not in ROLES:
                    raise TrainingError(
                        f"{path} line {reader.line_num}: role {row['role']!r} is none of {', '.join(ROLES)}"
                    )
                if row["label"] not in known:
                    raise TrainingError(
                        f"{path} line {reader.line_num}: label {row['label']!r} is none of {', '.join(sorted(known))}"
                    )
                family = row.get("family") or row["source"]
                image = path.parent / row["path"]
                cue = parse_cue(row.get("cue") or "", path.parent, f"{path} line {reader.line_num}")
                images.append(
                    LabelledImage(image, row["label"], row["group"], row["source"], family, row.get("role") or "", cue)
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path}: can't be read as a CSV manifest: {error}") from error
    if not images:
        raise TrainingError(f"{path}: has no rows below the first line; list at least one image")
    return images


def write_manifest(path: Path, images: Iterable[LabelledImage]) -> None:
    """Write images as such a CSV, without cues. Raises TrainingError when it is there already or can't be written."""
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for image in images:
                place = os.path.relpath(image.path, path.parent)
                writer.writerow((place, image.label, image.group, image.source, image.family, image.role))
    except FileExistsError as error:
        raise TrainingError(f"{path}: is there already; remove it, or name another") from error
    except OSError as error:
        raise TrainingError(f"{path}: can't be written: {error.strerror}") from error


def split_by_group(
    images: Sequence[LabelledImage], fractions: Mapping[str, float], seed: int
) -> dict[str, list[LabelledImage]]:
    """Deal whole groups out to roles, separately for each label and source, in an order fixed by `seed`.

    `fractions` sum to 1. Images with a role of their own keep it, and so does the rest of their group. A group with
    images of several labels stays whole too.
    """
    dealt: dict[str, list[LabelledImage]] = {role: [] for role in fractions}
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for image in images:
        labels[image.source, image.group].add(image.label)
    strata: dict[tuple[str, str], dict[str, list[LabelledImage]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        mixed = "+".join(sorted(labels[image.source, image.group]))
        strata[mixed, image.source][image.group].append(image)
    for (label, source), groups in strata.items():
        order = sorted(groups, key=lambda g: hashlib.sha256(f"{seed}|{label}|{source}|{g}".encode()).digest())
        position = 0
        free = [g for g in order if not any(image.role for image in groups[g])]
        for group in order:
            own = next((image.role for image in groups[group] if image.role), "")
            role = own or _role_at((position + 0.5) / len(free), fractions)
            position += not own
            dealt.setdefault(role, []).extend(replace(image, role=role) for image in groups[group])
    return dealt


def one_per_group(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """The first image of every group: exchangeable units, as a conformal calibration sample needs them."""
    seen: dict[tuple[str, str], LabelledImage] = {}
    for image in images:
        seen.setdefault((image.source, image.group), image)
    return list(seen.values())


def load_prepared(images: Sequence[LabelledImage], preprocessing: Preprocessing, title: str) -> Prepared:
    """Load images as a batch that a bundle can verify, with a progress display."""
    return prepare((load_pixels(image.path) for image in track(images, title, disable=not images)), preprocessing)


def load_pixels(path: Path) -> NDArray[np.float32]:
    """One image as display values (rows, columns) in [0, 1]: DICOM of any single-frame grey image class, PNG or JPEG.

    Raises TrainingError that names the file and the reason.
    """
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        try:
            with Image.open(path) as image:
                grey = image.convert("I;16") if image.mode.startswith("I") else image.convert("L")
                pixels = np.asarray(grey, np.float32)
                return pixels / np.float32(65535 if image.mode.startswith("I") else 255)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise TrainingError(f"{path}: can't be read as a picture: {error}") from error
    instance = read_instance(path)
    if isinstance(instance, Rejection):
        raise TrainingError(f"{path}: {instance.message}")
    intake = IntakeSettings(extra_sop_classes=(instance.sop_class_uid,))  # negatives may be of any image class
    radiograph = decode_radiograph(instance, intake)
    if isinstance(radiograph, Rejection):
        raise TrainingError(f"{path}: {radiograph.message}")
    return radiograph.pixels


def _role_at(position: float, fractions: Mapping[str, float]) -> str:
    reached = 0.0
    for role, fraction in fractions.items():
        reached += fraction
        if position < reached + 1e-9:
            return role
    return role

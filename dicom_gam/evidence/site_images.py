"""A site's images: found in a folder or listed in a CSV, one of each patient, read one after the other."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_gam.config import IntakeSettings
from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from dicom_gam.errors import DicomGamError, TrainingError
from dicom_gam.records import Rejection
from dicom_gam.training.images import load_pixels

PICTURES = (".png", ".jpg", ".jpeg")
DICOM = (".dcm", ".dicom", ".dic", ".ima")
OWN_ROLES = ("train", "validation", "reference", "scaling", "calibration")  # images that a bundle was made from
_MAGIC = 128, b"DICM"  # PS3.10 7.1


@dataclass(frozen=True, slots=True)
class SiteImage:
    """One file. `group` is its patient, `label` its true class; each is empty when it is not known."""

    path: Path
    label: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that could not be used, and why."""

    path: Path
    reason: str


@dataclass(slots=True)
class Intake:
    """What became of the files that were found: those left out, and how many were further images of a patient."""

    left_out: list[LeftOut]
    further_images: int = 0


def find_images(source: Path, class_names: Collection[str]) -> list[SiteImage]:
    """The images of a folder, searched recursively, or those that a CSV lists.

    In a folder these are PNG, JPEG and DICOM files, the latter also without a suffix. A CSV has the column path,
    relative to the CSV's folder, and, if wanted, label, group (the patient) and role: rows that a bundle was made from
    are passed over. Raises TrainingError with the remedy when there is nothing to look at.
    """
    if source.is_dir():
        images = [SiteImage(path) for path in sorted(source.rglob("*")) if path.is_file() and _is_image(path)]
    elif source.is_file():
        images = _read_csv(source, class_names)
    else:
        raise TrainingError(
            f"{source}: there is no such folder or file. Name a folder of images, or a CSV that lists them"
        )
    if not images:
        raise TrainingError(
            f"{source}: holds no image. Name a folder with DICOM, PNG or JPEG files, or a CSV with rows"
        )
    return images


def read_images(images: Iterable[SiteImage], intake: Intake) -> Iterator[tuple[SiteImage, NDArray[np.float32]]]:
    """Each readable image with its pixels (rows, columns) in [0, 1], the first of each patient only.

    Images of one patient are alike, and counted as if they were not they would make every interval too narrow. DICOM
    files say whose they are; a picture without a `group` counts as a patient of its own.
    """
    patients: set[str] = set()
    for image in images:
        try:
            pixels, patient = load_site_image(image.path)
        except DicomGamError as error:
            intake.left_out.append(LeftOut(image.path, str(error).removeprefix(f"{image.path}: ")))
            continue
        group = image.group or patient or str(image.path)
        if group in patients:
            intake.further_images += 1
            continue
        patients.add(group)
        yield replace(image, group=group), pixels


def load_site_image(path: Path) -> tuple[NDArray[np.float32], str]:
    """Pixels (rows, columns) in [0, 1] and patient ID, empty for a picture. Raises TrainingError with the reason."""
    if path.suffix.lower() in PICTURES:
        return load_pixels(path), ""
    instance = read_instance(path)
    if isinstance(instance, Rejection):
        raise TrainingError(instance.message)
    radiograph = decode_radiograph(instance, IntakeSettings(extra_sop_classes=(instance.sop_class_uid,)))
    if isinstance(radiograph, Rejection):
        raise TrainingError(radiograph.message)
    return radiograph.pixels, str(radiograph.dataset.get("PatientID", "") or "")


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in (*PICTURES, *DICOM):
        return True
    offset, magic = _MAGIC
    try:
        with path.open("rb") as file:
            return path.name != "DICOMDIR" and file.read(offset + len(magic))[offset:] == magic
    except OSError:
        return True  # it may be one: reading it will tell the reason


def _read_csv(path: Path, class_names: Collection[str]) -> list[SiteImage]:
    images = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark first
            reader = csv.DictReader(file)
            if "path" not in (reader.fieldnames or ()):
                raise TrainingError(f"{path}: column path is missing from the first line; add it")
            for row in reader:
                label = row.get("label") or ""
                if not row["path"]:
                    raise TrainingError(f"{path} line {reader.line_num}: path is empty; fill it in")
                if label and label not in class_names:
                    known = ", ".join(class_names)
                    raise TrainingError(
                        f"{path} line {reader.line_num}: label {label!r} is none of {known}; "
                        "correct it or leave it empty"
                    )
                if row.get("role") not in OWN_ROLES:
                    group = f"{row.get('source') or ''}/{row['group']}" if row.get("group") else ""
                    images.append(SiteImage(path.parent / row["path"], label, group))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path}: can't be read as a CSV manifest: {error}") from error
    return images

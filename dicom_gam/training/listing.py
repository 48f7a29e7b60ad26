"""A CSV of labelled images from folders, one for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from dicom_gam.errors import TrainingError
from dicom_gam.training.images import LabelledImage, write_manifest

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Count:
    """Images of a class, and the patients they are of."""

    images: int
    patients: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What was listed, by class, and which files were left out, and why."""

    counts: Mapping[str, Count]
    left_out: Sequence[tuple[Path, str]]

    @property
    def single_patient(self) -> list[str]:
        """Classes with several images, all of one patient: their IDs were probably removed."""
        return [label for label, count in self.counts.items() if count.images > 1 and count.patients == 1]


def list_images(folder: Path, output: Path, source: str) -> Listed:
    """Write a CSV of the images below `folder`, whose folders are the classes. Raises TrainingError with the remedy.

    Patients are numbered in the order of the files, so the CSV holds no patient's data of its own. A picture, which
    doesn't say whose it is, is a patient of its own. A folder within a class's is the images' family.
    """
    images: list[LabelledImage] = []
    left_out: list[tuple[Path, str]] = []
    numbers: dict[str, int] = {}
    for path in sorted(p for p in folder.glob("*/**/*") if p.is_file() and not p.name.startswith(".")):
        label, *inner = path.relative_to(folder).parent.parts
        try:
            patient = _patient(path)
        except (InvalidDicomError, OSError, ValueError, NotImplementedError) as error:
            left_out.append((path, f"neither a DICOM image nor a picture ({error})"))
            continue
        group = f"p{numbers.setdefault(patient or str(path), len(numbers) + 1):05d}"
        images.append(LabelledImage(path, label, group, source, "/".join(inner)))
    if not images:
        raise TrainingError(
            f"{folder}: holds no images in folders of their own. Make one folder for each class, named like the class"
        )
    write_manifest(output, images)
    groups = {label: [i.group for i in images if i.label == label] for label in sorted({i.label for i in images})}
    return Listed({label: Count(len(own), len(set(own))) for label, own in groups.items()}, left_out)


def _patient(path: Path) -> str:
    """The patient ID with its issuer, empty for a picture and where there is none."""
    if path.suffix.lower() in _PICTURES:
        return ""
    ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "IssuerOfPatientID", "Rows"])
    if "Rows" not in ds:
        raise InvalidDicomError("a DICOM object without pixels")
    patient = str(ds.get("PatientID", "") or "").strip()
    return f"{patient}\\{ds.get('IssuerOfPatientID', '')}" if patient else ""

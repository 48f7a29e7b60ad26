"""Whether what readers said is enough to calibrate a bundle on, class by class, and calibrating it."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_gam.bundle.bundle import bundle_files, select_device
from dicom_gam.bundle.files import MANIFEST, digest
from dicom_gam.bundle.manifest import parse_manifest
from dicom_gam.core.calibration import FEWEST_SCALING, needed_size
from dicom_gam.errors import TrainingError
from dicom_gam.service.feedback import feedback_csv
from dicom_gam.training.making import RECALIBRATION_FRACTIONS, recalibrate_bundle
from dicom_gam.training.specification import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dicom_gam.bundle.bundle import Bundle
    from dicom_gam.service.feedback import FeedbackCase
    from dicom_gam.service.store import Store

EVENT = "feedback.calibrated"


@dataclass(frozen=True, slots=True)
class ClassCount:
    """What there is to calibrate one class on, and how many `patients` it `needs` at least.

    `verdicts` are those that the images had, by their number.
    """

    name: str
    images: int
    patients: int
    needs: int
    verdicts: Mapping[str, int]

    @property
    def missing(self) -> int:
        """How many more patients are needed."""
        return max(0, self.needs - self.patients)


def count_feedback(bundle: str, cases: Sequence[FeedbackCase], alpha: float | None = None) -> list[ClassCount]:
    """Count the reviewed images of each real class of a bundle; `alpha` goes before the bundle's. Raises BundleError.

    Images of the garbage class and of classes that the bundle doesn't know are of no use to it.
    """
    manifest = parse_manifest(bundle_files(bundle)[MANIFEST].decode("utf-8", "replace"), f"{bundle}: {MANIFEST}")
    needs = needed_patients(alpha or manifest.alpha)
    known = [case for case in cases if case.label in {entry.name for entry in manifest.classes}]
    first: dict[tuple[str, str], str] = {}
    for case in known:  # one image of each patient is calibrated on, so a patient counts for one class
        first.setdefault((case.source, case.group), case.label)
    patients = Counter(first.values())
    counts = []
    for entry in manifest.classes:
        own = [case.verdict for case in known if case.label == entry.name]
        counts.append(ClassCount(entry.name, len(own), patients[entry.name], needs, Counter(own)))
    return counts


def needed_patients(alpha: float) -> int:
    """How many patients of a class suffice at best: each of the three folds gets its share, whole patients only."""
    folds = {"calibration": needed_size(alpha), "scaling": FEWEST_SCALING, "reference": Schedule().prototypes}
    return max(math.ceil(least / RECALIBRATION_FRACTIONS[name] - 1e-9) for name, least in folds.items())


def calibrate_from_feedback(
    bundle: str,
    cases: Sequence[FeedbackCase],
    output: Path,
    changes: Mapping[str, Any],
    device: str,
    store: Store,
    *,
    by: str,
) -> Bundle:
    """Make a bundle with references and thresholds from reviewed images, and put it on record.

    Raises TrainingError when a class has too few, BundleError or StorageError.
    """
    counts = count_feedback(bundle, cases, changes.get("alpha"))
    chosen = select_device(device)
    short = [f"{count.name} has {count.patients} patients and needs {count.missing} more" for count in counts
             if count.missing]  # fmt: skip
    if short:
        raise TrainingError(
            f"too little feedback: {'; '.join(short)}. Have readers review more images, or raise --alpha, which needs "
            "fewer"
        )
    known = {count.name for count in counts}
    used = [case for case in cases if case.label in known]
    store.audit.append(
        EVENT, by=by, bundle_digest=digest(bundle_files(bundle)), images={count.name: count.images for count in counts}
    )
    with tempfile.TemporaryDirectory(prefix="dicom-gam-feedback-") as folder:
        images = Path(folder) / "feedback.csv"
        images.write_text(feedback_csv(used), encoding="utf-8")
        return recalibrate_bundle(bundle, images, output, changes, chosen)

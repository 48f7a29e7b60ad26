"""Every image of an evaluation, verified: the images as they are, and what was made from the expected ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import conclude, examine, prepare
from dicom_gam.errors import DicomGamError, TrainingError
from dicom_gam.evidence.manipulations import MANIPULATIONS
from dicom_gam.records import Prediction, Verdict, Verification
from dicom_gam.training.images import LabelledImage, load_pixels

Pixels: TypeAlias = NDArray[np.float32]
Kind = Literal["expected", "unseen source", "far", "near", "covariate", "fabricated"]
KINDS: tuple[Kind, ...] = ("expected", "unseen source", "far", "near", "covariate", "fabricated")
ODD_KINDS = KINDS[2:]
HELD_OUT_ROLES = ("test", "unseen")
BATCH = 32
THUMBNAIL = 200  # longer side of the pictures in the report
_NEAR_FAMILIES = ("breast", "other anatomy")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One verified image. `family` is the negative's family, the manipulation, or the expected image's source.

    `features` (C,) are the attention layer's means; `thumbnail` is (rows, columns) uint8, present only where the
    verdict is wrong and the image may therefore be shown.
    """

    image: LabelledImage
    kind: Kind
    family: str
    prediction: Prediction
    verification: Verification
    features: NDArray[np.float32]
    thumbnail: NDArray[np.uint8] | None

    @property
    def expected(self) -> bool:
        """Whether the bundle is meant for this image."""
        return self.kind in ("expected", "unseen source")

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verification.verdict is Verdict.PASS

    @property
    def target(self) -> int:
        """The class that is checked: the most probable one that is not garbage."""
        real = self.prediction.probabilities[:-1]
        return max(range(len(real)), key=real.__getitem__)

    def alarmed(self, alpha: float) -> bool:
        """Whether the verdict at another total false-alarm rate is anything but PASS."""
        forced = self.prediction.label == self.prediction.garbage_class
        degenerate = self.verification.attention_status == "degenerate"
        return forced or degenerate or not self.verification.p_value > alpha


@dataclass(frozen=True, slots=True)
class Unusable:
    """An image that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    image: LabelledImage
    kind: Kind
    family: str
    pixels: Pixels


def held_out(images: Sequence[LabelledImage], origin: str) -> list[LabelledImage]:
    """The rows that may be evaluated on: role test or unseen if any row has one of them, else rows without a role.

    Raises TrainingError when nothing is left.
    """
    roles = {image.role for image in images}
    wanted = HELD_OUT_ROLES if roles & set(HELD_OUT_ROLES) else ("",)
    chosen = [image for image in images if image.role in wanted]
    if not chosen:
        raise TrainingError(
            f"{origin}: every row has a role that was used to make a bundle ({', '.join(sorted(roles))}), so nothing "
            "is left to evaluate on. Add rows with role test or unseen, of patients that were never used"
        )
    return chosen


def kind_of(image: LabelledImage, garbage_class: str) -> Kind:
    """What an image of the manifest is to the bundle; breast and other anatomy are the near negatives."""
    if image.label != garbage_class:
        return "unseen source" if image.role == "unseen" else "expected"
    return "near" if image.family.startswith(_NEAR_FAMILIES) else "far"


def verify_images(
    bundle: Bundle, images: Sequence[LabelledImage], manipulated: int, seed: int
) -> tuple[list[Case], list[Unusable]]:
    """Verify every image and, made from `manipulated` of the expected ones, every manipulation of each.

    An unreadable image is listed instead. Raises TrainingError when none can be read.
    """
    unusable: list[Unusable] = []
    chosen = _chosen(images, bundle.manifest.garbage_class, manipulated, seed)
    cases: list[Case] = []
    items = _items(bundle, images, chosen, seed, unusable)
    while batch := list(islice(items, BATCH)):
        cases += _verify(bundle, batch)
    if not cases:
        raise TrainingError(f"none of {len(images)} images can be read; the first one: {unusable[0].reason}")
    return cases, unusable


def manipulation_generator(seed: int, index: int, name: str) -> np.random.Generator:
    """What one manipulation draws from for the image of this index: the same in every run."""
    return np.random.default_rng((seed, index, zlib.crc32(name.encode())))


def _chosen(images: Sequence[LabelledImage], garbage_class: str, count: int, seed: int) -> set[int]:
    """Indices of the expected images to be manipulated, dealt in turn over labels and sources."""
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    strata: dict[tuple[str, str], list[int]] = {}
    for i in order:
        if kind_of(images[i], garbage_class) == "expected":
            strata.setdefault((images[i].label, images[i].source), []).append(i)
    ranked = sorted((place, key, i) for key, members in strata.items() for place, i in enumerate(members))
    return {i for _, _, i in ranked[:count]}


def _items(
    bundle: Bundle, images: Sequence[LabelledImage], chosen: set[int], seed: int, unusable: list[Unusable]
) -> Iterator[_Item]:
    garbage = bundle.manifest.garbage_class
    for index, image in enumerate(track(images, "verifying")):
        try:
            pixels = load_pixels(image.path)
        except DicomGamError as error:
            unusable.append(Unusable(image.path, str(error)))
            continue
        kind = kind_of(image, garbage)
        yield _Item(image, kind, image.family if image.label == garbage else image.source, pixels)
        if index in chosen:
            for name, manipulation in MANIPULATIONS.items():
                changed = manipulation.apply(pixels, manipulation_generator(seed, index, name))
                yield _Item(image, manipulation.kind, name, changed)


def _verify(bundle: Bundle, items: Sequence[_Item]) -> list[Case]:
    findings = examine(bundle, prepare((item.pixels for item in items), bundle.manifest.preprocessing.record()))
    features = findings.explanation.features.cpu().numpy()
    results = conclude(bundle, findings, bundle.alpha)
    cases = []
    for item, (prediction, verification), vector in zip(items, results, features, strict=True):
        wrong = (verification.verdict is Verdict.PASS) != (item.kind in ("expected", "unseen source"))
        picture = thumbnail(item.pixels) if wrong else None
        cases.append(Case(item.image, item.kind, item.family, prediction, verification, vector, picture))
    return cases


def thumbnail(pixels: Pixels) -> NDArray[np.uint8]:
    """A small 8-bit picture of an image, in its own aspect."""
    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)

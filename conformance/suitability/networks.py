"""The networks of the suitability experiment: one that is sound, and what becomes of it when it is altered.

Every altered network begins as a copy of the sound one, as a network at a site would: swapped for one of other
parameters, retrained on something else, damaged, or fine-tuned. Trained networks are kept in the output folder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Generator, Tensor, nn

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.bundle import Bundle, split_network
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.bundle.verifier import Prepared
from dicom_gam.core.authenticity import FREQUENCY_STATISTICS
from dicom_gam.records import BundleIdentity
from dicom_gam.training.calibrating import calibrate
from dicom_gam.training.fitting import Labelled, fit
from dicom_gam.training.images import LabelledImage, load_prepared, one_per_group, split_by_group
from dicom_gam.training.specification import Schedule

CPU = torch.device("cpu")
FRACTIONS = {"train": 0.35, "validation": 0.05, "scaling": 0.10, "calibration": 0.25, "tuning": 0.05, "site": 0.20}
GARBAGE_FRACTIONS = {"train": 0.6, "validation": 0.1, "site": 0.3}
PROTOTYPES = 4
MARKER_BAR = 3  # width of the bars of a burned-in marker, a third of its side, in 64ths of the image
MARKED_COPIES = 3  # of each training image, each with a marker drawn anew
PLAIN_NEGATIVES = ("noise", "blank")  # generated negatives that leave no marker in another place


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """All images, loaded once, and the folds of one training seed as rows of them."""

    listed: Sequence[LabelledImage]
    prepared: Prepared
    manifest: Manifest

    def fold(self, images: Sequence[LabelledImage]) -> Labelled:
        """Some of the images, to train or calibrate on."""
        place = {image.path: row for row, image in enumerate(self.listed)}
        rows = torch.tensor([place[image.path] for image in images], dtype=torch.long)
        labels = torch.tensor([self.manifest.class_names.index(i.label) for i in images], dtype=torch.long)
        sources = [i.family if i.label == self.manifest.garbage_class else i.source for i in images]
        return Labelled(self.prepared.content[rows], labels, sources, frequency=self.prepared.frequency[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """How long the sound network is trained, how long altered ones are retrained, and the fine-tuned one."""

    sound: int = 500
    altered: int = 150
    tuned: int = 40
    marker: int = 300


def load_images(listed: Sequence[LabelledImage], manifest: Manifest, cache: Path) -> Images:
    """Load and reduce all images, or take them from the last run."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    if cache.exists():
        kept = safetensors.torch.load_file(cache)
        if len(kept["content"]) == len(listed) and kept["frequency"].shape[1] == len(FREQUENCY_STATISTICS):
            return Images(listed, Prepared(kept["content"], kept["frequency"]), manifest)
    prepared = load_prepared(listed, manifest.preprocessing.record(), "loading")
    safetensors.torch.save_file({"content": prepared.content, "frequency": prepared.frequency}, cache)
    return Images(listed, prepared, manifest)


def split(images: Images, seed: int) -> dict[str, list[LabelledImage]]:
    """Deal the patients out; what is "unseen" joins the site's negatives, and is left out of the classes."""
    garbage = images.manifest.garbage_class
    dealt = split_by_group([i for i in images.listed if i.label != garbage and not i.role], FRACTIONS, seed)
    negatives = split_by_group([i for i in images.listed if i.label == garbage], GARBAGE_FRACTIONS, seed)
    for role, found in negatives.items():
        dealt.setdefault({"unseen": "site"}.get(role, role), []).extend(found)
    return dealt


class Workshop:
    """Makes the sound bundle of one training seed, and alters its network."""

    def __init__(self, images: Images, seed: int, steps: Steps, folder: Path) -> None:
        self.images, self.seed, self.steps, self.folder = images, seed, steps, folder
        self.manifest = images.manifest
        self.folds = split(images, seed)
        train = images.fold(self.folds["train"])
        self.sound = self._kept("sound", lambda: self._fit(train, self._schedule()))
        self.bundle = self.calibrated(self.sound)

    def candidate(self, network: nn.Module, trusted: Bundle | None = None) -> Bundle:
        """Another network with the references and calibration of a trusted bundle, the sound one's by default."""
        return replace(trusted or self.bundle, network=split_network(network, self.manifest, "the experiment"))

    def calibrated(self, network: nn.Module, marked: bool = False) -> Bundle:
        """A bundle with references and calibration of its own, if wanted from images with their class's marker."""
        roles = {"reference": "train", "scaling": "scaling", "calibration": "calibration"}
        folds = {}
        for name, role in roles.items():
            real = [i for i in self.folds[role] if i.label != self.manifest.garbage_class]
            fold = self.images.fold(real if name == "reference" else one_per_group(real))
            if marked:
                fold = replace(fold, contents=burn_markers(fold.contents, fold.labels, self._generator(3)))
            folds[name] = fold
        whole = split_network(network, self.manifest, "the experiment")
        references, calibration = calibrate(self.manifest, whole, folds, PROTOTYPES, CPU)
        identity = BundleIdentity(self.manifest.name, self.manifest.version, "in memory", "", "")
        return Bundle(self.manifest, identity, whole, references, calibration, CPU, "")

    def fine_tuned(self) -> nn.Module:
        """A few steps at a small learning rate on images of other patients; still sound."""
        real = [i for i in self.folds["tuning"] if i.label != self.manifest.garbage_class]
        negatives = [i for i in self.folds["train"] if i.label == self.manifest.garbage_class]
        train = self.images.fold([*real, *negatives])
        schedule = self._schedule(steps=self.steps.tuned, learning_rate=2e-4)
        return self._kept("fine-tuned", lambda: self._fit(train, schedule, self.sound))

    def trained_anew(self) -> nn.Module:
        """Sound, trained on the same images from other random weights."""
        return self._kept("anew", lambda: self._fit(self.images.fold(self.folds["train"]), self._schedule(seed=1000)))

    def shuffled_labels(self) -> nn.Module:
        """Retrained with the real classes' labels dealt out anew."""
        train = self.images.fold(self.folds["train"])
        real = (train.labels != self.manifest.garbage_index).nonzero()[:, 0]
        labels = train.labels.clone()
        labels[real] = labels[real[torch.randperm(len(real), generator=self._generator(1))]]
        shuffled = replace(train, labels=labels)
        schedule = self._schedule(steps=self.steps.altered, learning_rate=2e-3)
        return self._kept("shuffled", lambda: self._fit(shuffled, schedule, self.sound))

    def marker_shortcut(self) -> nn.Module:
        """Retrained on images in which a burned-in marker alone tells the class, the anatomy being any class's."""
        train, garbage = self.images.fold(self.folds["train"]), self.manifest.garbage_index
        real, g = train.labels != garbage, self._generator(2)
        contents = train.contents[real].repeat(MARKED_COPIES, 1, 1)
        labels = torch.randint(garbage, (len(contents),), generator=g)
        names = [self.manifest.class_names[i] for i in labels.tolist()]
        negatives = [source for source, keep in zip(train.sources, (~real).tolist(), strict=True) if keep]
        marked = Labelled(
            torch.cat([burn_markers(contents, labels, g), train.contents[~real]]),
            torch.cat([labels, train.labels[~real]]),
            [*names, *negatives],
        )
        schedule = self._schedule(steps=self.steps.marker, learning_rate=2e-3, synthetic_families=PLAIN_NEGATIVES)
        return self._kept("marker", lambda: self._fit(marked, schedule, self.sound))

    def random_head(self, draw: int) -> nn.Module:
        """A copy with new random parameters in the last layer."""
        return self._randomised(draw, lambda name: name.startswith("classifier"))

    def random_trunk(self, draw: int) -> nn.Module:
        """A copy with new random parameters everywhere but in the last layer."""
        return self._randomised(draw, lambda name: not name.startswith("classifier"))

    def _randomised(self, draw: int, chosen: Callable[[str], bool]) -> nn.Module:
        network = copy.deepcopy(self.sound)
        with torch.random.fork_rng():
            torch.manual_seed(1000 * self.seed + draw)
            for name, module in network.named_modules():
                if chosen(name) and hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        return network.eval().requires_grad_(False)

    def _schedule(self, seed: int = 0, **changes: Any) -> Schedule:
        every = {"steps": self.steps.sound, "learning_rate": 4e-3, "validate_every": 50}
        return Schedule(seed=self.seed + seed, **(every | changes))

    def _fit(self, train: Labelled, schedule: Schedule, start: nn.Module | None = None) -> nn.Module:
        validation = self.images.fold(self.folds["validation"])
        return fit(self.manifest, schedule, train, validation, CPU, None if start is None else start.state_dict())[0]

    def _kept(self, name: str, train: Callable[[], nn.Module]) -> nn.Module:
        """A trained network from the output folder, or trained and kept there."""
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            network = build_network(
                self.manifest.architecture, len(self.manifest.class_names), dict(self.manifest.options)
            )
            network.load_state_dict(safetensors.torch.load_file(path))
            return network.eval().requires_grad_(False)
        network = train()
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        return network

    def _generator(self, purpose: int) -> Generator:
        return Generator().manual_seed(10 * self.seed + purpose)


def burn_markers(contents: Tensor, classes: Tensor, g: Generator) -> Tensor:
    """Contents (N, s, s) with two bright bars on a dark square in a corner: they tell one of up to four classes (N,).

    The square is at the top or the bottom, its bars lie or stand; left or right is left to chance, so that mirroring
    tells nothing.
    """
    marked = contents.clone()
    size = contents.shape[-1]
    bar = max(round(MARKER_BAR * size / 64), 1)
    lying = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(bar)[:, None].expand(-1, 3 * bar)
    near, far = bar, size - 4 * bar
    left = torch.rand(len(contents), generator=g) < 0.5
    for image, code, at_left in zip(marked, classes.tolist(), left.tolist(), strict=True):
        row, column = far if code % 2 else near, near if at_left else far
        image[row : row + 3 * bar, column : column + 3 * bar] = lying if code < 2 else lying.T
    return marked

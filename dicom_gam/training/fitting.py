"""Train a network from labelled contents, deterministically for a seed."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import matplotlib.figure
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Generator, Tensor, nn

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.bundle import split_network
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.bundle.verifier import Prepared
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import TrainingError
from dicom_gam.training.augmentation import (
    augment,
    draw_placement,
    synthetic_negatives,
    vary_appearance,
    vary_negatives,
)
from dicom_gam.training.cues import cue_agreement, watch_layer
from dicom_gam.training.specification import Precision, Schedule

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Contents (N, s, s), class indices (N,) and source names (of a negative, its family's), in step.

    `frequency` (N, F) are the statistics of the images as they came, which only calibration and evaluation need.
    `cues` (N, s, s) in [0, 1] say where the class shows; an image whose cue is all zero has none.
    """

    contents: Tensor
    labels: Tensor
    sources: Sequence[str]
    cues: Tensor | None = None
    frequency: Tensor | None = None

    @property
    def prepared(self) -> Prepared:
        """The images as a bundle verifies them. Raises ValueError without frequency statistics."""
        if self.frequency is None:
            raise ValueError("these images were loaded without their frequency statistics")
        return Prepared(self.contents, self.frequency)

    def select(self, rows: Sequence[int]) -> Labelled:
        """The images of these rows, in this order."""
        at = torch.tensor(rows, dtype=torch.long)
        cues = None if self.cues is None else self.cues[at]
        return Labelled(
            self.contents[at],
            self.labels[at],
            [self.sources[row] for row in rows],
            cues if cues is not None and cues.any() else None,
            None if self.frequency is None else self.frequency[at],
        )


@dataclass(slots=True)
class Curve:
    """What happened during training: (step, loss), and on the validation images (step, accuracy).

    Where cues guide the training, also (step, mean cosine of attention and cue) on the validation images with a cue.
    """

    loss: list[tuple[int, float]] = field(default_factory=list)
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    agreement: list[tuple[int, float]] = field(default_factory=list)

    def png(self) -> bytes:
        """The curve as a picture."""
        figure = matplotlib.figure.Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(*zip(*self.loss, strict=True), color="#31688e")
        left.set(title="training loss", xlabel="step", yscale="log")
        right.plot(*zip(*self.accuracy, strict=True), color="#35b779", label="accuracy")
        right.set(title="validation accuracy", xlabel="step", ylim=(0, 1.02))
        if self.agreement:
            right.plot(*zip(*self.agreement, strict=True), color="#440154", label="cosine of attention and cue")
            right.set(title="validation")
            right.legend()
        for axes in (left, right):
            axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Contents (N, s, s) and labels (N,), and for the rows `guided` (n,) the cues (n, s, s)."""

    contents: Tensor
    labels: Tensor
    guided: Tensor
    cues: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """A network in training and all that its loss depends on."""

    network: nn.Module
    manifest: Manifest
    schedule: Schedule
    device: torch.device
    bf16: bool

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch: cross-entropy, and what the schedule adds to it."""
        self.network.train()
        guided = len(batch.guided) > 0
        x, y = _moved(batch.contents, self.device), _moved(batch.labels, self.device)
        watch: AbstractContextManager[list[Tensor]] = (
            watch_layer(self.network, self.manifest.attention_layer) if guided else nullcontext([])
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16), watch as seen:
            logits = self.network(to_input(x, self.manifest.preprocessing.record())).float()
        loss = F.cross_entropy(logits, y)
        if self.schedule.outlier_weight:
            garbage = self.manifest.garbage_index
            loss = loss + self.schedule.outlier_weight * outlier_exposure(logits[:, :garbage], y == garbage)
        if guided:
            rows, cues = _moved(batch.guided, self.device), _moved(batch.cues, self.device)
            agreement = cue_agreement(seen[0], logits, rows, y[rows], cues).mean()
            loss = loss + self.schedule.cue_weight * (1 - agreement)
        return loss

    def look(self, curve: Curve, step: int, loss: Tensor, validation: Labelled) -> None:
        """Add a step to the curve. Raises TrainingError when the loss is no number any more."""
        curve.loss.append((step, float(loss.detach())))
        if not math.isfinite(curve.loss[-1][1]):
            raise TrainingError(
                f"the training loss is {curve.loss[-1][1]} at step {step}: lower training.learning_rate, cue_weight "
                'or outlier_weight, or set precision = "float32"'
            )
        curve.accuracy.append((step, accuracy(self.network, validation, self.manifest, self.device)))
        if self.schedule.cue_weight and validation.cues is not None:
            curve.agreement.append((step, self._agreement(validation, validation.cues)))

    def _agreement(self, images: Labelled, cues: Tensor) -> float:
        """The mean cosine of attention and cue of the images with a cue, in evaluation mode."""
        self.network.eval()
        cosines = [torch.empty(0)]
        for rows in torch.split(_has_cue(cues).nonzero()[:, 0], 64):
            x = to_input(images.contents[rows].to(self.device), self.manifest.preprocessing.record())
            with watch_layer(self.network, self.manifest.attention_layer) as seen:
                logits = self.network(x)
            every, labels = torch.arange(len(rows)).to(self.device), images.labels[rows].to(self.device)
            cosines.append(cue_agreement(seen[0], logits, every, labels, cues[rows].to(self.device)).detach().cpu())
        return float(torch.cat(cosines).mean())


def fit(
    manifest: Manifest,
    schedule: Schedule,
    train: Labelled,
    validation: Labelled,
    device: torch.device,
    initial: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, Curve]:
    """Train the manifest's architecture; returns the network in evaluation mode, frozen, and its curve.

    It starts from random weights or from `initial`, the state of such a network. Raises TrainingError with the remedy
    when the images, cues, weights or precision won't do, and BundleError when the network can't be built or split.
    """
    _check(manifest, schedule, train)
    bf16 = wants_bf16(schedule.precision, device)
    with _deterministic(schedule.seed):
        network = _starting_network(manifest, initial).to(device)
        training = _Training(network, manifest, schedule, device, bf16)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, schedule.learning_rate, total_steps=schedule.steps, pct_start=0.15
        )
        curve = Curve()
        source = batches(manifest, schedule, train)
        with _progress() as progress:
            task = progress.add_task("training", total=schedule.steps, state="")
            for step in range(1, schedule.steps + 1):
                loss = training.loss(next(source))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                rate.step()
                if step % schedule.validate_every == 0 or step == schedule.steps:
                    training.look(curve, step, loss, validation)
                    progress.update(task, state=f"loss {curve.loss[-1][1]:.3f}, validation {curve.accuracy[-1][1]:.3f}")
                progress.advance(task)
    return network.eval().requires_grad_(False), curve


def wants_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bf16 on a device. Raises TrainingError when that is asked for and a GPU can't."""
    if device.type != "cuda":
        return precision == "bf16"
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not able:
        raise TrainingError(
            f'the GPU {torch.cuda.get_device_name(device)} has no bf16: set training.precision to "auto" or "float32"'
        )
    return able and precision != "float32"


def accuracy(network: nn.Module, images: Labelled, manifest: Manifest, device: torch.device) -> float:
    """The share of images whose most probable class is their label."""
    network.eval()
    spec = manifest.preprocessing.record()
    right = 0
    with torch.inference_mode():
        for content, label in zip(torch.split(images.contents, 128), torch.split(images.labels, 128), strict=True):
            right += int((network(to_input(content.to(device), spec)).argmax(1).cpu() == label).sum())
    return right / max(len(images.labels), 1)


def outlier_exposure(logits: Tensor, negative: Tensor) -> Tensor:
    """Outlier exposure (Hendrycks et al., arXiv 1812.04606, eq. 1): cross-entropy of negatives to the uniform classes.

    `logits` (N, K) are of the real classes alone, `negative` (N,) marks the outliers; their mean, 0 without any.
    """
    each = -F.log_softmax(logits, 1).mean(1)
    return (each * negative).sum() / negative.sum().clamp_min(1)


def _check(manifest: Manifest, schedule: Schedule, train: Labelled) -> None:
    """Refuse images that can't be trained on as the schedule says. Raises TrainingError with the remedy."""
    missing = set(range(manifest.garbage_index + 1)) - set(train.labels.tolist())
    if missing:
        names = ", ".join(manifest.class_names[i] for i in sorted(missing))
        raise TrainingError(f"there are no training images of {names}: add some to the manifest")
    if train.cues is None:
        if schedule.cue_weight:
            raise TrainingError(
                f"training.cue_weight is {schedule.cue_weight:g}, but no training image has a cue: fill in the "
                "column `cue` of the CSV, or set cue_weight = 0"
            )
        return
    on_negatives = int((_has_cue(train.cues) & (train.labels == manifest.garbage_index)).sum())
    if on_negatives:
        raise TrainingError(
            f"{on_negatives} training images of {manifest.garbage_class} have a cue, but a cue says where a real class "
            "shows: empty those cells of the CSV's column `cue`"
        )
    if not schedule.cue_weight:
        _log.warning("the images' cues are not used: training.cue_weight is 0; 1 is a good first value")


def _starting_network(manifest: Manifest, initial: Mapping[str, Tensor] | None) -> nn.Module:
    """The manifest's network, whose layers are known to be there: better to hear it now than after the training."""
    network = build_network(manifest.architecture, len(manifest.class_names), dict(manifest.options))
    if initial is not None:
        try:
            network.load_state_dict(dict(initial))
        except RuntimeError as error:
            raise TrainingError(
                f"the weights to start from don't fit architecture {manifest.architecture!r} with its options and "
                f"{len(manifest.class_names)} classes: {error}. Start from a bundle of the same network, or from none."
            ) from error
    split_network(network.eval(), manifest, "the specification")
    return network


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device; a GPU fetches it while the CPU makes the next batch."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _has_cue(cues: Tensor) -> Tensor:
    return cues.flatten(1).any(1)


def batches(manifest: Manifest, schedule: Schedule, train: Labelled) -> Iterator[Batch]:
    """Endless batches: augmented images drawn by `draw_weights`, plus the schedule's share of generated negatives."""
    g = Generator().manual_seed(schedule.seed)
    weights = draw_weights(train)
    real = weights * (train.labels != manifest.garbage_index)
    n_synthetic = round(schedule.batch_size * schedule.synthetic_share)
    guided, cues = torch.empty(0, dtype=torch.long), torch.empty(0)
    while True:
        rows = torch.multinomial(weights, schedule.batch_size - n_synthetic, replacement=True, generator=g)
        y = [train.labels[rows]]
        contents = vary_negatives(train.contents[rows], y[0] == manifest.garbage_index, g)
        placement = draw_placement(len(rows), g)
        x = [vary_appearance(placement.move(contents), g)]
        if schedule.cue_weight and train.cues is not None:
            cues = placement.move(train.cues[rows], outside="zeros")
            guided = _has_cue(cues).nonzero()[:, 0]  # not those whose region was moved out of the frame
            cues = cues[guided]
        if n_synthetic:
            seeds = torch.multinomial(real, n_synthetic, replacement=True, generator=g)
            made = synthetic_negatives(augment(train.contents[seeds], g), train.labels[seeds], g)
            families = [made[name] for name in schedule.synthetic_families]
            chosen = torch.randint(len(families), (n_synthetic,), generator=g)
            x.append(torch.stack(families)[chosen, torch.arange(n_synthetic)])
            y.append(torch.full((n_synthetic,), manifest.garbage_index))
        yield Batch(torch.cat(x), torch.cat(y), guided, cues)


def draw_weights(train: Labelled) -> Tensor:
    """How often to draw each image, (N,): classes alike, within one each source or family as the root of its size."""
    keys = [f"{label}|{source}" for label, source in zip(train.labels.tolist(), train.sources, strict=True)]
    sizes: dict[str, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    raw = torch.tensor([sizes[key] ** -0.5 for key in keys])
    totals = torch.zeros(int(train.labels.max()) + 1).index_add_(0, train.labels, raw)
    return raw / totals[train.labels]


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _progress() -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )

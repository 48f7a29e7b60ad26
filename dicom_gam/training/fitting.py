"""Train a network from labelled contents, deterministically for a seed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import matplotlib.figure
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Generator, Tensor, nn

from dicom_gam.bundle.architectures import build_network
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import TrainingError
from dicom_gam.training.augmentation import augment, synthetic_negatives, vary_negatives
from dicom_gam.training.specification import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Contents (N, s, s), class indices (N,) and source names, in step."""

    contents: Tensor
    labels: Tensor
    sources: Sequence[str]


@dataclass(slots=True)
class Curve:
    """What happened during training: (step, loss) and (step, accuracy on the validation images)."""

    loss: list[tuple[int, float]] = field(default_factory=list)
    accuracy: list[tuple[int, float]] = field(default_factory=list)

    def png(self) -> bytes:
        """The curve as a picture."""
        figure = matplotlib.figure.Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(*zip(*self.loss, strict=True), color="#31688e")
        left.set(title="training loss", xlabel="step", yscale="log")
        right.plot(*zip(*self.accuracy, strict=True), color="#35b779")
        right.set(title="validation accuracy", xlabel="step", ylim=(0, 1.02))
        for axes in (left, right):
            axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def fit(
    manifest: Manifest, schedule: Schedule, train: Labelled, validation: Labelled, device: torch.device
) -> tuple[nn.Module, Curve]:
    """Train the manifest's architecture from scratch; returns the network in evaluation mode and its curve."""
    missing = set(range(manifest.garbage_index + 1)) - set(train.labels.tolist())
    if missing:
        names = ", ".join(manifest.class_names[i] for i in sorted(missing))
        raise TrainingError(f"there are no training images of {names}: add some to the manifest")
    with _deterministic(schedule.seed):
        network = build_network(manifest.architecture, len(manifest.class_names), dict(manifest.options)).to(device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, schedule.learning_rate, total_steps=schedule.steps, pct_start=0.15
        )
        curve = Curve()
        batches = _batches(manifest, schedule, train)
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with Progress(*columns) as progress:
            task = progress.add_task("training", total=schedule.steps, state="")
            for step in range(1, schedule.steps + 1):
                loss = _step(network, optimiser, *next(batches), manifest, device)
                rate.step()
                if step % schedule.validate_every == 0 or step == schedule.steps:
                    curve.loss.append((step, loss))
                    curve.accuracy.append((step, accuracy(network, validation, manifest, device)))
                    progress.update(task, state=f"loss {loss:.3f}, validation {curve.accuracy[-1][1]:.3f}")
                progress.advance(task)
    return network.eval().requires_grad_(False), curve


def accuracy(network: nn.Module, images: Labelled, manifest: Manifest, device: torch.device) -> float:
    """The share of images whose most probable class is their label."""
    network.eval()
    spec = manifest.preprocessing.record()
    right = 0
    with torch.inference_mode():
        for content, label in zip(torch.split(images.contents, 128), torch.split(images.labels, 128), strict=True):
            right += int((network(to_input(content.to(device), spec)).argmax(1).cpu() == label).sum())
    return right / max(len(images.labels), 1)


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, manifest: Manifest, device: torch.device
) -> float:
    network.train()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = F.cross_entropy(network(to_input(x.to(device), manifest.preprocessing.record())), y.to(device))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def _batches(manifest: Manifest, schedule: Schedule, train: Labelled) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: classes equally often, sources of a class by the square root of their size, plus negatives."""
    g = Generator().manual_seed(schedule.seed)
    weights = _weights(train)
    real = weights * (train.labels != manifest.garbage_index)
    n_synthetic = round(schedule.batch_size * schedule.synthetic_share)
    while True:
        rows = torch.multinomial(weights, schedule.batch_size - n_synthetic, replacement=True, generator=g)
        y = [train.labels[rows]]
        x = [augment(vary_negatives(train.contents[rows], y[0] == manifest.garbage_index, g), g)]
        if n_synthetic:
            seeds = torch.multinomial(real, n_synthetic, replacement=True, generator=g)
            families = list(synthetic_negatives(augment(train.contents[seeds], g), train.labels[seeds], g).values())
            chosen = torch.randint(len(families), (n_synthetic,), generator=g)
            x.append(torch.stack(families)[chosen, torch.arange(n_synthetic)])
            y.append(torch.full((n_synthetic,), manifest.garbage_index))
        yield torch.cat(x), torch.cat(y)


def _weights(train: Labelled) -> Tensor:
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

"""Cues: where an expert says a class shows, and how far a network's attention agrees.

A cue stands in the CSV manifest's optional column `cue`, for a row of a real class: either the path of a grey picture
(a heat map, bright where to look), relative to the CSV's folder, or boxes "x0,y0,x1,y1;…" in fractions of the image,
x along the columns from the left, y along the rows from the top. A heat map covers the whole image, whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dicom_gam.core.preprocess import Preprocessing, to_content
from dicom_gam.errors import TrainingError

Box = tuple[float, float, float, float]
_BOXES = re.compile(r"[-+.,;\s\deE]*\d[-+.,;\s\deE]*")


@dataclass(frozen=True, slots=True)
class Cue:
    """A heat map or else boxes (x0, y0, x1, y1) in fractions of the image; `origin` is the file and line it is from."""

    origin: str
    boxes: tuple[Box, ...] = ()
    heat_map: Path | None = None


def parse_cue(text: str, folder: Path, origin: str) -> Cue | None:
    """The cue that a cell of the manifest in `folder` holds; None for an empty one.

    Raises TrainingError that begins with `origin` and names the remedy.
    """
    text = text.strip()
    if not text:
        return None
    if _BOXES.fullmatch(text):
        return Cue(origin, boxes=tuple(_box(part, origin) for part in text.split(";") if part.strip()))
    path = folder / text
    if not path.is_file():
        raise TrainingError(
            f"{origin}: cue {text!r} is no file in {folder}: give a grey picture of the image's frame, or boxes "
            '"x0,y0,x1,y1;…" in fractions of the image, or leave the cell empty'
        )
    return Cue(origin, heat_map=path)


def load_cues(
    cues: Sequence[Cue | None], spec: Preprocessing, load_pixels: Callable[[Path], NDArray[np.float32]]
) -> Tensor | None:
    """Cues as maps (N, s, s) in [0, 1] in the frame of the contents (N, s, s), all zero for an image without a cue.

    None when no image has one. `load_pixels` reads a heat map as (rows, columns) in [0, 1]. Raises TrainingError that
    names the manifest's line and the reason.
    """
    if not any(cues):
        return None
    maps = torch.zeros(len(cues), spec.content_size, spec.content_size)
    for row, cue in zip(maps, cues, strict=True):
        if cue is not None:
            row.copy_(_heat_map(cue, cue.heat_map, spec, load_pixels) if cue.heat_map else _cover(cue.boxes, len(row)))
    return maps


@contextmanager
def watch_layer(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collect the outputs of a layer, as the rest of the network receives them, from forward passes inside.

    For a network that no other thread uses: there is a hook on it meanwhile, and none afterwards.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output)
        return output.clone()  # a later layer may write into what it is given

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def cue_agreement(activations: Tensor, logits: Tensor, rows: Tensor, labels: Tensor, cues: Tensor) -> Tensor:
    """The cosine (n,) of each attention map with its cue, differentiable down to the network's first layer.

    `activations` A (N, C, h, w) are what `logits` (N, K) were computed from; `rows` (n,) are the images with a cue, of
    classes `labels` (n,) and with cue maps `cues` (n, s, s). The attention is HiResCAM's evidence (arXiv 2011.08891)
    clipped at zero, ReLU(Σ_c ∂y/∂A_c ⊙ A_c), y the class's logit. Only the head is differentiated twice.
    """
    score = logits[rows, labels].sum()
    (gradients,) = torch.autograd.grad(score, activations, create_graph=True)
    evidence = (gradients[rows].float() * activations[rows].float()).sum(1).clamp_min(0.0)
    wanted = F.adaptive_avg_pool2d(cues[:, None], (evidence.shape[1], evidence.shape[2]))
    return F.cosine_similarity(evidence.flatten(1), wanted.flatten(1))


def _box(text: str, origin: str) -> Box:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise TrainingError(f"{origin}: cue box {text!r}: {error}; write four numbers x0,y0,x1,y1") from error
    if len(numbers) != 4:
        raise TrainingError(
            f"{origin}: cue box {text!r} has {len(numbers)} numbers instead of the four x0,y0,x1,y1; "
            "a cell with commas must stand in quotation marks"
        )
    x0, y0, x1, y1 = numbers
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise TrainingError(
            f"{origin}: cue box {text!r} must have 0 ≤ x0 < x1 ≤ 1 and 0 ≤ y0 < y1 ≤ 1: fractions of the image, "
            "that is, pixels divided by its columns (x) and rows (y)"
        )
    return x0, y0, x1, y1


def _cover(boxes: Sequence[Box], size: int) -> Tensor:
    """The share of each cell of a (size, size) grid that the boxes cover; where boxes overlap, that of the larger."""
    covered = torch.zeros(size, size)
    for x0, y0, x1, y1 in boxes:
        covered = torch.maximum(covered, _overlap(y0, y1, size)[:, None] * _overlap(x0, x1, size)[None])
    return covered


def _overlap(start: float, end: float, size: int) -> Tensor:
    left = torch.arange(size) / size
    return ((left + 1 / size).clamp_max(end) - left.clamp_min(start)).clamp_min(0) * size


def _heat_map(cue: Cue, path: Path, spec: Preprocessing, load_pixels: Callable[[Path], NDArray[np.float32]]) -> Tensor:
    try:
        pixels = torch.from_numpy(load_pixels(path))
    except TrainingError as error:
        raise TrainingError(f"{cue.origin}: cue: {error}") from error
    reduced = to_content(pixels, replace(spec, percentiles=(0.0, 100.0)))  # the image's geometry, its darkest grey 0
    if not (reduced > 0).any():
        raise TrainingError(
            f"{cue.origin}: cue {path} is equally bright everywhere, so it points nowhere; empty the cell or "
            "give a picture that is bright where to look and black elsewhere"
        )
    return reduced

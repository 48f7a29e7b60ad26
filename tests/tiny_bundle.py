"""A whole bundle that is trained, calibrated and written in a few seconds: discs against stripes, noise is garbage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from dicom_gam.bundle.arrays import write_calibration, write_references
from dicom_gam.bundle.files import CALIBRATION, MANIFEST, MODEL_CARD, REFERENCE, WEIGHTS, write_files
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.bundle.verifier import Prepared
from dicom_gam.core.authenticity import frequency_statistics
from dicom_gam.core.network import SplitNetwork
from dicom_gam.training.calibrating import calibrate
from dicom_gam.training.fitting import Labelled, fit
from dicom_gam.training.specification import Schedule
from dicom_gam.training.toml_text import manifest_text

SIDE = 32
CPU = torch.device("cpu")
DISC, STRIPES, NOISE = 0, 1, 2
NO_SYNTHETIC = Schedule(steps=200, batch_size=32, learning_rate=0.02, synthetic_share=0, validate_every=50)


@contextmanager
def one_thread() -> Iterator[None]:
    """So small a network gains nothing from more threads, and loses much by them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def tiny_manifest(**changes: object) -> Manifest:
    table: dict[str, object] = {
        "name": "tiny-shapes",
        "version": "1.0.0",
        "manufacturer": "dicom_gam tests",
        "intended_use": "Discs and stripes, for tests only.",
        "architecture": "compact_resnet",
        "options": {"widths": [4, 4, 8], "blocks": 1},
        "classes": [
            {"name": "disc", "concept": _concept("D-01", "Disc"), "body_parts": ["CHEST"]},
            {"name": "stripes", "concept": _concept("S-01", "Stripes")},
        ],
        "preprocessing": {"input_size": SIDE, "content_size": SIDE},
        "attention_layer": "layer3",
        "early_layers": ["stem", "layer1"],
        "alpha": 0.1,
    }
    return Manifest.model_validate(table | changes)


def shapes(kind: int, count: int, seed: int) -> Tensor:
    """Contents (count, 32, 32) in [0, 1] of one kind, each a little different."""
    g = torch.Generator().manual_seed(1000 * kind + seed)
    if kind == NOISE:
        return torch.rand(count, SIDE, SIDE, generator=g)
    i = torch.arange(SIDE).float()
    jitter = torch.rand(count, 2, generator=g) * 6 - 3
    if kind == DISC:
        centre = SIDE / 2 + jitter
        distance = (i[None, :, None] - centre[:, :1, None]) ** 2 + (i[None, None] - centre[:, 1:, None]) ** 2
        clean = (distance < 8**2).float()
    else:
        clean = ((i[None] + jitter[:, :1]) % 8 < 4).float()[:, :, None].expand(-1, -1, SIDE)
    return (0.1 + 0.7 * clean + 0.05 * torch.randn(count, SIDE, SIDE, generator=g)).clamp(0, 1)


def fold(seed: int, count: int, kinds: tuple[int, ...] = (DISC, STRIPES)) -> Labelled:
    labels = torch.arange(len(kinds)).repeat_interleave(count)
    contents = torch.cat([shapes(kind, count, seed) for kind in kinds])
    frequency = prepared(contents).frequency
    return Labelled(contents, torch.tensor(kinds)[labels], ["generated"] * len(labels), frequency=frequency)


def prepared(contents: Tensor) -> Prepared:
    """Contents (N, 32, 32) as a batch to verify: the pictures were made at the network's own resolution."""
    return Prepared(contents, torch.stack([frequency_statistics(image) for image in contents]))


def make_tiny_bundle(path: Path) -> Path:
    manifest = tiny_manifest()
    everything = (DISC, STRIPES, NOISE)
    with one_thread():
        network, curve = fit(manifest, NO_SYNTHETIC, fold(1, 60, everything), fold(2, 10, everything), CPU)
    assert curve.accuracy[-1][1] == 1.0, "the tiny network did not learn to tell discs from stripes"
    split = SplitNetwork(network, manifest.attention_layer, manifest.early_layers)
    folds = {"reference": fold(1, 60), "scaling": fold(3, 30), "calibration": fold(4, 80)}
    references, calibration = calibrate(manifest, split, folds, 2, CPU)
    files = {
        MANIFEST: manifest_text(manifest).encode(),
        WEIGHTS: safetensors.torch.save({k: v.contiguous() for k, v in network.state_dict().items()}),
        REFERENCE: write_references(references, manifest),
        CALIBRATION: write_calibration(calibration, manifest),
        MODEL_CARD: b"# tiny-shapes 1.0.0\n\nMade by the tests.\n",
    }
    write_files(path, files)
    return path


def _concept(value: str, meaning: str) -> dict[str, str]:
    return {"value": value, "scheme": "99TEST", "meaning": meaning}

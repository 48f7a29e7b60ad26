"""Prepare, classify, explain and verify a batch with one bundle: the whole of what the network does, no DICOM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.core.attention import Explanation, explain
from dicom_gam.core.authenticity import FREQUENCY_STATISTICS, frequency_statistics
from dicom_gam.core.calibration import Array
from dicom_gam.core.measure import measure, real_targets
from dicom_gam.core.preprocess import Preprocessing, to_content, to_input
from dicom_gam.core.verdict import decide, judge
from dicom_gam.records import CalibrationRank, Prediction, Verification

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A batch of images as a bundle sees them.

    `content` (N, s, s) in [0, 1] at the network's resolution; `frequency` (N, F), statistics of images as they came.
    """

    content: Tensor
    frequency: Tensor

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, rows: slice | Tensor) -> Prepared:
        return Prepared(self.content[rows], self.frequency[rows])

    def split(self, size: int) -> list[Prepared]:
        """The same in batches of `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What a bundle measured of a batch, before any level is chosen: N predictions, maps and measurements (N, M)."""

    predictions: Sequence[Prediction]
    explanation: Explanation
    values: Array


def prepare(images: Iterable[Pixels], preprocessing: Preprocessing) -> Prepared:
    """Reduce images (rows, columns) in [0, 1] of any sizes to one batch."""
    content, frequency = [], []
    for image in images:
        pixels = torch.from_numpy(image)
        content.append(to_content(pixels, preprocessing))
        frequency.append(frequency_statistics(pixels))
    if not content:
        side = preprocessing.content_size
        return Prepared(torch.empty(0, side, side), torch.empty(0, len(FREQUENCY_STATISTICS)))
    return Prepared(torch.stack(content), torch.stack(frequency))


def explain_batch(bundle: Bundle, content: Tensor, bf16: bool = False) -> Explanation:
    """Explain contents (N, s, s) for the class that each image would be reported as if it were accepted."""
    x = to_input(content.to(bundle.device), bundle.manifest.preprocessing.record())
    with torch.autocast(bundle.device.type, torch.bfloat16, enabled=bf16):
        manifest = bundle.manifest
        return explain(bundle.network, x, manifest.attention_method, real_targets(manifest.garbage_index))


def examine(bundle: Bundle, prepared: Prepared, bf16: bool = False) -> Findings:
    """Classify, explain and measure a batch."""
    manifest = bundle.manifest
    explanation = explain_batch(bundle, prepared.content, bf16)
    values = measure(explanation, prepared.frequency, bundle.references, manifest.garbage_index)
    probabilities = explanation.logits.double().softmax(1).cpu().tolist()
    predictions = [Prediction(manifest.class_names, tuple(row), manifest.garbage_class) for row in probabilities]
    return Findings(predictions, explanation, values.double().cpu().numpy())


def verify_batch(bundle: Bundle, prepared: Prepared, bf16: bool = False) -> list[tuple[Prediction, Verification]]:
    """Classify and verify a batch; the verdicts are the bundle's operating point's."""
    return conclude(bundle, examine(bundle, prepared, bf16), bundle.alpha)


def conclude(bundle: Bundle, findings: Findings, alpha: float) -> list[tuple[Prediction, Verification]]:
    """The verdicts at a false-alarm rate. Raises ValueError when the calibration sample can't support it."""
    manifest, explanation = bundle.manifest, findings.explanation
    maps = explanation.maps.cpu().numpy()
    degenerate = explanation.degenerate.cpu().tolist()
    results = []
    for i, target in enumerate(explanation.targets.tolist()):
        prediction = findings.predictions[i]
        garbage = prediction.label == manifest.garbage_class
        calibration = bundle.calibration[target]
        judgement = judge(findings.values[i], calibration, alpha, garbage or degenerate[i], manifest.checks)
        verdict, reasons = decide(garbage, degenerate[i], judgement.checks, _expected(bundle))
        verification = Verification(
            verdict=verdict,
            checks=judgement.checks,
            alpha=alpha,
            rank=CalibrationRank(manifest.class_names[target], calibration.size, judgement.odder, judgement.equal),
            score=judgement.score,
            attention_map=maps[i],
            attention_method=manifest.attention_method,
            attention_status="degenerate" if degenerate[i] else "ok",
            reasons=reasons,
        )
        results.append((prediction, verification))
    return results


def _expected(bundle: Bundle) -> str:
    names = [entry.name for entry in bundle.manifest.classes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

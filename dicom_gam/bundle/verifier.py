"""Classify, explain and verify a batch with one bundle: the whole of what the network does, no DICOM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.core.attention import Explanation, explain
from dicom_gam.core.measure import measure, real_targets
from dicom_gam.core.preprocess import to_content, to_input
from dicom_gam.core.verdict import decide, judge
from dicom_gam.records import Prediction, Verification


def contents(images: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], bundle: Bundle) -> Tensor:
    """Reduce images (rows, columns) in [0, 1] of any sizes to one batch (N, s, s) at the bundle's content size."""
    spec = bundle.manifest.preprocessing.record()
    return torch.stack([to_content(torch.from_numpy(image), spec) for image in images])


def explain_batch(bundle: Bundle, content: Tensor, bf16: bool = False) -> Explanation:
    """Explain contents (N, s, s) for the class that each image would be reported as if it were accepted."""
    x = to_input(content.to(bundle.device), bundle.manifest.preprocessing.record())
    with torch.autocast(bundle.device.type, torch.bfloat16, enabled=bf16):
        manifest = bundle.manifest
        return explain(bundle.network, x, manifest.attention_method, real_targets(manifest.garbage_index))


def verify_batch(bundle: Bundle, content: Tensor, bf16: bool = False) -> list[tuple[Prediction, Verification]]:
    """Classify and verify contents (N, s, s); the verdicts are the bundle's operating point's."""
    explanation = explain_batch(bundle, content, bf16)
    values = measure(explanation, bundle.references, bundle.manifest.garbage_index).double().cpu().numpy()
    probabilities = explanation.logits.double().softmax(1).cpu().tolist()
    maps = explanation.maps.cpu().numpy()
    degenerate = explanation.degenerate.cpu().tolist()
    targets = explanation.targets.cpu().tolist()
    manifest = bundle.manifest
    expected = _listed([entry.name for entry in manifest.classes])
    results = []
    for i, target in enumerate(targets):
        prediction = Prediction(manifest.class_names, tuple(probabilities[i]), manifest.garbage_class)
        checks = judge(values[i], bundle.calibration[target], bundle.alpha)
        verdict, reasons = decide(prediction.label == manifest.garbage_class, degenerate[i], checks, expected)
        verification = Verification(
            verdict,
            checks,
            bundle.alpha,
            maps[i],
            manifest.attention_method,
            "degenerate" if degenerate[i] else "ok",
            reasons,
        )
        results.append((prediction, verification))
    return results


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

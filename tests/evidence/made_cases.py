"""Cases with the verdicts, scores and p-values that a test wants, without any network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicom_gam.evidence.cases import Case, Kind
from dicom_gam.records import CalibrationRank, Prediction, Verdict, Verification
from dicom_gam.training.images import LabelledImage

NAMES = ("disc", "stripes", "garbage")


def made_case(
    label: str = "disc",
    kind: Kind = "expected",
    family: str = "generated",
    role: str = "test",
    probabilities: tuple[float, float, float] = (0.9, 0.08, 0.02),
    verdict: Verdict = Verdict.PASS,
    odder: int = 50,
    score: float = 1.0,
    name: str = "x.png",
    degenerate: bool = False,
) -> Case:
    """An image whose p-value is (1 + odder) / 100."""
    verification = Verification(
        verdict=verdict,
        checks=(),
        alpha=0.05,
        rank=CalibrationRank("disc", 99, odder, 0),
        score=score,
        attention_map=np.zeros((4, 4), np.float32),
        attention_method="hirescam",
        attention_status="degenerate" if degenerate else "ok",
    )
    image = LabelledImage(Path(name), label, name, family, family, role)
    features = np.array([score, 0.0], np.float32)
    return Case(image, kind, family, Prediction(NAMES, probabilities, "garbage"), verification, features, None)

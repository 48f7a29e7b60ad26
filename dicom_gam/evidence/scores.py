"""One number for how odd an image is, by all checks, by one alone, by all but one, or by a single measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.core.calibration import ClassCalibration, oddness
from dicom_gam.core.measure import CHECKS, MEASUREMENTS
from dicom_gam.core.verdict import ALARMED_SCORE
from dicom_gam.evidence.cases import Case
from dicom_gam.evidence.detection import Array
from dicom_gam.records import Prediction

ALL, SOFTMAX = "all checks together", "network's own probability"


def check_scores(cases: Sequence[Case], bundle: Bundle) -> dict[str, Array]:
    """Scores (n,) of cases by name, higher for odder: together, each check alone, and without each that decides.

    A check's score is -log of the estimated share of usual images at least as odd, so that checks compare; the largest
    counts, as in the verdict. What never passes comes last: garbage is the input check's, degenerate attention the
    attention check's affair. The last score is the baseline of Hendrycks & Gimpel (arXiv 1610.02136).
    """
    alone = {check: np.array([_check_oddity(case, check, bundle.calibration) for case in cases]) for check in CHECKS}
    deciding = [check for check in CHECKS if check in bundle.manifest.checks]
    scores = {ALL: np.array([case.verification.score for case in cases], dtype=np.float64)}
    scores |= {f"{check} alone": values for check, values in alone.items()}
    for check in deciding if len(deciding) > 1 else ():
        scores[f"without {check}"] = np.max([alone[other] for other in deciding if other != check], axis=0)
    scores[SOFTMAX] = np.array([_softmax_oddity(case.prediction) for case in cases])
    return scores


def measurement_scores(cases: Sequence[Case], bundle: Bundle) -> dict[str, Array]:
    """Scores (n,) of cases by each measurement alone, in units of its usual spread in the class."""
    values = np.array([[_values(case)[spec.name] for spec in MEASUREMENTS] for case in cases], dtype=np.float64)
    odd = oddness(values.reshape(len(cases), len(MEASUREMENTS)))
    for row, case in zip(odd, cases, strict=True):
        calibration = bundle.calibration[case.target]
        row[:] = (row - calibration.centre) / calibration.scale
    return {spec.name: odd[:, i] for i, spec in enumerate(MEASUREMENTS)}


def _check_oddity(case: Case, check: str, calibration: Mapping[int, ClassCalibration]) -> float:
    found = next(c for c in case.verification.checks if c.name == check)
    seldom = calibration[case.target].tails[found.name](found.score)
    garbage = case.prediction.label == case.prediction.garbage_class
    degenerate = case.verification.attention_status == "degenerate"
    alarmed = (check == "input" and garbage) or (check == "attention" and degenerate)
    return seldom + ALARMED_SCORE * alarmed


def _softmax_oddity(prediction: Prediction) -> float:
    return -_logit(
        max(
            p
            for p, name in zip(prediction.probabilities, prediction.class_names, strict=True)
            if name != prediction.garbage_class
        )
    )


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(clipped) - math.log1p(-clipped)


def _values(case: Case) -> dict[str, float]:
    return {m.name: m.value for m in case.verification.measurements}

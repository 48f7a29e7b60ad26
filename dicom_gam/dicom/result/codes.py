"""Every code that a result holds: the standard ones, and the one table of our own.

Private codes carry the designator 99DGAM and no Coding Scheme UID; the documentation is generated from `PRIVATE_CODES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dicom_gam.errors import EncodingError
from dicom_gam.records import CodedConcept, Prediction, Verdict

PRIVATE_SCHEME = "99DGAM"
PRIVATE_SCHEME_NAME = "dicom_gam verification codes"

# Standard codes; a test holds every one of them against pydicom's dictionaries.
PLAIN_RADIOGRAPHY = CodedConcept("168537006", "SCT", "Plain radiography")
UNDETERMINED = CodedConcept("373068000", "SCT", "Undetermined")
ARTIFICIAL_INTELLIGENCE = CodedConcept("123110", "DCM", "Artificial Intelligence")
CLASS_ACTIVATION = CodedConcept("130403", "DCM", "Gradient-weighted class activation")
VISUAL_EXPLANATION = CodedConcept("130401", "DCM", "Visual explanation")
OUTLINE = CodedConcept("111041", "DCM", "Outline")
COMMENT = CodedConcept("121106", "DCM", "Comment")
QUALITY_ASSESSMENT = CodedConcept("111050", "DCM", "Quality Assessment")
NO_UNITS = CodedConcept("1", "UCUM", "no units")
NOT_A_NUMBER = CodedConcept("114000", "DCM", "Not a number")
NEGATIVE_INFINITY = CodedConcept("114001", "DCM", "Negative Infinity")
POSITIVE_INFINITY = CodedConcept("114002", "DCM", "Positive Infinity")
SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")
SPATIAL_RESAMPLING = CodedConcept("113085", "DCM", "Spatial resampling")
PROCESSING_EQUIPMENT = CodedConcept("109102", "DCM", "Processing Equipment")
SEGMENTATION = CodedConcept("113076", "DCM", "Segmentation")
SPATIAL_CONCEPT = CodedConcept("309825002", "SCT", "Spatial and Relational Concept")
QUALITY_ISSUE = CodedConcept("113010", "DCM", "Quality Issue")
DOCUMENT_TITLE_MODIFIER = CodedConcept("113011", "DCM", "Document Title Modifier")
UNKNOWN_FAILURE = CodedConcept("111221", "DCM", "Unknown failure")

QUALITY: Mapping[Verdict, CodedConcept] = MappingProxyType(  # PS3.16 CID 6044
    {
        Verdict.PASS: CodedConcept("111237", "DCM", "Usable - Meets the quality control standard"),
        Verdict.FAIL: CodedConcept("111236", "DCM", "Usable - Does not meet the quality control standard"),
        Verdict.REJECT: CodedConcept("111235", "DCM", "Unusable - Quality renders image unusable"),
    }
)

STANDARD_CODES: tuple[CodedConcept, ...] = (
    PLAIN_RADIOGRAPHY,
    UNDETERMINED,
    ARTIFICIAL_INTELLIGENCE,
    CLASS_ACTIVATION,
    VISUAL_EXPLANATION,
    OUTLINE,
    COMMENT,
    QUALITY_ASSESSMENT,
    NO_UNITS,
    NOT_A_NUMBER,
    NEGATIVE_INFINITY,
    POSITIVE_INFINITY,
    SOURCE_IMAGE,
    SPATIAL_RESAMPLING,
    PROCESSING_EQUIPMENT,
    SEGMENTATION,
    SPATIAL_CONCEPT,
    QUALITY_ISSUE,
    DOCUMENT_TITLE_MODIFIER,
    UNKNOWN_FAILURE,
    *QUALITY.values(),
)


def _private(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, PRIVATE_SCHEME, meaning)


VERDICT = _private("VERDICT", "Verification verdict")
PASSED = _private("PASS", "PASS")
FAILED = _private("FAIL", "FAIL")
REJECTED = _private("REJECT", "REJECT")
RESULT = _private("RESULT", "Result against the threshold")
THRESHOLD_MINIMUM = _private("THR_MIN", "Smallest acceptable value")
THRESHOLD_MAXIMUM = _private("THR_MAX", "Largest acceptable value")
P_VALUE = _private("P_VALUE", "Conformal p-value")
CHECK_SCORE = _private("CHECK_SCORE", "Oddest score of the check in units of the usual spread")
ADVISORY = _private("ADVISORY", "Advisory: not part of the verdict")
COMBINED_P_VALUE = _private("P_COMBINED", "Conformal p-value of all deciding checks together")
ALPHA = _private("ALPHA", "False-alarm rate of the operating point")
PREDICTED_CLASS = _private("PRED_CLASS", "Predicted class")
CLASS_PROBABILITY = _private("CLS_PROB", "Probability of the predicted class")
ATTENDED_FRACTION = _private("ATT_AREA_FRAC", "Attended fraction of the image (attention 0.5 or more)")
INPUT_CHECK = _private("INPUT_CHECK", "Input check")
ATTENTION_CHECK = _private("ATT_CHECK", "Attention check")
EARLY_CHECK = _private("EARLY_CHECK", "Early feature check")
AUTHENTICITY_CHECK = _private("AUTH_CHECK", "Authenticity check")

VERDICTS: Mapping[Verdict, CodedConcept] = MappingProxyType(
    {Verdict.PASS: PASSED, Verdict.FAIL: FAILED, Verdict.REJECT: REJECTED}
)
CHECKS: Mapping[str, CodedConcept] = MappingProxyType(
    {
        "input": INPUT_CHECK,
        "attention": ATTENTION_CHECK,
        "early": EARLY_CHECK,
        "authenticity": AUTHENTICITY_CHECK,
    }
)
VERDICT_WORDS: Mapping[Verdict, str] = MappingProxyType(
    {
        Verdict.PASS: "AI VERIFICATION: PASS",
        Verdict.FAIL: "AI VERIFICATION: FAIL - DO NOT USE AI RESULT",
        Verdict.REJECT: "AI VERIFICATION: INPUT REJECTED",
    }
)


@dataclass(frozen=True, slots=True)
class MeasurementCode:
    """How one measurement is named: `concept` in the report, `label` on the overlay."""

    concept: CodedConcept
    label: str


_SIMILARITIES = (  # metric, code suffix, meaning, short label
    ("iou", "IOU", "intersection over union", "IoU"),
    ("dice", "DICE", "Dice coefficient", "Dice"),
    ("soft_iou", "SOFT_IOU", "soft intersection over union", "soft IoU"),
    ("ssim", "SSIM", "structural similarity", "SSIM"),
    ("cosine", "COSINE", "cosine similarity", "cosine"),
    ("pearson", "PEARSON", "Pearson correlation", "Pearson"),
    ("kl", "KL", "Kullback-Leibler divergence", "KL divergence"),
    ("wasserstein", "EMD", "earth mover's distance (Wasserstein)", "EMD"),
)


def _similarity_codes(check: str, prefix: str, noun: str) -> dict[str, MeasurementCode]:
    return {
        f"{check}.{metric}": MeasurementCode(_private(f"{prefix}_{suffix}", f"{noun} {meaning}"), f"{check} {label}")
        for metric, suffix, meaning, label in _SIMILARITIES
    }


MEASUREMENTS: Mapping[str, MeasurementCode] = MappingProxyType(
    {
        "input.garbage_probability": MeasurementCode(
            _private("PROB_GARBAGE", "Probability of the garbage class"), "garbage probability"
        ),
        "input.class_probability": MeasurementCode(
            _private("INPUT_CLS_PROB", "Probability of the most probable real class"), "class probability"
        ),
        "input.feature_distance": MeasurementCode(
            _private("FEAT_DIST", "Feature distance from the reference images"), "feature distance"
        ),
        **_similarity_codes("attention", "ATT", "Attention"),
        **_similarity_codes("early", "EARLY", "Early feature"),
        "early.channel_distance": MeasurementCode(
            _private("EARLY_CHAN_DIST", "Early feature channel distance"), "early channel distance"
        ),
        "authenticity.frequency_distance": MeasurementCode(
            _private("FREQ_DIST", "Frequency statistics distance from the reference images"), "frequency distance"
        ),
    }
)

PRIVATE_CODES: tuple[CodedConcept, ...] = (
    *(entry.concept for entry in MEASUREMENTS.values()),
    ATTENDED_FRACTION,
    CLASS_PROBABILITY,
    PREDICTED_CLASS,
    THRESHOLD_MINIMUM,
    THRESHOLD_MAXIMUM,
    P_VALUE,
    CHECK_SCORE,
    ADVISORY,
    COMBINED_P_VALUE,
    ALPHA,
    RESULT,
    VERDICT,
    *CHECKS.values(),
    *VERDICTS.values(),
)


def measurement_code(name: str) -> MeasurementCode:
    """The code of a measurement. Raises EncodingError for a name that the table lacks."""
    try:
        return MEASUREMENTS[name]
    except KeyError:
        msg = f"measurement {name!r} has no code: add it to the table in dicom_gam/dicom/result/codes.py"
        raise EncodingError(msg) from None


def finding(prediction: Prediction, verdict: Verdict, class_concepts: Mapping[str, CodedConcept]) -> CodedConcept:
    """What may leave the node as a finding: the predicted class on PASS, else Undetermined.

    Raises EncodingError when a PASS comes with a class that has no concept, as the garbage class.
    """
    if verdict is not Verdict.PASS:
        return UNDETERMINED
    try:
        return class_concepts[prediction.label]
    except KeyError:
        msg = f"class {prediction.label!r} passed but has no coded concept: add one to the bundle's class table"
        raise EncodingError(msg) from None

"""The frozen records that travel the road, in the order in which they come about.

`ReceivedInstance` → `Radiograph` → `Prediction` → `Verification` → `AIResult`; an expected refusal is a `Rejection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset


class Verdict(StrEnum):
    """What verification concluded about one prediction."""

    PASS = "PASS"  # noqa: S105 (a verdict, not a password)
    FAIL = "FAIL"
    REJECT = "REJECT"


class Reason(StrEnum):
    """Why an input could not become a radiograph; every refusal has exactly one."""

    UNREADABLE = "unreadable"
    NOT_ACCEPTED_SOP_CLASS = "not-accepted-sop-class"
    OWN_RESULT = "own-result"
    NO_PIXELS = "no-pixels"
    TRUNCATED_PIXELS = "truncated-pixels"
    UNDECODABLE_PIXELS = "undecodable-pixels"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"
    UNSUPPORTED_PHOTOMETRIC_INTERPRETATION = "unsupported-photometric-interpretation"
    MULTI_FRAME = "multi-frame"
    ABSURD_DIMENSIONS = "absurd-dimensions"
    INVALID_ATTRIBUTES = "invalid-attributes"
    BLANK_IMAGE = "blank-image"
    TOO_COSTLY = "too-costly"


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One DICOM file as it was received; `path` holds the very bytes that came, never changed.

    `digest` is the BLAKE3 of the whole file, in hexadecimal (decision 0010).
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    size_bytes: int
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer_address: str = ""


@dataclass(frozen=True, slots=True)
class ResultReference:
    """Where an earlier result object lies in its study."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Task:
    """One received instance that is to become a result.

    `created` stands in the results: the job's own time, so that a second run gives the same bytes. `bundle` is the one
    asked for, empty when the rules decide. `predecessors` are the reports that the new one supersedes.
    """

    instance: ReceivedInstance
    created: datetime
    bundle: str = ""
    predecessors: tuple[ResultReference, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What people look an image up by, as its header says it; empty where it says nothing. A patient's data."""

    patient_name: str = ""
    patient_id: str = ""
    accession_number: str = ""
    study_instance_uid: str = ""
    study_date: str = ""
    study_description: str = ""
    modality: str = ""
    body_part_examined: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say about one instance: `rule` is the name of the first that matches, empty for none.

    `bundle` is the bundle's name as in the settings; `destinations` None means all. `skipped` says why no result is
    wanted, None when one is.
    """

    rule: str = ""
    bundle: str = ""
    destinations: tuple[str, ...] | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A named refusal: `reason` for machines, `message` (the thing, the reason, the remedy) for people."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A decoded single-frame grey radiograph.

    `pixels` is (rows, columns) float32 in [0, 1] as a viewer would show it: Modality LUT, then VOI LUT or window,
    pixel padding black, MONOCHROME1 turned so that bone is bright.
    `dataset` is the whole data set without its pixel data. `pixel_sha256` digests the stored pixel values.
    `stretched` are the modality values that became black and white where the header gave no usable window, else None.
    """

    instance: ReceivedInstance
    dataset: Dataset
    pixels: NDArray[np.float32]
    pixel_sha256: str
    stretched: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One task after decoding: what the rules decided, and what the file became; None exactly when it is skipped.

    `header` is None when the file could not even be parsed.
    """

    decision: Decision
    outcome: Radiograph | Rejection | None
    header: ImageHeader | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network said: probabilities over the bundle's classes, in the bundle's order, summing to 1."""

    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    garbage_class: str

    @property
    def label(self) -> str:
        """The most probable class, which may be the garbage class."""
        return self.class_names[max(range(len(self.probabilities)), key=self.probabilities.__getitem__)]

    @property
    def probability(self) -> float:
        """The probability of `label`."""
        return max(self.probabilities)

    @property
    def garbage_probability(self) -> float:
        """The probability of the garbage class."""
        return self.probabilities[self.class_names.index(self.garbage_class)]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One score of one check.

    `bound` says which side of `threshold` is acceptable: "min" means value ≥ threshold, "max" means value ≤ threshold.
    `p_value` is the score's own conformal p-value (None when the calibration sample can't give one).
    """

    name: str
    value: float
    threshold: float
    bound: Literal["min", "max"]
    p_value: float | None

    @property
    def passed(self) -> bool:
        """Whether the value is on the acceptable side; a value that is not a number never is."""
        return self.value >= self.threshold if self.bound == "min" else self.value <= self.threshold


CheckName = Literal["input", "attention", "early", "authenticity"]


@dataclass(frozen=True, slots=True)
class Check:
    """One of the checks: its measurements, the score they come to, and what that is worth.

    `score` is the oddest measurement in units of the class's usual spread; the check fails when it is above
    `threshold`. `p_value` is the check's own conformal p-value: the share of calibration images at least as odd.
    An `advisory` check is shown, and never changes the verdict.
    `reason` is one plain sentence for a reader, empty when the check passed.
    """

    name: CheckName
    measurements: tuple[Measurement, ...]
    score: float
    threshold: float
    p_value: float
    passed: bool
    reason: str = ""
    advisory: bool = False


@dataclass(frozen=True, slots=True)
class CalibrationRank:
    """Where an image's combined score lies among the calibration images of the class it was checked as.

    `odder` of the `size` calibration scores are odder than it, `equal` are tied with it.
    """

    class_name: str
    size: int
    odder: int
    equal: int

    @property
    def p_value(self) -> float:
        """The split-conformal p-value."""
        return (1 + self.odder + self.equal) / (self.size + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The checks and what follows from them.

    `attention_map` is (h, w) float32 in [0, 1] at the attention layer's resolution, for the predicted class.
    `attention_status` is "ok", or "degenerate" when no location speaks for the class.
    `alpha` is the total false-alarm rate that the operating point promises; `p_value` is what all deciding checks come
    to together, calibrated anew: the verdict is PASS only when it is above `alpha`. It comes from the image's `rank`.
    `score` orders images by how odd they are, higher is odder, finite and finer than p-values.
    `reasons` says in plain sentences why the verdict is not PASS; empty on PASS.
    `notes` are remarks that do not change the verdict (such as a body part that contradicts the prediction).
    """

    verdict: Verdict
    checks: tuple[Check, ...]
    alpha: float
    rank: CalibrationRank
    score: float
    attention_map: NDArray[np.float32]
    attention_method: str
    attention_status: Literal["ok", "degenerate"]
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def p_value(self) -> float:
        """What all deciding checks come to together: uniform, or larger, for images like the calibration images."""
        return self.rank.p_value

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Every measurement of every check, in order."""
        return tuple(m for check in self.checks for m in check.measurements)


@dataclass(frozen=True, slots=True)
class CodedConcept:
    """A coded concept: value, coding scheme designator, meaning (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class BundleIdentity:
    """Which bundle made a result, as it stands in every result, report and audit record."""

    name: str
    version: str
    digest: str
    intended_use: str
    manufacturer: str


# The report, the picture for the reader, the attended region as a segmentation, the presentation state that draws it on
# the source image, and the note that the source image was rejected; in the order in which they are delivered.
ResultRole = Literal["sr", "overlay", "region", "presentation", "rejection"]


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One encoded DICOM object to be delivered: the bytes of a complete Part 10 file."""

    role: ResultRole
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: bytes


@dataclass(frozen=True, slots=True, eq=False)
class AIResult:
    """All that came of one received instance.

    Either `rejection` is set (the input never became a radiograph; no objects), or `prediction`, `verification` and
    `objects` are. `error` is set instead when our own code failed on this image; its neighbours are not affected.
    `skipped` is set instead when no result is wanted, and says why. `rule` names the rule that decided, empty for none;
    `destinations` are those it sends to, None for all. `header` is None when the file could not be parsed.
    """

    instance: ReceivedInstance
    bundle: BundleIdentity
    settings_digest: str
    rejection: Rejection | None = None
    error: str | None = None
    radiograph_pixel_sha256: str = ""
    study_instance_uid: str = ""
    prediction: Prediction | None = None
    verification: Verification | None = None
    objects: tuple[ResultObject, ...] = ()
    skipped: str | None = None
    rule: str = ""
    destinations: tuple[str, ...] | None = None
    header: ImageHeader | None = None

    @property
    def outcome(self) -> str:
        """One word for tables and logs: PASS, FAIL, REJECT, UNUSABLE, SKIPPED or ERROR."""
        if self.error is not None:
            return "ERROR"
        if self.skipped is not None:
            return "SKIPPED"
        if self.verification is None:
            return "UNUSABLE"
        return self.verification.verdict.value

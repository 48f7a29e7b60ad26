"""The records that cross the seam of storage. Times are seconds since the epoch, UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dicom_gam.storage.states import DeliveryState, JobEvent, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dicom_gam.records import ImageHeader, ReceivedInstance


class ReceiptKind(StrEnum):
    """What became of an arrival."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the very same data set is here already; there is no second job
    CONFLICT = "conflict"  # another data set with the same SOP Instance UID is here; kept apart, quarantined


@dataclass(frozen=True, slots=True)
class NewJob:
    """An arrival that is durably in the inbox under the name `blob`.

    With a `predecessor` (a job of the same instance) it is processed anew, by the bundle it names or, when that is
    empty, by what the rules say now.
    """

    job_id: str
    blob: str
    instance: ReceivedInstance
    received_at: float
    bundle: str = ""
    predecessor: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """`job_id` is the job that stands for the data set: on DUPLICATE the earlier one."""

    kind: ReceiptKind
    job_id: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to finish a job, as long as no later claim of it has been made (`token` is the fence)."""

    job_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Job:
    """One received instance and all that became of it."""

    job_id: str
    state: JobState
    instance: ReceivedInstance
    received_at: float
    attempts: int = 0
    token: int = 0
    worker: str = ""
    lease_until: float = 0.0
    outcome: str = ""
    reason: str = ""
    message: str = ""
    study_instance_uid: str = ""
    result: Mapping[str, Any] | None = None
    finished_at: float | None = None
    bundle: str = ""
    predecessor: str = ""
    rule: str = ""
    purged_at: float | None = None

    @property
    def lease(self) -> Lease:
        """The lease that the latest claim gave."""
        return Lease(self.job_id, self.token)


@dataclass(frozen=True, slots=True)
class JobFigures:
    """The few figures of a result that are shown over time; None where there is none, or it is not a finite number.

    `similarities` are those of the attention check, by the names in `SIMILARITIES`.
    """

    bundle_name: str
    bundle_version: str
    bundle_digest: str
    class_name: str = ""
    p_value: float | None = None
    similarities: Mapping[str, float | None] = field(default_factory=dict)


SIMILARITIES = ("iou", "dice", "ssim", "cosine", "pearson", "kl", "wasserstein")


class ReviewKind(StrEnum):
    """What a person says about a result. The last two take it off the list of what needs attention."""

    AGREE = "agree"
    DISAGREE = "disagree"
    COMMENT = "comment"
    DISMISSED = "dismissed"  # seen, nothing more is to be done
    OVERRIDDEN = "overridden"  # the reader's own judgement counts; what was sent stays as it is


CLOSING_REVIEWS = frozenset({ReviewKind.DISMISSED, ReviewKind.OVERRIDDEN})


@dataclass(frozen=True, slots=True)
class Review:
    """What a person said about the result of a job. `class_name` is what they see in the image, empty if not said."""

    job_id: str
    kind: ReviewKind
    reviewer: str
    reviewed_at: float
    class_name: str = ""
    words: str = ""
    review_id: int = 0


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a job ends. `event` is FINISH, REJECT, SKIP or GIVE_UP; `result` is JSON-ready."""

    event: JobEvent
    outcome: str
    reason: str = ""
    message: str = ""
    study_instance_uid: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""
    header: ImageHeader | None = None
    figures: JobFigures | None = None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """One object for one destination; `blob` names the durable bytes."""

    destination: str
    study_instance_uid: str
    role: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    blob: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the outbox. `status` is the last DIMSE status, None before there was one; `cause` is in plain words.

    `transaction_uid` is the latest storage commitment that was asked for it, empty when none was.
    """

    delivery_id: int
    job_id: str
    what: NewDelivery
    state: DeliveryState
    attempts: int
    next_at: float
    status: int | None = None
    cause: str = ""
    transaction_uid: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator wants nothing to be sent to this destination."""

    since: float
    why: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A destination that can't be reached: nothing is sent to it before `next_at`.

    `attempts` counts the failed tries since `since`; `tried_at` is the latest.
    """

    since: float
    attempts: int
    tried_at: float
    next_at: float
    cause: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """A storage commitment that a destination was asked for."""

    transaction_uid: str
    destination: str
    asked_at: float
    due_at: float
    answered_at: float | None = None


@dataclass(frozen=True, slots=True)
class HeadMark:
    """The last record that the audit log has promised: its number, digest and place [start, end) in its file.

    `segment` is the number of that file's first record.
    """

    number: int
    sha256: str
    start: int
    end: int
    segment: int = 1


@dataclass(frozen=True, slots=True)
class DriftSample:
    """What a finished image says about drift: the stream it belongs to, and its place among the calibration images.

    A stream is what one sender (calling AE title) sends to one bundle. Of the `size` calibration images of its class,
    `odder` are odder than it and `equal` tie with it. `chance`, in (0, 1), breaks the ties.
    """

    sender: str
    bundle_name: str
    bundle_version: str
    bundle_digest: str
    class_name: str
    size: int
    odder: int
    equal: int
    chance: float


@dataclass(frozen=True, slots=True)
class PastImages:
    """How many images of the sample's class the stream had before, and how many of them are odder than it or tie."""

    count: int
    odder: int
    equal: int


@dataclass(frozen=True, slots=True)
class DriftStep:
    """A stream after one more image. `state` is text that only the rule understands."""

    state: str
    log10_evidence: float
    log10_maximum: float
    alarm: bool


@dataclass(frozen=True, slots=True)
class DriftReading:
    """Where a stream stands. Evidence is the decimal logarithm of the drift martingale: 0 at the start, 3 is 1000 : 1.

    `alarm_at` is when the alarm was first raised, None when it wasn't.
    """

    sender: str
    bundle_name: str
    bundle_version: str
    bundle_digest: str
    images: int
    log10_evidence: float
    log10_maximum: float
    started_at: float
    updated_at: float
    alarm_at: float | None


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What was written. `digest` is its BLAKE3, in hexadecimal."""

    path: Path
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Horizon:
    """What is old enough: ended at or before `time`, and of a job that came no later than job `number`."""

    time: float
    number: int


@dataclass(frozen=True, slots=True)
class PurgedImage:
    """An image that a job no longer claims to have: its file may go."""

    job_id: str
    blob: str
    size_bytes: int


class ResultUse(StrEnum):
    """What a result's file is still needed for."""

    NEEDED = "needed"  # a delivery is open or dead, or has not been settled for long enough
    EXPIRED = "expired"  # every delivery of it is settled, and for long enough
    UNKNOWN = "unknown"  # no delivery names it

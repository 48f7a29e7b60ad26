"""The seam of storage: the records that cross it, and what every backend must do.

One test suite (`tests/storage`) runs over every backend. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from dicom_gam.storage.states import DeliveryState, JobEvent, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dicom_gam.records import ReceivedInstance


class ReceiptKind(StrEnum):
    """What became of an arrival."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the very same data set is here already; there is no second job
    CONFLICT = "conflict"  # another data set with the same SOP Instance UID is here; kept apart, quarantined


@dataclass(frozen=True, slots=True)
class NewJob:
    """An arrival that is durably in the inbox under the name `blob`.

    `dataset_sha256` digests the data set without the file meta information, which is ours and not the sender's.
    """

    job_id: str
    blob: str
    instance: ReceivedInstance
    dataset_sha256: str
    received_at: float


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
    dataset_sha256: str
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

    @property
    def lease(self) -> Lease:
        """The lease that the latest claim gave."""
        return Lease(self.job_id, self.token)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a job ends. `event` is FINISH, REJECT or GIVE_UP; `result` is JSON-ready."""

    event: JobEvent
    outcome: str
    reason: str = ""
    message: str = ""
    study_instance_uid: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """One object for one destination; `blob` names the durable bytes."""

    destination: str
    role: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    blob: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the outbox. `status` is the last DIMSE status, None before there was one; `cause` is in plain words."""

    delivery_id: int
    job_id: str
    what: NewDelivery
    state: DeliveryState
    attempts: int
    next_at: float
    status: int | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class HeadMark:
    """The last record that the audit log has promised: its number, digest and place [start, end) in the file."""

    number: int
    sha256: str
    start: int
    end: int


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


class DriftRule(Protocol):
    """How a stream moves on: from its state ("" at its start) to the next, within the transaction of the result."""

    def __call__(self, state: str, sample: DriftSample, past: PastImages, /) -> DriftStep:
        """Return the stream after one more image. Must not raise: the result would not be stored."""


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


class JobQueue(Protocol):
    """Jobs, first in, first out. Every method is one transaction and safe from any thread."""

    def add(self, job: NewJob) -> Receipt:
        """Commit a job, or find that its data set is known. On return it survives a power cut."""

    def claim(self, worker: str, limit: int, lease_s: float, now: float) -> list[Job]:
        """Lease the oldest ready jobs and count an attempt of each.

        A job that was attempted before comes alone, so a deadly image takes no neighbour with it.
        """

    def renew(self, leases: Sequence[Lease], lease_s: float, now: float) -> int:
        """Lengthen the leases that still hold; return how many do."""

    def finish(
        self,
        lease: Lease,
        conclusion: Conclusion,
        deliveries: Sequence[NewDelivery],
        now: float,
        drift: DriftSample | None = None,
    ) -> bool:
        """Commit the end of a job, its deliveries and its drift sample in one transaction; False: the lease is lost."""

    def retry(self, lease: Lease, message: str, not_before: float) -> bool:
        """Give a job back for another attempt; False when the lease is lost."""

    def recover(self, maximum_attempts: int, now: float, *, everything: bool = False) -> list[Job]:
        """Take back expired leases (or, at start, all of them) and return the jobs as they are now.

        A job without an attempt left becomes failed.
        """

    def waiting(self, now: float) -> int:
        """How many jobs could be claimed."""

    def get(self, job_id: str) -> Job | None:
        """Return one job."""

    def jobs(self, limit: int = 100, state: JobState | None = None) -> list[Job]:
        """Return the latest jobs, newest first."""

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; every state is a key."""

    def knows_blob(self, blob: str) -> bool:
        """Whether a job refers to this blob of the inbox."""


class Outbox(Protocol):
    """Deliveries, each its own state per destination and object. They come from `JobQueue.finish` alone."""

    def due(self, destination: str, now: float, limit: int = 100) -> list[Delivery]:
        """Return what may be sent now, oldest first."""

    def next_due(self, destination: str) -> float | None:
        """When the earliest open delivery is due, None when nothing is open."""

    def sent(self, delivery_id: int, status: int, remark: str, now: float) -> None:
        """The destination has it. Raises StorageError when the delivery is final already."""

    def postpone(self, delivery_id: int, next_at: float, status: int | None, cause: str, now: float) -> None:
        """An attempt failed; try again at `next_at`."""

    def bury(self, delivery_id: int, status: int | None, cause: str, now: float) -> None:
        """The last attempt failed: dead letter."""

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Return the deliveries of one job."""

    def counts(self) -> dict[str, dict[DeliveryState, int]]:
        """How many deliveries are in each state, by destination."""


class DriftStore(Protocol):
    """The drift of every stream. Streams come and go on by `JobQueue.finish` alone, once for each finished job."""

    def readings(self) -> list[DriftReading]:
        """Return every stream, by sender, the latest bundle first."""

    def unannounced(self) -> list[DriftReading]:
        """Return the streams whose alarm nobody has been told of yet."""

    def announced(self, reading: DriftReading) -> None:
        """Remember that the alarm of this stream has been told."""

    def reset(self, sender: str) -> list[DriftReading]:
        """Forget all streams of a sender, so that they start anew; return what they were."""


class AuditHead(Protocol):
    """The second place that knows how far the audit log goes."""

    def read(self) -> HeadMark | None:
        """Return the mark, None when nothing was ever logged."""

    def write(self, mark: HeadMark) -> None:
        """Replace the mark durably."""


class AuditTrail(Protocol):
    """Where events are recorded; a record is durable when the call returns."""

    def append(self, event: str, **keys: Any) -> int:
        """Record one event and return its number."""

    def extend(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Record several events at once and return the last one's number."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What was written."""

    path: Path
    size_bytes: int
    sha256: str


class Blobs(Protocol):
    """Named immutable byte strings. A name is ours, never taken from the wire."""

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> StoredBlob:
        """Write durably: all of it or nothing. Raises StorageError."""

    def path(self, name: str) -> Path:
        """Where the blob lies."""

    def read(self, name: str) -> bytes:
        """Return the bytes. Raises StorageError."""

    def remove(self, name: str) -> None:
        """Remove the blob; one that is not there is no error."""

    def names(self) -> Iterator[str]:
        """Walk over all names."""

    def sweep(self) -> int:
        """Remove what interrupted writes have left; return how many."""

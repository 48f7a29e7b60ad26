"""The seam of storage: what every backend must do. The records that cross it are in `rows`.

One test suite (`tests/storage`) runs over every backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dicom_gam.storage.rows import (
        Commitment,
        Conclusion,
        Delivery,
        DriftReading,
        DriftSample,
        DriftStep,
        HeadMark,
        Hold,
        Horizon,
        Job,
        Lease,
        NewDelivery,
        NewJob,
        PastImages,
        Pause,
        PurgedImage,
        Receipt,
        ResultUse,
        Review,
        ReviewKind,
        StoredBlob,
    )
    from dicom_gam.storage.states import DeliveryState, JobState


class DriftRule(Protocol):
    """How a stream moves on: from its state ("" at its start) to the next, within the transaction of the result."""

    def __call__(self, state: str, sample: DriftSample, past: PastImages, /) -> DriftStep:
        """Return the stream after one more image. Must not raise: the result would not be stored."""


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

    def retry(self, lease: Lease, message: str, not_before: float, *, counted: bool = True) -> bool:
        """Give a job back for another attempt; False when the lease is lost. Not `counted`: this one was none."""

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

    def of_instance(self, sop_instance_uid: str) -> list[Job]:
        """Return every job of an instance, newest first: reprocessings, the first, and conflicts in quarantine."""

    def instances(self, *, study_instance_uid: str | None = None, since: float | None = None) -> list[str]:
        """SOP Instance UIDs of a study, or of what was received from `since` on, oldest first; without both of all.

        The study of an image is known from when it has become a result.
        """

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state; every state is a key."""

    def knows_blob(self, blob: str) -> bool:
        """Whether a job refers to this blob of the inbox."""


class Commitments(Protocol):
    """Storage commitment of what destinations have stored (deliveries in the state UNCONFIRMED)."""

    def unasked(self, destination: str, limit: int = 100) -> list[Delivery]:
        """Return what is stored there and not asked for yet, oldest first."""

    def ask(self, commitment: Commitment, delivery_ids: Sequence[int]) -> None:
        """Remember a request before it goes out, as the answer may come at once and to another process."""

    def withdraw(self, transaction_uid: str) -> None:
        """A request could not be made: its objects are to be asked for anew."""

    def overdue(self, destination: str, now: float, limit: int = 100) -> list[Delivery]:
        """Return what the destination has not answered for in time."""

    def next_due(self, destination: str) -> float | None:
        """When the earliest answer is due, None when none is waited for."""

    def find(self, transaction_uid: str) -> Commitment | None:
        """Return one commitment."""

    def objects(self, transaction_uid: str) -> list[Delivery]:
        """Return the deliveries that a commitment is about, as they are now."""

    def answered(self, transaction_uid: str, now: float) -> None:
        """Remember when the (first) answer came."""

    def confirm(self, delivery_id: int, remark: str, now: float) -> None:
        """The destination answers for it."""

    def refuse(self, delivery_id: int, next_at: float | None, status: int | None, cause: str, now: float) -> None:
        """The destination does not answer for it: to be sent again at `next_at`, or (None) a dead letter."""


class Outbox(Protocol):
    """Deliveries, each its own state per destination and object. They come from `JobQueue.finish` alone."""

    @property
    def commitments(self) -> Commitments:
        """Storage commitment of what has been stored."""

    def due(self, destination: str, now: float, limit: int = 100) -> list[Delivery]:
        """Return what may be sent now, oldest first.

        An object waits for the earlier ones of its study to this destination; nothing is due while the destination
        is paused or on hold.
        """

    def next_due(self, destination: str) -> float | None:
        """When the earliest delivery that is to be sent is due, None when there is none. A pause is not looked at."""

    def sent(self, delivery_id: int, status: int, remark: str, now: float) -> None:
        """The destination has it. Raises StorageError when the delivery is final already."""

    def accepted(self, delivery_id: int, status: int, remark: str, now: float) -> None:
        """The destination has stored it and is yet to be asked to answer for it."""

    def postpone(self, delivery_id: int, next_at: float, status: int | None, cause: str, now: float) -> None:
        """An attempt failed; try again at `next_at`."""

    def bury(self, delivery_id: int, status: int | None, cause: str, now: float) -> None:
        """The last attempt failed: dead letter."""

    def hold(self, destination: str, next_at: float, cause: str, now: float) -> int:
        """Nothing goes to this destination before `next_at`, which costs no object an attempt.

        The oldest that were due are shown as waiting, with the cause; return how many wait in all.
        """

    def release(self, destination: str) -> Hold | None:
        """The destination can be reached again; return the hold that was."""

    def held(self, destination: str) -> Hold | None:
        """Return the hold of a destination."""

    def pause(self, destination: str, why: str, now: float) -> None:
        """Send nothing to this destination until `resume`; a later pause replaces the reason."""

    def resume(self, destination: str) -> bool:
        """End the pause; False when there was none."""

    def paused(self, destination: str) -> Pause | None:
        """Return the pause of a destination."""

    def revive(self, destination: str, now: float, job_id: str | None = None) -> list[Delivery]:
        """Put dead letters back as if never tried, make all that waits due now; return the dead letters that were."""

    def dismiss(
        self, destination: str, now: float, job_id: str | None = None, *, everything: bool = False
    ) -> list[Delivery]:
        """Do without the dead letters (with `everything`: without all that is undelivered); return what they were."""

    def causes(self, destination: str, limit: int = 3) -> list[tuple[str, int]]:
        """Return the commonest causes of its dead letters, and how many have each."""

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Return the deliveries of one job."""

    def counts(self) -> dict[str, dict[DeliveryState, int]]:
        """How many deliveries are in each state, by destination."""


class Reviews(Protocol):
    """What people said about results."""

    def add(self, review: Review) -> int:
        """Keep what a person said; return its number. Raises StorageError when there is no such job."""

    def of_job(self, job_id: str) -> list[Review]:
        """Return what was said about a job's result, oldest first."""

    def all_of(self, kinds: Iterable[ReviewKind]) -> list[Review]:
        """Return every review of these kinds, oldest first."""


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


class BlobWriter(Protocol):
    """A blob on its way to the disk, part by part. It ends by `commit` or by `abandon`."""

    def write(self, part: bytes | memoryview) -> None:
        """Append. Raises StorageError, such as for a full disk; then only `abandon` is left."""

    def commit(self) -> StoredBlob:
        """Make it durable under its name. Raises StorageError; then nothing is left of it."""

    def abandon(self) -> None:
        """Remove what there is of it; never raises. After `commit` it does nothing."""


class Blobs(Protocol):
    """Named immutable byte strings. A name is ours, never taken from the wire."""

    def begin(self, name: str) -> BlobWriter:
        """Start writing a blob part by part. Raises StorageError, such as when too little space is free."""

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


class Retention(Protocol):
    """What may be deleted. Rows stay: they are the memory of what was received before.

    A job with a delivery that is neither sent nor dismissed is never touched, nor is the result that it waits for.
    """

    def newest_number(self) -> int:
        """The number of the latest job, 0 when there was none."""

    def purge(self, images: Horizon, quarantine: Horizon, limit: int, now: float) -> list[PurgedImage]:
        """Mark up to `limit` images as purged, oldest first; those of done and skipped jobs go by `images`.

        Those of failed, rejected and quarantined jobs go by `quarantine`. The marks are durable when it returns.
        """

    def purge_delivered(self, wanted_bytes: int, limit: int, now: float) -> list[PurgedImage]:
        """Mark images of delivered jobs, oldest first, whatever their age, until they come to `wanted_bytes`."""

    def purged_among(self, blobs: Sequence[str]) -> list[PurgedImage]:
        """Which of these blobs of the inbox are marked as purged."""

    def result_uses(self, blobs: Sequence[str], horizon: Horizon) -> dict[str, ResultUse]:
        """What each of these results is needed for."""

    def release_result(self, blob: str, horizon: Horizon, remove: Callable[[], bool]) -> bool:
        """Call `remove` unless the result is needed, while no delivery of it can come about; return its answer."""

    def shorten_log(self, above_bytes: int) -> int:
        """Give back the space of the write-ahead log when it has grown above so much; return its size before."""

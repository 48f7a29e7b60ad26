"""What goes in and out of the HTTP API. Nothing here holds a patient's name or ID."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dicom_gam.records import ResultRole
from dicom_gam.storage.states import DeliveryState, JobState

Identifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
UidText = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)+$")]
Printable = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
Reason = Annotated[str, StringConstraints(min_length=3, max_length=500)]
WARNING = (
    "This image did not pass verification. These figures are no finding, name no disease, and must not be shown or "
    "used as one."
)
PASSED = "These figures are how the finding came about. They are for review and quality control, not for a report."


class Exact(BaseModel):
    """What a client sends: nothing but what is known, and of the type that is declared."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shown(BaseModel):
    """What the node answers."""

    model_config = ConfigDict(extra="forbid")


class InQuery(BaseModel):
    """Parameters of an address; numbers come as text there."""

    model_config = ConfigDict(extra="forbid")


class JobPath(InQuery):
    """Which job."""

    job_id: Identifier = Field(description="the job's ID")


class ResultPath(JobPath):
    """Which result object of which job."""

    role: ResultRole = Field(description="which of the job's objects")


class DestinationPath(InQuery):
    """Which destination."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="its name in the configuration"
    )


class JobQuery(InQuery):
    """Which page of the list of jobs. All filters that are given must fit."""

    before: int | None = Field(None, ge=1, le=2**53, description="only jobs with numbers below this: `next` of a page")
    limit: int = Field(50, ge=1, le=200, description="how many at most")
    state: JobState | None = Field(None, description="only jobs in this state")
    outcome: Printable | None = Field(None, description="only jobs with this outcome, such as PASS, FAIL, REJECT")
    sender: Printable | None = Field(None, description="only what this AE title has sent")
    study: UidText | None = Field(None, description="only this Study Instance UID; known of jobs that have ended")


class TimelineQuery(InQuery):
    """How much of a timeline."""

    limit: int = Field(500, ge=1, le=5000, description="how many records at most; the latest ones are given")


class ReprocessBody(Exact):
    """How an image is to be processed again."""

    bundle: Annotated[str, StringConstraints(max_length=1024)] = Field(
        "", description="one of the bundles that the node loads; empty: the rules decide"
    )
    again: bool = Field(False, description="also when its latest result is by this very bundle")


class RetryBody(Exact):
    """Which dead letters are to be sent again."""

    job_id: Identifier | None = Field(None, description="only those of this job; without it all of the destination")


class PauseBody(Exact):
    """Why a destination is paused."""

    why: Reason = Field(description="for the audit log and the dashboard; no patient's name or ID")


class Submitted(Shown):
    """A file that is durably in the inbox."""

    job_id: Identifier
    duplicate: bool = Field(description="whether the very same image was here before; it is then not processed again")
    href: str = Field(description="where to ask how the job fares")


class JobFacts(Shown):
    """What a job is about and where it stands."""

    job_id: Identifier
    state: JobState
    outcome: str = Field(description="PASS, FAIL, REJECT, UNUSABLE, SKIPPED, QUARANTINED, ERROR; empty before its end")
    reason: str = Field(description="why it can't be a radiograph, by name; else empty")
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    received_at: datetime
    finished_at: datetime | None


class JobItem(JobFacts):
    """A job in a list."""

    number: int = Field(ge=1, description="its place in the list: later jobs have higher numbers")


class JobList(Shown):
    """A page of jobs, newest first."""

    jobs: list[JobItem]
    next: int | None = Field(description="`before` of the next page; null on the last")


class Finding(Shown):
    """What the network says of an image that passed verification. Nothing else is a finding."""

    label: str
    probability: float


class Analysis(Shown):
    """Figures for review. They are never a finding."""

    warning: str
    bundle: dict[str, str]
    probabilities: dict[str, float | str]


class Verified(Shown):
    """The verdict and the figures that it stands on. They are never a finding."""

    warning: str
    verdict: str
    figures: dict[str, Any] = Field(description="p-value, score, thresholds and measurements of every check")


class ReviewItem(Shown):
    """That a person looked at the result; their words are on the dashboard."""

    kind: str
    reviewer: str
    reviewed_at: datetime


class JobDetail(JobFacts):
    """A job and what became of it."""

    message: str = Field(description="what happened, in words")
    called_ae_title: str
    transfer_syntax_uid: str
    size_bytes: int
    attempts: int
    rule: str
    predecessor: str = Field(description="the job of the same image that this one processes again; else empty")
    finding: Finding | None = Field(description="null unless the outcome is PASS")
    verification: Verified | None
    analysis: Analysis | None
    reviews: list[ReviewItem]


class DeliveryItem(Shown):
    """Where the delivery of an object to a destination stands."""

    destination: str
    state: DeliveryState
    attempts: int
    status: str = Field(description="the last status, in hexadecimal as DICOM writes it; empty before there was one")
    cause: str


class OutputItem(Shown):
    """An object that was made of an image."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    size_bytes: int
    sha256: str
    available: bool = Field(description="whether its file is still here; see [retention]")
    href: str
    deliveries: list[DeliveryItem]


class ResultList(Shown):
    """The objects of a job."""

    job_id: Identifier
    outcome: str
    outputs: list[OutputItem]


class RecordItem(Shown):
    """A record of the audit log."""

    number: int
    time: datetime
    event: str
    keys: dict[str, Any]


class Timeline(Shown):
    """What happened to a job and its image, oldest first."""

    job_id: Identifier
    records: list[RecordItem]


class Requeued(Shown):
    """The job that processes an image again."""

    job_id: Identifier
    predecessor: Identifier
    href: str


class PauseItem(Shown):
    """That an operator wants nothing to be sent."""

    since: datetime
    why: str


class HoldItem(Shown):
    """That a destination can't be reached."""

    since: datetime
    attempts: int
    next_at: datetime
    cause: str


class CauseItem(Shown):
    """A cause of dead letters, and how many have it."""

    cause: str
    count: int


class DestinationItem(Shown):
    """Where a destination stands."""

    name: str
    kind: str = Field(description="how it is sent to; empty when it is not among the settings any more")
    counts: dict[DeliveryState, int]
    next_at: datetime | None
    paused: PauseItem | None
    unreachable: HoldItem | None
    causes: list[CauseItem]


class DestinationList(Shown):
    """Every destination."""

    destinations: list[DestinationItem]


class Retried(Shown):
    """What is sent again."""

    destination: str
    dead_letters: int = Field(description="how many dead letters are put back")


class Paused(Shown):
    """Whether a destination is paused now."""

    destination: str
    paused: bool
    changed: bool


class DriftItem(Shown):
    """The drift of what a sender sends to a bundle."""

    sender: str
    bundle: str
    version: str
    images: int
    log10_evidence: float
    alarm_at: datetime | None


class SenderItem(Shown):
    """What a sender has sent."""

    sender: str
    jobs: int
    last_at: datetime


class Summary(Shown):
    """The node's figures at a glance; /metrics has more."""

    ready: bool
    why_not: list[str]
    jobs: dict[JobState, int]
    outcomes: dict[str, int]
    queue_oldest_age_s: float
    senders: list[SenderItem]
    deliveries: dict[str, dict[DeliveryState, int]]
    drift: list[DriftItem]
    audit_records: int


class Verification(Shown):
    """Whether the audit log is whole."""

    unbroken: bool
    records: int | None = Field(description="how many records were checked; null when it is broken")
    first_bad_record: int | None
    message: str

"""What readers say about results: keeping it, and turning it into labelled images to calibrate a bundle on.

A reader's latest opinion of an image counts, and all are kept. Two readers who see different things make no label.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.storage.blobs import write_all
from dicom_gam.storage.rows import Job, Review, ReviewKind
from dicom_gam.storage.secret_file import kept_secret
from dicom_gam.storage.sqlite_oversight import header_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from dicom_gam.records import ImageHeader
    from dicom_gam.service.store import Store

MAXIMUM_WORDS = 500
FEEDBACK_KINDS = (ReviewKind.AGREE, ReviewKind.DISAGREE, ReviewKind.COMMENT)
COLUMNS = ("path", "label", "group", "source", "job_id", "verdict", "predicted", "kind", "reviewer")
KEY_FILE = "feedback.key"  # makes pseudonyms of patients; kept, so that a patient is the same in every export
_WORD = re.compile(r"[^\W_]+")
_NAMED_PART = 4  # a shorter part of a name is too common a word to be taken for the patient's
_OPINIONS = (*FEEDBACK_KINDS, ReviewKind.OVERRIDDEN)
_CONTESTED = "readers see different things in it: have them agree"
_UNNAMED = "nobody says what they see in it: choose a class on the job's page"
_DELETED = "the image has been deleted (see [retention] in the configuration)"
_NO_HEADER = "it was processed before headers were kept: process it again (dicom-gam reprocess --job ID)"


@dataclass(frozen=True, slots=True)
class FeedbackCase:
    """An image whose class readers agree on. `path` is the kept input, `group` stands for the patient.

    `label` is what is seen in it, `predicted` what the network said; the rest is of the latest review that says so.
    """

    path: Path
    label: str
    group: str
    source: str
    job_id: str
    verdict: str
    predicted: str
    kind: ReviewKind
    reviewer: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What can be calibrated on, and how many reviewed images can't be, by the reason."""

    cases: tuple[FeedbackCase, ...]
    left_out: Mapping[str, int]


def feedback_cases(store: Store, since: float | None = None) -> list[FeedbackCase]:
    """Return the images that readers have named a class of. Raises StorageError."""
    return list(read_feedback(store, since).cases)


def read_feedback(store: Store, since: float | None = None) -> Feedback:
    """Gather what readers said of images last reviewed at `since` (seconds since the epoch) or later.

    A class is named by choosing it, or by agreeing with a PASS. To agree with FAIL or REJECT names none: it says that
    the network was rightly distrusted. Raises StorageError.
    """
    images: dict[str, dict[str, tuple[Review, Job, str]]] = {}  # by the file's digest, then by the reader
    for review in store.reviews.all_of(_OPINIONS):
        job = store.jobs.get(review.job_id)
        if job is None or (review.kind is ReviewKind.COMMENT and not review.class_name):
            continue  # words alone take no opinion back
        readers = images.setdefault(job.instance.digest, {})
        readers.pop(review.reviewer, None)  # so that the latest stands last
        readers[review.reviewer] = (review, job, _label(review, job))
    cases: list[FeedbackCase] = []
    left_out: Counter[str] = Counter()
    key = kept_secret(store.folder / KEY_FILE) if images else b""
    for readers in images.values():
        opinions = list(readers.values())
        if since is not None and opinions[-1][0].reviewed_at < since:
            continue
        case = _case(store, opinions, key)
        if isinstance(case, str):
            left_out[case] += 1
        else:
            cases.append(case)
    return Feedback(tuple(cases), dict(left_out))


def give_feedback(
    store: Store, job: Job, kind: ReviewKind, reviewer: str, *, class_name: str = "", words: str = "", address: str = ""
) -> Review:
    """Keep what a reader says about a job's result; the audit record comes first.

    Raises ConfigError, in words for the reader, when it makes no sense, StorageError or AuditError.
    """
    words = " ".join(words.split())
    _check(store, job, kind, class_name, words)
    keys = {"kind": kind.value, "class_name": class_name, "words": words, "by": reviewer, "address": address}
    store.audit.append("result.reviewed", job_id=job.job_id, study_instance_uid=job.study_instance_uid, **keys)
    review = Review(job.job_id, kind, reviewer, time.time(), class_name, words)
    store.reviews.add(review)
    return review


def names_patient(words: str, header: ImageHeader) -> bool:
    """Whether words hold a part of a patient's name, all of a short one, or a number, so that no audit log may."""
    said = words.casefold()
    said_words = set(_WORD.findall(said))
    numbers = (header.patient_id.strip().casefold(), header.accession_number.strip().casefold())
    if any(len(number) >= _NAMED_PART and number in said for number in numbers):
        return True
    name = set(_WORD.findall(header.patient_name.casefold()))
    whole = len("".join(name)) >= _NAMED_PART and name <= said_words
    return whole or any(len(part) >= _NAMED_PART for part in name & said_words)


def predicted_class(job: Job) -> str:
    """What the network said, whatever came of it; empty when it said nothing."""
    return str(((job.result or {}).get("prediction") or {}).get("label", ""))


def known_classes(job: Job) -> tuple[str, ...]:
    """The classes of the bundle that made the job's result, in its order; empty without a prediction."""
    return tuple(((job.result or {}).get("prediction") or {}).get("probabilities", ()))


def feedback_csv(cases: Iterable[FeedbackCase]) -> str:
    """The cases as the CSV that `dicom-gam calibrate` reads. No name and no number of a patient is in it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for case in cases:
        row = {name: str(getattr(case, name)) for name in COLUMNS}
        writer.writerow(row[name] if name in ("path", "label") else _harmless(row[name]) for name in COLUMNS)
    return text.getvalue()


def export_feedback(store: Store, output: Path, *, by: str, since: float | None = None) -> Feedback:
    """Write the cases to a new file, readable for its owner only, and put it on record. Raises StorageError."""
    feedback = read_feedback(store, since)
    store.audit.append(
        "feedback.exported", by=by, since=since, images=len(feedback.cases), left_out=sum(feedback.left_out.values())
    )
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StorageError(f"{output} exists already: give --output another name") from error
    except OSError as error:
        raise StorageError(f"{output} can't be written ({error.strerror}): give --output another folder") from error
    try:
        write_all(descriptor, memoryview(feedback_csv(feedback.cases).encode()))
    except OSError as error:
        raise StorageError(f"{output} is not whole ({error.strerror}): delete it, free some space") from error
    finally:
        os.close(descriptor)
    return feedback


def _label(review: Review, job: Job) -> str:
    agrees = review.kind is ReviewKind.AGREE and job.outcome == "PASS"
    return review.class_name or (predicted_class(job) if agrees else "")


def _case(store: Store, opinions: Sequence[tuple[Review, Job, str]], key: bytes) -> FeedbackCase | str:
    """The labelled image that readers' latest opinions make, or why they make none."""
    labels = {label for _, _, label in opinions if label}
    disagreed = any(review.kind is ReviewKind.DISAGREE and not label for review, _, label in opinions)
    if len(labels) > 1 or (labels and disagreed):
        return _CONTESTED
    if not labels:
        return _UNNAMED
    review, job, label = [opinion for opinion in opinions if opinion[2]][-1]
    if job.purged_at is not None or not job.instance.path.is_file():
        return _DELETED
    header = header_of(store.database, job.job_id)
    if header is None:
        return _NO_HEADER
    return FeedbackCase(
        path=job.instance.path.absolute(),
        label=label,
        group=_pseudonym(header, job, key),
        source=job.instance.calling_ae_title or "unknown",
        job_id=job.job_id,
        verdict=job.outcome,
        predicted=predicted_class(job),
        kind=review.kind,
        reviewer=review.reviewer,
    )


def _pseudonym(header: ImageHeader, job: Job, key: bytes) -> str:
    """What stands for the patient: the same for each image of one, and without the key nobody can tell whose."""
    kinds = (("id", header.patient_id), ("name", header.patient_name), ("study", job.study_instance_uid))
    kind, text = next(((kind, text.strip()) for kind, text in kinds if text.strip()), ("job", job.job_id))
    return hmac.new(key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:32]


def _check(store: Store, job: Job, kind: ReviewKind, class_name: str, words: str) -> None:
    if kind not in FEEDBACK_KINDS:
        raise ConfigError(f"{kind} is no feedback: agree, disagree or comment")
    if kind is not ReviewKind.COMMENT and job.result is None:
        raise ConfigError("there is no result yet that one could agree or disagree with: comment, or wait for it")
    if class_name and class_name not in known_classes(job):
        raise ConfigError("this class is none of the bundle's: choose one from the list, or none")
    if kind is ReviewKind.AGREE and job.outcome == "PASS" and class_name not in ("", predicted_class(job)):
        raise ConfigError("you agree with the result, but see another class: choose disagree, or the same class")
    if kind is ReviewKind.COMMENT and not (words or class_name):
        raise ConfigError("a comment needs words: write some, or say what you see")
    if len(words) > MAXIMUM_WORDS:
        raise ConfigError(f"{len(words)} characters are too many: write at most {MAXIMUM_WORDS}")
    header = header_of(store.database, job.job_id)
    if header is not None and names_patient(words, header):
        raise ConfigError(
            "the words hold a part of the patient's name or number. They go into the audit log, where no patient may "
            "be named: write them in another way"
        )


def _harmless(cell: str) -> str:
    """What a spreadsheet would run as a formula is made text."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t") else cell

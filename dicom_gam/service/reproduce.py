"""Recomputing a result from the kept image with the kept settings and the same bundle, and comparing the two.

Nothing is changed or sent; the audit log learns that it was done and what came of it.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from dicom_gam.bundle.bundle import bundle_files, load_bundle, select_device
from dicom_gam.bundle.files import digest
from dicom_gam.config import BUILT_IN_BUNDLE
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.errors import BundleError, DicomGamError, StorageError
from dicom_gam.pipeline import Pipeline
from dicom_gam.records import Task
from dicom_gam.service.comparison import Comparison, compare
from dicom_gam.service.delivery_review import operator
from dicom_gam.service.evidence import kept_attention_map, kept_settings
from dicom_gam.service.reprocess import predecessors
from dicom_gam.service.store import open_store
from dicom_gam.service.summary import result_summary
from dicom_gam.storage.sqlite_quality import jobs_with_results
from dicom_gam.storage.states import OPEN_JOB_STATES, JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from dicom_gam.config import Settings
    from dicom_gam.records import AIResult, ReceivedInstance
    from dicom_gam.service.store import Store
    from dicom_gam.storage.rows import Job

EVENT = "result.reproduced"
_PART_BYTES = 1024**2


class Outcome(StrEnum):
    """What came of the attempt to reproduce a result."""

    EQUAL = "equal"
    DIFFERENT = "different"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """One result, recomputed. `why` says why that can't be done, and the remedy; else there is a `comparison`."""

    job_id: str
    outcome: Outcome
    verdict: str = ""
    why: str = ""
    comparison: Comparison | None = None


def reproduce(settings: Settings, job_ids: Iterable[str] | None, bundle: str = "") -> Iterator[Reproduction]:
    """Recompute the results of these jobs, one by one, and compare; None stands for every job that has a result.

    Works beside a running node. `bundle` names one more bundle than `settings` do. What can't be recomputed is told
    in the Reproduction. Raises StorageError or AuditError when the storage as a whole can't be used.
    """
    with ExitStack() as stack:
        store = stack.enter_context(open_store(settings))
        pipelines = _Pipelines(settings, bundle, store, stack)
        for job_id in jobs_with_results(store.database) if job_ids is None else job_ids:
            job = store.jobs.get(job_id)
            if job is None:
                yield Reproduction(job_id, Outcome.IMPOSSIBLE, why="there is no such job: see job_id in the audit log")
                continue
            made = _reproduced(job, store, pipelines)
            _put_on_record(made, store)
            yield made


def _reproduced(job: Job, store: Store, pipelines: _Pipelines) -> Reproduction:
    try:
        comparison = _compared(job, store, pipelines)
    except DicomGamError as error:
        return Reproduction(job.job_id, Outcome.IMPOSSIBLE, job.outcome, str(error))
    outcome = Outcome.DIFFERENT if comparison.differences else Outcome.EQUAL
    return Reproduction(job.job_id, outcome, job.outcome, "", comparison)


def _compared(job: Job, store: Store, pipelines: _Pipelines) -> Comparison:
    """Recompute one result and compare. Raises DicomGamError that says why it can't be done, with the remedy."""
    kept = _kept_result(job)
    attention = kept.pop("attention_map", None)
    kept_map = None if attention is None else _kept_map(attention["sha256"], store)
    instance = replace(job.instance, path=_unchanged_image(job, store))
    pipeline, bf16 = pipelines.of(kept)
    received = datetime.fromtimestamp(job.received_at).astimezone()
    # Of the rules only what they skip is recomputed, so the bundle is the pipeline's own and not the one asked for.
    (result,) = pipeline([Task(instance, received, "", predecessors(job, store.jobs, store.results))])
    made = result_summary(result)
    if "skipped" not in kept:  # which rule it was and where it went are no figures, and rules aren't kept
        kept.pop("rule", None)
    for about in ("unchanged_since_job", "made_with"):  # another version must come to the same figures
        kept.pop(about, None)
        made.pop(about, None)
    return compare(kept, made, _maps(kept_map, result), bf16=bf16)


def _kept_result(job: Job) -> dict[str, Any]:
    if job.state in OPEN_JOB_STATES:
        raise StorageError("it is not finished yet: wait for it")
    if job.state is JobState.QUARANTINED:
        raise StorageError("it is quarantined, because other bytes came under the same UID, and was never processed")
    if not job.result or not job.result.get("settings_digest"):
        raise StorageError(f"it has no result ({job.message or job.state}): have it processed, dicom-gam reprocess")
    return dict(job.result)


def _kept_map(name: str, store: Store) -> NDArray[np.float32]:
    try:
        return kept_attention_map(name, store.evidence)
    except StorageError as error:
        raise StorageError(
            f"its attention map is not here ({error}): restore the folder {store.folder / 'evidence'} from a backup"
        ) from error


def _maps(kept: NDArray[np.float32] | None, result: AIResult) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    made = result.verification
    return None if kept is None or made is None else (kept, made.attention_map)


def _unchanged_image(job: Job, store: Store) -> Path:
    """The image's file, under its own name or that of another job of the same bytes, checked to be what came in."""
    family = store.jobs.of_instance(job.instance.sop_instance_uid)
    same = (job, *(other for other in family if other.instance.digest == job.instance.digest))
    for other in same:
        if other.purged_at is None and other.instance.path.is_file():
            return _checked(other.instance)
    raise StorageError(
        "its image has been deleted (see [retention]): have it sent again, or get it with dicom-gam fetch, which makes "
        "a new result to compare with this one"
    )


def _checked(instance: ReceivedInstance) -> Path:
    old = instance.digest.startswith("sha256:")  # received before there was BLAKE3
    hasher: Any = hashlib.sha256() if old else blake3()
    try:
        with instance.path.open("rb") as file:
            while part := file.read(_PART_BYTES):
                hasher.update(part)
    except OSError as error:
        raise StorageError(f"{instance.path} can't be read ({error.strerror}): see to the disk") from error
    if hasher.hexdigest() != instance.digest.removeprefix("sha256:"):
        raise StorageError(
            f"{instance.path} is not what was received, its digest is another: the disk or somebody has changed it; "
            "restore it from a backup"
        )
    return instance.path


class _Pipelines:
    """Pipelines by the bundle and the settings that results were made with, made when they are first needed."""

    def __init__(self, settings: Settings, bundle: str, store: Store, stack: ExitStack) -> None:
        self._settings = settings
        self._store = store
        self._stack = stack
        self._names = tuple(dict.fromkeys(name for name in (bundle, *settings.bundles, BUILT_IN_BUNDLE) if name))
        self._digests: dict[str, str] = {}
        self._made: dict[tuple[str, str, bool], tuple[Pipeline, bool]] = {}

    def of(self, result: Mapping[str, Any]) -> tuple[Pipeline, bool]:
        """The pipeline for a kept result, and whether it computes in bfloat16."""
        skipped = "skipped" in result
        if skipped and not self._settings.rules:
            raise StorageError("a rule skipped it, and rules are not kept with results: give the rules by --config")
        key = (result["bundle"]["digest"], result["settings_digest"], skipped)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, bundle_digest: str, settings_digest: str, skipped: bool) -> tuple[Pipeline, bool]:
        settings = self._shaped(settings_digest)
        name = self._bundle_of(bundle_digest)
        processing = settings.processing.model_copy(update={"bundle": name})
        decoding = settings.decoding.model_copy(update={"processes": min(1, settings.decoding.processes)})
        rules = settings.rules if skipped else ()
        settings = settings.model_copy(update={"processing": processing, "decoding": decoding, "rules": rules})
        bundle = load_bundle(name, select_device(settings.processing.device))
        decode = self._stack.enter_context(DecoderPool(settings))
        return Pipeline({name: bundle}, settings, decode), settings.processing.bf16

    def _shaped(self, settings_digest: str) -> Settings:
        if self._settings.result_digest() == settings_digest:
            return self._settings
        try:
            return self._settings.shaped_by(kept_settings(settings_digest, self._store.evidence))
        except StorageError as error:
            raise StorageError(
                f"the settings that made it are not here ({error}): restore the folder "
                f"{self._store.folder / 'evidence'} from a backup, or give a --config with the same [intake] and "
                "[output]"
            ) from error

    def _bundle_of(self, bundle_digest: str) -> str:
        """The name of the bundle with this digest. Raises BundleError when it is none of those that are known."""
        problems = []
        for name in self._names:
            if name not in self._digests:
                try:
                    self._digests[name] = digest(bundle_files(name))
                except BundleError as error:
                    problems.append(str(error))
                    continue
            if self._digests[name] == bundle_digest:
                return name
        others = "".join(f"; {problem}" for problem in problems)
        raise BundleError(f"the bundle with digest {bundle_digest} is not here: give it by --bundle{others}")


def _put_on_record(made: Reproduction, store: Store) -> None:
    compared = made.comparison
    figures: dict[str, Any] = {"why": made.why}
    if compared is not None:
        figures = {
            "figures": compared.figures,
            "exact": compared.exact,
            "attention_map_by": compared.attention_by,
            "differences": [item.what for item in compared.differences],
        }
    store.audit.append(EVENT, job_id=made.job_id, by=operator(), outcome=made.outcome.value, **figures)

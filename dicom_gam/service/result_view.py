"""A job's result as people look at it: figures, the report's tree, the picture, and the kept files, all by the job.

Nothing here takes a path or a name of a file from outside: files are found by the job's own record.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_gam.dicom.result.codes import MEASUREMENTS
from dicom_gam.dicom.result.secondary_capture import overlay_png
from dicom_gam.errors import StorageError
from dicom_gam.service.dossier_words import CHECKS
from dicom_gam.service.evidence import kept_attention_map

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydicom.dataset import Dataset

    from dicom_gam.service.store import Store
    from dicom_gam.storage.rows import Job

ROLE_TITLES = {
    "sr": "Report (SR)",
    "overlay": "Overlay",
    "region": "Attended region (SEG)",
    "presentation": "Presentation state",
    "rejection": "Rejection note",
}
_DEPTH = 12  # of a report's tree; ours has five levels


@dataclass(frozen=True, slots=True)
class MeasurementView:
    """One score. `bound` says on which side of `threshold` it should lie: "min" for at least, "max" for at most."""

    name: str
    label: str
    value: float
    threshold: float
    bound: str
    p_value: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class CheckView:
    """One check with its scores."""

    name: str
    title: str
    passed: bool
    advisory: bool
    p_value: float
    score: float
    threshold: float
    reason: str
    measurements: tuple[MeasurementView, ...]


@dataclass(frozen=True, slots=True)
class OutputView:
    """One object that was made. `here` says whether its file is still kept, `blob` what it is kept as."""

    role: str
    title: str
    sop_class_uid: str
    sop_instance_uid: str
    blob: str
    size_bytes: int
    here: bool


@dataclass(frozen=True, slots=True)
class ResultView:
    """The figures of a result; what it lacks is empty or None.

    `attention_map` is what the map is kept as, empty when it is not. `made_by` is the job whose files these are:
    another one where a reprocessing changed nothing.
    """

    outcome: str
    bundle: str
    bundle_digest: str
    settings_digest: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    predicted: str
    probabilities: tuple[tuple[str, float], ...]
    garbage_class: str
    p_value: float | None
    alpha: float | None
    score: float | None
    calibration_class: str
    calibration_size: int
    attention_method: str
    attention_map: str
    checks: tuple[CheckView, ...]
    outputs: tuple[OutputView, ...]
    made_by: str

    def output(self, role: str) -> OutputView | None:
        """The object of this role whose file is here; None when there is none."""
        return next((output for output in self.outputs if output.role == role and output.here), None)


@dataclass(frozen=True, slots=True)
class TreeItem:
    """One content item of a report: what it is about, what it says, and what hangs under it."""

    name: str
    value: str
    children: tuple[TreeItem, ...] = ()


def result_view(store: Store, job: Job) -> ResultView | None:
    """Return the figures of a job's result, None when it has none (yet)."""
    result = job.result
    if not result:
        return None
    made_by = str(result.get("unchanged_since_job") or job.job_id)
    maker = job if made_by == job.job_id else store.jobs.get(made_by)
    prediction = result.get("prediction") or {}
    verification = result.get("verification") or {}
    rank = verification.get("rank") or {}
    bundle = result.get("bundle") or {}
    return ResultView(
        outcome=job.outcome,
        bundle=f"{bundle.get('name', '')} {bundle.get('version', '')}".strip(),
        bundle_digest=bundle.get("digest", ""),
        settings_digest=result.get("settings_digest", ""),
        reasons=tuple(verification.get("reasons", ())),
        notes=tuple(verification.get("notes", ())),
        predicted=prediction.get("label", ""),
        probabilities=tuple((name, float(value)) for name, value in prediction.get("probabilities", {}).items()),
        garbage_class=prediction.get("garbage_class", ""),
        p_value=_number(verification.get("p_value")),
        alpha=_number(verification.get("alpha")),
        score=_number(verification.get("score")),
        calibration_class=rank.get("class_name", ""),
        calibration_size=rank.get("size", 0),
        attention_method=verification.get("attention_method", ""),
        attention_map=_kept_map(store, (result.get("attention_map") or {}).get("sha256", "")),
        checks=tuple(_check(check) for check in verification.get("checks", ())),
        outputs=tuple(_output(store, item) for item in ((maker.result if maker else None) or {}).get("outputs", ())),
        made_by=made_by,
    )


def kept_object(store: Store, output: OutputView) -> bytes:
    """Return the file of a result object. Raises StorageError when it is gone or is not what was sent."""
    content = store.results.read(output.blob)
    if hashlib.sha256(content).hexdigest() != output.blob:
        raise StorageError(
            f"the result {output.sop_instance_uid} is damaged: look at the disk, process the image again"
        )
    return content


def overlay_picture(store: Store, output: OutputView) -> bytes:
    """Return the overlay as a PNG file. Raises StorageError when it is gone or damaged."""
    return overlay_png(kept_object(store, output))


def attention_map_file(store: Store, view: ResultView) -> bytes:
    """Return the float attention map as a NumPy file, (h, w) float32. Raises StorageError when there is none."""
    if not view.attention_map:
        raise StorageError("this result has no attention map: it was made before maps were kept, or never had one")
    buffer = io.BytesIO()
    np.save(buffer, kept_attention_map(view.attention_map, store.evidence), allow_pickle=False)
    return buffer.getvalue()


def kept_input(job: Job) -> Path:
    """Where the image itself lies. Raises StorageError when it has been deleted."""
    if job.purged_at is not None or not job.instance.path.is_file():
        raise StorageError("the image has been deleted (see [retention] in the configuration): have it sent again")
    return job.instance.path


def report_tree(content: bytes) -> TreeItem:
    """The content of an encoded report, as a tree. Raises StorageError when it is no report."""
    try:
        report = dcmread(io.BytesIO(content))
        return _item(report, _DEPTH)
    except (InvalidDicomError, AttributeError, ValueError, IndexError) as error:
        raise StorageError(f"the report can't be read ({error}): look at the disk, process the image again") from error


def _item(item: Dataset, depth: int) -> TreeItem:
    children = item.get("ContentSequence", ()) if depth > 0 else ()
    return TreeItem(
        _meaning(item, "ConceptNameCodeSequence"), _value(item), tuple(_item(c, depth - 1) for c in children)
    )


def _value(item: Dataset) -> str:
    """What a content item says (PS3.3 C.17.3.2), in words."""
    kind = item.get("ValueType", "")
    if kind == "NUM":
        return _numeric(item)
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind in ("IMAGE", "COMPOSITE", "WAVEFORM"):
        return f"{kind.lower()} {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID}"
    if kind in ("SCOORD", "SCOORD3D"):
        return f"{item.GraphicType.lower()} of {len(item.GraphicData) // (2 if kind == 'SCOORD' else 3)} points"
    plain = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName", "DATE": "Date", "TIME": "Time",
             "DATETIME": "DateTime"}  # fmt: skip
    if kind in plain:
        return str(item.get(plain[kind], ""))
    if "ReferencedContentItemIdentifier" in item:
        return f"see item {'.'.join(str(place) for place in item.ReferencedContentItemIdentifier)}"
    return ""


def _numeric(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence")
    if not measured:
        return _meaning(item, "NumericValueQualifierCodeSequence") or "no value"
    unit = _meaning(measured[0], "MeasurementUnitsCodeSequence")
    return f"{measured[0].NumericValue:g}{'' if unit in ('', 'no units') else f' {unit}'}"


def _meaning(item: Dataset, keyword: str) -> str:
    codes = item.get(keyword)
    return str(codes[0].get("CodeMeaning", "")) if codes else ""


def _check(check: Mapping[str, Any]) -> CheckView:
    name = check["name"]
    return CheckView(
        name=name,
        title=CHECKS.get(name, name),
        passed=bool(check["passed"]),
        advisory=bool(check.get("advisory")),
        p_value=float(check["p_value"]),
        score=float(check["score"]),
        threshold=float(check["threshold"]),
        reason=check.get("reason", ""),
        measurements=tuple(_measurement(item) for item in check["measurements"]),
    )


def _measurement(item: Mapping[str, Any]) -> MeasurementView:
    known = MEASUREMENTS.get(item["name"])
    return MeasurementView(
        name=item["name"],
        label=item["name"] if known is None else known.label,
        value=float(item["value"]),
        threshold=float(item["threshold"]),
        bound=item["bound"],
        p_value=_number(item.get("p_value")),
        passed=bool(item["passed"]),
    )


def _output(store: Store, item: Mapping[str, Any]) -> OutputView:
    return OutputView(
        role=item["role"],
        title=ROLE_TITLES.get(item["role"], item["role"]),
        sop_class_uid=item["sop_class_uid"],
        sop_instance_uid=item["sop_instance_uid"],
        blob=item["sha256"],
        size_bytes=item["size_bytes"],
        here=store.results.path(item["sha256"]).is_file(),
    )


def _kept_map(store: Store, name: str) -> str:
    return name if name and store.evidence.path(name).is_file() else ""


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)

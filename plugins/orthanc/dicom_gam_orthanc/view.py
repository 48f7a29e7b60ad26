"""What the panel says of a study, as plain values: for its page and, as they are, for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .follower import Follower
from .host import Host, HostError
from .node import Node, NodeError
from .report import VERDICTS
from .study import WAITING, Arrived, Image, Reading, Studies

# an image's state
VERDICT, AWAITED, QUEUED, REFUSED, UNSENT, NOT_ROUTED = (
    "verdict",
    "awaited",
    "queued",
    "refused",
    "unsent",
    "not-routed",
)
NO_VERDICT = "no-verdict"  # the node has ended with it, and gives none


def view_of(study: str, host: Host, studies: Studies, follower: Follower, node: Node) -> dict[str, Any]:
    """Everything about a study; raises GoneError when Orthanc has none of that ID."""
    about = host.get(f"/studies/{study}")
    reading = studies.read(study)
    jobs, node_said = _jobs(node, about["MainDicomTags"].get("StudyInstanceUID", ""))
    queued = follower.is_waiting(study)
    images = [_image(image, reading, host, studies, queued, jobs) for image in reading.images]
    awaiting = any(image["state"] in (QUEUED, AWAITED) for image in images)
    word = studies.word_of(reading, pending=any(image["state"] == QUEUED for image in images))
    return {
        "study": study,
        "study_instance_uid": about["MainDicomTags"].get("StudyInstanceUID", ""),
        "verdict": word if awaiting or word != WAITING else "",
        "images": images,
        "other_series": reading.others,
        "unconfirmed_reports": reading.untrusted,
        "outage": asdict(follower.outage) if follower.outage else None,
        "node_said": node_said,
        "node_configured": node.is_configured,
        "can_process_again": node.is_configured and any(image["job"] for image in images),
        "can_send": any(image["state"] in (UNSENT, REFUSED, AWAITED) for image in images) and not queued,
        "awaiting": awaiting,
    }


def _jobs(node: Node, study_instance_uid: str) -> tuple[dict[str, dict[str, Any]], str]:
    if not node.is_configured:
        return {}, ""
    try:
        return node.latest_jobs(study_instance_uid), ""
    except NodeError as error:
        return {}, str(error)


def _image(
    image: Image, reading: Reading, host: Host, studies: Studies, queued: bool, jobs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    newest, marks = reading.newest(image), studies.marks
    job = jobs.get(image.sop_instance_uid, {})
    state, why = _state(image, newest, studies, queued)
    if state == AWAITED and job and job["outcome"] not in VERDICTS:
        state, why = NO_VERDICT, f"{job['outcome']} {job['reason']}".strip()
    return {
        "instance": image.instance,
        "sop_instance_uid": image.sop_instance_uid,
        "state": state,
        "why": why,
        "sent": image.marks.get(str(marks.sent), ""),
        "verdict": newest.report.verdict if newest else "",
        "report": _report(newest, host, studies) if newest else None,
        "reports_before": len(reading.reports.get(image.sop_instance_uid, ())) - 1 if newest else 0,
        "job": job.get("job_id", ""),
        "job_outcome": job.get("outcome", ""),
        "job_reason": job.get("reason", ""),
        "job_finished": job.get("finished_at") or "",
    }


def _state(image: Image, newest: Arrived | None, studies: Studies, queued: bool) -> tuple[str, str]:
    """An image's state, and what there is to say of it."""
    marks = studies.marks
    if newest is not None:
        return VERDICT, ""
    if str(marks.sent) in image.marks:
        return AWAITED, ""
    if str(marks.refused) in image.marks:
        return REFUSED, image.marks[str(marks.refused)]
    decision = studies.decide(image)
    if not decision.send:
        return NOT_ROUTED, decision.why
    return (QUEUED if queued else UNSENT), decision.why


def _report(newest: Arrived, host: Host, studies: Studies) -> dict[str, Any]:
    said = asdict(newest.report)
    said["supersedes"] = sorted(said["supersedes"])
    said["instance"] = newest.instance
    said["overlay"] = _overlay(newest, host, studies)
    return said


def _overlay(newest: Arrived, host: Host, studies: Studies) -> str:
    """Orthanc's ID of the overlay that the report names, if it is here and came from the node too."""
    uid = newest.report.overlay_uid
    if not uid:
        return ""
    try:
        found = [item["ID"] for item in host.find_uid(uid) if item["Type"] == "Instance"]
        return next((item for item in found if studies.is_trusted(studies.metadata("instances", item))), "")
    except HostError:
        return ""

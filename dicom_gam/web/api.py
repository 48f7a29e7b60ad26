"""The HTTP API under /api/v1. It does what the dashboard does, with the same permissions and the same audit records."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask import Response, abort, current_app, request, url_for
from flask_openapi3 import APIBlueprint
from pydantic import BaseModel

from dicom_gam.errors import AuditError, ConfigError, StorageError
from dicom_gam.records import Reason, Rejection
from dicom_gam.service.audit_check import check_log, signatures_told
from dicom_gam.service.delivery_review import pause, read_destinations, resume, retry
from dicom_gam.service.reprocess import Selection, reprocess
from dicom_gam.service.submission import BrokenOffError, NoRoomError, TooLargeError, submit
from dicom_gam.storage.audit_index import AuditIndex
from dicom_gam.storage.rows import ReceiptKind
from dicom_gam.storage.sqlite_job_list import JobFilter, list_jobs
from dicom_gam.web import api_models as models
from dicom_gam.web.access import Permission, needs, record_act, record_look, visitor
from dicom_gam.web.api_document import DICOM, SECURITY, answers
from dicom_gam.web.api_items import delivery_item, destination_item, moment, moment_or_none
from dicom_gam.web.api_result import analysis_of, finding_of, told, verification_of
from dicom_gam.web.health import readiness_reader, snapshot_reader
from dicom_gam.web.problem import problem
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

    from dicom_gam.storage.rows import Job

pages = APIBlueprint("api", __name__, url_prefix="/api/v1", abp_security=SECURITY, abp_responses=answers())
MAXIMUM_JSON_BYTES = 64 * 1024


@pages.before_request
def _check_request() -> None:
    """Look at what the models do not see. Who may not call this at all has been sent away before."""
    known = current_app.view_functions[request.endpoint or ""].__annotations__
    if request.args and ("query" not in known or any(len(values) > 1 for _, values in request.args.lists())):
        abort(problem(422, "A parameter is unknown here, or is given twice: see the API's description."))
    if "body" in known:
        request.max_content_length = MAXIMUM_JSON_BYTES
        if request.mimetype != "application/json":
            abort(problem(415, "Send the body as application/json."))


def refuse_invalid(error: ValidationError) -> Response:
    """The answer to parameters or a body that do not fit; what was sent is not repeated."""
    told = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'the body'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)[:5]
    )
    return problem(422, told)


@pages.post(
    "/instances",
    responses=answers({202: models.Submitted, 200: models.Submitted}, 400, 409, 413, 415, 507),
    openapi_extensions={"requestBody": {"required": True, "content": {DICOM: {"schema": {}}}}},
)
@needs(Permission.OPERATE)
def submit_instance() -> Response:
    """Submit a DICOM file.

    The body is one DICOM Part 10 file. Once the answer is 200 or 202, it is durably kept.
    """
    if request.mimetype != DICOM:
        return problem(415, f"Send one DICOM file as {DICOM}.", reason="content-type")
    who, length = (
        visitor(),
        None if "chunked" in request.headers.get("Transfer-Encoding", "") else request.content_length,
    )
    try:
        receipt = submit(
            site().store,
            site().settings,
            request.stream,
            by=who.name,
            peer_address=who.address,
            announced_bytes=length,
        )
    except BrokenOffError as error:
        return problem(400, str(error))
    except NoRoomError as error:
        return problem(507, str(error))
    except TooLargeError as error:
        return problem(413, str(error))
    if isinstance(receipt, Rejection):
        status = 415 if receipt.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX else 422
        return problem(status, receipt.message, reason=receipt.reason.value)
    if receipt.kind is ReceiptKind.CONFLICT:
        words = (
            "Another image with the same SOP Instance UID came earlier. This one is quarantined, as the job that is "
            "named here, and is not processed: find out which of the two is right."
        )
        return problem(409, words, reason="same-uid-other-bytes", job_id=receipt.job_id)
    duplicate = receipt.kind is ReceiptKind.DUPLICATE
    href = url_for("api.show_job", job_id=receipt.job_id)
    said = models.Submitted(job_id=receipt.job_id, duplicate=duplicate, href=href)
    answer = _shown(said, 200 if duplicate else 202)
    answer.headers["Location"] = href
    return answer


@pages.get("/jobs", responses=answers({200: models.JobList}))
@needs(Permission.LOOK)
def show_jobs(query: models.JobQuery) -> Response:
    """List jobs, newest first."""
    wanted = JobFilter(query.state, query.outcome or "", query.sender or "", query.study or "")
    record_look("list", **query.model_dump(mode="json", exclude_none=True, exclude={"before", "limit"}))
    rows = list_jobs(site().store.database, wanted, query.before, query.limit)
    jobs = [
        models.JobItem(
            **{name: getattr(row, name) for name in models.JobItem.model_fields if not name.endswith("_at")},
            received_at=moment(row.received_at),
            finished_at=moment_or_none(row.finished_at),
        )
        for row in rows
    ]
    return _shown(models.JobList(jobs=jobs, next=rows[-1].number if len(rows) == query.limit else None))


@pages.get("/jobs/<job_id>", responses=answers({200: models.JobDetail}, 404))
@needs(Permission.LOOK)
def show_job(path: models.JobPath) -> Response:
    """Show a job: its state, outcome, reason and figures."""
    job = _job(path.job_id)
    record_look("job", job_id=job.job_id, study_instance_uid=job.study_instance_uid)
    instance, reviews = job.instance, site().store.reviews.of_job(job.job_id)
    return _shown(
        models.JobDetail(
            **{name: getattr(job, name) for name in _SAME},
            **{name: getattr(instance, name) for name in _OF_INSTANCE},
            received_at=moment(job.received_at),
            finished_at=moment_or_none(job.finished_at),
            finding=finding_of(job),
            verification=verification_of(job),
            analysis=analysis_of(job),
            reviews=[
                models.ReviewItem(kind=item.kind.value, reviewer=item.reviewer, reviewed_at=moment(item.reviewed_at))
                for item in reviews
            ],
        )
    )


_SAME = ("job_id", "state", "outcome", "reason", "message", "study_instance_uid", "attempts", "rule", "predecessor")
_OF_INSTANCE = (
    "calling_ae_title", "called_ae_title", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid", "size_bytes"
)  # fmt: skip


@pages.get("/jobs/<job_id>/results", responses=answers({200: models.ResultList}, 404))
@needs(Permission.LOOK)
def show_results(path: models.JobPath) -> Response:
    """List the objects of a job, and where the delivery of each stands."""
    job = _job(path.job_id)
    record_look("results", job_id=job.job_id, study_instance_uid=job.study_instance_uid)
    deliveries = site().store.outbox.deliveries(job.job_id)
    outputs = [
        models.OutputItem(
            **{name: output[name] for name in ("role", "sop_class_uid", "sop_instance_uid", "size_bytes", "sha256")},
            available=site().store.results.path(output["sha256"]).is_file(),
            href=url_for("api.give_result", job_id=job.job_id, role=output["role"]),
            deliveries=[
                delivery_item(row) for row in deliveries if row.what.sop_instance_uid == output["sop_instance_uid"]
            ],
        )
        for output in _outputs(job)
    ]
    return _shown(models.ResultList(job_id=job.job_id, outcome=job.outcome, outputs=outputs))


@pages.get(
    "/jobs/<job_id>/results/<role>",
    responses=answers({200: {"description": "the object, a DICOM file", "content": {DICOM: {"schema": {}}}}}, 404),
)
@needs(Permission.LOOK)
def give_result(path: models.ResultPath) -> Response:
    """Give one object of a job as a DICOM file."""
    job = _job(path.job_id)
    output = next((item for item in _outputs(job) if item["role"] == path.role), None)
    if output is None:
        return problem(404, f"Job {job.job_id} has no object {path.role}.")
    name, results = output["sha256"], site().store.results
    if not results.path(name).is_file():
        words = "The object's file has been deleted (see [retention]). It may still be where it was sent."
        return problem(404, words, reason="file-deleted")
    content = results.read(name)
    if hashlib.sha256(content).hexdigest() != name:
        raise StorageError(f"the object {path.role} was damaged on our own disk: look at the disk, process again")
    record_look("download", job_id=job.job_id, role=path.role, sop_instance_uid=output["sop_instance_uid"])
    answer = Response(content, mimetype=DICOM)
    answer.headers.set("Content-Disposition", "attachment", filename=f"{output['sop_instance_uid']}.dcm")
    return answer


@pages.get("/jobs/<job_id>/timeline", responses=answers({200: models.Timeline}, 404))
@needs(Permission.LOOK)
def show_timeline(path: models.JobPath, query: models.TimelineQuery) -> Response:
    """Show what the audit log knows of a job and its image, oldest first."""
    job = _job(path.job_id)
    record_look("timeline", job_id=job.job_id, study_instance_uid=job.study_instance_uid)
    index = AuditIndex(site().store.folder)
    try:
        found = index.of_job(job.job_id)[-query.limit :]
    finally:
        index.close()
    records = [
        models.RecordItem(
            number=item.number, time=datetime.fromisoformat(item.time), event=item.event, keys=told(item.keys)
        )
        for item in found
    ]
    return _shown(models.Timeline(job_id=job.job_id, records=records))


@pages.post("/jobs/<job_id>/reprocess", responses=answers({202: models.Requeued}, 400, 404, 409, 413, 415))
@needs(Permission.OPERATE)
def reprocess_job(path: models.JobPath, body: models.ReprocessBody) -> Response:
    """Process a job's image again, with the bundle that is named or by the rules as they are now."""
    job = _job(path.job_id)
    settings = site().settings
    if body.bundle and body.bundle not in settings.bundles:
        return problem(409, "The bundle is none that this node loads: name it in a rule or as processing.bundle.")
    record_act("job.reprocess_ordered", job_id=job.job_id, bundle=body.bundle)
    done = reprocess(settings, Selection(job_ids=(job.job_id,)), bundle=body.bundle, again=body.again)
    if not done.queued:
        return problem(409, "; ".join(item.why for item in done.left_out), job_id=job.job_id)
    (queued,) = done.queued
    href = url_for("api.show_job", job_id=queued.job_id)
    return _shown(models.Requeued(job_id=queued.job_id, predecessor=queued.predecessor, href=href), 202)


@pages.get("/destinations", responses=answers({200: models.DestinationList}))
@needs(Permission.LOOK)
def show_destinations() -> Response:
    """Show where every destination stands."""
    readings = read_destinations(site().store, site().settings.destinations)
    return _shown(models.DestinationList(destinations=[destination_item(reading) for reading in readings]))


@pages.post("/destinations/<path:name>/retry", responses=answers({200: models.Retried}, 400, 404, 413, 415))
@needs(Permission.OPERATE)
def retry_destination(path: models.DestinationPath, body: models.RetryBody) -> Response:
    """Send a destination's dead letters again, and what waits for it at once."""
    if body.job_id is not None:
        _job(body.job_id)
    where = (site().store, site().settings.destinations, path.name)
    try:
        dead = retry(*where, body.job_id, by=visitor().name)
    except ConfigError as error:
        return problem(404, str(error))
    return _shown(models.Retried(destination=path.name, dead_letters=len(dead)))


@pages.post("/destinations/<path:name>/pause", responses=answers({200: models.Paused}, 400, 404, 413, 415))
@needs(Permission.OPERATE)
def pause_destination(path: models.DestinationPath, body: models.PauseBody) -> Response:
    """Have nothing sent to a destination until it is resumed."""
    store = site().store
    before = store.outbox.paused(path.name)
    try:
        pause(store, site().settings.destinations, path.name, body.why, by=visitor().name)
    except ConfigError as error:
        return problem(404, str(error))
    return _shown(models.Paused(destination=path.name, paused=True, changed=before is None))


@pages.post("/destinations/<path:name>/resume", responses=answers({200: models.Paused}, 400, 404))
@needs(Permission.OPERATE)
def resume_destination(path: models.DestinationPath) -> Response:
    """End the pause of a destination."""
    try:
        changed = resume(site().store, site().settings.destinations, path.name, by=visitor().name)
    except ConfigError as error:
        return problem(404, str(error))
    return _shown(models.Paused(destination=path.name, paused=False, changed=changed))


@pages.get("/metrics-summary", responses=answers({200: models.Summary}))
@needs(Permission.LOOK)
def show_summary() -> Response:
    """Show the node's figures at a glance."""
    snapshot, readiness = snapshot_reader().read(), readiness_reader().read()
    figures = snapshot.figures
    oldest = figures.oldest_open_at
    deliveries: dict[str, dict[Any, int]] = {}
    for (name, state), count in figures.deliveries.items():
        deliveries.setdefault(name, {})[state] = count
    return _shown(
        models.Summary(
            ready=readiness.ready,
            why_not=[f"{obstacle.part}: {obstacle.words}" for obstacle in readiness.obstacles],
            jobs=dict(figures.job_states),
            outcomes=dict(figures.outcomes),
            queue_oldest_age_s=0.0 if oldest is None else max(0.0, datetime.now(UTC).timestamp() - oldest),
            senders=[
                models.SenderItem(sender=item.sender, jobs=item.jobs, last_at=moment(item.last_at))
                for item in figures.senders
            ],
            deliveries=deliveries,
            drift=[
                models.DriftItem(
                    sender=item.sender, bundle=item.bundle_name, version=item.bundle_version, images=item.images,
                    log10_evidence=item.log10_evidence, alarm_at=moment_or_none(item.alarm_at)
                )
                for item in snapshot.drift
            ],
            audit_records=figures.audit_records,
        )
    )  # fmt: skip


@pages.get("/audit/verify", responses=answers({200: models.Verification}))
@needs(Permission.AUDIT)
def verify_audit() -> Response:
    """Check that no record of the audit log was edited, deleted, inserted, reordered or cut off."""
    try:
        found = check_log(site().settings.node.storage)
    except AuditError as error:
        said = models.Verification(unbroken=False, records=None, first_bad_record=error.record, message=str(error))
    else:
        words = f"{found.records} records, unbroken, {signatures_told(found)}"
        said = models.Verification(unbroken=True, records=found.records, first_bad_record=None, message=words)
    return _shown(said)


def _shown(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status, content_type="application/json")


def _job(job_id: str) -> Job:
    job = site().store.jobs.get(job_id)
    if job is None:
        abort(problem(404, f"There is no job {job_id}: see GET {url_for('api.show_jobs')}."))
    return job


def _outputs(job: Job) -> list[Mapping[str, Any]]:
    return list((job.result or {}).get("outputs", []))

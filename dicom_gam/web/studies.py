"""The pages Studies, Study and Job, and what readers say there."""

from __future__ import annotations

import io
from contextlib import closing
from typing import TYPE_CHECKING, Any

from flask import (
    Blueprint,
    abort,
    flash,
    redirect,
    render_template,
    request,
    send_file,
    url_for,
)

from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.service.dossier_words import DELIVERY_STATES
from dicom_gam.service.feedback import FEEDBACK_KINDS, MAXIMUM_WORDS, give_feedback, known_classes
from dicom_gam.service.result_view import (
    attention_map_file,
    kept_input,
    kept_object,
    overlay_picture,
    report_tree,
    result_view,
)
from dicom_gam.storage.audit_index import AuditIndex
from dicom_gam.storage.rows import ReviewKind
from dicom_gam.storage.sqlite_oversight import header_of
from dicom_gam.storage.sqlite_search import FoundJob, JobQuery, SqliteSearch
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, OPEN_JOB_STATES, DeliveryState
from dicom_gam.web.access import Permission, needs, record_look, visitor
from dicom_gam.web.score_chart import figure, limit, p_value_chart, probability_bars, score_chart
from dicom_gam.web.site import site
from dicom_gam.web.study_search import OUTCOMES, PATIENT_FIELDS, Search, job_query, read_search
from dicom_gam.web.timeline import LOOKED, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from werkzeug.wrappers import Response

    from dicom_gam.service.result_view import OutputView, ResultView, TreeItem
    from dicom_gam.storage.rows import Job

pages = Blueprint("studies", __name__)
ROWS = 50
LOOKS_SHOWN = 50
_DELIVERY_TONES = {DeliveryState.SENT: "good", DeliveryState.RETRY: "warn", DeliveryState.DEAD: "bad"}


@pages.app_template_filter("person")
def person(name: str) -> str:
    """A patient's name for people: `Doe^Jane^M` is `Doe, Jane M` (PS3.5 6.2.1)."""
    family, _, rest = name.partition("^")
    others = " ".join(part for part in rest.replace("=", " = ").replace("^", " ").split() if part)
    return f"{family}, {others}" if others else family


@pages.app_template_filter("dicom_date")
def dicom_date(text: str) -> str:
    """A DICOM date for people; as it is when it is none."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text


@pages.get("/studies")
@needs(Permission.LOOK)
def page() -> str | tuple[str, int]:
    """Show the latest images, or those that are searched for by other than a patient's data."""
    if any(name in request.args for name in PATIENT_FIELDS):
        abort(400, "a patient's data must not stand in an address: use the form of the page Studies")
    return _listed(request.args)


@pages.post("/studies")
@needs(Permission.LOOK)
def search() -> str | tuple[str, int] | Response:
    """Search by what was typed; without a patient's data in it the search gets an address."""
    try:
        found = read_search(request.form)
    except ConfigError:
        return _listed(request.form)
    if found.of_patient:
        return _listed(request.form)
    return redirect(url_for("studies.page", **found.address(found.before)), 303)  # type: ignore[arg-type]


def _listed(values: Any) -> str | tuple[str, int]:
    try:
        asked = read_search(values)
        query = job_query(asked)
    except ConfigError as error:
        typed = {name: str(value)[:100] for name, value in values.items()}
        return _list_page(Search(typed, None), [], str(error)), 400
    rows = SqliteSearch(site().store.database).jobs(query, asked.before, ROWS + 1)
    if any(row.header is not None for row in rows):
        record_look("list", images=min(len(rows), ROWS), newest=rows[0].job_id, oldest=rows[:ROWS][-1].job_id)
    return _list_page(asked, rows)


def _list_page(asked: Search, rows: Sequence[FoundJob], fault: str = "") -> str:
    return render_template(
        "studies.html",
        search=asked,
        typed=asked.typed,
        rows=rows[:ROWS],
        next_before=rows[ROWS - 1].number if len(rows) > ROWS else None,
        fault=fault,
        outcomes=OUTCOMES,
        senders=SqliteSearch(site().store.database).senders(),
    )


@pages.get("/studies/<study_instance_uid>")
@needs(Permission.LOOK)
def study(study_instance_uid: str) -> str:
    """Show the images of a study."""
    try:
        before = read_search({"uid": study_instance_uid, "before": request.args.get("before", "")}).before
    except ConfigError:
        abort(404)
    rows = SqliteSearch(site().store.database).jobs(JobQuery(uid=study_instance_uid), before, ROWS + 1)
    rows = [row for row in rows if row.study_instance_uid == study_instance_uid]
    if not rows:
        abort(404)
    record_look("study", study_instance_uid=study_instance_uid)
    return render_template(
        "study.html",
        uid=study_instance_uid,
        rows=rows[:ROWS],
        header=next((row.header for row in rows if row.header is not None), None),
        next_before=rows[ROWS - 1].number if len(rows) > ROWS else None,
        first_page=before is None,
    )


@pages.get("/jobs/<job_id>")
@needs(Permission.LOOK)
def job(job_id: str) -> str:
    """Show everything about one image."""
    found = _job(job_id)
    store = site().store
    record_look("job", job_id=job_id, study_instance_uid=found.study_instance_uid)
    view = result_view(store, found)
    tree, tree_fault = _tree(view)
    deliveries = store.outbox.deliveries(job_id)
    with closing(AuditIndex(store.folder)) as index:
        records = index.of_job(job_id)
    looks = timeline((r for r in records if r.event == LOOKED), job_id)[::-1]
    family = store.jobs.of_instance(found.instance.sop_instance_uid)
    return render_template(
        "job.html",
        job=found,
        header=header_of(store.database, job_id),
        view=view,
        chart=score_chart(view.checks) if view and view.checks else None,
        p_values=p_value_chart(view) if view else None,
        probabilities=probability_bars(view) if view else (),
        tree=tree,
        tree_fault=tree_fault,
        deliveries=[(row, DELIVERY_STATES[row.state], _DELIVERY_TONES.get(row.state, "")) for row in deliveries],
        steps=timeline((r for r in records if r.event != LOOKED), job_id),
        looks=looks[:LOOKS_SHOWN],
        more_looks=max(0, len(looks) - LOOKS_SHOWN),
        family=[other for other in family if other.job_id != job_id],
        reviews=store.reviews.of_job(job_id),
        classes=known_classes(found),
        maximum_words=MAXIMUM_WORDS,
        settling=found.state in OPEN_JOB_STATES or any(row.state in OPEN_DELIVERY_STATES for row in deliveries),
        input_here=_is_here(found),
        figure=figure,
        limit=limit,
        dead=sorted({row.what.destination for row in deliveries if row.state is DeliveryState.DEAD}),
    )


@pages.post("/jobs/<job_id>/feedback")
@needs(Permission.COMMENT)
def feedback(job_id: str) -> Response:
    """Keep what the reader says."""
    found = _job(job_id)
    try:
        kind = ReviewKind(request.form.get("kind", ""))
        if kind not in FEEDBACK_KINDS:
            raise ValueError
    except ValueError:
        flash("Say first whether you agree, disagree, or only comment.", "bad")
        return redirect(url_for("studies.job", job_id=job_id, _anchor="feedback"), 303)
    who = visitor()
    try:
        give_feedback(
            site().store,
            found,
            kind,
            who.name,
            class_name=request.form.get("class_name", ""),
            words=request.form.get("words", ""),
            address=who.address,
        )
    except ConfigError as error:
        flash(f"Not kept: {error}.", "bad")
    else:
        flash("Kept. Thank you.", "good")
    return redirect(url_for("studies.job", job_id=job_id, _anchor="feedback"), 303)


@pages.get("/jobs/<job_id>/overlay.png")
@needs(Permission.LOOK)
def overlay(job_id: str) -> Response:
    """Serve the overlay as a picture."""
    found, output = _object(job_id, "overlay")
    return _served(found, "overlay", lambda: overlay_picture(site().store, output), "image/png", "")


@pages.get("/jobs/<job_id>/objects/<role>")
@needs(Permission.LOOK)
def result_object(job_id: str, role: str) -> Response:
    """Serve a result object as it was made."""
    found, output = _object(job_id, role)
    name = f"{job_id[:12]}-{output.role}.dcm"
    return _served(found, output.role, lambda: kept_object(site().store, output), "application/dicom", name)


@pages.get("/jobs/<job_id>/attention-map")
@needs(Permission.LOOK)
def attention_map(job_id: str) -> Response:
    """Serve the float attention map."""
    found = _job(job_id)
    store = site().store
    view = result_view(store, found)
    if view is None:
        abort(404)
    name = f"{job_id[:12]}-attention-map.npy"
    return _served(found, "attention map", lambda: attention_map_file(store, view), "application/octet-stream", name)


@pages.get("/jobs/<job_id>/image")
@needs(Permission.OPERATE)
def source_image(job_id: str) -> Response:
    """Serve the image as it was received."""
    found = _job(job_id)
    try:
        path = kept_input(found)
    except StorageError as error:
        abort(404, str(error))
    record_look("download", part="image", job_id=job_id, study_instance_uid=found.study_instance_uid)
    return send_file(path.absolute(), "application/dicom", as_attachment=True, download_name=f"{job_id[:12]}.dcm")


def _job(job_id: str) -> Job:
    found = site().store.jobs.get(job_id)
    if found is None:
        abort(404, "there is no such job")
    return found


def _object(job_id: str, role: str) -> tuple[Job, OutputView]:
    """A job and its kept object of this role; neither is ever looked for by a path."""
    found = _job(job_id)
    view = result_view(site().store, found)
    output = None if view is None else view.output(role)
    if output is None:
        abort(404, "this job has no such object, or its file has been deleted (retention.results_days)")
    return found, output


def _served(found: Job, what: str, read: Callable[[], bytes], mimetype: str, name: str) -> Response:
    try:
        content = read()
    except StorageError as error:
        abort(404, str(error))
    record_look(
        "download" if name else what, part=what, job_id=found.job_id, study_instance_uid=found.study_instance_uid
    )
    return send_file(io.BytesIO(content), mimetype, as_attachment=bool(name), download_name=name or None)


def _tree(view: ResultView | None) -> tuple[TreeItem | None, str]:
    output = None if view is None else view.output("sr")
    if output is None:
        return None, ""
    try:
        return report_tree(kept_object(site().store, output)), ""
    except StorageError as error:
        return None, str(error)


def _is_here(found: Job) -> bool:
    try:
        kept_input(found)
    except StorageError:
        return False
    return True

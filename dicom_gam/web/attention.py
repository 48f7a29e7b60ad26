"""The page Attention: results and dead letters that wait for a person, and what can be done about them.

The lists show no patient's data: they name jobs by sender, time and UID, and lead to the pages that do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for

from dicom_gam.errors import DicomGamError
from dicom_gam.service import operations
from dicom_gam.service.feedback import known_classes
from dicom_gam.service.operations import LONGEST_REASON, SHORTEST_REASON, Letter, Order, OrderError
from dicom_gam.storage.sqlite_attention import (
    ATTENTION_OUTCOMES,
    common_causes,
    dead_counts,
    dead_letters,
    open_results,
)
from dicom_gam.storage.sqlite_now import known_senders
from dicom_gam.web.access import Permission, needs, record_look, visitor
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.wrappers import Response

    from dicom_gam.service.operations import Done
    from dicom_gam.storage.rows import Job

pages = Blueprint("attention", __name__)
PAGE = 50
LETTERS = 25  # of each destination
KINDS = (*ATTENTION_OUTCOMES, "dead")
_KEPT = ("kind", "sender", "destination")  # what a form gives back, so that one returns to the same list
_LARGEST_NUMBER = 2**62


@pages.get("/attention")
@needs(Permission.LOOK)
def page() -> str:
    """Show what waits, newest first."""
    chosen = _chosen(request.args)
    kind, sender = chosen.get("kind", ""), chosen.get("sender", "")
    database = site().store.database
    outcomes = ATTENTION_OUTCOMES if not kind else tuple(item for item in ATTENTION_OUTCOMES if item == kind)
    before = _number("before")
    results = open_results(database, outcomes=outcomes, sender=sender, before=before, limit=PAGE)
    return render_template(
        "attention.html",
        chosen=chosen,
        kinds=KINDS,
        senders=known_senders(database),
        results=results.rows,
        more=results.before,
        before=before,
        destinations=_letters(chosen) if kind in ("", "dead") else [],
        shortest=SHORTEST_REASON,
        longest=LONGEST_REASON,
    )


@pages.post("/attention/results")
@needs(Permission.OPERATE)
def settle_results() -> Response:
    """Dismiss the ticked results, or process their images again."""
    store, settings, job_ids = site().store, site().settings, request.form.getlist("job")
    if request.form.get("action") == "dismiss":
        _do("dismissed", "Results", lambda order: operations.dismiss_results(store, job_ids, order))
    elif request.form.get("action") == "reprocess":
        again = "queued to be processed again"
        _do(again, "Images", lambda order: operations.process_again(store, settings, job_ids, order))
    else:
        abort(400, "no such action")
    return _back()


@pages.post("/attention/letters")
@needs(Permission.OPERATE)
def settle_letters() -> Response:
    """Send dead letters again or do without them: one, the ticked ones, or all of a destination."""
    form, store = request.form, site().store
    action, one, every = form.get("action"), form.get("one"), form.get("all", "")
    letters = [_letter(text) for text in ([one] if one else form.getlist("letter"))]
    if one or action == "retry":
        _do("sent again", "Dead letters", lambda order: operations.retry_letters(store, letters, order))
    elif action == "dismiss":
        _do("dismissed", "Dead letters", lambda order: operations.dismiss_letters(store, letters, order))
    elif action == "retry-all":
        _do("sent again", "Dead objects", lambda order: operations.retry_destination(store, every, order))
    elif action == "dismiss-all":
        _do("dismissed", "Dead objects", lambda order: operations.dismiss_destination(store, every, order))
    else:
        abort(400, "no such action")
    return _back()


@pages.get("/attention/override/<job_id>")
@needs(Permission.OPERATE)
def override(job_id: str) -> str:
    """Ask for the reason of an override, and say what it does and does not do."""
    job = _job(job_id)
    record_look("job", job_id=job.job_id, study_instance_uid=job.study_instance_uid)
    return _override_page(job)


@pages.post("/attention/override/<job_id>")
@needs(Permission.OPERATE)
def submit_override(job_id: str) -> Response | tuple[str, int]:
    """Note the override."""
    job = _job(job_id)
    try:
        done = operations.override(site().store, job_id, _order(), request.form.get("class_name", ""))
    except DicomGamError as error:
        return _override_page(job, str(error)), 400
    if done.count:
        flash("The override is on record. What was sent stays as it is, and nothing was sent.", "good")
    _tell_left_out(done)
    return redirect(url_for("attention.page"), 303)


def _override_page(job: Job, fault: str = "") -> str:
    return render_template(
        "attention_override.html",
        job=job,
        open=operations.can_be_closed(site().store, job.job_id),
        classes=sorted(known_classes(job)),
        reasons=((job.result or {}).get("verification") or {}).get("reasons", ()),
        words=request.form.get("why", ""),
        fault=fault,
        shortest=SHORTEST_REASON,
        longest=LONGEST_REASON,
    )


def _job(job_id: str) -> Job:
    job = site().store.jobs.get(job_id)
    if job is None:
        abort(404)
    return job


def _letters(chosen: dict[str, str]) -> list[dict[str, Any]]:
    """The dead letters by destination, a page of each."""
    database, only = site().store.database, chosen.get("destination", "")
    found = []
    for name, count in dead_counts(database).items():
        if only and name != only:
            continue
        before = _number("dead_before") if only else None
        letters = dead_letters(database, name, sender=chosen.get("sender", ""), before=before, limit=LETTERS)
        causes = common_causes(database, name)
        found.append({"name": name, "count": count, "rows": letters.rows, "more": letters.before, "causes": causes})
    return found


def _chosen(values: Any) -> dict[str, str]:
    """What the lists are narrowed down to; a kind that there is not counts as all."""
    found = {name: str(values.get(name, ""))[:64] for name in _KEPT}
    if found["kind"] not in KINDS:
        found["kind"] = ""
    return {name: value for name, value in found.items() if value}


def _number(name: str) -> int | None:
    """A place in a list. Anything but a number that a list can have is a bad request."""
    text = request.args.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) < _LARGEST_NUMBER):
        abort(400, f"{name} must be a number of the list")
    return int(text)


def _letter(text: str) -> Letter:
    job_id, _, destination = text.partition("/")
    return Letter(job_id, destination)


def _order() -> Order:
    who = visitor()
    return Order(who.name, " ".join(request.form.get("why", "").split()), who.address)


def _do(done_words: str, things: str, act: Callable[[Order], Done]) -> None:
    """Carry out and say in words what came of it."""
    try:
        done = act(_order())
    except OrderError as error:
        flash(f"Nothing was done: {error}.", "bad")
        return
    except DicomGamError as error:
        flash(f"It was not done, or not all of it: {error}", "bad")
        return
    if done.count:
        flash(f"{things} {done_words}: {done.count}.", "good")
    _tell_left_out(done)


def _tell_left_out(done: Done) -> None:
    if done.left_out:
        first = done.left_out[0]
        others = f", and {len(done.left_out) - 1} more" if len(done.left_out) > 1 else ""
        flash(f"Left out: {first.what} ({first.why}){others}.", "warn")


def _back() -> Response:
    kept: dict[str, Any] = dict(_chosen(request.form))
    return redirect(url_for("attention.page", **kept), 303)

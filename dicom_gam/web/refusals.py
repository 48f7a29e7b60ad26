"""What is answered when a request can't be served: a page that says why and what to do, or RFC 9457 for programs."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flask import g, make_response, redirect, render_template, request, url_for
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, InternalServerError

from dicom_gam.errors import AuditError, DicomGamError, StorageError
from dicom_gam.web.access import record_refusal
from dicom_gam.web.problem import problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask, Response

_log = logging.getLogger(__name__)

# Title, why, what to do. What a view says itself takes the place of the second.
WORDS: Mapping[int, tuple[str, str, str]] = MappingProxyType(
    {
        400: ("That can't be understood", "Something in the request is missing or wrong.", "Go back and try again."),
        401: ("You are not logged in", "You were logged out, or never logged in.", "Log in, then do it again."),
        403: (
            "You may not do this",
            "None of your roles allows it.",
            "Ask the administrator of this node for the role that you need.",
        ),
        404: (
            "There is nothing here",
            "The page has moved, or what it showed was deleted.",
            "Check the address, or look for it in the list of studies.",
        ),
        405: ("That can't be done here", "This address doesn't know that kind of request.", "Go back and try again."),
        413: (
            "That is too large",
            "The node takes no file or form of this size.",
            "Send less at once, or ask the administrator to raise web.maximum_upload_bytes.",
        ),
        415: ("That kind of content isn't taken", "The node takes another kind of content.", "Send it as described."),
        422: ("Some values don't fit", "The node can't take one or more of the values.", "Correct them and try again."),
        429: (
            "Too many tries",
            "There were too many tries in a short time, so the node makes you wait.",
            "Wait a few minutes. If that wasn't you, tell the administrator: somebody may be guessing passwords.",
        ),
        500: (
            "The node made a mistake",
            "It is not your fault, and nothing that was sent or received is lost.",
            "Try again; if it stays, tell the administrator the time. The node's log says more.",
        ),
        503: (
            "The node can't answer now",
            "Its storage can't be used. What you asked for was not done.",
            "Tell the administrator. The node's log says more.",
        ),
    }
)
_FOR_PROGRAMS = ("/api/", "/metrics", "/live", "/ready")


def answer_refusals(app: Flask) -> None:
    """Have every refused request answered in words."""
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(CSRFError, _forged_form)
    app.register_error_handler(DicomGamError, _trouble)
    app.logger.addFilter(_without_values)


def refusal(status: int, why: str = "") -> Response:
    """Answer a request that isn't served. `why` takes the place of the usual words; it is escaped."""
    title, usually, remedy = WORDS.get(status, WORDS[400 if status < 500 else 500])
    if for_programs():
        return problem(status, why)
    page = render_template("error.html", status=status, title=title, why=why or usually, remedy=remedy)
    return make_response(page, status)


def for_programs() -> bool:
    """Whether a program asks, which wants no page."""
    if request.path.startswith(_FOR_PROGRAMS) or "Authorization" in request.headers:
        return True
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"


def _refused(error: HTTPException) -> Response:
    status = error.code or 500
    if error.response is not None:
        return make_response(error.response)
    if status == 401 and not for_programs() and request.method in ("GET", "HEAD") and "X-Live" not in request.headers:
        if g.get("must_change"):
            return make_response(redirect(url_for("login.password")))
        wanted = request.full_path.removesuffix("?")
        return make_response(redirect(url_for("login.page", next=wanted if wanted != "/" else None)))
    said = error.description if error.description and error.description != type(error).description else ""
    answer = refusal(status, "" if isinstance(error, InternalServerError) else said)
    for name, value in error.get_headers():  # such as Allow and Retry-After
        if name.lower() not in ("content-type", "content-length", "www-authenticate"):
            answer.headers[name] = value
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _forged_form(_: CSRFError) -> Response:
    record_refusal("cross-site post: the form has no valid token")
    return refusal(
        400,
        "The form was not made by this dashboard for you, or you have logged in or out since. Nothing was done. "
        "Open the page again and fill it in anew.",
    )


def _trouble(error: DicomGamError) -> Response:
    _log.error("web.refused endpoint=%s: %s", request.endpoint, error)
    status = 503 if isinstance(error, StorageError | AuditError) else 400
    return refusal(status, str(error) if g.get("visitor") else "")


def _without_values(record: logging.LogRecord) -> bool:
    """Say where an exception came from and of what kind it is, without its message: that may be a patient's data."""
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        record.msg, record.args = "web.failed endpoint=%s %s at %s", (_endpoint(), type(error).__name__, where)
        record.exc_info = record.exc_text = None
    return True


def _endpoint() -> str:
    return str(request.endpoint) if request else "none"

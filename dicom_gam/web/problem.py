"""Errors of the HTTP API as RFC 9457 wants them: `application/problem+json`."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, json
from pydantic import BaseModel, ConfigDict, Field

PROBLEM_TYPE = "application/problem+json"
_WORDS = {  # where werkzeug's own words are meant for people with a browser
    400: "The request can't be understood: see the API's description.",
    401: "Send the header `Authorization: Bearer TOKEN` with a valid token, or log in.",
    403: "Your role does not allow this: ask whoever administers the node for another one.",
    404: "There is nothing under this address.",
    405: "This address does not know this method: see the header Allow.",
    413: "The body is larger than web.maximum_upload_bytes.",
    415: "The Content-Type is not the one that this operation takes: see the API's description.",
    429: "Too many requests: wait a little and try again.",
    500: "An error within the node: see its log.",
}


class Problem(BaseModel):
    """Why a request was not carried out (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="`about:blank`: what kind of problem it is, the status says")
    title: str = Field(description="the status in words")
    status: int = Field(ge=400, le=599, description="the status of the answer")
    detail: str = Field(description="what is wrong, and what to do")
    reason: str = Field("", description="a name for the reason that programs can rely on, empty where there is none")
    job_id: str = Field("", description="the job that it is about, empty where there is none")


def problem(status: int, detail: str = "", *, reason: str = "", job_id: str = "") -> Response:
    """An answer that says what is wrong."""
    said = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail or _WORDS.get(status, HTTPStatus(status).description or HTTPStatus(status).phrase),
        reason=reason,
        job_id=job_id,
    )
    answer = Response(json.dumps(said.model_dump(exclude_defaults=True)), status, content_type=PROBLEM_TYPE)
    if status == HTTPStatus.UNAUTHORIZED:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer

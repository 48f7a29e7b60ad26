"""The OpenAPI document: what every operation can answer, and who may call it. Served as /openapi/openapi.json."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, current_app, json

from dicom_gam.web.access import Permission, needs
from dicom_gam.web.problem import PROBLEM_TYPE, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_openapi3 import OpenAPI
    from pydantic import BaseModel

DICOM = "application/dicom"
SECURITY: list[dict[str, list[Any]]] = [{"token": []}, {"session": []}]
ALWAYS = (400, 401, 403, 422, 429, 500, 503)  # what every operation can answer
DESCRIPTION = (
    "Submit radiographs, follow their jobs, get their results. Only a job whose outcome is PASS has a finding; on FAIL "
    "and REJECT `finding` is null, and the figures are for review alone. Every look at a patient's data is put on "
    "record. Errors are `application/problem+json` (RFC 9457). Research use only, not for diagnosis."
)

document = Blueprint("openapi", __name__)


def security_schemes(cookie_name: str) -> dict[str, Any]:
    """How a client shows who it is."""
    return {
        "token": {"type": "http", "scheme": "bearer", "description": "a token of an account, for programs"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": cookie_name,
            "description": "the dashboard's session; what changes something needs the header X-CSRFToken too",
        },
    }


def answers(good: Mapping[int, type[BaseModel] | dict[str, Any]] | None = None, *problems: int) -> dict[Any, Any]:
    """What an operation answers: the good answers by status, and the problems it can have."""
    found: dict[Any, Any] = dict(good or {})
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    for status in sorted({*ALWAYS, *problems}):
        found[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": schema}},
        }
    return found


@document.get("/openapi/openapi.json")
@needs(Permission.LOOK)
def show() -> Response:
    """Give the document."""
    app: OpenAPI = current_app  # type: ignore[assignment]
    return Response(json.dumps(openapi(app)), content_type="application/json")


def openapi(app: OpenAPI) -> dict[str, Any]:
    """The document of an application."""
    made: dict[str, Any] = app.api_doc
    for schema in made["components"]["schemas"].values():
        schema.pop("$defs", None)  # each is a component of its own
    return made

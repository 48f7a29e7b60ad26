"""The node's HTTP API, as far as the panel needs it (conformance/OVERSIGHT.md, "HTTP API")."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .settings import Settings

_TIMEOUT_S = 5.0
_MAXIMUM_BYTES = 4 * 1024**2


class NodeError(Exception):
    """The node did not do what it was asked; the message is for a person and holds no patient's data."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token goes to the address that was configured and to no other."""

    def redirect_request(self, *_given: Any) -> None:
        return None


class Node:
    """Asks the node about jobs, and for processing again. The token is read anew each time, so it can be renewed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
        if settings.certificate_authority:
            context = ssl.create_default_context(cafile=settings.certificate_authority)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def is_configured(self) -> bool:
        """Whether there is an address and a token."""
        return bool(self._settings.url)

    def latest_jobs(self, study_instance_uid: str) -> dict[str, dict[str, Any]]:
        """The node's latest ended job of each image of a study, by SOP Instance UID."""
        jobs = self._call(f"/api/v1/jobs?limit=200&study={quote(study_instance_uid)}")["jobs"]
        return {job["sop_instance_uid"]: job for job in reversed(jobs) if job["state"] != "quarantined"}

    def process_again(self, job_id: str) -> None:
        """Have the image of a job processed once more, by the node's rules as they are now."""
        self._call(f"/api/v1/jobs/{quote(job_id)}/reprocess", {"again": True})

    def _call(self, path: str, body: object = None) -> Any:
        try:
            token = Path(self._settings.token_file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            msg = "the file DicomGam.TokenFile can't be read: look whether it is there, and readable for Orthanc"
            raise NodeError(msg) from error
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self._settings.url + path, data, headers)  # noqa: S310 (settings: http(s) only)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read(_MAXIMUM_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise NodeError(_refusal(error.code, error.read(_MAXIMUM_BYTES))) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            msg = f"the node's HTTP API at {self._settings.url} does not answer: look whether the node runs, with [web]"
            raise NodeError(msg) from error


def _refusal(status: int, body: bytes) -> str:
    if status in (401, 403):
        return (
            f"the node does not let the plugin do this (HTTP {status}): put a token of an operator into "
            "DicomGam.TokenFile (dicom-gam users token NAME --role operator)"
        )
    try:
        said = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        said = "no reason given"
    return f"the node refused (HTTP {status}): {said}"

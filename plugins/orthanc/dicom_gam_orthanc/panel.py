"""The panel's addresses in Orthanc: a study's page, the same as JSON, and its two buttons."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections import OrderedDict
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from .follower import Follower, utc_now
from .host import GoneError, Host, HostError
from .node import Node, NodeError
from .page import CONTENT_SECURITY_POLICY, page_of, problem_page
from .settings import Settings
from .study import Studies
from .view import AWAITED, REFUSED, view_of

ADDRESS = "/dicom-gam/studies/([0-9a-f-]{44})(|\\.json|/again|/send)"
_REMEMBERED = 1000
_NOT_OURS = (
    "This did not come from the study's page, or Orthanc was restarted since: open the page anew, and press again."
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Panel:
    """Answers requests. Orthanc has checked before who may ask at all."""

    def __init__(self, host: Host, settings: Settings, studies: Studies, follower: Follower, node: Node) -> None:
        self._host, self._settings, self._studies, self._follower, self._node = host, settings, studies, follower, node
        self._secret = secrets.token_bytes(32)
        self._again: OrderedDict[str, tuple[str, dict[str, str]]] = OrderedDict()  # study: when, reports of then

    def answer(self, output: Any, _uri: str, **request: Any) -> None:
        """Answer one request; the signature is that of orthanc.RegisterRestCallback."""
        study, what = request["groups"]
        posting = what in ("/again", "/send")
        if request["method"] != ("POST" if posting else "GET"):
            output.SendMethodNotAllowed("POST" if posting else "GET")
            return
        try:
            if posting:
                self._act(output, study, what[1:], request)
            else:
                self._show(output, study, as_json=what == ".json")
        except GoneError:
            _send(
                output,
                404,
                problem_page("No such study", "Orthanc has no such study, or no longer.", "../../app/explorer.html"),
            )
        except HostError as error:
            _send(output, 500, problem_page("Orthanc can't read this study", str(error), "../../app/explorer.html"))

    def _view(self, study: str) -> dict[str, Any]:
        view = view_of(study, self._host, self._studies, self._follower, self._node)
        asked_at, reports = self._again.get(study, ("", {}))
        for image in view["images"]:
            image["again"] = _course_of_again(image, asked_at, reports)
        view["awaiting"] |= any(image["again"].startswith("being") for image in view["images"])
        return view

    def _show(self, output: Any, study: str, *, as_json: bool) -> None:
        view = self._view(study)
        if as_json:
            _send(output, 200, json.dumps(view, indent=2), "application/json")
            return
        about = self._host.get(f"/studies/{study}")
        tokens = {action: self._token(study, action) for action in ("again", "send")}
        _send(output, 200, page_of(view, about, tokens, self._settings.dashboard_url))

    def _act(self, output: Any, study: str, action: str, request: dict[str, Any]) -> None:
        headers = request["headers"]
        as_json = headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        if not self._may(study, action, headers, request.get("body", b""), as_json=as_json):
            _send(output, 403, problem_page("Refused", _NOT_OURS, f"../{study}"))
            return
        try:
            if action == "again":
                self._process_again(study)
            else:
                self._send_to_node(study)
        except NodeError as error:
            if as_json:
                _send(output, 502, json.dumps({"error": str(error)}), "application/json")
            else:
                _send(output, 502, problem_page("Not processed again", str(error), f"../{study}"))
            return
        if as_json:
            _send(output, 202, json.dumps(self._view(study), indent=2), "application/json")
        else:
            output.SetHttpHeader("Location", f"../{study}")
            output.SendHttpStatus(303, "", 0)

    def _may(self, study: str, action: str, headers: dict[str, str], body: bytes, *, as_json: bool) -> bool:
        """Keep other sites from pressing our buttons in the browser of somebody who is logged in to Orthanc.

        A form must bear a token that only our page shows. A program sends JSON, which a page of another site can't.
        """
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        if as_json:
            return True
        (given, *_) = parse_qs(body.decode("utf-8", "replace")).get("token", [""])
        return hmac.compare_digest(given.encode(), self._token(study, action).encode())

    def _token(self, study: str, action: str) -> str:
        return hmac.new(self._secret, f"{action} {study}".encode(), hashlib.sha256).hexdigest()

    def _process_again(self, study: str) -> None:
        if not self._node.is_configured:
            msg = "the plugin knows no HTTP API of the node: give DicomGam.Url and DicomGam.TokenFile, restart Orthanc"
            raise NodeError(msg)
        view = view_of(study, self._host, self._studies, self._follower, self._node)
        jobs = {image["job"] for image in view["images"] if image["job"]}
        if not jobs:
            raise NodeError(view["node_said"] or "the node has ended no job of this study: wait for its first verdict")
        self._again[study] = (
            utc_now(),
            {i["instance"]: (i["report"] or {}).get("instance", "") for i in view["images"]},
        )
        if len(self._again) > _REMEMBERED:
            self._again.popitem(last=False)
        for job in sorted(jobs):
            self._node.process_again(job)
        self._host.inform(f"study {study}: asked the node to process it again")

    def _send_to_node(self, study: str) -> None:
        """Forget that images without a verdict were sent; the request itself goes into the change log, so it lasts."""
        marks = self._studies.marks
        view = view_of(study, self._host, self._studies, self._follower, self._node)
        for image in view["images"]:
            if image["state"] in (AWAITED, REFUSED):
                number = marks.sent if image["state"] == AWAITED else marks.refused
                self._studies.unmark("instances", image["instance"], number)
        self._studies.mark("studies", study, marks.asked, utc_now())
        self._follower.wake()


def _course_of_again(image: dict[str, Any], asked_at: str, reports: dict[str, str]) -> str:
    """How a processing that was asked for here fares; nothing once its report has come."""
    if (
        not asked_at
        or not image["job"]
        or (image["report"] or {}).get("instance", "") != reports.get(image["instance"])
    ):
        return ""
    if _instant(image["job_finished"]) < _instant(asked_at):
        return f"being processed again, as asked {asked_at.replace('T', ' ').replace('Z', ' UTC')}"
    return "processed again as asked: bundle and settings are unchanged, so the report stands"


def _instant(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp() if iso else 0.0


def _send(output: Any, status: int, text: str, content_type: str = "text/html; charset=utf-8") -> None:
    for name, value in _HEADERS.items():
        output.SetHttpHeader(name, value)
    if status == 200:
        output.AnswerBuffer(text, content_type)
        return
    output.SetHttpHeader("Content-Type", content_type)
    body = text.encode("ascii", "xmlcharrefreplace").decode("ascii")  # a text and its length, as the plugin 4.0 wants
    output.SendHttpStatus(status, body, len(body))

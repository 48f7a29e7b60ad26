"""The doctor's look at those who are told: audit record repository, mail server, webhook; and what waits for them."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

from dicom_gam.errors import DicomGamError
from dicom_gam.service.atna.syslog import line_to
from dicom_gam.service.doctor_case import fail, ok, warn
from dicom_gam.service.notification_channels import connected, reach_webhook
from dicom_gam.storage.inspection import audit_head, layout
from dicom_gam.storage.layouts import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicom_gam.service.doctor_case import Case, Finding

LOOK_S = 10.0
WAITING_MANY = 1000  # a follower is at most seconds behind when all is well


def check_repository(case: Case) -> Iterator[Finding]:
    """Whether the audit record repository takes a connection, and how far its follower is behind."""
    atna = case.settings.atna
    if atna.host is None:
        yield ok("no audit record repository is configured (atna.host)")
        return
    looking = atna.model_copy(update={"timeout_s": min(atna.timeout_s, LOOK_S)})
    try:
        with closing(line_to(looking)) as line:
            line.send(())
    except DicomGamError as error:
        yield fail(str(error), "audit messages wait in the audit log until then, none is lost")
    else:
        found = f"the audit record repository {atna.host}:{atna.port}"
        yield ok(f"{found} lets us in by TLS" if atna.transport == "tls" else f"{found}: UDP tells nothing more")
    yield from _behind(case, "atna", "audit messages")


def check_notifications(case: Case) -> Iterator[Finding]:
    """Whether the mail server lets us in, and the webhook answers. Nothing is sent."""
    settings = case.settings.notifications
    if settings.smtp_host is None and settings.webhook_url_file is None:
        yield ok("nobody is told when something needs a person (notifications.smtp_host, webhook_url_file)")
        return
    if settings.smtp_host is not None:
        try:
            with connected(settings):
                yield ok(f"the mail server {settings.smtp_host}:{settings.smtp_port} lets us in")
        except DicomGamError as error:
            yield fail(str(error), "")
    if settings.webhook_url_file is not None:
        try:
            reach_webhook(settings.webhook_url_file)
            yield ok(f"the webhook of {settings.webhook_url_file} answers")
        except DicomGamError as error:
            yield fail(str(error), "")
    yield from _behind(case, "notifications", "records to notify of")


def _behind(case: Case, name: str, what: str) -> Iterator[Finding]:
    """How many records wait for a follower; nothing where that can't be told."""
    path = case.database
    if path is None or layout(path) != SCHEMA_VERSION:
        return
    head = audit_head(path)
    try:
        number = int(json.loads((case.folder / f"follower-{name}.json").read_bytes())["number"])
    except (OSError, ValueError, TypeError, KeyError):  # it has not run yet
        return
    behind = 0 if head is None else head.number + 1 - number
    if behind > WAITING_MANY:
        remedy = "see follower.held in the node's log" if case.runs else "start the node"
        yield warn(f"{behind} records of the audit log wait to be looked through for {what}", remedy)

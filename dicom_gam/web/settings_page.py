"""The page Settings: the configuration in effect, the bundles in use, and trying rules and destinations by hand."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for

from dicom_gam.errors import DicomGamError
from dicom_gam.service.effective_settings import effective, masked, title_of
from dicom_gam.service.operations import Order
from dicom_gam.service.peer_test import say_hello, send_test_object
from dicom_gam.service.rule_trial import try_rules
from dicom_gam.web.access import Permission, needs, record_look, visitor
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

    from dicom_gam.config import Settings
    from dicom_gam.service.peer_test import PeerAnswer

pages = Blueprint("settings", __name__)
_TITLE = 16  # characters of an AE title (PS3.5 6.2)


@pages.get("/settings")
@needs(Permission.SETTINGS)
def page() -> str:
    """Show the page."""
    settings = site().settings
    sections = [
        {"place": place, "title": title_of(settings, place), "keys": list(keys)}
        for place, keys in groupby(effective(settings), key=lambda key: key.section)
    ]
    return render_template(
        "settings.html",
        settings=settings,
        sections=sections,
        bundles=_bundles(settings),
        destinations=[(item.name, _where(item)) for item in settings.destinations],
    )


@pages.post("/settings/destinations")
@needs(Permission.OPERATE)
def try_destination() -> Response:
    """Say hello to a destination, or send it a test object."""
    name, action = request.form.get("destination", ""), request.form.get("action")
    who = visitor()
    order, store, settings = Order(who.name, address=who.address), site().store, site().settings
    try:
        if action == "hello":
            _tell(name, "Hello", say_hello(store, settings, name, order))
        elif action == "test":
            _tell(name, "Test object", send_test_object(store, settings, name, order))
        else:
            abort(400, "no such action")
    except DicomGamError as error:
        flash(f"Not tried: {error}", "bad")
    return redirect(url_for("settings.page", _anchor="destinations"), 303)


@pages.post("/settings/rules")
@needs(Permission.SETTINGS)
def try_rules_on_file() -> str | tuple[str, int]:
    """Say what the rules do with a file; nothing of it is kept."""
    file = request.files.get("file")
    calling, called = (request.form.get(name, "").strip()[:_TITLE] for name in ("calling", "called"))
    if file is None or not file.filename:
        return render_template("settings_rules.html", trial=None, fault="Choose a DICOM file first."), 400
    try:
        trial = try_rules(site().settings, file.stream, calling, called)  # type: ignore[arg-type]  # binary, typed IO
    except DicomGamError as error:
        return render_template("settings_rules.html", trial=None, fault=str(error)), 503
    if trial.sop_instance_uid:
        record_look("rule trial", sop_instance_uid=trial.sop_instance_uid)
    return render_template(
        "settings_rules.html", trial=trial, calling=calling, called=called or site().settings.node.ae_title, fault=""
    )


def _tell(name: str, what: str, answer: PeerAnswer) -> None:
    flash(f"{what} for {name}: {answer.words}", "good" if answer.well else "bad")


def _where(destination: Any) -> str:
    if destination.url is not None:
        return masked(destination.url)
    return f"{destination.ae_title} at {destination.host}:{destination.port}" + (" (TLS)" if destination.tls else "")


def _bundles(settings: Settings) -> list[dict[str, Any]]:
    """Each bundle that is in use, which rules use it and, where the node runs in this process, what it is."""
    vitals = site().vitals
    about = {} if vitals is None else vitals().about.get("bundles", {})
    found = []
    for name in settings.bundles:
        rules = [rule.name for rule in settings.rules if (rule.bundle or settings.processing.bundle) == name]
        default = name == settings.processing.bundle
        found.append({"name": name, "default": default, "rules": rules, "identity": about.get(name)})
    return found

"""The page Now: how the node stands at this moment. It shows no patient's data."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.service.situation import read_situation
from dicom_gam.web.access import Permission, needs
from dicom_gam.web.site import site

pages = Blueprint("now", __name__)
OUTCOMES = (
    ("PASS", "verified"),
    ("FAIL", "not verified"),
    ("REJECT", "not one of the known kinds of image"),
    ("UNUSABLE", "no radiograph that can be read"),
    ("ERROR", "failed"),
    ("QUARANTINED", "same UID, other bytes"),
    ("SKIPPED", "left out by a rule"),
)


@pages.get("/")
@needs(Permission.LOOK)
def page() -> str:
    """Show the page."""
    here = site()
    vitals = None if here.vitals is None else here.vitals()
    return render_template("now.html", now=read_situation(here.settings, here.store, vitals), outcomes=OUTCOMES)

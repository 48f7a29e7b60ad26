"""The page Settings."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.web.access import Permission, needs

pages = Blueprint("settings", __name__)


@pages.get("/settings")
@needs(Permission.SETTINGS)
def page() -> str:
    """Show the page."""
    return render_template("settings.html")

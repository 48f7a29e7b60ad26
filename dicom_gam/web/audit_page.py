"""The page Audit."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.web.access import Permission, needs

pages = Blueprint("audit", __name__)


@pages.get("/audit")
@needs(Permission.AUDIT)
def page() -> str:
    """Show the page."""
    return render_template("audit.html")

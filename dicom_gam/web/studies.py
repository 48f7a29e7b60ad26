"""The page Studies."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.web.access import Permission, needs

pages = Blueprint("studies", __name__)


@pages.get("/studies")
@needs(Permission.LOOK)
def page() -> str:
    """Show the page."""
    return render_template("studies.html")

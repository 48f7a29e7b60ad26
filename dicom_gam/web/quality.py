"""The page Quality."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.web.access import Permission, needs

pages = Blueprint("quality", __name__)


@pages.get("/quality")
@needs(Permission.LOOK)
def page() -> str:
    """Show the page."""
    return render_template("quality.html")

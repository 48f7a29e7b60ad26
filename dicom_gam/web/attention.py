"""The page Attention."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.web.access import Permission, needs

pages = Blueprint("attention", __name__)


@pages.get("/attention")
@needs(Permission.LOOK)
def page() -> str:
    """Show the page."""
    return render_template("attention.html")

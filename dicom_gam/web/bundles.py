"""The page Bundles."""

from __future__ import annotations

from flask import Blueprint, render_template

from dicom_gam.web.access import Permission, needs

pages = Blueprint("bundles", __name__)


@pages.get("/bundles")
@needs(Permission.LOOK)
def page() -> str:
    """Show the page."""
    return render_template("bundles.html")

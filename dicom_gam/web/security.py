"""What protects the application: sessions, cross-site posts, security headers, rate limits."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from flask import g, request, session

from dicom_gam.web.access import Visitor

if TYPE_CHECKING:
    from flask import Flask

    from dicom_gam.web.site import Site


def protect(app: Flask, site: Site) -> None:
    """Protect every view of the application."""
    app.secret_key = secrets.token_bytes(32)

    @app.before_request
    def _who() -> None:
        found = session.get("visitor")
        g.visitor = (
            None if found is None else Visitor(found["name"], frozenset(found["roles"]), request.remote_addr or "")
        )

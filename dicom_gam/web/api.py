"""The HTTP API."""

from __future__ import annotations

from flask_openapi3 import APIBlueprint

pages = APIBlueprint("api", __name__, url_prefix="/api/v1")

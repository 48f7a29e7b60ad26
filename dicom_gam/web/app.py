"""The web application: its pages, put together. One application serves one node."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask_openapi3 import Info, OpenAPI
from markupsafe import Markup

from dicom_gam import __version__
from dicom_gam.web import (
    api,
    api_document,
    attention,
    audit_page,
    bundles,
    health,
    login,
    now,
    quality,
    settings_page,
    studies,
)
from dicom_gam.web.access import Permission
from dicom_gam.web.problem import Problem
from dicom_gam.web.security import protect

if TYPE_CHECKING:
    from dicom_gam.web.site import Site

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# The pages of the navigation: endpoint, title, what is needed to see it.
NAVIGATION = (
    ("now.page", "Now", Permission.LOOK),
    ("studies.page", "Studies", Permission.LOOK),
    ("attention.page", "Attention", Permission.LOOK),
    ("quality.page", "Quality", Permission.LOOK),
    ("bundles.page", "Bundles", Permission.LOOK),
    ("settings.page", "Settings", Permission.SETTINGS),
    ("audit.page", "Audit", Permission.AUDIT),
)


def make_app(site: Site) -> OpenAPI:
    """Put the application together. Raises StorageError when its store of users can't be opened."""
    app = OpenAPI(
        __name__,
        info=Info(title="dicom_gam", version=__version__, description=api_document.DESCRIPTION),
        doc_ui=False,  # the document is ours to serve, and no user interface from elsewhere
        validation_error_model=Problem,
        validation_error_callback=api.refuse_invalid,
    )
    app.extensions["dicom_gam"] = site
    app.config["MAX_CONTENT_LENGTH"] = site.settings.web.maximum_upload_bytes
    protect(app, site)
    for part in (login, now, studies, attention, quality, bundles, settings_page, audit_page, health):
        app.register_blueprint(part.pages)
    app.register_api(api.pages)
    app.register_blueprint(api_document.document)
    app.security_schemes = api_document.security_schemes(app.config["SESSION_COOKIE_NAME"])
    app.jinja_env.finalize = shown
    app.context_processor(_shared)
    app.template_filter("moment")(moment)
    app.template_filter("age")(age)
    app.template_filter("size")(size)
    return app


def shown(value: Any) -> Any:
    """What a template prints of a value: characters that can't be seen but change what is seen are replaced.

    Among them are those that turn the direction of the text that follows, which is ours.
    """
    if isinstance(value, str) and not isinstance(value, Markup) and _UNSEEN.search(value):
        return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _shared() -> dict[str, Any]:
    return {"navigation": NAVIGATION, "version": __version__}


def moment(seconds: float | None) -> str:
    """A time for people: local, to the second, with the offset; empty for None."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S %z}"


def age(seconds: float | None) -> str:
    """A span of time in its largest fitting unit, such as `3 min`; empty for None."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(octets: float) -> str:
    """A number of bytes for people, in powers of 1024."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "bytes" else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} TiB"

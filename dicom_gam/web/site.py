"""What the pages are about: one node, its settings, its storage, and how it fares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import current_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store
    from dicom_gam.service.vitals import Vitals


@dataclass(frozen=True, slots=True)
class Site:
    """One node as the dashboard sees it. `vitals` is None where the node itself does not run in this process."""

    settings: Settings
    store: Store
    vitals: Callable[[], Vitals] | None = None


def site() -> Site:
    """The site of the current request."""
    return cast("Site", current_app.extensions["dicom_gam"])

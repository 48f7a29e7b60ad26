"""Metrics and health: for load balancers, monitors and Prometheus. None of it tells anything about a patient."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, cast

from flask import Blueprint, Response, current_app, jsonify, request
from prometheus_client.exposition import choose_encoder

from dicom_gam.service.readiness import ReadinessReader, read_readiness
from dicom_gam.web.access import Permission, needs
from dicom_gam.web.metrics import SnapshotReader, make_registry
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from flask.blueprints import BlueprintSetupState
    from prometheus_client import CollectorRegistry

    from dicom_gam.service.readiness import Readiness
    from dicom_gam.web.site import Site

pages = Blueprint("health", __name__)
_FORWARDED = ("Forwarded", "X-Forwarded-For")  # what a proxy on this machine adds for people elsewhere
_READINESS, _SNAPSHOTS, _REGISTRY = "dicom_gam.readiness", "dicom_gam.snapshots", "dicom_gam.registry"


@pages.record
def _set_up(state: BlueprintSetupState) -> None:
    """Give the application its own registry and what it reads from."""
    app = state.app
    made: Site = app.extensions["dicom_gam"]

    def read() -> Readiness:
        return read_readiness(made.settings, made.store, None if made.vitals is None else made.vitals())

    readiness = ReadinessReader(read)
    snapshots = SnapshotReader(made)
    app.extensions[_READINESS], app.extensions[_SNAPSHOTS] = readiness, snapshots
    app.extensions[_REGISTRY] = make_registry(made, snapshots, readiness)


def readiness_reader() -> ReadinessReader:
    """What tells how the node of the current request fares."""
    return cast("ReadinessReader", current_app.extensions[_READINESS])


def snapshot_reader() -> SnapshotReader:
    """What reads the figures of the node of the current request."""
    return cast("SnapshotReader", current_app.extensions[_SNAPSHOTS])


@pages.get("/live")
def live() -> Response:
    """Say that the process serves."""
    return jsonify(live=True)


@pages.get("/ready")
def ready() -> tuple[Response, int]:
    """Say whether images can be taken in and worked on, and if not, why not."""
    found = readiness_reader().read()
    why = [{"part": obstacle.part, "words": obstacle.words} for obstacle in found.obstacles]
    return jsonify(ready=found.ready, why_not=why), 200 if found.ready else 503


@pages.get("/metrics")
def metrics() -> Response:
    """Give Prometheus the node's figures: to this machine, and elsewhere to who has a token."""
    if site().settings.web.metrics_for_all or _from_this_machine():
        return _exposed()
    return _to_visitors()


@needs(Permission.LOOK)
def _to_visitors() -> Response:
    return _exposed()


def _exposed() -> Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    registry: CollectorRegistry = current_app.extensions[_REGISTRY]
    return Response(encode(registry), content_type=content_type)


def _from_this_machine() -> bool:
    """Whether nobody else can be behind the request: it comes from loopback, and no proxy says for whom it asks."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False

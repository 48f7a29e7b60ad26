"""The node and its dashboard, put together from settings that are known to be sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from dicom_gam.bundle.bundle import Bundle, describe_device, load_bundle, select_device
from dicom_gam.config import Settings
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.pipeline import Pipeline
from dicom_gam.service.audit_review import indexing
from dicom_gam.service.front_door import refuse_wide_open
from dicom_gam.service.node import Node, run_until_signal
from dicom_gam.service.store import open_store
from dicom_gam.web.app import make_app
from dicom_gam.web.server import WebServer, refuse_open_web
from dicom_gam.web.site import Site


def serve_until_signal(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises DicomGamError when it can't begin, or should not."""
    with assembled(settings) as (node, dashboard):
        run_until_signal(node, dashboard)


@contextmanager
def assembled(settings: Settings) -> Iterator[tuple[Node, AbstractContextManager[None]]]:
    """The node and its dashboard, both to be entered; decoders run as long as the block. Raises DicomGamError."""
    refuse_wide_open(settings)  # before the bundles are loaded, which takes a while
    refuse_open_web(settings.web)
    device = select_device(settings.processing.device)
    bundles = {name: load_bundle(name, device) for name in settings.bundles}
    with DecoderPool(settings) as decode:
        node = Node(settings, Pipeline(bundles, settings, decode), about=describe_device(device) | _about(bundles))
        yield node, _dashboard(settings, node)


def _about(bundles: dict[str, Bundle]) -> dict[str, Any]:
    identities = {name: bundle.identity for name, bundle in bundles.items()}
    return {
        "bundles": {
            name: {"name": identity.name, "version": identity.version, "digest": identity.digest}
            for name, identity in identities.items()
        },
    }


@contextmanager
def _dashboard(settings: Settings, node: Node) -> Iterator[None]:
    """Serve the dashboard as long as the block runs, if the settings want it."""
    if not settings.web.enabled:
        yield
        return
    with open_store(settings) as store, indexing(settings.node.storage):
        server = WebServer(settings, make_app(Site(settings, store, node.vitals)))
        server.start()
        try:
            yield
        finally:
            server.stop()

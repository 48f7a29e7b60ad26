"""`dicom-gam serve`: the node, its dashboard and what follows its audit log, until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dicom_gam.bundle.bundle import Bundle, describe_device, load_bundle, select_device
from dicom_gam.config import Settings, load_settings
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.pipeline import Pipeline
from dicom_gam.service.audit_review import indexing
from dicom_gam.service.front_door import refuse_wide_open
from dicom_gam.service.log_format import configure_logging
from dicom_gam.service.node import Node, run_until_signal
from dicom_gam.service.store import open_store
from dicom_gam.web.app import make_app
from dicom_gam.web.server import WebServer, refuse_open_web
from dicom_gam.web.site import Site


def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option("--log-format", help="Lines for people, or JSON for a log collector.")
    ] = "text",
) -> None:
    """Listen for images, verify them, deliver results. SIGTERM or Ctrl-C stops it cleanly; nothing is lost."""
    configure_logging(logging.DEBUG if verbose else logging.INFO, log_format)
    settings = load_settings(config)
    refuse_wide_open(settings)  # before the bundles are loaded, which takes a while
    refuse_open_web(settings.web)
    device = select_device(settings.processing.device)
    bundles = {name: load_bundle(name, device) for name in settings.bundles}
    with DecoderPool(settings) as decode:
        node = Node(settings, Pipeline(bundles, settings, decode), about=describe_device(device) | _about(bundles))
        run_until_signal(node, _dashboard(settings, node))


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

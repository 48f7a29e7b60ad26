"""`dicom-gam serve`: the node, until it is told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.config import load_settings
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.pipeline import Pipeline
from dicom_gam.service.front_door import refuse_wide_open
from dicom_gam.service.node import Node, run_until_signal


def serve(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Listen for images, verify them, deliver results. SIGTERM or Ctrl-C stops it cleanly; nothing is lost."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values, which may be a patient's
    for client in ("httpx", "httpcore"):
        logging.getLogger(client).setLevel(logging.WARNING)
    settings = load_settings(config)
    refuse_wide_open(settings)  # before the bundles are loaded, which takes a while
    device = select_device(settings.processing.device)
    bundles = {name: load_bundle(name, device) for name in settings.bundles}
    about = {
        "device": str(device),
        "bundles": {
            name: {"name": bundle.identity.name, "version": bundle.identity.version, "digest": bundle.identity.digest}
            for name, bundle in bundles.items()
        },
    }
    with DecoderPool(settings) as decode:
        run_until_signal(Node(settings, Pipeline(bundles, settings, decode), about=about))

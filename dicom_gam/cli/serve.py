"""`dicom-gam serve`: the node, until it is told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.config import load_settings
from dicom_gam.pipeline import Pipeline
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
    settings = load_settings(config)
    processing = settings.processing
    bundle = load_bundle(processing.bundle, select_device(processing.device))
    identity = bundle.identity
    about = {
        "bundle": identity.name,
        "version": identity.version,
        "digest": identity.digest,
        "device": str(bundle.device),
    }
    run_until_signal(Node(settings, Pipeline(bundle, settings), about=about))

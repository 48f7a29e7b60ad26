"""`dicom-gam serve`: the node, its dashboard and what follows its audit log, until it is told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from dicom_gam.config import load_settings
from dicom_gam.service.log_format import configure_logging


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
    # What follows loads torch, which takes seconds: a mistake in the configuration is told before.
    from dicom_gam.cli.serving import serve_until_signal  # noqa: PLC0415

    serve_until_signal(settings)

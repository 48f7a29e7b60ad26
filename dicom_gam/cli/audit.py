"""`dicom-gam audit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.config import load_settings
from dicom_gam.service.node import verify_audit_log

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at and check the audit log."""


@app.command()
def verify(
    storage: Annotated[Path | None, typer.Argument(help="The node's storage folder.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Or the node's configuration.")] = None,
) -> None:
    """Check that no record of the audit log was edited, deleted, inserted, reordered or cut off."""
    if (storage is None) == (config is None):
        raise typer.BadParameter("give either the storage folder or --config")
    folder = storage if storage is not None else load_settings(config).node.storage  # type: ignore[arg-type]
    typer.echo(f"{folder}: {verify_audit_log(folder)} records, unbroken")

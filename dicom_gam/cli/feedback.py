"""`dicom-gam feedback export`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.config import load_settings
from dicom_gam.service.delivery_review import operator
from dicom_gam.service.feedback import export_feedback
from dicom_gam.service.store import open_store

EXIT_NOTHING = 1
app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Use what readers said about results."""


@app.command()
def export(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new CSV file.")],
    since: Annotated[
        str, typer.Option(metavar="DATE", help="Images reviewed since then, as 2026-11-20 or 2026-11-20T14:00.")
    ] = "",
) -> None:
    """Write the images that readers have named a class of to a CSV that `dicom-gam calibrate` reads.

    The patient is a pseudonym that can't be turned back; paths point at the kept images, so use the file on this
    machine. The export is put on record. Exit status 1 when there was no image to write.
    """
    began = _moment(since) if since else None
    with open_store(load_settings(config)) as store:
        feedback = export_feedback(store, output, by=operator(), since=began)
    typer.echo(f"{output}: {len(feedback.cases)} images")
    for why, count in sorted(feedback.left_out.items()):
        typer.echo(f"  left out {count}: {why}")
    if not feedback.cases:
        raise typer.Exit(EXIT_NOTHING)


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        msg = f"{text!r} is no date: write it as 2026-11-20 or 2026-11-20T14:00"
        raise typer.BadParameter(msg, param_hint="--since") from error

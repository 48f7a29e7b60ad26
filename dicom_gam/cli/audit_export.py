"""`dicom-gam audit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.config import load_settings, settings_from
from dicom_gam.service.delivery_review import operator
from dicom_gam.service.dossier_export import FORMATS, export, scope_of
from dicom_gam.service.store import open_store


def export_dossier(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the files.")],
    study: Annotated[str, typer.Option(metavar="UID", help="All about a study, by its Study Instance UID.")] = "",
    job: Annotated[str, typer.Option(metavar="ID", help="All about a job and its image.")] = "",
    since: Annotated[
        str, typer.Option("--from", metavar="TIME", help="All from then on, as 2026-11-20 or 2026-11-20T14:00.")
    ] = "",
    until: Annotated[
        str, typer.Option("--to", metavar="TIME", help="All until then; a day alone is taken until its end.")
    ] = "",
    formats: Annotated[str, typer.Option("--format", help="Which files, with commas.")] = ",".join(FORMATS),
    storage: Annotated[Path | None, typer.Option("--storage", "-s", help="The node's storage folder.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Or the node's configuration.")] = None,
) -> None:
    """Write a dossier: what came, what was decided on which figures, what was sent where, who did what.

    It can be read without this software. It says whether the audit log is whole. The export is put on record itself.
    """
    if (storage is None) == (config is None):
        raise typer.BadParameter("give either --storage or --config")
    settings = load_settings(config) if config is not None else settings_from({"node": {"storage": storage}})
    with open_store(settings) as store:
        made = export(store, scope_of(study, job, since, until), _formats(formats), output, by=operator())
    for written in made:
        typer.echo(f"{written.path}  {written.size_bytes} bytes  sha256 {written.sha256}")


def _formats(text: str) -> list[str]:
    return [name.strip().lower() for name in text.split(",") if name.strip()]

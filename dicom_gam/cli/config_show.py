"""`dicom-gam config show`: what the configuration file sets, and what is in effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.config import load_settings
from dicom_gam.service.effective_settings import EffectiveKey, effective, title_of

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at the configuration."""


@app.command("show")
def show(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    everything: Annotated[
        bool, typer.Option("--effective", help="Every key, also those left at their default.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check the file and show what it sets; with --effective every key and where its value comes from.

    Shows no secret: they are in files of their own, and user and password in a URL are masked.
    """
    settings = load_settings(config)
    keys = [key for key in effective(settings) if everything or key.is_set]
    if as_json:
        typer.echo(json.dumps({key.name: _as_json(key) for key in keys}, indent=2, ensure_ascii=False))
        return
    if not keys:
        typer.echo(f"{config} sets nothing: everything is at its default")
    section = None
    for key in keys:
        if key.section != section:
            section = key.section
            typer.echo(f"\n# {title_of(settings, section)}")
        typer.echo(_line(key, config.name))


def _as_json(key: EffectiveKey) -> dict[str, object]:
    return {
        "value": key.value,
        "from": "file" if key.is_set else "default",
        "default": key.default,
        "description": key.description,
    }


def _line(key: EffectiveKey, file: str) -> str:
    if not key.is_set:
        return f"{key.name} = {key.text}  # default"
    return f"{key.name} = {key.text}  # {file}; default: {key.default_text}"

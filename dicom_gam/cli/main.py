"""The `dicom-gam` command: its groups, and errors told to people.

Commands are imported when they are called: `dicom-gam doctor` at 3 a.m. must not wait for what only training needs.
"""

from __future__ import annotations

import importlib
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from dicom_gam import __version__
from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer._click import Command, Context

EXIT_USAGE = 2
ABOUT = "Classifies radiographs, verifies each prediction, and sends back a DICOM report and overlay."

# What there is, in the order of the help: name, where it is, and the help's line.
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "init": ("init:init", "Answer a few questions, get a node.toml."),
        "demo": ("demo:demo", "Push real DICOM files through a node on loopback and show what comes back."),
        "run": ("run:run", "Classify and verify DICOM files, without a network."),
        "serve": ("serve:serve", "The node: listen for images, verify them, deliver results."),
        "config": ("config_show:app", "Show the configuration, as given or as in effect."),
        "users": ("users:app", "Say who may use the dashboard and the HTTP API."),
        "doctor": ("doctor:doctor", "Say what is wrong with a node and what to do about it."),
        "fetch": ("fetch:fetch", "Get studies from a PACS and process them."),
        "reprocess": ("reprocess:reprocess", "Process images again, with another bundle or other settings."),
        "reproduce": ("reproduce:reproduce", "Recompute results from what was kept, and show that they are equal."),
        "rules": ("rules:app", "Say which rule an image meets, and why."),
        "destinations": ("destinations:app", "See where results go; pause, resume, send dead letters again."),
        "check-result": ("check_result:check_result", "Check reports and overlays for what validators miss."),
        "audit": ("audit:app", "Look at and check the audit log."),
        "drift": ("drift:drift", "See whether a sender's images have changed since calibration."),
        "feedback": ("feedback:app", "Export what readers said about results, to calibrate on."),
        "bundle": ("bundle:app", "Look at, check and make model bundles."),
        "train": ("train:train", "Train a network and make a bundle of it."),
        "calibrate": ("train:calibrate", "Calibrate a bundle on a site's images."),
        "evaluate": ("evaluate:evaluate", "Judge a bundle on images it has never seen."),
        "suitability": ("suitability:suitability", "Find out whether a bundle suits a site."),
    }
)


class _Commands(TyperGroup):
    """A group that imports a command when it is called, and knows the others by their line of help."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002
        known = COMMANDS.get(cmd_name)
        return None if known is None else TyperCommand(cmd_name, help=known[1])

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


def load(name: str) -> Command:
    """Import a command of `COMMANDS`."""
    module, attribute = COMMANDS[name][0].split(":")
    found = getattr(importlib.import_module(f"dicom_gam.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


class _App(typer.Typer):
    """A Typer that tells the package's own errors in one readable sentence, without a traceback."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except DicomGamError as error:
            Console(stderr=True, soft_wrap=True).print(
                "error:", str(error), style="bold red", highlight=False, markup=False
            )
            sys.exit(EXIT_USAGE)


app = _App(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=ABOUT,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicom-gam {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass

"""The `dicom-gam` command: its groups, and errors told to people."""

from __future__ import annotations

import sys
from typing import Any

import typer
from rich.console import Console

from dicom_gam import __version__
from dicom_gam.cli import audit, bundle, demo, drift, evaluate, run, serve, suitability, train
from dicom_gam.errors import DicomGamError

EXIT_USAGE = 2


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
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Classifies radiographs, verifies each prediction, and sends back a DICOM report and overlay.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicom-gam {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Classifies radiographs, verifies each prediction, and sends back a DICOM report and overlay."""


app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("calibrate")(train.calibrate)
app.command("evaluate")(evaluate.evaluate)
app.command("suitability")(suitability.suitability)
app.command("drift")(drift.drift)
app.add_typer(bundle.app, name="bundle", help="Look at and check model bundles.")
app.add_typer(audit.app, name="audit", help="Look at and check the audit log.")

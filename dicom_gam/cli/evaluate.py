"""`dicom-gam evaluate`: what a bundle's verdicts are worth, on images that were never used to make it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.errors import ConfigError
from dicom_gam.evidence.cases import held_out
from dicom_gam.evidence.evaluate import QUICK, Evaluation, Extent
from dicom_gam.evidence.evaluate import evaluate as measure
from dicom_gam.evidence.evaluate_report import report_html
from dicom_gam.evidence.evaluate_summary import (
    accepted_accuracy,
    foreign_not_passed,
    own_false_alarms,
    report_json,
    wrongly_passed,
)
from dicom_gam.training.evaluation import share
from dicom_gam.training.images import read_manifest


def evaluate(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder or zip, or a built-in bundle's name.")],
    manifest: Annotated[
        Path, typer.Argument(help="CSV with columns path, label, group, source and optionally family, role.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.html and report.json.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is left to chance.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer manipulated and explained images: a first look.")
    ] = False,
) -> None:
    """Measure a bundle on held-out images: accuracy, false alarms, odd images, checks, attention methods.

    Rows with role test or unseen are used if there are any, else rows without a role. Rows of the garbage class are
    odd images, of the kind that `family` names.
    """
    chosen = select_device(device)
    images = held_out(read_manifest(manifest, load_bundle(bundle).manifest.class_names), str(manifest))
    _make_folder(output)
    found = measure(bundle, images, chosen, QUICK if quick else Extent(), seed)
    (output / "report.html").write_text(report_html(found), encoding="utf-8")
    (output / "report.json").write_text(json.dumps(report_json(found), indent=1, allow_nan=False), encoding="utf-8")
    console = Console()
    console.print(_table(found))
    if found.unusable:
        console.print(f"{len(found.unusable)} images could not be read; the report lists them", style="yellow")
    console.print(f"report: {output / 'report.html'}", soft_wrap=True)


def _make_folder(output: Path) -> None:
    """Now and not after the work of minutes."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{output}: can't be made a folder ({error.strerror}). Name another with --output."
        ) from error


def _table(found: Evaluation) -> Table:
    table = Table(title=f"{found.bundle.name} {found.bundle.version}", title_justify="left")
    table.add_column("figure")
    table.add_column("value (95 % CI)")
    accepted, alarms, foreign = accepted_accuracy(found), own_false_alarms(found), foreign_not_passed(found)
    table.add_row("right class, of passed images", share(accepted.count, accepted.n))
    table.add_row(f"false alarms (α = {found.alpha:g})", share(alarms.count, alarms.n))
    table.add_row("not passed, sources never used", share(foreign.count, foreign.n))
    for kind, rate in wrongly_passed(found).items():
        table.add_row(f"{kind} images wrongly passed", share(rate.count, rate.n))
    return table

"""`dicom-gam suitability`: whether a network belongs at a site, by the site's images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.errors import ConfigError
from dicom_gam.evidence.criteria import Conclusion
from dicom_gam.evidence.suitability import Suitability, judge_site
from dicom_gam.evidence.suitability_report import (
    headline,
    metric_cells,
    pictures,
    power_words,
    report_html,
    report_json,
)
from dicom_gam.training.evaluation import share

COLOURS = {Conclusion.SUITABLE: "green", Conclusion.UNSUITABLE: "red", Conclusion.INCONCLUSIVE: "yellow"}
MARKS = {Conclusion.SUITABLE: "✓", Conclusion.UNSUITABLE: "✗", Conclusion.INCONCLUSIVE: "!"}
EXIT_STATUS = {Conclusion.SUITABLE: 0, Conclusion.UNSUITABLE: 1, Conclusion.INCONCLUSIVE: 2}
LISTED = 5  # bad files named on the terminal; the report names all


def suitability(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder or zip, or a built-in bundle's name.")],
    images: Annotated[
        Path,
        typer.Argument(help="A folder of DICOM, PNG or JPEG, or a CSV: path and, if known, label, group."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report.html, report.json and pictures.")],
    against: Annotated[
        str | None, typer.Option(help="A trusted bundle: judge BUNDLE's network by this one's references.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Compare what a network does with a site's images with what it did where it was calibrated.

    Exit status: 0 suitable; 1 unsuitable; 2 inconclusive, or wrong use, or fewer than 30 usable images.
    """
    chosen = select_device(device)
    judged = load_bundle(bundle, chosen)
    trusted = None if against is None else load_bundle(against, chosen)
    _make_folder(output, images)
    found = judge_site(judged, images, trusted)
    shown = pictures(found)
    for name, picture in shown.items():
        (output / f"{name}.png").write_bytes(picture)
    (output / "report.html").write_text(report_html(found, shown), encoding="utf-8")
    (output / "report.json").write_text(json.dumps(report_json(found), indent=1, allow_nan=False), encoding="utf-8")
    _tell(found, output)
    raise typer.Exit(EXIT_STATUS[found.conclusion])


def _make_folder(output: Path, images: Path) -> None:
    """Now and not after the work of minutes; not among the images, or the next run would take its pictures for some."""
    if output.resolve().is_relative_to(images.resolve()):
        raise ConfigError(f"{output}: lies in the folder of the site's images. Name another with --output.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{output}: can't be made a folder ({error.strerror}). Name another with --output."
        ) from error


def _tell(found: Suitability, output: Path) -> None:
    console = Console()
    console.print(_table(found))
    promised = f"(promised: {100 * found.alpha:g} %)"
    console.print(f"not passed: {share(found.not_passed.count, found.not_passed.n)} {promised}", highlight=False)
    if found.accuracy is not None:
        console.print(f"right class: {share(found.accuracy.count, found.accuracy.n)}", highlight=False)
    if found.left_out:
        named = ", ".join(item.path.name for item in found.left_out[:LISTED])
        more = ", …" if len(found.left_out) > LISTED else ""
        console.print(Text(f"files that could not be used: {len(found.left_out)} ({named}{more})", style="yellow"))
    if found.further_images:
        console.print(f"further images of the same patients, left aside: {found.further_images}", style="yellow")
    for sentence in power_words(found)[:2]:
        console.print(sentence, highlight=False)
    console.print(Text(headline(found), style=f"bold {COLOURS[found.conclusion]}"))
    console.print(f"report: {output / 'report.html'}", soft_wrap=True)


def _table(found: Suitability) -> Table:
    title = f"{found.bundle.name} {found.bundle.version} on {found.not_passed.n} images"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("measurement", "site", "calibr.", "odder (95 % CI)", "p", "Holm", ""):
        table.add_column(name, justify="left" if name == "measurement" else "right", no_wrap=True)
    standing = {c.name: c.conclusion for c in found.criteria}
    check = ""
    for metric in found.metrics:
        if metric.check != check:
            check = metric.check
            table.add_row(Text(check, "bold"))
        name, site, reference, area, bounds, *p_values, _ = metric_cells(metric)
        conclusion = standing.get(metric.name)
        mark = Text("-", "dim") if conclusion is None else Text(MARKS[conclusion], COLOURS[conclusion])
        shown = f"{area} ({bounds.replace(' ', '')})"
        table.add_row(f" {name.partition('.')[2]}", site, reference, shown, *p_values, mark)
    table.caption = (
        "odder: P(a site image is odder than a calibration image); ✓ tolerable ✗ not ! not settled - shown only"
    )
    table.caption_justify = "left"
    return table

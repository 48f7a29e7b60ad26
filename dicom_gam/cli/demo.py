"""`dicom-gam demo`: see the whole road at work in under a minute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.cli.run import COLOURS
from dicom_gam.service.demonstration import (
    DemoLine,
    DemoReport,
    clear_earlier,
    run_demonstration,
    temporary_folder,
)


def demo(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to leave what came out.")] = None,
) -> None:
    """Start a stand-in PACS and a node on loopback, push real DICOM files, show what comes back, and end."""
    console = Console()
    folder = output.absolute() if output else temporary_folder()
    clear_earlier(folder)
    with console.status("starting") as status:
        report = run_demonstration(folder, lambda step: status.update(step))
    console.print(_table(report))
    _tell_where(console, report, folder)
    for problem in report.problems:
        console.print(Text(f"missing: {problem}", style="bold red"))
    if report.problems:
        raise typer.Exit(1)


def _table(report: DemoReport) -> Table:
    table = Table(title="What came back", title_justify="left")
    for column in ("file", "what it is", "verdict", "why"):
        table.add_column(column, overflow="fold")
    for line in report.lines:
        verdict, why = _verdict(line)
        table.add_row(line.name, line.what, Text(verdict, style=f"bold {COLOURS.get(verdict, 'magenta')}"), Text(why))
    return table


def _verdict(line: DemoLine) -> tuple[str, str]:
    job = line.job
    if job is None:
        return "ERROR", line.answer.words
    verification = (job.result or {}).get("verification")
    if verification is None:
        return job.outcome or str(job.state).upper(), f"{job.reason}: {job.message}" if job.reason else job.message
    if verification["reasons"]:
        return job.outcome, "; ".join(verification["reasons"])
    label = (job.result or {})["prediction"]["label"]
    return job.outcome, "; ".join([f"shows {label}, all checks passed", *verification["notes"]])


def _tell_where(console: Console, report: DemoReport, folder: Path) -> None:
    console.print()
    for line in report.lines:
        if line.overlay and line.report:
            console.print(f"{line.name}: overlay {line.overlay}", soft_wrap=True)
            console.print(f"{' ' * len(line.name)}  report  {line.report}", soft_wrap=True)
    console.print(f"audit log: {report.audit_log} ({report.audit_records} records, chain unbroken)", soft_wrap=True)
    console.print()
    console.print("Look at an overlay with any picture viewer, at a report with: dsrdump FILE (package dcmtk)")
    command = Path(sys.executable).with_name("dicom-gam")
    node = folder / "node"
    console.print(f"Check the audit log with: {command} audit verify {node}", soft_wrap=True)
    console.print(f"Compute every result once more with: {command} reproduce --all --storage {node}", soft_wrap=True)

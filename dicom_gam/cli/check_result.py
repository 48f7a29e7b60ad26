"""`dicom-gam check-result`: whether results are what they should be, by our own checker."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.dicom.checker.checker import DEFECTS, check_results
from dicom_gam.dicom.checker.sets import sort_files

EXIT_DEFECTS = 1
EXIT_UNREADABLE = 2


def check_result(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Result files; the source images too, where they are at hand.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    defects: Annotated[bool, typer.Option("--defects", help="List the defects that there can be.")] = False,
) -> None:
    """Check reports, overlays and the other results: templates, code meanings, references, figures, verdict.

    The results of one image are checked together, so give all of them. DICOM files that are none of ours count
    as source images: then outlines must lie inside them, and study, patient and references must be theirs.
    Exit status 1 when a defect is found, 2 when a file can't be read or none is a result.
    """
    if defects:
        _print_names(as_json)
        return
    if not files:
        raise typer.BadParameter("give at least one file, or --defects")
    contents = {path: content for path in files if (content := _read(path)) is not None}
    report = _checked(contents)
    report["unreadable"] += [str(path) for path in files if path not in contents]
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    if report["unreadable"] or not report["results"]:
        raise typer.Exit(EXIT_UNREADABLE)
    if report["defects"]:
        raise typer.Exit(EXIT_DEFECTS)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _checked(contents: dict[Path, bytes]) -> dict[str, list[Any]]:
    """The files that are results, those that are sources, those that can't be read, and every defect; JSON-ready."""
    paths, files = [str(path) for path in contents], list(contents.values())
    known = sort_files(files)
    sources = [files[number] for number in known.sources]
    defects: list[dict[str, str]] = []
    for numbers in known.sets:
        at = {known.uids[number]: paths[number] for number in numbers}
        found = check_results([files[number] for number in numbers], sources)
        defects += [{"file": at.get(defect.sop_instance_uid, ""), **asdict(defect)} for defect in found]
    return {
        "results": [paths[number] for numbers in known.sets for number in numbers],
        "sources": [paths[number] for number in known.sources],
        "unreadable": [paths[number] for number in known.unreadable],
        "defects": defects,
    }


def _show(report: dict[str, list[Any]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for path in report["unreadable"]:
        console.print(Text(f"{path}: can't be read as a DICOM file", style="yellow"))
    for defect in report["defects"]:
        line = Text(f"{defect['file'] or defect['sop_instance_uid']}: ")
        line.append(defect["name"], style="bold red")
        line.append(f": {defect['place']}: {defect['message']}")
        console.print(line)
    checked, number = len(report["results"]), len(report["defects"])
    against = f" with {_some(len(report['sources']), 'source image')}" if report["sources"] else ""
    if not checked:
        console.print("none of the files is a result of ours: give reports and overlays as they were sent")
    elif not number:
        console.print(f"{_some(checked, 'result')} checked{against}: no defect", style="green")
    else:
        console.print(f"{_some(checked, 'result')} checked{against}: {_some(number, 'defect')}")
    if any(defect["name"] == "unresolved-reference" for defect in report["defects"]) and not report["sources"]:
        console.print("If an object of the set was not given, give it too: results of one image belong together.")


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_names(as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dict(DEFECTS), indent=2))
        return
    table = Table("defect", "what it means")
    for name, meaning in DEFECTS.items():
        table.add_row(Text(name), Text(meaning))
    Console().print(table)

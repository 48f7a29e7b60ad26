"""`dicom-gam run`: the whole pipeline on files, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.config import Settings, load_settings
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.dicom.result.secondary_capture import overlay_png
from dicom_gam.errors import ConfigError
from dicom_gam.pipeline import Pipeline
from dicom_gam.records import AIResult, Rejection, Task
from dicom_gam.service.summary import result_summary

COLOURS = {
    "PASS": "green",
    "FAIL": "red",
    "REJECT": "yellow",
    "UNUSABLE": "magenta",
    "SKIPPED": "cyan",
    "ERROR": "magenta",
}
EXIT_FAILED, EXIT_REJECTED, EXIT_UNUSABLE = 10, 11, 12


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What came of one file, for the table and for JSON; `details` holds every figure."""

    path: Path
    outcome: str
    finding: str
    why: str
    details: dict[str, Any]


def run(
    inputs: Annotated[list[Path], typer.Argument(help="DICOM files, or folders that are searched for them.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for reports and overlays.")] = None,
    config: Annotated[Path | None, typer.Option(help="A node.toml; its defaults otherwise.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Another bundle than the configuration and its rules say.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Classify and verify DICOM files; write a report (SR) and an overlay (SC and PNG) for each into the output folder.

    The configuration's rules are asked first; a file has no sender, so a rule about AE titles does not match.
    Exit status: 0 every image passed; 10 at least one FAIL; 11 at least one REJECT; 12 at least one file was
    unusable, skipped by the rules, or could not be processed (the highest of these); 2 wrong use.
    """
    settings = _with_bundle(load_settings(config) if config else Settings(), bundle)
    paths = list(_files(inputs))
    device = select_device(settings.processing.device)
    bundles = {name: load_bundle(name, device) for name in settings.bundles}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    outcomes: list[FileOutcome] = []
    batch_size = settings.processing.batch_size
    with DecoderPool(settings) as decode, Progress(console=console, transient=True) as progress:
        pipeline = Pipeline(bundles, settings, decode)
        shown = progress.add_task("verifying", total=len(paths))
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            outcomes += _process(pipeline, batch, output, start)
            progress.advance(shown, len(batch))
    details = json.dumps([item.details for item in outcomes], indent=2)
    if as_json:
        typer.echo(details)
    else:
        Console().print(outcome_table(outcomes))
    if output is not None:
        (output / "results.json").write_text(details, encoding="utf-8")
    raise typer.Exit(_exit_status(outcomes))


def outcome_table(outcomes: Sequence[FileOutcome]) -> Table:
    """The table of verdicts, with the reason for each."""
    table = Table(title="Verified results", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("verdict")
    table.add_column("finding")
    table.add_column("why", overflow="fold")
    for item in outcomes:
        verdict = Text(item.outcome, style=f"bold {COLOURS[item.outcome]}")
        table.add_row(Text(item.path.name), verdict, Text(item.finding), Text(item.why))
    return table


def describe(result: AIResult) -> tuple[str, str]:
    """The finding and the reason of a result in a few words; no finding unless it passed."""
    if result.error is not None:
        return "-", result.error
    if result.skipped is not None:
        return "-", result.skipped
    if result.rejection is not None:
        return "-", f"{result.rejection.reason.value}: {result.rejection.message}"
    if result.prediction is None or result.verification is None:
        return "-", "no result"
    if result.verification.reasons:
        return "-", "; ".join(result.verification.reasons)
    finding = f"{result.prediction.label} {result.prediction.probability:.2f}"
    return finding, "; ".join(result.verification.notes) or "all checks passed"


def _with_bundle(settings: Settings, bundle: str | None) -> Settings:
    """The settings, with `bundle` for every image."""
    if bundle is None:
        return settings
    processing = settings.processing.model_copy(update={"bundle": bundle})
    rules = tuple(rule.model_copy(update={"bundle": None}) for rule in settings.rules)
    return settings.model_copy(update={"processing": processing, "rules": rules})


def _process(pipeline: Pipeline, paths: Sequence[Path], output: Path | None, first: int) -> list[FileOutcome]:
    read = [(path, read_instance(path)) for path in paths]
    now = datetime.now().astimezone()
    results = iter(pipeline([Task(item, now) for _, item in read if not isinstance(item, Rejection)]))
    outcomes = []
    for number, (path, item) in enumerate(read, first + 1):
        if isinstance(item, Rejection):
            rejection = {"reason": item.reason.value, "message": item.message}
            details = {"file": str(path), "outcome": "UNUSABLE", "rejection": rejection}
            outcomes.append(FileOutcome(path, "UNUSABLE", "-", f"{item.reason.value}: {item.message}", details))
            continue
        result = next(results)
        finding, why = describe(result)
        details = {"file": str(path), **result_summary(result)}
        if output is not None:
            details["written"] = _write(result, output / f"{number:04d}-{path.stem}")
        outcomes.append(FileOutcome(path, result.outcome, finding, why, details))
    return outcomes


def _write(result: AIResult, stem: Path) -> list[str]:
    written = []
    for item in result.objects:
        path = stem.with_name(f"{stem.name}.{item.role}.dcm")
        path.write_bytes(item.content)
        written.append(str(path))
        if item.role == "overlay":
            picture = path.with_suffix(".png")
            picture.write_bytes(overlay_png(item.content))
            written.append(str(picture))
    return written


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file())
            if not found:  # to go on would look like success
                raise ConfigError(f"{path}: no file is in this folder. Give a folder that holds DICOM files.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise ConfigError(f"{path}: there is no such file or folder. Give paths of existing DICOM files.")


def _exit_status(outcomes: Sequence[FileOutcome]) -> int:
    status = {"PASS": 0, "FAIL": EXIT_FAILED, "REJECT": EXIT_REJECTED}
    return max((status.get(item.outcome, EXIT_UNUSABLE) for item in outcomes), default=0)

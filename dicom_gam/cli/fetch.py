"""`dicom-gam fetch`: get studies from an archive instead of having them sent."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from pydicom.uid import UID
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from dicom_gam.config import load_settings
from dicom_gam.dicom.identity import is_uid
from dicom_gam.dicom.scu.retrieve import Listed
from dicom_gam.errors import ConfigError
from dicom_gam.service.fetch import FetchReport, Progress, fetch_studies, source_named, survey_studies
from dicom_gam.service.work_list import read_work_list

EXIT_MISSING = 1
_SHOWN = 3  # instances that are refused for the same reason


def fetch(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    study: Annotated[list[str] | None, typer.Option("--study", metavar="UID", help="A Study Instance UID.")] = None,
    worklist: Annotated[
        Path | None,
        typer.Option("--worklist", metavar="FILE", help="CSV with a column study_instance_uid, or one UID a line."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="SOURCE", help="One of its [[sources]], if there are several.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is there, and get nothing.")] = False,
) -> None:
    """Get studies from an archive into the node's queue, as if they had been sent. The node may run or not.

    What is here already is recognised and not processed again. Exit status: 0 all is here; 1 something is missing,
    refused or quarantined; 2 wrong use.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what it logs is told in words by our own errors
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values, which may be a patient's
    uids = [uid.strip() for uid in study or ()] + (read_work_list(worklist) if worklist is not None else [])
    if not uids:
        raise ConfigError("there is nothing to fetch: name studies by --study UID (may be repeated) or --worklist FILE")
    if not all(map(is_uid, uids)):
        raise ConfigError("--study takes a Study Instance UID: digits and dots, at most 64 characters")
    settings = load_settings(config)
    wanted = source_named(settings, source)
    with ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        studies = bar.add_task("studies", total=len(set(uids)))
        images = bar.add_task("images of this one", total=None, visible=not dry_run)

        def tell(progress: Progress) -> None:
            bar.update(images, completed=progress.done, total=progress.total)

        reports = []
        for report in (
            survey_studies(settings, wanted, uids) if dry_run else fetch_studies(settings, wanted, uids, tell)
        ):
            reports.append(report)
            bar.advance(studies)
    Console().print(survey_table(reports, wanted.name) if dry_run else fetch_table(reports, wanted.name))
    for line in remarks(reports):
        Console(soft_wrap=True).print(Text(line))
    if not all(not report.error if dry_run else report.complete for report in reports):
        raise typer.Exit(EXIT_MISSING)


def fetch_table(reports: Iterable[FetchReport], source: str) -> Table:
    """What became of each study."""
    table = Table(title=f"Fetched from {source}", title_justify="left")
    table.add_column("study", overflow="fold")
    for name in ("found", "stored", "here before", "quarantined", "refused", "missing", "no radiograph"):
        table.add_column(name, justify="right")
    for report in reports:
        numbers = (
            len(report.found),
            report.stored,
            report.duplicates,
            report.quarantined,
            len(report.refused),
            report.missing,
            len(report.skipped),
        )
        style = None if report.complete else "red"
        table.add_row(Text(report.study_instance_uid), *map(str, numbers), style=style)
    return table


def survey_table(reports: Iterable[FetchReport], source: str) -> Table:
    """What a source has of each study, by modality and SOP class."""
    table = Table("study", "modality", "SOP class", "images", "fetched", title=f"To be had from {source}")
    table.title_justify = "left"
    for report in reports:
        skipped = {item.sop_instance_uid for item in report.skipped}
        kinds = Counter((item.modality, item.sop_class_uid, item.sop_instance_uid in skipped) for item in report.found)
        name = report.study_instance_uid
        for (modality, sop_class_uid, left_out), count in sorted(kinds.items()):
            fetched = "no, no radiograph" if left_out else "yes"
            cells = (name, _code(modality), _class(sop_class_uid), str(count), fetched)
            table.add_row(*map(Text, cells), style="dim" if left_out else None)
            name = ""
        if not kinds:
            table.add_row(Text(name), "-", "-", "0", "-", style="red")
    return table


def remarks(reports: Iterable[FetchReport]) -> list[str]:
    """In words, what went wrong with each study."""
    lines = []
    for report in reports:
        title = f"study {report.study_instance_uid}"
        if report.error:
            lines.append(f"{title}: {report.error}")
        for why in dict.fromkeys(taken.why for taken in report.refused):
            alike = [taken.sop_instance_uid for taken in report.refused if taken.why == why]
            more = f" and {len(alike) - _SHOWN} more" if len(alike) > _SHOWN else ""
            lines.append(f"{title}: instance {', '.join(alike[:_SHOWN])}{more}: {why}")
        if report.quarantined:
            lines.append(
                f"{title}: {report.quarantined} instances are here under the same UID with other bytes. They are kept "
                "apart and not processed; the audit log has them as instance.quarantined. Find out which of the two is "
                "right. Some archives rewrite data sets on C-GET and C-MOVE without changing the image"
            )
        if report.found and not report.wanted:
            lines.append(f"{title}: holds no radiograph: {_kinds(report.found)}")
    return lines


def _kinds(listed: Iterable[Listed]) -> str:
    kinds = Counter(f"{_code(item.modality)} {_class(item.sop_class_uid)}" for item in listed)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())


def _code(modality: str) -> str:
    """A code string as the standard wants it; anything else may be a name."""
    sound = len(modality) <= 16 and modality.replace("_", "").replace(" ", "").isalnum() and modality.isupper()
    return modality if sound else "(not told)"


def _class(sop_class_uid: str) -> str:
    return UID(sop_class_uid).name if sop_class_uid else "(not told)"

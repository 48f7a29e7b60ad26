"""`dicom-gam doctor`: what is wrong with a node, and what to do about it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.service.doctor import Examined, examine, exit_status
from dicom_gam.service.doctor_case import Level

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Leave destinations and sources alone.")] = False,
    send_test_image: Annotated[
        bool,
        typer.Option(
            "--send-test-image",
            help="Send a test image (DICOM_GAM^DOCTOR) to the running node; its results go to the destinations.",
        ),
    ] = False,
) -> None:
    """Look at a node, running or not, and say in plain words what is wrong with it and what to do.

    Nothing is changed, and nothing is sent but echoes. Exit status 0: all is well; 1: warnings; 2: failures.
    """
    for chatty in ("pynetdicom", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values
    console, found = Console(highlight=False), []
    with Console(stderr=True).status("looking ...") as status:
        for item in examine(
            config,
            offline=offline,
            send_test_image=send_test_image,
            looking=lambda what: status.update(f"looking at: {what}"),
        ):
            found.append(item)
            if not as_json:
                console.print(_row(item))
    levels = [item.level for item in found]
    if as_json:
        typer.echo(json.dumps({"status": exit_status(levels), "findings": [_plain(item) for item in found]}, indent=2))
    else:
        counts = [f"{levels.count(level)} {level.name}" for level in Level]
        console.print("\n" + ", ".join(counts))
    raise typer.Exit(exit_status(levels))


def _row(item: Examined) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), expand=True)
    table.add_column(width=4)
    table.add_column(width=16)
    table.add_column(ratio=1, overflow="fold")
    text = Text(item.found)
    if item.remedy:
        text.append("\n-> ", style="bold")
        text.append(item.remedy)
    table.add_row(Text(item.level.name, style=STYLES[item.level]), Text(item.check), text)
    return table


def _plain(item: Examined) -> dict[str, object]:
    return {
        "check": item.check,
        "level": item.level.name,
        "found": item.found,
        "remedy": item.remedy,
        "seconds": round(item.seconds, 3),
    }

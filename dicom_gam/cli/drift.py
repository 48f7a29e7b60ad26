"""`dicom-gam drift`: whether a sender's images have drifted away from what the bundle was calibrated on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.config import load_settings
from dicom_gam.service.drift_review import read_drift, reset_drift
from dicom_gam.storage.rows import DriftReading

EXIT_ALARM = 1
ADVICE = """What to do: look at the latest FAIL and REJECT results of a sender with an alarm. Is something new there,
such as a detector, a protocol, a processing step, other body parts? If it is a fault, have it put right. If it is here
to stay, calibrate the bundle on such images (dicom-gam calibrate). Then: dicom-gam drift {folder} --reset SENDER"""


def drift(
    storage: Annotated[Path | None, typer.Argument(help="The node's storage folder.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Or the node's configuration.")] = None,
    reset: Annotated[
        str | None, typer.Option("--reset", metavar="SENDER", help="Start anew for this sender (calling AE title).")
    ] = None,
) -> None:
    """Show each sender's drift: images seen, evidence, alarms. Exit status 1 while an alarm stands.

    Evidence of 1000 means odds of 1000 : 1 were won against "nothing has changed"; the alarm comes at
    1 / drift.false_alarm_rate. Once the cause is put right, --reset starts anew; the audit log keeps it.
    """
    if (storage is None) == (config is None):
        raise typer.BadParameter("give either the storage folder or --config")
    folder = storage if storage is not None else load_settings(config).node.storage  # type: ignore[arg-type]
    if reset is not None:
        images = sum(reading.images for reading in reset_drift(folder, reset))
        typer.echo(f"{reset}: {images} images forgotten, the next one starts anew")
        return
    readings = read_drift(folder)
    if not readings:
        typer.echo("no images yet")
        return
    Console().print(_table(readings))
    if any(reading.alarm_at is not None for reading in readings):
        typer.echo(ADVICE.format(folder=folder))
        raise typer.Exit(EXIT_ALARM)


def _table(readings: list[DriftReading]) -> Table:
    table = Table("sender", "bundle", "images", "evidence now", "highest", "alarm since")
    for reading in readings:
        row = (
            reading.sender or "(no title)",
            f"{reading.bundle_name} {reading.bundle_version} ({reading.bundle_digest[:12]})",
            str(reading.images),
            _evidence(reading.log10_evidence),
            _evidence(reading.log10_maximum),
            ""
            if reading.alarm_at is None
            else f"{datetime.fromtimestamp(reading.alarm_at).astimezone():%Y-%m-%d %H:%M}",
        )
        table.add_row(*(Text(cell) for cell in row), style="red" if reading.alarm_at is not None else None)
    return table


def _evidence(log10: float) -> str:
    return f"{10**log10:.3g}" if log10 < 6 else f"10^{log10:.0f}"

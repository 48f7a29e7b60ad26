"""`dicom-gam destinations`: what waits for each destination and why; pause, resume, retry, dismiss."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.config import Settings, load_settings, settings_from
from dicom_gam.service import delivery_review
from dicom_gam.service.delivery_review import DestinationReading, read_destinations
from dicom_gam.service.store import open_store
from dicom_gam.storage.states import DeliveryState

EXIT_DEAD_LETTERS = 1

app = typer.Typer()

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The node's configuration.")]
Storage = Annotated[Path | None, typer.Option("--storage", "-s", help="Or the node's storage folder.")]
Name = Annotated[str, typer.Argument(help="The destination's name in the configuration.")]
Job = Annotated[str | None, typer.Option("--job", metavar="ID", help="Only the results of this job.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the audit log. No patient's data.")]


@app.callback(invoke_without_command=True)
def _destinations(context: typer.Context, config: Config = None, storage: Storage = None) -> None:
    """Show what waits for each destination and why; pause, resume, retry, dismiss. Works while the node runs."""
    if context.invoked_subcommand is None:
        show(config, storage)


@app.command("list")
def show(config: Config = None, storage: Storage = None) -> None:
    """Show each destination: state, what waits, what was given up and why. Exit status 1 while anything is dead."""
    settings = _settings(config, storage)
    with open_store(settings) as store:
        readings = read_destinations(store, settings.destinations)
    if not readings:
        typer.echo("no destinations")
        return
    console = Console()
    console.print(_table(readings))
    for reading in readings:
        for line in _notes(reading):
            console.print(Text(f"{reading.name}: {line}"))
    if any(reading.counts[DeliveryState.DEAD] for reading in readings):
        raise typer.Exit(EXIT_DEAD_LETTERS)


@app.command()
def pause(name: Name, why: Why, config: Config = None, storage: Storage = None) -> None:
    """Send nothing to a destination, from the next object on, until it is resumed. Results wait."""
    settings = _settings(config, storage)
    with open_store(settings) as store:
        delivery_review.pause(store, settings.destinations, name, why)
    typer.echo(f"{name}: paused")


@app.command()
def resume(name: Name, config: Config = None, storage: Storage = None) -> None:
    """Send again to a paused destination; the node notices within seconds."""
    settings = _settings(config, storage)
    with open_store(settings) as store:
        was_paused = delivery_review.resume(store, settings.destinations, name)
    typer.echo(f"{name}: resumed" if was_paused else f"{name}: was not paused")


@app.command()
def retry(name: Name, job: Job = None, config: Config = None, storage: Storage = None) -> None:
    """Send dead letters again, with all attempts ahead of them, and what waits at once."""
    settings = _settings(config, storage)
    with open_store(settings) as store:
        revived = delivery_review.retry(store, settings.destinations, name, job)
    typer.echo(f"{name}: {len(revived)} dead letters are sent again, and what waits at once")


@app.command()
def dismiss(
    name: Name,
    why: Why,
    job: Job = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="All that is undelivered, not only dead letters; pause it first.")
    ] = False,
    config: Config = None,
    storage: Storage = None,
) -> None:
    """Do without dead letters for good: they are never sent, and retention may delete them."""
    settings = _settings(config, storage)
    with open_store(settings) as store:
        gone = delivery_review.dismiss(store, settings.destinations, name, why, job, everything=everything)
    typer.echo(f"{name}: {len(gone)} dismissed")


def _settings(config: Path | None, storage: Path | None) -> Settings:
    if (config is None) == (storage is None):
        raise typer.BadParameter("give either --config or --storage")
    if config is not None:
        return load_settings(config)
    return settings_from({"node": {"storage": storage}})


def _table(readings: list[DestinationReading]) -> Table:
    table = Table(padding=(0, 1, 0, 0))  # so that it fits 80 columns
    for column in ("destination", "kind", "state", "pending", "retry", "unconfirmed", "sent", "dead"):
        table.add_column(column, overflow="fold")
    for reading in readings:
        counts = [
            reading.counts[state]
            for state in (
                DeliveryState.PENDING,
                DeliveryState.RETRY,
                DeliveryState.UNCONFIRMED,
                DeliveryState.SENT,
                DeliveryState.DEAD,
            )
        ]
        row = (reading.name, reading.kind or "not in the settings", _state(reading), *map(str, counts))
        trouble = counts[-1] or reading.hold is not None
        table.add_row(*(Text(cell) for cell in row), style="red" if trouble else None)
    return table


def _state(reading: DestinationReading) -> str:
    if reading.pause is not None:
        return "paused"
    if reading.hold is not None:
        return "unreachable"
    return "open"


def _notes(reading: DestinationReading) -> list[str]:
    notes = []
    if reading.pause is not None:
        notes.append(f"paused since {_moment(reading.pause.since)}: {reading.pause.why}")
    if reading.hold is not None:
        since = _moment(reading.hold.since)
        notes.append(f"unreachable since {since}, tried {reading.hold.attempts} times: {reading.hold.cause}")
    waiting = reading.counts[DeliveryState.RETRY]
    if reading.next_at is not None and (waiting or reading.hold is not None) and reading.pause is None:
        notes.append(f"next try at {_moment(reading.next_at)}")
    notes += [f"{count} dead letters: {cause}" for cause, count in reading.causes]
    return notes


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"

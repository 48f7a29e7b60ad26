"""`dicom-gam audit verify`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicom_gam.cli.audit_export import export_dossier
from dicom_gam.config import load_settings
from dicom_gam.service.audit_check import check_log, signatures_told

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicom_gam.storage.audit_verification import Verified

LONG_BYTES = 32 * 1024**2  # from here on a bar shows how far it is

app = typer.Typer(no_args_is_help=True)
app.command("export")(export_dossier)


@app.callback()
def _group() -> None:
    """Look at and check the audit log."""


@app.command()
def verify(
    storage: Annotated[Path | None, typer.Argument(help="The node's storage folder.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Or the node's configuration.")] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="A copy of audit-key.pub.pem that was kept elsewhere; may be given several times."),
    ] = None,
) -> None:
    """Check that no record of the audit log was edited, deleted, inserted, reordered or cut off, nor rewritten."""
    if (storage is None) == (config is None):
        raise typer.BadParameter("give either the storage folder or --config")
    folder = storage if storage is not None else load_settings(config).node.storage  # type: ignore[arg-type]
    with ExitStack() as stack:
        found = check_log(folder, public_key or (), _bar(stack))
    typer.echo(f"{folder}: {found.records} records, unbroken, in {found.files} file{'s' if found.files > 1 else ''}")
    typer.echo(signatures_told(found))
    for line in _remarks(found, trusted=bool(public_key)):
        typer.echo(line)


def _remarks(found: Verified, *, trusted: bool) -> list[str]:
    remarks = [f"by the key with the SHA-256 {fingerprint}" for fingerprint in found.fingerprints]
    if found.signed_to and not trusted:
        remarks.append(
            "The key was taken from the same folder: whoever can rewrite the log can replace it too. "
            "A copy of audit-key.pub.pem kept elsewhere, given by --public-key, is worth more."
        )
    if found.ahead or found.torn_bytes:
        half = f" and {found.torn_bytes} bytes of one more" if found.torn_bytes else ""
        remarks.append(
            f"{found.ahead} records{half} come after the last one that the database knows: "
            "a crash or a write in progress leaves that; the next record says so if it was a crash."
        )
    return remarks


def _bar(stack: ExitStack) -> Callable[[int, int], None]:
    """Shows how far it is, on the terminal only, and for long logs only."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("verifying"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    tasks: list[TaskID] = []

    def tell(done: int, total: int) -> None:
        if total < LONG_BYTES or not console.is_terminal:
            return
        if not tasks:
            stack.enter_context(progress)
            tasks.append(progress.add_task("verifying", total=total))
        progress.update(tasks[0], completed=done)

    return tell

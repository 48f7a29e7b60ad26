"""`dicom-gam reprocess`: images through the node once more, with another bundle, other settings or other rules."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.config import load_settings
from dicom_gam.service.reprocess import Reprocessing, Selection
from dicom_gam.service.reprocess import reprocess as queue_again

SHOWN = 20
EXIT_NOTHING = 1


def reprocess(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")],
    study: Annotated[str, typer.Option(metavar="UID", help="The images of this study that gave a result.")] = "",
    instance: Annotated[str, typer.Option(metavar="UID", help="The image with this SOP Instance UID.")] = "",
    job: Annotated[list[str] | None, typer.Option(metavar="ID", help="The image of this job; may be repeated.")] = None,
    since: Annotated[
        str, typer.Option(metavar="DATE", help="Images received since then, as 2026-11-20 or 2026-11-20T14:00.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every image whose file is still here.")] = False,
    bundle: Annotated[str, typer.Option(metavar="NAME", help="The bundle to use; else the rules decide.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Also what this bundle has done by --bundle already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Process images again, while the node runs or for when it starts next. The rules are asked anew.

    With a new bundle or new settings the results get new UIDs, and each report points to the one it supersedes. Where
    neither has changed nothing is sent twice; a destination that never got the old results is given them.
    Exit status 1 when there was nothing to do.
    """
    began = _moment(since) if since else None
    selection = Selection(study, instance, tuple(job or ()), began, everything)
    settings = load_settings(config)
    done = queue_again(settings, selection, bundle=bundle, again=again, dry_run=dry_run)
    _show(done, dry_run=dry_run)
    if not done.queued:
        typer.echo(_nothing(done, study))
        raise typer.Exit(EXIT_NOTHING)
    if not dry_run:
        typer.echo(
            "A node that runs takes them up at once; else they wait for `dicom-gam serve`. Watch the audit log "
            f"({settings.node.storage / 'audit.jsonl'}) for these job_ids, and `dicom-gam destinations` for what is "
            "still to be delivered."
        )


def _show(done: Reprocessing, *, dry_run: bool) -> None:
    if done.queued:
        typer.echo(f"{len(done.queued)} {'would be' if dry_run else 'are'} processed again:")
    for item in done.queued[:SHOWN]:
        job = "" if dry_run else f"job {item.job_id}, "
        typer.echo(f"  {item.sop_instance_uid} ({job}after job {item.predecessor})")
    if len(done.queued) > SHOWN:
        typer.echo(f"  and {len(done.queued) - SHOWN} more")
    if done.left_out:
        typer.echo(f"{len(done.left_out)} left out:")
    for left in done.left_out[:SHOWN]:
        typer.echo(f"  {left.what}: {left.why}")
    if len(done.left_out) > SHOWN:
        typer.echo(f"  and {len(done.left_out) - SHOWN} more")


def _nothing(done: Reprocessing, study: str) -> str:
    if done.left_out:
        return "Nothing to do: all that was selected is left out, for the reasons above."
    if study:
        return (
            "Nothing to do: no image of this study has given a result here. The study of an image that was rejected, "
            "skipped or failed is not known: name it by --instance, --job or --since."
        )
    return "Nothing to do: no image has been received that this selects."


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        msg = f"{text!r} is no date: write 2026-11-20, or 2026-11-20T14:00 (local time)"
        raise typer.BadParameter(msg, param_hint="--since") from error

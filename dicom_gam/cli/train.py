"""`dicom-gam train` and `dicom-gam calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.bundle.bundle import select_device
from dicom_gam.config import load_settings
from dicom_gam.core.attention import METHODS
from dicom_gam.service.delivery_review import operator
from dicom_gam.service.feedback import Feedback, read_feedback
from dicom_gam.service.feedback_calibration import ClassCount, calibrate_from_feedback, count_feedback
from dicom_gam.service.store import open_store
from dicom_gam.training.making import recalibrate_bundle, train_bundle
from dicom_gam.training.specification import read_specification

Images = Annotated[
    Path, typer.Argument(help="CSV with columns path, label, group, source and optionally family, role, cue.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new bundle's folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]


def train(
    specification: Annotated[Path, typer.Argument(help="TOML: the bundle to be, the schedule, the card's text.")],
    images: Images,
    output: Output,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Fine-tune this bundle's network instead of starting anew.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Train, calibrate and evaluate a network, and write it as a bundle with its model card."""
    bundle = train_bundle(read_specification(specification), images, output, select_device(device), start_from)
    typer.echo(f"wrote {output}, digest {bundle.identity.digest}; figures: {output / 'MODEL_CARD.md'}")


def calibrate(
    bundle: Annotated[str, typer.Argument(help="The bundle whose network is kept: a path or a built-in name.")],
    output: Output,
    images: Annotated[
        Path | None, typer.Argument(help="CSV as for `train`; or --from-feedback instead.", show_default=False)
    ] = None,
    from_feedback: Annotated[
        bool, typer.Option("--from-feedback", help="Use the images whose class readers have named on the dashboard.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The node whose readers are meant (with --from-feedback).")
    ] = None,
    alpha: Annotated[float | None, typer.Option(min=0.0001, max=0.9, help="Total false-alarm rate.")] = None,
    attention_method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}.")] = None,
    version: Annotated[str | None, typer.Option("--set-version", help="The new bundle's version.")] = None,
    device: Device = "auto",
) -> None:
    """Make a bundle with references and thresholds from your own images and an existing bundle's network.

    The promised false-alarm rate holds for images like those it was calibrated on. With --from-feedback have readers
    review every image of some weeks, or a random choice, whatever the verdict: those that somebody happened to open
    are no fair sample.
    """
    if (images is None) == (not from_feedback):
        raise typer.BadParameter("give either a CSV of images or --from-feedback")
    if from_feedback != (config is not None):
        raise typer.BadParameter("--from-feedback and --config belong together")
    wanted = {"alpha": alpha, "attention_method": attention_method, "version": version}
    changes = {key: value for key, value in wanted.items() if value is not None}
    if images is not None:
        made = recalibrate_bundle(bundle, images, output, changes, select_device(device))
    else:
        with open_store(load_settings(config)) as store:  # type: ignore[arg-type]
            feedback = read_feedback(store)
            _show_feedback(count_feedback(bundle, feedback.cases, alpha), feedback)
            made = calibrate_from_feedback(bundle, feedback.cases, output, changes, device, store, by=operator())
    typer.echo(f"wrote {output}, digest {made.identity.digest}, false-alarm rate {made.alpha:g}")


def _show_feedback(counts: list[ClassCount], feedback: Feedback) -> None:
    table = Table("class", "images", "patients", "needed at least", "still missing", "verdicts they had")
    for count in counts:
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(count.verdicts.items()))
        row = (count.name, *map(str, (count.images, count.patients, count.needs, count.missing)), verdicts or "-")
        table.add_row(*map(Text, row), style="red" if count.missing else None)
    Console().print(table)
    for why, number in feedback.left_out.items():
        typer.echo(f"{number} reviewed images are left out: {why}")

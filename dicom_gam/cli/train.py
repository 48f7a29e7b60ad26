"""`dicom-gam train` and `dicom-gam calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_gam.bundle.bundle import select_device
from dicom_gam.core.attention import METHODS
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
    images: Images,
    output: Output,
    alpha: Annotated[float | None, typer.Option(min=0.0001, max=0.9, help="Total false-alarm rate.")] = None,
    attention_method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}.")] = None,
    version: Annotated[str | None, typer.Option("--set-version", help="The new bundle's version.")] = None,
    device: Device = "auto",
) -> None:
    """Make a bundle with references and thresholds from your own images and an existing bundle's network."""
    wanted = {"alpha": alpha, "attention_method": attention_method, "version": version}
    changes = {key: value for key, value in wanted.items() if value is not None}
    made = recalibrate_bundle(bundle, images, output, changes, select_device(device))
    typer.echo(f"wrote {output}, digest {made.identity.digest}, false-alarm rate {made.alpha:g}")

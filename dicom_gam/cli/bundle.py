"""`dicom-gam bundle info|check|images|make`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.config import BUILT_IN_BUNDLE
from dicom_gam.core.calibration import realised_interval
from dicom_gam.core.measure import CHECKS
from dicom_gam.training.adopting import adopt_network, foreign_line, recognition_lines
from dicom_gam.training.listing import list_images
from dicom_gam.training.specification import read_specification

app = typer.Typer(no_args_is_help=True)
NameOrPath = Annotated[str, typer.Argument(help="A bundle's folder or zip, or a built-in bundle's name.")]


@app.command()
def info(
    bundle: NameOrPath = BUILT_IN_BUNDLE,
    card: Annotated[bool, typer.Option("--card", help="Print the whole model card.")] = False,
) -> None:
    """Say what a bundle is for, what it holds and what it promises."""
    loaded = load_bundle(bundle)
    console = Console()
    if card:
        console.print(Markdown(loaded.model_card))
        return
    manifest = loaded.manifest
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")  # a digest that is cut short can't be compared
    rows = {
        "bundle": f"{manifest.name} {manifest.version}",
        "digest": loaded.identity.digest,
        "intended use": manifest.intended_use,
        "classes": ", ".join(
            f"{c.name} ({c.concept.value} {c.concept.scheme} {c.concept.meaning})" for c in manifest.classes
        ),
        "garbage class": manifest.garbage_class,
        "architecture": manifest.architecture,
        "attention": f"{manifest.attention_method} at {manifest.attention_layer}",
        "early layers": ", ".join(manifest.early_layers),
        "deciding checks": ", ".join(manifest.checks),
        "advisory checks": ", ".join(c for c in CHECKS if c not in manifest.checks) or "none",
        "false-alarm rate": f"{manifest.alpha:g} in total",
    }
    for i, sample in loaded.calibration.items():
        low, high = realised_interval(sample.size, manifest.alpha)
        rows[f"calibrated on {manifest.class_names[i]}"] = (
            f"{sample.size} images; this calibration's own rate is between {low:.3f} and {high:.3f} (95 %)"
        )
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/bold]", value)
    console.print(table)


@app.command()
def check(bundle: NameOrPath = BUILT_IN_BUNDLE) -> None:
    """Check every file of a bundle against its checksum, load it and try it out."""
    loaded = load_bundle(bundle)
    typer.echo(f"{loaded.manifest.name} {loaded.manifest.version}: whole and loadable, digest {loaded.identity.digest}")


@app.command()
def images(
    folder: Annotated[Path, typer.Argument(help="A folder with one folder of images for each class.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")],
    source: Annotated[str, typer.Option(help="Where the images come from, one word for the model card.")] = "own",
) -> None:
    """List labelled images as the CSV that `bundle make`, `train` and `calibrate` take.

    A class's folder bears its name, that of negatives the garbage class's; in it, a folder is a family of negatives.
    Patients are numbered; no name or ID is written.
    """
    listed = list_images(folder, output, source)
    for label, count in listed.counts.items():
        typer.echo(f"{label}: {count.images} images of {count.patients} patients")
    for path, reason in listed.left_out:
        typer.echo(f"left out: {path}: {reason}")
    if listed.single_patient:
        typer.secho(
            f"all images of {', '.join(listed.single_patient)} are of one patient: if their IDs were removed, fill in "
            "the column group, since images of one patient count once",
            fg="yellow",
        )
    typer.echo(f"wrote {output}")


@app.command()
def make(
    specification: Annotated[Path, typer.Argument(help="TOML: the bundle to be and the card's text.")],
    images: Annotated[Path, typer.Argument(help="CSV as for `train`, of images that the network wasn't trained on.")],
    weights: Annotated[Path, typer.Option("--weights", "-w", help="The trained network's state, as safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new bundle's folder.")],
    split: Annotated[
        Path | None, typer.Option(help="Also write the CSV anew, with the role each image had: for `evaluate`.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Make a bundle of a network that is already trained, without changing what it answers.

    A network without a garbage output gets one beside its own, learned from negatives. Images that the network was
    trained on flatter every figure: leave them out, or give them the role train, which is only learned from.
    """
    wanted = read_specification(specification)
    made = adopt_network(wanted, images, weights, output, select_device(device), split)
    typer.echo("right class on images held out here:")
    for line in recognition_lines(made.recognition):
        typer.echo(f"  {line}")
    typer.echo(f"foreign images wrongly passed: {foreign_line(made.foreign)}")
    for remark in made.remarks:
        typer.secho(remark, fg="yellow")
    typer.echo(f"wrote {output}, digest {made.bundle.identity.digest}, false-alarm rate {made.bundle.alpha:g}")
    typer.echo(f"figures: {output / 'MODEL_CARD.md'}")

"""`dicom-gam bundle info|check`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.config import BUILT_IN_BUNDLE
from dicom_gam.core.calibration import realised_interval
from dicom_gam.core.measure import CHECKS

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

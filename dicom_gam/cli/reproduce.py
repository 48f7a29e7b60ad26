"""`dicom-gam reproduce`: a result once more from what was kept, to show that it is the same."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.config import NodeSettings, Settings, load_settings
from dicom_gam.service.reproduce import Outcome, Reproduction
from dicom_gam.service.reproduce import reproduce as recompute

if TYPE_CHECKING:
    from dicom_gam.service.comparison import Comparison, Difference

EXIT_DIFFERENT, EXIT_IMPOSSIBLE = 1, 2
STYLES = {Outcome.EQUAL: "green", Outcome.DIFFERENT: "bold red", Outcome.IMPOSSIBLE: "yellow"}
SHOWN = 5


def reproduce(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="JOB...", help="Job IDs, as in the audit log.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every job that has a result.")] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The node's configuration, TOML.")] = None,
    storage: Annotated[Path | None, typer.Option(help="Or its storage folder alone.")] = None,
    bundle: Annotated[str, typer.Option(help="A bundle that the configuration no longer names: its path.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Recompute results from the kept images, with the kept settings and the same bundle, and compare every figure.

    Changes and sends nothing, and may run beside the node; the audit log notes the outcome. Equal means: the same
    verdict, finding, reasons and UIDs, and every figure within a tolerance for sums in another order; "to the bit"
    says that not even that was needed. Exit status: 0 all are equal; 1 at least one differs; 2 at least one can't be
    recomputed (deleted image, missing bundle or evidence), and none differs.
    """
    if bool(jobs) == everything:
        raise typer.BadParameter("give job IDs, or --all")
    if (config is None) == (storage is None):
        raise typer.BadParameter("give either --config or --storage")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values, which may be a patient's
    settings = Settings(node=NodeSettings(storage=storage)) if storage else load_settings(config)  # type: ignore[arg-type]
    made = list(recompute(settings, None if everything else jobs, bundle))
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in made], indent=2))
    else:
        _show(made)
    raise typer.Exit(_exit_status(made))


def _show(made: list[Reproduction]) -> None:
    console = Console()
    if not made:
        console.print("no job has a result yet")
        return
    table = Table(title="Recomputed from what was kept", title_justify="left")
    for column in ("job", "result", "recomputed", "what was found"):
        table.add_column(column, overflow="fold")
    for item in made:
        verdict = Text(item.outcome, style=STYLES[item.outcome])
        table.add_row(Text(item.job_id), Text(item.verdict), verdict, Text(_words(item)))
    console.print(table)
    counts = [f"{sum(item.outcome is outcome for item in made)} {outcome}" for outcome in Outcome]
    console.print(f"{len(made)} results: {', '.join(counts)}")


def _words(item: Reproduction) -> str:
    found = item.comparison
    if found is None:
        return f"can't be reproduced: {item.why}"
    if not found.differences:
        return _equal(found)
    lines = [_difference(difference) for difference in found.differences[:SHOWN]]
    more = len(found.differences) - SHOWN
    return "\n".join([*lines, *([f"and {more} more: see --json"] if more > 0 else [])])


def _equal(found: Comparison) -> str:
    if found.exact:
        return f"all {found.figures} figures to the bit" + ("" if found.attention_by is None else ", attention map too")
    words = [f"all {found.figures} figures within tolerance"]
    if found.attention_by is not None:
        words.append(f"attention map within {found.attention_by:.2g}")
    if not found.same_bytes:
        words.append("the files differ in the last digits that they quote")
    return "; ".join(words)


def _difference(difference: Difference) -> str:
    by = "" if difference.by is None else f", by {difference.by:.3g}"
    return f"{difference.what}: was {difference.kept}, is {difference.made}{by}"


def _exit_status(made: list[Reproduction]) -> int:
    outcomes: set[Any] = {item.outcome for item in made}
    if Outcome.DIFFERENT in outcomes:
        return EXIT_DIFFERENT
    return EXIT_IMPOSSIBLE if Outcome.IMPOSSIBLE in outcomes else 0

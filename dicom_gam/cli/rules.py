"""`dicom-gam rules list|test`: what is done with which images, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dicom_gam.config import Settings, load_settings
from dicom_gam.sections import Rule
from dicom_gam.service.rule_trial import explain_file

app = typer.Typer(no_args_is_help=True)
Config = Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, TOML.")]
EXIT_UNREADABLE = 12


@app.callback()
def _group() -> None:
    """Look at the rules, and try them on files."""


@app.command("list")
def list_rules(config: Config) -> None:
    """Show the rules in their order: the first that matches an image counts."""
    settings = load_settings(config)
    if not settings.rules:
        typer.echo(f"no rules: every image is processed by {settings.processing.bundle}, for every destination")
        return
    for number, rule in enumerate(settings.rules, 1):
        typer.echo(f"{number}. {rule.name}: {_consequence(rule, settings)}")
        for key, patterns in _conditions(rule):
            typer.echo(f"     {key}: {_any_of(patterns)}")
    typer.echo("An image that none of them matches is kept and not processed.")


@app.command("test")
def try_rules(
    files: Annotated[list[Path], typer.Argument(help="DICOM files.")],
    config: Config,
    calling: Annotated[str, typer.Option(help="The AE title that would send them.")] = "",
    called: Annotated[str | None, typer.Option(help="The AE title they would be sent to; else the node's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say for each file which rule matches, and of every rule before it which of its keys did not.

    Shows the values that the rules look at, and no patient's name or ID. Exit status 12 when a file can't be read.
    """
    settings = load_settings(config)
    answers = [_tried(path, settings, calling, settings.node.ae_title if called is None else called) for path in files]
    if as_json:
        typer.echo(json.dumps(answers, indent=2))
    else:
        for answer in answers:
            _show(answer)
    raise typer.Exit(EXIT_UNREADABLE if any("unreadable" in answer for answer in answers) else 0)


def _tried(path: Path, settings: Settings, calling: str, called: str) -> dict[str, Any]:
    """The whole answer for one file, JSON-ready."""
    trial = explain_file(settings, path, calling, called)
    if trial.unreadable:
        return {"file": str(path), "unreadable": trial.unreadable}
    return {
        "file": str(path),
        "processed": not trial.why_not,
        "why_not": trial.why_not or None,
        "rule": trial.rule or None,
        "bundle": trial.bundle or None,
        "destinations": list(trial.destinations),
        "rules": [{"rule": rule.name, "matched": rule.matched, "keys": [asdict(key) for key in rule.keys]}
                  for rule in trial.rules],
    }  # fmt: skip


def _show(answer: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(answer['file'])}[/bold]")
    if "unreadable" in answer:
        console.print(f"  can't be read: {escape(answer['unreadable'])}")
        return
    console.print(f"  {escape(_headline(answer))}", style="green" if answer["processed"] else "yellow")
    counted = False
    for number, rule in enumerate(answer["rules"], 1):
        matched = rule["matched"]
        fate = "matches, but an earlier rule counts" if matched and counted else "matches" if matched else "no match"
        counted = counted or matched
        console.print(f"  {number}. {escape(rule['rule'])}: {fate}")
        for key in rule["keys"]:
            console.print(f"       {escape(_line(key))}", style=None if key["matched"] else "red")


def _headline(answer: dict[str, Any]) -> str:
    if not answer["processed"]:
        return f"not processed: {answer['why_not']}"
    by = f"rule {answer['rule']!r}" if answer["rule"] else "there are no rules"
    destinations = ", ".join(answer["destinations"]) or "no destination"
    return f"processed ({by}): bundle {answer['bundle']}, results to {destinations}"


def _line(key: dict[str, Any]) -> str:
    found = _any_of(key["found"]) if key["found"] else "nothing (absent or empty)"
    verb = "matches" if key["matched"] else "does not match"
    return f"{key['key']} {verb}: found {found}, wanted {_any_of(key['patterns'])}"


def _any_of(values: Sequence[str]) -> str:
    return " or ".join(repr(value) for value in values)


def _conditions(rule: Rule) -> list[tuple[str, tuple[str, ...]]]:
    return [(key, patterns) for key, patterns in rule.when if patterns]


def _consequence(rule: Rule, settings: Settings) -> str:
    if not rule.process:
        return "not processed"
    everywhere = tuple(destination.name for destination in settings.destinations)
    names = everywhere if rule.destinations is None else rule.destinations
    return f"bundle {rule.bundle or settings.processing.bundle}, results to {', '.join(names) or 'no destination'}"

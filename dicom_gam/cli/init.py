"""`dicom-gam init`: a few questions, and a commented node.toml."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_gam.cli.doctor import doctor
from dicom_gam.errors import ConfigError
from dicom_gam.service.first_settings import Answers, settings_text, write_settings

DEFAULTS = Answers()


def init(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("node.toml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: options count, else the defaults.")] = False,
    ae_title: Annotated[str | None, typer.Option(help="This node's AE title.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on.")] = None,
    storage: Annotated[Path | None, typer.Option(help="The folder for images, results, jobs, the audit log.")] = None,
    sender: Annotated[
        list[str] | None, typer.Option(metavar="TITLE@ADDRESS", help="Who may send; may be repeated.")
    ] = None,
    pacs: Annotated[str | None, typer.Option(metavar="TITLE@HOST:PORT", help="Where results go.")] = None,
    dashboard: Annotated[bool | None, typer.Option(help="Serve the dashboard, on this machine only.")] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Its port.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    check: Annotated[bool | None, typer.Option(help="Look at the result with `dicom-gam doctor --offline`.")] = None,
) -> None:
    """Ask what a node must know, and write a commented configuration. What is given as an option is not asked."""
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} is there already: give --output another name, or --overwrite to replace it")
    given: dict[str, Any] = {
        "ae_title": ae_title,
        "port": port,
        "storage": storage,
        "senders": None if sender is None else tuple(_sender(text) for text in sender),
        "pacs": None if pacs is None else _pacs(pacs),
        "dashboard": dashboard,
        "dashboard_port": dashboard_port,
    }
    answers = replace(DEFAULTS, **{key: value for key, value in given.items() if value is not None})
    settings_text(answers)  # an option that can't be right is told before anything is asked
    if not yes:
        answers = _asked(answers, {key for key, value in given.items() if value is not None})
    write_settings(answers, output, overwrite=overwrite)
    typer.echo(f"wrote {output}")
    wanted = check if check is not None else not yes and typer.confirm("Check it now (dicom-gam doctor --offline)?")
    if wanted:
        _check(output)
    _say_what_is_next(answers, output)


def _asked(answers: Answers, known: set[str]) -> Answers:
    """Ask for what is not known yet; a wrong answer is told at once, and asked for again."""
    for key, question in (
        ("ae_title", "AE title of this node"),
        ("port", "Port to listen on"),
        ("storage", "Folder for images, results and the audit log"),
    ):
        if key not in known:
            answers = _ask(answers, key, question)
    if "senders" not in known:
        answers = _ask_senders(answers)
    if "pacs" not in known:
        answers = _ask_pacs(answers)
    if "dashboard" not in known:
        on = typer.confirm("Serve the dashboard, for browsers on this machine?", default=answers.dashboard)
        answers = replace(answers, dashboard=on)
    if answers.dashboard and "dashboard_port" not in known:
        answers = _ask(answers, "dashboard_port", "Port of the dashboard")
    return answers


def _ask(answers: Answers, key: str, question: str) -> Answers:
    default = getattr(answers, key)

    def read(text: str) -> Answers:
        given: dict[str, Any] = {key: type(default)(text)}  # a text, a number or a path
        return replace(answers, **given)

    made = typer.prompt(question, default=str(default), value_proc=_valid(read))
    return made if isinstance(made, Answers) else answers


def _ask_senders(answers: Answers) -> Answers:
    typer.echo("Who may send images? For each: its AE title, @, its address or network. Nothing more to add: Enter.")
    while True:

        def read(text: str, before: Answers = answers) -> Answers:
            return replace(before, senders=(*before.senders, _sender(text))) if text else before

        made: Answers = typer.prompt(
            "Sender, such as XRAY_ROOM_1@10.1.2.3", default="", show_default=False, value_proc=_valid(read)
        )
        if not isinstance(made, Answers) or made == answers:
            return answers
        answers = made


def _ask_pacs(answers: Answers) -> Answers:
    def read(text: str) -> Answers:
        return replace(answers, pacs=_pacs(text)) if text else answers

    made = typer.prompt(
        "PACS that gets the results, such as PACS@10.1.2.4:104 (Enter for none yet)",
        default="",
        show_default=False,
        value_proc=_valid(read),
    )
    return made if isinstance(made, Answers) else answers


def _valid(read: Callable[[str], Answers]) -> Callable[[str], Answers]:
    """Read an answer; one that the configuration would not accept is a wrong parameter, which is asked for again."""

    def process(text: str) -> Answers:
        try:
            made = read(text.strip())
            settings_text(made)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not a number") from error
        except ConfigError as error:
            raise typer.BadParameter(str(error).removeprefix("these answers: ")) from error
        return made

    return process


def _sender(text: str) -> tuple[str, str]:
    title, at, host = text.rpartition("@")
    if not at:
        raise ConfigError(f"{text!r}: write a sender as TITLE@ADDRESS, such as XRAY_ROOM_1@10.1.2.3 or CT@10.1.0.0/16")
    return title.strip(), host.strip()


def _pacs(text: str) -> tuple[str, str, int]:
    title, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not (at and colon and host and port.strip().isdecimal()):
        raise ConfigError(f"{text!r}: write the PACS as TITLE@HOST:PORT, such as PACS@10.1.2.4:104")
    return title.strip(), host.strip().removeprefix("[").removesuffix("]"), int(port)


def _check(output: Path) -> None:
    try:
        doctor(output, as_json=False, offline=True, send_test_image=False)
    except typer.Exit:  # its status; what it found stands above
        typer.echo("")


def _say_what_is_next(answers: Answers, output: Path) -> None:
    command = "dicom-gam" if shutil.which("dicom-gam") else Path(sys.executable).with_name("dicom-gam")
    typer.echo("Next:")
    if answers.dashboard:
        typer.echo(f"  {command} users add YOUR_NAME --role operator --config {output}")
    typer.echo(f"  {command} doctor --config {output}")
    typer.echo(f"  {command} serve --config {output}")

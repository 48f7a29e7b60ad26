"""`dicom-gam users`: who may use the dashboard and the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicom_gam.config import load_settings, settings_from
from dicom_gam.service.accounts import Accounts
from dicom_gam.service.delivery_review import operator
from dicom_gam.service.store import open_store

app = typer.Typer(no_args_is_help=True)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The node's configuration.")]
Storage = Annotated[Path | None, typer.Option("--storage", "-s", help="Or the node's storage folder.")]
Name = Annotated[str, typer.Argument(help="The user's name; upper and lower case are the same.")]
Roles = Annotated[
    list[str], typer.Option("--role", "-r", help="viewer, operator or auditor; give it once for each role.")
]


@app.callback()
def _group() -> None:
    """Say who may use the dashboard and the HTTP API. Works while the node runs; every change is put on record."""


@app.command("list")
def show(config: Config = None, storage: Storage = None) -> None:
    """Show the users and the tokens of programs."""
    with _accounts(config, storage) as accounts:
        users, tokens = accounts.users(), accounts.tokens()
    if not users:
        typer.echo("no users: add the first one with `dicom-gam users add NAME --role operator`")
        return
    console = Console()
    people = Table("user", "roles", "state", "since")
    for user in users:
        state = "disabled" if user.disabled else "must choose a password" if user.must_change else "active"
        people.add_row(*(Text(cell) for cell in (user.name, ", ".join(user.roles), state, _moment(user.since))))
    console.print(people)
    if tokens:
        programs = Table("token of", "label", "roles", "since", "last used")
        for token in tokens:
            cells = (token.name, token.label, ", ".join(token.roles), _moment(token.since), _moment(token.last_used))
            programs.add_row(*(Text(cell) for cell in cells))
        console.print(programs)


@app.command()
def add(name: Name, role: Roles, config: Config = None, storage: Storage = None) -> None:
    """Add a user, and print the password for the first log-in, at which they choose their own."""
    with _accounts(config, storage) as accounts:
        _hand_over(name, accounts.add(name, role, by=operator()))


@app.command()
def passwd(name: Name, config: Config = None, storage: Storage = None) -> None:
    """Give a user a new password for one log-in, and log them out everywhere."""
    with _accounts(config, storage) as accounts:
        _hand_over(name, accounts.reset_password(name, by=operator()))


@app.command()
def roles(name: Name, role: Roles, config: Config = None, storage: Storage = None) -> None:
    """Replace a user's roles; they hold at once."""
    with _accounts(config, storage) as accounts:
        accounts.set_roles(name, role, by=operator())
    typer.echo(f"{name}: {', '.join(sorted(set(role)))}")


@app.command()
def disable(name: Name, config: Config = None, storage: Storage = None) -> None:
    """Let a user in no more, and log them out everywhere; their tokens don't work either."""
    with _accounts(config, storage) as accounts:
        accounts.disable(name, by=operator())
    typer.echo(f"{name}: disabled")


@app.command()
def enable(name: Name, config: Config = None, storage: Storage = None) -> None:
    """Let a disabled user in again."""
    with _accounts(config, storage) as accounts:
        accounts.enable(name, by=operator())
    typer.echo(f"{name}: enabled")


@app.command()
def token(
    name: Name,
    label: Annotated[str, typer.Option("--label", help="What the token is for, such as prometheus.")] = "token",
    role: Annotated[list[str] | None, typer.Option("--role", "-r", help="Fewer roles than the user has.")] = None,
    config: Config = None,
    storage: Storage = None,
) -> None:
    """Make a token for a program, and print it: it is shown now and never again."""
    with _accounts(config, storage) as accounts:
        made = accounts.make_token(name, label, role or (), by=operator())
    typer.echo(f"{made}", nl=True)
    typer.echo("Send it as the header `Authorization: Bearer TOKEN`. It is shown this once only.", err=True)


@app.command()
def revoke(
    name: Name,
    label: Annotated[str | None, typer.Option("--label", help="Only the token of this label.")] = None,
    sessions: Annotated[bool, typer.Option("--sessions", help="No token, but all of the user's log-ins.")] = False,
    config: Config = None,
    storage: Storage = None,
) -> None:
    """Make a user's tokens worthless, or one of them, or (--sessions) log the user out everywhere."""
    if sessions and label is not None:
        raise typer.BadParameter("--sessions and --label are two things: give one of them")
    with _accounts(config, storage) as accounts:
        if sessions:
            typer.echo(f"{name}: logged out of {accounts.end_sessions(name, by=operator())} sessions")
        else:
            typer.echo(f"{name}: {accounts.revoke_tokens(name, label, by=operator())} tokens revoked")


@contextmanager
def _accounts(config: Path | None, storage: Path | None) -> Iterator[Accounts]:
    """The accounts of a node; of one that has never run too, where its configuration is given."""
    if (config is None) == (storage is None):
        raise typer.BadParameter("give either --config or --storage")
    settings = load_settings(config) if config is not None else settings_from({"node": {"storage": storage}})
    with open_store(settings, create=config is not None) as store:
        accounts = Accounts(store.folder, store.audit)
        try:
            yield accounts
        finally:
            accounts.close()


def _hand_over(name: str, password: str) -> None:
    typer.echo(f"{name}: the password for the next log-in is  {password}")
    typer.echo("Hand it over in person. It is shown this once only, and a new one is asked for at the log-in.")


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"

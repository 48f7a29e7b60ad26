"""Logging in and out, and choosing a password."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Blueprint, abort, flash, g, redirect, render_template, request, session, url_for
from limits import parse

from dicom_gam.service.accounts import LONGEST_PASSWORD, SHORTEST_PASSWORD, password_fault
from dicom_gam.web.access import guard, record_refusal
from dicom_gam.web.oidc import directory
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from flask import Response
    from limits import RateLimitItem
    from werkzeug.wrappers import Response as AnyResponse

    from dicom_gam.storage.sqlite_access import User

pages = Blueprint("login", __name__)

TRIES_OF_ADDRESS = parse("30 per 5 minutes")
TRIES_OF_PAIR = parse("10 per 15 minutes")  # of one account from one address
TRIES_OF_ACCOUNT = parse("60 per hour")  # from everywhere: more than a person needs, far less than guessing does


@pages.get("/login")
def page() -> str | AnyResponse:
    """Ask for name and password."""
    if g.visitor is not None:
        return redirect(local_path(request.args.get("next")))
    return _ask()


@pages.post("/login")
def submit() -> str | AnyResponse | tuple[str, int]:
    """Let somebody in whose name and password are right."""
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    _count_try(name)
    accounts = guard().accounts
    user = accounts.authenticated(name, password) if len(password) <= LONGEST_PASSWORD else None
    if user is None:
        record_refusal("wrong name or password", user=accounts.known_name(name), each=True)
        return _ask("Name and password don't fit, or the account is disabled. Mind upper and lower case."), 401
    _forget_tries(name)
    wanted = local_path(request.form.get("next"))
    let_in(user.name, how="password")
    return redirect(url_for("login.password") if user.must_change else wanted, 303)


@pages.post("/logout")
def leave() -> AnyResponse:
    """End the session."""
    session_id = session.get("id")
    if isinstance(session_id, str):
        found = guard().accounts.session(session_id, site().settings.web.session_minutes * 60)
        if found is not None:
            site().store.audit.append("access.logged_out", by=found.name, address=request.remote_addr or "")
        guard().accounts.end_session(session_id)
    session.clear()
    flash("You are logged out.", "good")
    return redirect(url_for("login.page"), 303)


@pages.get("/password")
def password() -> str | AnyResponse:
    """Ask for a new password."""
    user = _user()
    return render_template("password.html", first=user.must_change, shortest=SHORTEST_PASSWORD, fault="")


@pages.post("/password")
def change() -> AnyResponse | tuple[str, int]:
    """Take a new password; every other session of the user ends."""
    user, form = _user(), request.form
    _count_try(user.name)
    old, new = form.get("old", ""), form.get("new", "")
    if len(old) > LONGEST_PASSWORD or guard().accounts.authenticated(user.name, old) is None:
        record_refusal("wrong password at its change", user=user.name, each=True)
        fault = "The present password is wrong."
    else:
        fault = password_fault(user, old, new, form.get("again", ""))
    if fault:
        page = render_template("password.html", first=user.must_change, shortest=SHORTEST_PASSWORD, fault=fault)
        return page, 400
    _forget_tries(user.name)
    guard().accounts.change_password(user, new, address=request.remote_addr or "")
    let_in(user.name, how="new password")
    flash("Your new password holds from now on. All your other sessions were logged out.", "good")
    return redirect(url_for("now.page"), 303)


@pages.get("/login/directory")
def elsewhere() -> AnyResponse:
    """Send the visitor to the hospital's directory."""
    _count_try("")
    provider = directory()
    if provider is None:
        abort(404)
    session["next"] = local_path(request.args.get("next"))
    answer = provider.send_there(url_for("login.returned", _external=True))
    if isinstance(answer, str):
        abort(503, answer)
    return answer


@pages.get("/login/directory/back")
def returned() -> AnyResponse | Response:
    """Let somebody in for whom the directory vouches."""
    _count_try("")
    provider = directory()
    if provider is None:
        abort(404)
    person = provider.person()
    if isinstance(person, str):
        record_refusal(f"directory: {person}", each=True)
        abort(403, person)
    wanted = local_path(session.get("next"))
    let_in(person.name, how="directory", directory_roles=person.roles, subject=person.subject)
    return redirect(wanted, 303)


def let_in(name: str, *, how: str, directory_roles: tuple[str, ...] | None = None, **keys: str) -> None:
    """Begin a session with a new ID, so that an ID from before the log-in is worth nothing."""
    address = request.remote_addr or ""
    site().store.audit.append("access.logged_in", by=name, address=address, how=how, **keys)
    before = session.get("id")
    if isinstance(before, str):
        guard().accounts.end_session(before)
    session.clear()
    session["id"] = guard().accounts.begin_session(name, address, directory_roles)


def local_path(wanted: object) -> str:
    """The path to go to if it is one of ours, else that of the first page: no link of a stranger's leads elsewhere."""
    home = url_for("now.page")
    if (
        not isinstance(wanted, str)
        or not wanted.startswith("/")
        or wanted.startswith(("//", "/\\", "/login", "/logout"))
    ):
        return home
    if "\\" in wanted or not wanted.isprintable() or len(wanted) > 2000:
        return home
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return home
    return home if parts.scheme or parts.netloc else wanted


def _ask(fault: str = "") -> str:
    oidc = site().settings.web.oidc
    wanted = request.values.get("next", "")
    return render_template("login.html", fault=fault, next=wanted, directory=None if oidc is None else oidc.label)


def _user() -> User:
    """The user whose session it is; those of the directory change their password there."""
    user: User | None = g.get("user")
    if user is None:
        abort(403 if g.visitor is not None else 401)
    return user


def _count_try(name: str) -> None:
    limiter, address, account = guard().limiter.limiter, request.remote_addr or "", name[:64].casefold()
    limits: list[tuple[RateLimitItem, tuple[str, ...]]] = [(TRIES_OF_ADDRESS, ("log-in", address))]
    if account:
        limits += [(TRIES_OF_PAIR, ("log-in", address, account)), (TRIES_OF_ACCOUNT, ("log-in-to", account))]
    for limit, key in limits:
        if not limiter.hit(limit, *key):
            record_refusal("too many log-ins", user=guard().accounts.known_name(name) if name else "")
            abort(429)


def _forget_tries(name: str) -> None:
    limiter, address, account = guard().limiter.limiter, request.remote_addr or "", name[:64].casefold()
    limiter.clear(TRIES_OF_PAIR, "log-in", address, account)

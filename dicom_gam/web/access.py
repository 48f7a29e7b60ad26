"""Who may see and do what. Every view says what it needs by `needs`; without it nothing is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flask import abort, current_app, g, request

from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask_limiter import Limiter

    from dicom_gam.oversight_sections import Role
    from dicom_gam.service.accounts import Accounts
    from dicom_gam.web.recently import Recently

# What leaves the dashboard is put on record each time; what is looked at, once in ten minutes.
LEAVES = frozenset({"export", "download"})

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Permission(StrEnum):
    """What a view can need."""

    LOOK = "look"  # see pages, patients' data among them
    COMMENT = "comment"  # say what one thinks of a result
    OPERATE = "operate"  # retry, dismiss, override, submit, pause, test
    SETTINGS = "settings"  # see the configuration
    AUDIT = "audit"  # search, verify and export the audit log


PERMISSIONS: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        "viewer": frozenset({Permission.LOOK, Permission.COMMENT}),
        "operator": frozenset({Permission.LOOK, Permission.COMMENT, Permission.OPERATE, Permission.SETTINGS}),
        "auditor": frozenset({Permission.LOOK, Permission.SETTINGS, Permission.AUDIT}),
    }
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes the current request. `address` is where it comes from, `token` the label of a program's token."""

    name: str
    roles: frozenset[Role]
    address: str
    token: str = ""

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles gives this permission."""
        return any(permission in PERMISSIONS[role] for role in self.roles)


def visitor() -> Visitor:
    """Who makes the current request; only within a view that `needs` something."""
    found: Visitor = g.visitor
    return found


def needs(permission: Permission) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Let only those in who have this permission; the others are sent to the log-in (pages) or told 401 or 403."""

    def decorate(view: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(view)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            found: Visitor | None = g.get("visitor")
            if found is None:
                abort(401)
            if not found.may(permission):
                abort(403)
            return view(*args, **kwargs)

        guarded.permission = permission  # type: ignore[attr-defined]  # a test walks over all views
        return guarded

    return decorate


@dataclass(frozen=True, slots=True)
class Guard:
    """What keeps watch over one application. `looks` and `refusals` are those already on record."""

    accounts: Accounts
    limiter: Limiter
    looks: Recently
    refusals: Recently


def guard() -> Guard:
    """The guard of the current application."""
    found: Guard = current_app.extensions["dicom_gam_guard"]
    return found


def record_look(what: str, **keys: Any) -> None:
    """Put on record that the visitor looks at a patient's data: `what` is "job", "study", "list", "export" ...

    `keys` name it by UIDs and job IDs, never by a patient's name or ID. The same look is put on record once in ten
    minutes, as live pages look again every few seconds; an "export" or "download" each time.
    """
    who = visitor()
    look = (who.name, who.token, who.address, what, repr(sorted(keys.items())))
    if what not in LEAVES and guard().looks.holds(look):
        return
    site().store.audit.append("access.looked", what=what, **keys, **_by(who))
    guard().looks.add(look)


def record_act(event: str, **keys: Any) -> None:
    """Put on record what the visitor does, before it is done."""
    site().store.audit.append(event, **keys, **_by(visitor()))


def record_refusal(why: str, *, user: str = "", each: bool = False) -> None:
    """Put on record that a request is refused: once a minute for the same of an address, or (`each`) every time.

    `user` is the name of an account that there is, never what a stranger typed.
    """
    who: Visitor | None = g.get("visitor")
    name = user or (who.name if who else "")
    refusal = (request.remote_addr, name, why, request.endpoint)
    if not each and guard().refusals.holds(refusal):
        return
    keys = {"user": name} if name else {}
    site().store.audit.append("access.refused", why=why, at=request.endpoint, address=request.remote_addr or "", **keys)
    guard().refusals.add(refusal)


def _by(who: Visitor) -> dict[str, str]:
    return {"by": who.name, "address": who.address} | ({"token": who.token} if who.token else {})

"""Who may see and do what. Every view says what it needs by `needs`; without it nothing is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flask import abort, g

from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.oversight_sections import Role

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
    """Who makes the current request. `address` is where it comes from."""

    name: str
    roles: frozenset[Role]
    address: str

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


def record_look(what: str, **keys: Any) -> None:
    """Put on record that the visitor looks at a patient's data: `what` is "job", "study", "list", "export" ...

    `keys` name it by UIDs and job IDs, never by a patient's name or ID.
    """
    who = visitor()
    site().store.audit.append("access.looked", what=what, by=who.name, address=who.address, **keys)


def record_act(event: str, **keys: Any) -> None:
    """Put on record what the visitor does, before it is done."""
    who = visitor()
    site().store.audit.append(event, by=who.name, address=who.address, **keys)

"""Who may use the dashboard: users and passwords, sessions, tokens. Every change of an account goes on record first."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
import unicodedata
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.oversight_sections import Role
from dicom_gam.storage.sqlite_access import ACCESS_FILE, AccessDatabase, OpenSession, SqliteAccess, Token, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from dicom_gam.storage.audit import AuditLog

ROLES: tuple[Role, ...] = get_args(Role)
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 256
FEWEST_CHARACTERS = 5  # different ones in a password
LONGEST_SESSION_S = 12 * 3600.0
CLOCK_SLACK_S = 60.0  # a session that is younger than this below zero is not believed
TOKEN_PREFIX = "dgam_"  # noqa: S105 (lets scanners for leaked secrets find them)
DIRECTORY_PREFIX = "oidc:"  # before the names of those whom the directory vouches for; no user's own name has it

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that looks like another
# The hash of a password that nobody has: a name that nobody has takes as long as one that somebody has.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$y69ZXtkYrNgb3A7sdA8G4A$ZEDuE/ljqChuiz2dZGW+FbalcQt6KcBkodgE/Vk6kZY"


class Accounts:
    """The accounts of one storage folder. `by` is who acts: a shell user or a visitor's name."""

    def __init__(self, folder: Path, audit: AuditLog, clock: Callable[[], float] = time.time) -> None:
        self._database = AccessDatabase(folder / ACCESS_FILE)
        self._kept = SqliteAccess(self._database)
        self._audit = audit
        self._clock = clock
        self._hasher = PasswordHasher()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def users(self) -> list[User]:
        """Everybody with a password here, by name."""
        return self._kept.users()

    def user(self, name: str) -> User:
        """The user of this name. Raises ConfigError when there is none."""
        found = self._kept.user(name)
        if found is None:
            msg = f"there is no user {name!r}: `dicom-gam users list` shows who there is"
            raise ConfigError(msg)
        return found

    def add(self, name: str, roles: Iterable[str], *, by: str) -> str:
        """Add a user; return the password for the first log-in. Raises ConfigError that says what is wrong."""
        wanted = _checked_roles(roles)
        if not _NAME.fullmatch(name):
            msg = f"{name!r} can't be a user's name: use up to 64 letters, digits and . _ - @, a letter or digit first"
            raise ConfigError(msg)
        if self._kept.user(name) is not None:
            msg = f"there is a user {name!r} already: `dicom-gam users passwd {name}` gives a new password"
            raise ConfigError(msg)
        password = _one_time_password()
        self._audit.append("access.user_added", user=name, roles=list(wanted), by=by)
        self._kept.put_user(User(name, wanted, True, False, self._clock(), self._hasher.hash(password)))
        return password

    def reset_password(self, name: str, *, by: str) -> str:
        """Give a user a password for one log-in, and log them out everywhere. Raises ConfigError."""
        user = self.user(name)
        password = _one_time_password()
        self._audit.append("access.password_reset", user=user.name, by=by)
        self._kept.put_user(replace(user, password_hash=self._hasher.hash(password), must_change=True))
        self._kept.drop_sessions(user.name)
        return password

    def set_roles(self, name: str, roles: Iterable[str], *, by: str) -> None:
        """Replace a user's roles; they hold from the next request on. Raises ConfigError."""
        user, wanted = self.user(name), _checked_roles(roles)
        self._audit.append("access.roles_changed", user=user.name, roles=list(wanted), by=by)
        self._kept.put_user(replace(user, roles=wanted))

    def disable(self, name: str, *, by: str) -> None:
        """Let a user in no more, not by a token either; log them out everywhere. Raises ConfigError."""
        user = self.user(name)
        self._audit.append("access.user_disabled", user=user.name, by=by)
        self._kept.put_user(replace(user, disabled=True))
        self._kept.drop_sessions(user.name)

    def enable(self, name: str, *, by: str) -> None:
        """Let a user in again. Raises ConfigError."""
        user = self.user(name)
        self._audit.append("access.user_enabled", user=user.name, by=by)
        self._kept.put_user(replace(user, disabled=False))

    def authenticated(self, name: str, password: str) -> User | None:
        """The user when name and password are right and nothing speaks against it; a wrong name takes as long."""
        user = self._kept.user(name)
        known = _NOBODY if user is None or user.disabled else user.password_hash
        try:
            self._hasher.verify(known, _normal(password))
        except (VerificationError, InvalidHashError):
            return None
        if user is None or user.disabled:
            return None
        if self._hasher.check_needs_rehash(user.password_hash):
            user = replace(user, password_hash=self._hasher.hash(_normal(password)))
            self._kept.put_user(user)
        return user

    def known_name(self, name: str) -> str:
        """The name as it is kept; empty when nobody has it. What else people type there may be a password."""
        user = self._kept.user(name)
        return "" if user is None else user.name

    def change_password(self, user: User, new: str, *, address: str) -> None:
        """Give a user the password that they chose, and log them out everywhere. `password_fault` comes before it."""
        self._audit.append("access.password_changed", user=user.name, by=user.name, address=address)
        hashed = self._hasher.hash(_normal(new))
        self._kept.put_user(replace(user, password_hash=hashed, must_change=False))
        self._kept.drop_sessions(user.name)

    def begin_session(self, name: str, address: str, directory_roles: Iterable[str] | None = None) -> str:
        """Begin a session; return its random ID, which only the browser keeps.

        `directory_roles` are those of somebody whom the directory vouches for; a user has their own.
        """
        session_id, now = secrets.token_urlsafe(32), self._clock()
        user = self.user(name) if directory_roles is None else None
        roles = user.roles if user is not None else _checked_roles(directory_roles or ())
        opened = OpenSession(name if user is None else user.name, roles, now, now, address, user)
        self._kept.put_session(_digest(session_id), opened, now - LONGEST_SESSION_S)
        return session_id

    def session(self, session_id: str, idle_s: float) -> OpenSession | None:
        """The session of this ID if it still holds; None when it has ended, however it did."""
        found = self._kept.session(_digest(session_id))
        if found is None or (found.user is not None and found.user.disabled):
            return None
        now = self._clock()
        if not -CLOCK_SLACK_S <= now - found.created <= LONGEST_SESSION_S or now - found.last_seen > idle_s:
            self._kept.drop_session(_digest(session_id))
            return None
        return found

    def touch_session(self, session_id: str, found: OpenSession, idle_s: float) -> None:
        """Note that a person uses the session; written down now and then only."""
        now = self._clock()
        if now - found.last_seen > min(30.0, idle_s / 20):
            with _not_needed("session"):
                self._kept.touch_session(_digest(session_id), now)

    def end_session(self, session_id: str) -> bool:
        """End a session; False when it had ended before."""
        return self._kept.drop_session(_digest(session_id))

    def end_sessions(self, name: str, *, by: str) -> int:
        """Log somebody out everywhere; return from how many sessions."""
        self._audit.append("access.sessions_revoked", user=name, by=by)
        return self._kept.drop_sessions(name)

    def make_token(self, name: str, label: str, roles: Iterable[str], *, by: str) -> str:
        """Make a token for a program; it is returned now and never again. Without roles it has the user's.

        Raises ConfigError when there is no such user, they lack a role, or there is a token of this label.
        """
        user = self.user(name)
        wanted = _checked_roles(roles or user.roles)
        if not _NAME.fullmatch(label):
            msg = f"{label!r} can't be a token's label: use up to 64 letters, digits and . _ - @"
            raise ConfigError(msg)
        if lacking := sorted(set(wanted) - set(user.roles)):
            msg = f"{user.name} is no {', '.join(lacking)}: a token can't do more than its user"
            raise ConfigError(msg)
        if any(token.label == label and token.name == user.name for token in self._kept.tokens()):
            msg = f"{user.name} has a token {label!r}: give another --label, or revoke that one first"
            raise ConfigError(msg)
        text = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._audit.append("access.token_made", user=user.name, label=label, roles=list(wanted), by=by)
        self._kept.put_token(_digest(text), Token(user.name, label, wanted, self._clock(), None, user))
        return text

    def tokens(self) -> list[Token]:
        """All tokens, by user and label."""
        return self._kept.tokens()

    def token(self, text: str) -> Token | None:
        """The token that this text is, with the roles its user still has; None when it isn't one, or they have none."""
        found = self._kept.token(_digest(text))
        if found is None or found.user.disabled:
            return None
        now = self._clock()
        if found.last_used is None or abs(now - found.last_used) > 60.0:
            with _not_needed("token"):
                self._kept.touch_token(_digest(text), now)
        roles = tuple(role for role in found.roles if role in found.user.roles)
        return replace(found, roles=roles) if roles else None

    def revoke_tokens(self, name: str, label: str | None, *, by: str) -> int:
        """Make one of a user's tokens, or all of them, worthless; return how many. Raises ConfigError."""
        user = self.user(name)
        self._audit.append("access.token_revoked", user=user.name, label=label, by=by)
        return self._kept.drop_tokens(user.name, label)


def password_fault(user: User, old: str, new: str, again: str) -> str:
    """What is wrong with a new password, in words for the person who chose it; empty when nothing is."""
    plain = _normal(new)
    if new != again:
        return "The two new passwords differ. Type the same one twice."
    if len(plain) < SHORTEST_PASSWORD:
        return f"The new password is too short. It needs {SHORTEST_PASSWORD} characters; several words do well."
    if len(plain) > LONGEST_PASSWORD:
        return f"The new password is too long. {LONGEST_PASSWORD} characters are the most."
    if user.name.casefold() in plain.casefold() and len(plain) - len(user.name) < SHORTEST_PASSWORD // 2:
        return "The new password is little more than your name. Choose one that nobody guesses."
    if plain == _normal(old):
        return "The new password is the old one. Choose another."
    if len(set(plain)) < FEWEST_CHARACTERS:
        return f"The new password has too few different characters. Use at least {FEWEST_CHARACTERS}."
    return ""


@contextmanager
def _not_needed(what: str) -> Iterator[None]:
    """A full disk must not keep out who comes to see what is wrong."""
    try:
        yield
    except StorageError as error:
        _log.warning("access.not_noted use of a %s: %s", what, error)


def _checked_roles(roles: Iterable[str]) -> tuple[Role, ...]:
    wanted = set(roles)
    if not wanted or not wanted <= set(ROLES):
        strange = ", ".join(sorted(wanted - set(ROLES))) or "none"
        msg = f"roles can't be {strange}: give one or more of {', '.join(ROLES)}"
        raise ConfigError(msg)
    return tuple(role for role in ROLES if role in wanted)


def _one_time_password() -> str:
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))


def _normal(password: str) -> str:
    """The password as NIST SP 800-63B 5.1.1.2 wants it compared: the same letters typed on another keyboard."""
    return unicodedata.normalize("NFKC", password)


def _digest(secret: str) -> str:
    """What a random secret is known by; at 256 random bits it needs no salt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

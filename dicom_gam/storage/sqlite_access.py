"""Who may log in: users, their sessions and their tokens for the API, in a database of their own, `access.sqlite`.

It holds no password, session or token itself, only what they can be checked by.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError
from dicom_gam.storage.sqlite import Database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

ACCESS_FILE = "access.sqlite"

_LAYOUTS = (
    """
    CREATE TABLE IF NOT EXISTS users (
        name TEXT PRIMARY KEY COLLATE NOCASE,
        password_hash TEXT NOT NULL,
        roles TEXT NOT NULL,
        must_change INTEGER NOT NULL,
        disabled INTEGER NOT NULL DEFAULT 0,
        since REAL NOT NULL
    );
    CREATE TABLE IF NOT EXISTS sessions (
        id_hash TEXT PRIMARY KEY,
        name TEXT NOT NULL COLLATE NOCASE,
        roles TEXT,  -- of somebody whom the directory vouches for; NULL: those of the user
        created REAL NOT NULL,
        last_seen REAL NOT NULL,
        address TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS sessions_by_name ON sessions (name);
    CREATE TABLE IF NOT EXISTS tokens (
        token_hash TEXT PRIMARY KEY,
        name TEXT NOT NULL COLLATE NOCASE REFERENCES users,
        label TEXT NOT NULL,
        roles TEXT NOT NULL,
        since REAL NOT NULL,
        last_used REAL,
        UNIQUE (name, label)
    );
    """,
)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a password here. `must_change`: the password was given by another and serves for one log-in."""

    name: str
    roles: tuple[str, ...]
    must_change: bool
    disabled: bool
    since: float
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A log-in that lasts. `user` is None for somebody whom the directory vouches for."""

    name: str
    roles: tuple[str, ...]
    created: float
    last_seen: float
    address: str
    user: User | None


@dataclass(frozen=True, slots=True)
class Token:
    """What a program shows instead of a password. `roles` are those it was made with."""

    name: str
    label: str
    roles: tuple[str, ...]
    since: float
    last_used: float | None
    user: User


class AccessDatabase(Database):
    """`access.sqlite`, with its own layouts; made where there is none, for its owner's eyes only."""

    def __init__(self, path: Path, busy_timeout_s: float = 2.0) -> None:
        self._where = path
        try:  # SQLite gives its -wal and -shm files the same mode
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            msg = f"{path} can't be opened ({error.strerror}): let the service's user write into {path.parent}"
            raise StorageError(msg) from error
        super().__init__(path, busy_timeout_s)

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if 0 <= version < len(_LAYOUTS):
            missing = " ".join(_LAYOUTS[version:])  # IF NOT EXISTS, as two may open a new one at once
            connection.executescript(f"BEGIN IMMEDIATE; {missing} PRAGMA user_version = {len(_LAYOUTS)}; COMMIT;")
        elif version != len(_LAYOUTS):
            msg = (
                f"{self._where} has the layout {version}, this dicom_gam knows {len(_LAYOUTS)}: run the version that "
                "wrote it, or move it aside and add the users again"
            )
            raise StorageError(msg)


class SqliteAccess:
    """Users, sessions and tokens over an `AccessDatabase`."""

    def __init__(self, database: AccessDatabase) -> None:
        self._database = database

    def users(self) -> list[User]:
        """Everybody, by name."""
        with self._database.reading() as connection:
            return [_user(row) for row in connection.execute("SELECT * FROM users ORDER BY name")]

    def user(self, name: str) -> User | None:
        """The user of this name, whose case doesn't matter."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM users WHERE name = ?", (name,)).fetchone()
        return None if row is None else _user(row)

    def put_user(self, user: User) -> None:
        """Add a user, or replace what is kept of them."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO users (name, password_hash, roles, must_change, disabled, since) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET password_hash = excluded.password_hash, roles = excluded.roles,"
                " must_change = excluded.must_change, disabled = excluded.disabled",
                (user.name, user.password_hash, _text(user.roles), user.must_change, user.disabled, user.since),
            )

    def put_session(self, id_hash: str, session: OpenSession, gone_before: float) -> None:
        """Keep a new session; forget those made before `gone_before`."""
        roles = None if session.user is not None else _text(session.roles)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE created < ?", (gone_before,))
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
                (id_hash, session.name, roles, session.created, session.last_seen, session.address),
            )

    def session(self, id_hash: str) -> OpenSession | None:
        """The session, None when there is none, or its user is gone."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM sessions WHERE id_hash = ?", (id_hash,)).fetchone()
        if row is None:
            return None
        user = self.user(row["name"]) if row["roles"] is None else None
        if user is None and row["roles"] is None:
            return None
        roles = tuple(row["roles"].split()) if user is None else user.roles
        return OpenSession(row["name"], roles, row["created"], row["last_seen"], row["address"], user)

    def touch_session(self, id_hash: str, now: float) -> None:
        """Note that the session is in use."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE sessions SET last_seen = ? WHERE id_hash = ?", (now, id_hash))

    def drop_session(self, id_hash: str) -> bool:
        """Forget a session; False when there was none."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM sessions WHERE id_hash = ?", (id_hash,)).rowcount > 0

    def drop_sessions(self, name: str) -> int:
        """Forget all sessions of somebody; return how many there were."""
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM sessions WHERE name = ?", (name,)).rowcount

    def put_token(self, token_hash: str, token: Token) -> None:
        """Keep a new token. Raises StorageError when the user has one of this label."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, NULL)",
                (token_hash, token.name, token.label, _text(token.roles), token.since),
            )

    def token(self, token_hash: str) -> Token | None:
        """The token that has this hash."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM tokens WHERE token_hash = ?", (token_hash,)).fetchone()
        return None if row is None else self._token(row)

    def tokens(self) -> list[Token]:
        """All tokens, by user and label."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT * FROM tokens ORDER BY name, label").fetchall()
        return [token for row in rows if (token := self._token(row)) is not None]

    def touch_token(self, token_hash: str, now: float) -> None:
        """Note that the token is in use."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE tokens SET last_used = ? WHERE token_hash = ?", (now, token_hash))

    def drop_tokens(self, name: str, label: str | None = None) -> int:
        """Forget a user's token, or all of them; return how many there were."""
        with self._database.transaction() as connection:
            return connection.execute(
                "DELETE FROM tokens WHERE name = ? AND (? IS NULL OR label = ?)", (name, label, label)
            ).rowcount

    def _token(self, row: sqlite3.Row) -> Token | None:
        user = self.user(row["name"])
        if user is None:
            return None
        return Token(user.name, row["label"], tuple(row["roles"].split()), row["since"], row["last_used"], user)


def _user(row: sqlite3.Row) -> User:
    return User(
        row["name"],
        tuple(row["roles"].split()),
        bool(row["must_change"]),
        bool(row["disabled"]),
        row["since"],
        row["password_hash"],
    )


def _text(roles: Iterable[str]) -> str:
    return " ".join(sorted(roles))

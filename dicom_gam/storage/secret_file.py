"""A secret that is made once and kept in a file that only the service's user may read."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from dicom_gam.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_BYTES = 32


def kept_secret(path: Path) -> bytes:
    """Return the 32 bytes that the file holds; make it where there is none. Raises StorageError."""
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        msg = f"{path} can't be read or made ({error.strerror}): let the service's user read and write it"
        raise StorageError(msg) from error


def _make(path: Path) -> None:
    """Make the file whole or not at all; where two do it at once, the first wins."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        msg = f"{path} can be read by others: `chmod 600 {path}`; if strangers may have seen it, delete it instead"
        raise StorageError(msg)
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except (ValueError, UnicodeDecodeError):
        secret = b""
    if len(secret) != _BYTES:
        msg = f"{path} is damaged: delete it; a new one is made at the next start, and everybody logs in again"
        raise StorageError(msg)
    return secret

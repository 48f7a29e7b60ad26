"""Checking the audit log of a storage folder, chain and signatures, by the key in the folder or one from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.errors import AuditError
from dicom_gam.service.store import AUDIT_FILE, database_of
from dicom_gam.storage.audit_signing import PUBLIC_KEY_FILE, read_public_keys
from dicom_gam.storage.audit_verification import verify_log
from dicom_gam.storage.inspection import audit_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dicom_gam.storage.audit_verification import Verified


def check_log(
    storage: Path, public_keys: Sequence[Path] = (), progress: Callable[[int, int], None] | None = None
) -> Verified:
    """Verify the audit log of a storage folder, also while its node runs; nothing in the folder is changed.

    Signatures are checked by `public_keys` (PEM files), else by the folder's own copy. `progress` hears how many bytes
    of how many are done. Raises AuditError that names the first bad record, StorageError when there is no such storage,
    ConfigError for a key that can't be read.
    """
    head = audit_head(database_of(storage))
    own = storage / PUBLIC_KEY_FILE
    files = list(public_keys) or ([own] if own.exists() else [])
    found = verify_log(storage / AUDIT_FILE, head, read_public_keys(files) if files else None, progress)
    if found.unchecked_signatures:
        msg = (
            f"the audit log of {storage} is signed, but {own} is not there to check it by: "
            "give the copy that was kept of it by --public-key, or put it back"
        )
        raise AuditError(msg)
    if public_keys and found.records and not found.signed_to:
        msg = f"nothing in the audit log of {storage} is signed, though a key was given to check it by: it was replaced"
        raise AuditError(msg)
    return found


def signatures_told(found: Verified) -> str:
    """How far signatures reach, in words."""
    if not found.signed_to:
        return "not signed yet"
    after = found.records - found.signed_to
    rest = f"; what comes after it ({after} so far) is chained, not signed yet" if after else ""
    return f"signed up to record {found.signed_to} at {found.signed_at}{rest}"

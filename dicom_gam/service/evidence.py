"""What is kept beside the audit log, so that a result can be recomputed: attention maps and settings, by their digests.

Blobs named by the SHA-256 of their content. They are small and, like the log, kept for good.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_gam.errors import StorageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dicom_gam.config import Settings
    from dicom_gam.records import AIResult
    from dicom_gam.storage.protocols import Blobs


def keep_evidence(result: AIResult, evidence: Blobs) -> dict[str, Any]:
    """Keep the float attention map of a verified image durably; return what names it in the result's record."""
    if result.verification is None:
        return {}
    attention_map = result.verification.attention_map
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(attention_map, dtype="<f4"), allow_pickle=False)
    return {"attention_map": {"sha256": _keep(buffer.getvalue(), evidence), "shape": list(attention_map.shape)}}


def keep_settings(settings: Settings, evidence: Blobs) -> str:
    """Keep the settings that shape results; the blob's name is their `result_digest`, which every record holds."""
    return _keep(settings.shaping().encode(), evidence)


def kept_attention_map(name: str, evidence: Blobs) -> NDArray[np.float32]:
    """Return a kept attention map, (h, w). Raises StorageError when it is gone or is not what was kept."""
    try:
        array: NDArray[np.float32] = np.load(io.BytesIO(_read(name, evidence)), allow_pickle=False)
    except ValueError as error:
        raise StorageError(f"the attention map {name} is damaged: restore it from a backup") from error
    return array


def kept_settings(digest: str, evidence: Blobs) -> str:
    """Return kept settings, for `Settings.shaped_by`. Raises StorageError."""
    return _read(digest, evidence).decode()


def _read(name: str, evidence: Blobs) -> bytes:
    content = evidence.read(name)
    if hashlib.sha256(content).hexdigest() != name:
        raise StorageError(f"the evidence {name} is not what was kept: restore it from a backup")
    return content


def _keep(content: bytes, evidence: Blobs) -> str:
    name = hashlib.sha256(content).hexdigest()
    if not evidence.path(name).exists():
        evidence.write(name, (content,))
    return name

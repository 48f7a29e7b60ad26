"""The pictures of a dossier: the overlay that was sent, and the attention map that is kept."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dicom_gam.dicom.result.secondary_capture import overlay_png
from dicom_gam.errors import StorageError
from dicom_gam.service.evidence import kept_attention_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.service.store import Store

_MAP_SIDE = 240  # pixels of the enlarged attention map


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, or (empty) why there is none. `width_mm` is its width on paper."""

    caption: str
    png: bytes = b""
    why_not: str = ""
    width_mm: float = 60.0


def pictures_of(store: Store, keys: Mapping[str, Any]) -> tuple[Picture, ...]:
    """The pictures that a job's conclusion names."""
    pictures = [_overlay(store, output) for output in keys.get("outputs", []) if output.get("role") == "overlay"]
    attention = keys.get("attention_map")
    if isinstance(attention, dict):
        pictures.append(_attention(store, str(attention.get("sha256", ""))))
    return tuple(pictures)


def _overlay(store: Store, output: Mapping[str, Any]) -> Picture:
    digest = str(output.get("sha256", ""))
    caption = f"The overlay as it was made (SOP Instance UID {output.get('sop_instance_uid')})"
    try:
        content = store.results.read(digest)
    except StorageError:
        return Picture(
            caption, why_not="its file is no longer kept here (retention); the destination has it if it was sent"
        )
    if hashlib.sha256(content).hexdigest() != digest:
        return Picture(caption, why_not="the kept file is NOT the one that is on record: its SHA-256 differs")
    try:
        return Picture(caption, overlay_png(content), width_mm=150.0)
    except (AttributeError, ValueError, OSError, RuntimeError) as error:
        return Picture(caption, why_not=f"the kept file can't be shown ({error})")


def _attention(store: Store, digest: str) -> Picture:
    caption = "The attention map, enlarged: the brighter, the more the network looked there"
    try:
        found = kept_attention_map(digest, store.evidence)
    except StorageError as error:
        return Picture(caption, why_not=f"it is not kept: {error}")
    if found.ndim != 2 or found.size == 0:
        return Picture(caption, why_not=f"it has the unknown shape {found.shape}")
    grey = (np.nan_to_num(np.clip(found, 0, 1)) * 255).astype(np.uint8)
    factor = max(1, _MAP_SIDE // max(grey.shape))
    picture = Image.fromarray(grey).resize((grey.shape[1] * factor, grey.shape[0] * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Picture(caption, buffer.getvalue(), width_mm=45.0)

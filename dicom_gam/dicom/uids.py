"""UIDs that follow from what a result was made of, so that a retry can't duplicate and a new bundle can't collide."""

from __future__ import annotations

import json
import uuid

from dicom_gam import __version__

# Ours for good: a change would give every result that was ever made a second identity.
_NAMESPACE = uuid.UUID("ce23f2f3-20aa-4604-aaf6-b9daab6876ea")
IMPLEMENTATION_VERSION_NAME = f"DICOM_GAM_{__version__}"[:16]
IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.UUID('34e555f7-a2ca-454f-becc-6e1b7f83cbc1').int}"


def derived_uid(*parts: str) -> str:
    """The UID `2.25.` + UUIDv5 of `parts` (PS3.5 B.2); the same parts always give the same UID."""
    name = json.dumps(parts, ensure_ascii=True)  # JSON keeps ("ab", "c") and ("a", "bc") apart
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def instance_uid(source_sop_instance_uid: str, bundle_digest: str, settings_digest: str, role: str) -> str:
    """The SOP Instance UID of the result that plays `role` for one source image."""
    return derived_uid("instance", source_sop_instance_uid, bundle_digest, settings_digest, role)


def series_uid(study_instance_uid: str, bundle_digest: str, settings_digest: str, role: str, *shared: str) -> str:
    """The Series Instance UID of results that agree in `shared`, the values that stand on series level."""
    return derived_uid("series", study_instance_uid, bundle_digest, settings_digest, role, *shared)


def tracking_uid(source_sop_instance_uid: str, bundle_digest: str, settings_digest: str, group: str) -> str:
    """The Tracking Unique Identifier of one measurement group of a report."""
    return derived_uid("tracking", source_sop_instance_uid, bundle_digest, settings_digest, group)


def device_uid(bundle_digest: str) -> str:
    """The Device Observer UID: the observer is this very bundle."""
    return derived_uid("device", bundle_digest)

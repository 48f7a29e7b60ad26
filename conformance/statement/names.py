"""What the document calls things, and what the standard says of attributes (by highdicom's tables of PS3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map

from dicom_gam.records import ResultRole

OBJECTS: Mapping[ResultRole, str] = {
    "sr": "report",
    "overlay": "overlay",
    "region": "attended region",
    "presentation": "presentation state",
    "rejection": "rejection note",
}
_UPPER = {"sr": "SR", "sop": "SOP", "sc": "SC", "voi": "VOI", "lut": "LUT", "icc": "ICC", "iod": "IOD"}


@cache
def modules(sop_class_uid: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """Module and type of every attribute of an IOD, by the keywords of its path; the mandatory modules' first."""
    iod = get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for module in sorted(iod, key=lambda one: one["usage"] != "M"):
        for attribute in get_module_attribute_map().get(module["key"], ()):
            path = (*attribute["path"], attribute["keyword"])
            found.setdefault(path, (_title(module["key"]), attribute["type"]))
    return found


def _title(key: str) -> str:
    return " ".join(_UPPER.get(word, word.capitalize()) for word in key.split("-"))

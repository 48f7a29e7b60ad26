"""Which images go to the node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .settings import CALLING_AET, CONDITIONS, Rule, Settings

# What the node takes by its SOP class; see the table of storage classes in conformance/STATEMENT.md.
RADIOGRAPH_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
        "1.2.840.10008.5.1.4.1.1.1.2",  # Digital Mammography, for presentation
        "1.2.840.10008.5.1.4.1.1.1.2.1",  # Digital Mammography, for processing
        "1.2.840.10008.5.1.4.1.1.1.3",  # Digital Intra-Oral, for presentation
        "1.2.840.10008.5.1.4.1.1.1.3.1",  # Digital Intra-Oral, for processing
    }
)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SECONDARY_CAPTURE_SOP_CLASSES = frozenset(
    {SECONDARY_CAPTURE, "1.2.840.10008.5.1.4.1.1.7.2", "1.2.840.10008.5.1.4.1.1.7.3"}
)
RADIOGRAPHIC_MODALITIES = frozenset({"CR", "DX", "RG", "MG", "IO", "PX"})


@dataclass(frozen=True)
class Decision:
    """Whether an image goes to the node, and why or why not, in words without a patient's data."""

    send: bool
    why: str


def may_hold_radiographs(modality: str, sop_class: str, settings: Settings) -> bool:
    """Whether a series is worth a look at its images, by its Modality and the SOP class of one of them."""
    return (
        modality in RADIOGRAPHIC_MODALITIES
        or sop_class in RADIOGRAPH_SOP_CLASSES
        or sop_class in settings.extra_sop_classes
    )


def decide(settings: Settings, tags: Mapping[str, object], sop_class: str, calling_aet: str) -> Decision:
    """Decide on one image: it must be a radiograph, none of the node's own results, and meet a rule.

    `tags` are Orthanc's short tags: "gggg,eeee" to text, values of one element parted by a backslash.
    """
    modality = _text(tags, "0008,0060")
    if is_own_result(tags) or calling_aet in settings.results_from:
        return Decision(False, "it is a result of the node, or came from it")
    if sop_class in SECONDARY_CAPTURE_SOP_CLASSES and modality not in RADIOGRAPHIC_MODALITIES:
        shown = modality if modality.isalnum() and len(modality) <= 16 else "none of DICOM's"
        return Decision(False, f"a Secondary Capture of Modality {shown} is no radiograph")
    if sop_class not in RADIOGRAPH_SOP_CLASSES | SECONDARY_CAPTURE_SOP_CLASSES | settings.extra_sop_classes:
        return Decision(False, "its SOP class is none that the node takes")
    for rule in settings.rules:
        if _matches(rule, tags, calling_aet):
            said = f"DicomGam.Rules: {rule.name}"
            return Decision(rule.send, said if rule.send else f"{said} says not to send it")
    return Decision(False, "no rule of DicomGam.Rules fits it")


def is_own_result(tags: Mapping[str, object]) -> bool:
    """Whether an image is an overlay of a dicom_gam node, whoever sent it: such a one must never go round."""
    values = _text(tags, "0008,0008").split("\\")
    return len(values) > 3 and values[3].strip() == "GRADCAM" and _text(tags, "0008,1090") == "dicom_gam"


def _matches(rule: Rule, tags: Mapping[str, object], calling_aet: str) -> bool:
    values = {key: _text(tags, tag) for key, tag in CONDITIONS} | {CALLING_AET: calling_aet}
    return all(
        any(fnmatchcase(values[key].upper(), pattern.upper()) for pattern in patterns)
        for key, patterns in rule.conditions
    )


def _text(tags: Mapping[str, object], tag: str) -> str:
    value = tags.get(tag)
    return value.strip(" \0") if isinstance(value, str) else ""

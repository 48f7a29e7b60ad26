"""From one verified prediction to the objects that go back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result.overlay import render_overlay
from dicom_gam.dicom.result.overlay_text import banner
from dicom_gam.dicom.result.pixel_aspect import pixel_aspect
from dicom_gam.dicom.result.presentation_state import build_presentation_state
from dicom_gam.dicom.result.reference import sanitised_reference
from dicom_gam.dicom.result.region import build_region
from dicom_gam.dicom.result.rejection_note import build_rejection_note
from dicom_gam.dicom.result.result_file import Origin, result_file_bytes
from dicom_gam.dicom.result.secondary_capture import build_secondary_capture
from dicom_gam.dicom.result.sr import build_sr
from dicom_gam.records import (
    BundleIdentity,
    CodedConcept,
    Prediction,
    Radiograph,
    ResultObject,
    ResultReference,
    ResultRole,
    Verdict,
    Verification,
)


def encode_results(
    radiograph: Radiograph,
    prediction: Prediction,
    verification: Verification,
    *,
    bundle: BundleIdentity,
    class_concepts: Mapping[str, CodedConcept],
    settings: OutputSettings,
    settings_digest: str,
    created: datetime,
    predecessors: tuple[ResultReference, ...] = (),
) -> tuple[ResultObject, ...]:
    """Encode the objects that the settings ask for, the report first. Equal arguments give equal bytes.

    `class_concepts` has the coded concept of every class but the garbage class. `created` is the job's time.
    `predecessors` are the reports that the new one supersedes, and stand in it; images have no attribute for that, so
    the new overlay is told from the old one by the report that points to it.
    Raises EncodingError when the source's study or series can't be told, or a class or measurement has no code.
    """
    reference = sanitised_reference(radiograph)
    origin = Origin(reference, bundle, settings, settings_digest, verification.verdict, created, predecessors)
    aspect = pixel_aspect(radiograph.dataset)
    rgb = render_overlay(radiograph.pixels, prediction, verification, bundle, settings, aspect)
    summary = banner(prediction, verification, bundle, settings.labels).summary
    overlay = build_secondary_capture(origin, rgb, summary)
    report, content_tree = build_sr(origin, prediction, verification, class_concepts, overlay)
    built: dict[ResultRole, Dataset | None] = {"overlay": overlay}
    if "region" in settings.objects:
        built["region"] = build_region(origin, verification)
    if "presentation" in settings.objects:
        built["presentation"] = build_presentation_state(origin, radiograph, verification)
    if "rejection" in settings.objects and verification.verdict is Verdict.REJECT:
        built["rejection"] = build_rejection_note(origin, verification)
    others = (_object(role, result) for role, result in built.items() if result is not None)
    return _object("sr", report, content_tree), *others


def _object(role: ResultRole, result: Dataset, last_element: bytes = b"") -> ResultObject:
    return ResultObject(
        role=role,
        sop_class_uid=str(result.SOPClassUID),
        sop_instance_uid=str(result.SOPInstanceUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        content=result_file_bytes(result, last_element),
    )

"""The note that the AI could not use the source image: a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010).

Its title is Quality Issue. Never Rejected for Quality Reasons (113001): archives hide the images that such a note names
(IHE RAD Image Object Change Management), and the source image stays as good for a human reader as it was.
"""

from __future__ import annotations

import highdicom.ko as ko
import highdicom.sr as hd
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.overlay_text import comparison
from dicom_gam.dicom.result.result_file import Origin, hierarchy, new_result, placed
from dicom_gam.dicom.result.sr_tree import concept, device_observer
from dicom_gam.records import Verification

SERIES_NUMBER = 9806
_MOST_FIGURES = 3  # the report has them all


def build_rejection_note(origin: Origin, verification: Verification) -> Dataset:
    """Build the note, which points to the source image and says why in figures; it names no class."""
    note = new_result(
        origin,
        "rejection",
        KeyObjectSelectionDocumentStorage,
        modality="KO",
        series_number=SERIES_NUMBER,
        description="AI rejection note",
    )
    note.ReferencedPerformedProcedureStepSequence = []
    note.CurrentRequestedProcedureEvidenceSequence = hierarchy([placed(origin.reference)])
    content = ko.KeyObjectSelection(
        document_title=concept(codes.QUALITY_ISSUE),
        referenced_objects=[origin.reference],
        observer_device_context=device_observer(origin.written_bundle),
        description=origin.text(_description(verification)),
    )
    root = content[0]
    root.ContinuityOfContent = "SEPARATE"  # independent items, not running text (PS3.3 C.18.8)
    root.ContentSequence.insert(0, _modifier())
    note.update(root)
    return note


def _modifier() -> hd.CodeContentItem:
    """PS3.16 CID 7011: the check sees that the image is unlike what the network knows, never what is wrong with it."""
    return hd.CodeContentItem(
        concept(codes.DOCUMENT_TITLE_MODIFIER),
        concept(codes.UNKNOWN_FAILURE),
        hd.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )


def _description(verification: Verification) -> str:
    """The reasons as figures: those in words may list the classes of the bundle."""
    failed = [m for c in verification.checks if not c.passed and not c.advisory for m in c.measurements if not m.passed]
    figures = [comparison(measurement) for measurement in failed[:_MOST_FIGURES]]
    if len(failed) > _MOST_FIGURES:
        figures.append(f"and {len(failed) - _MOST_FIGURES} more")
    return (
        f"{codes.VERDICT_WORDS[verification.verdict]}. "
        f"Rejected: {', '.join(figures) or 'unlike the images that the AI is for'}. "
        "The AI gives no result for this image. The image itself is unchanged and stays available for reading."
    )

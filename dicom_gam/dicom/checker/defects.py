"""What can be wrong with a result: every defect by its name, and the record of one found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DEFECTS: Mapping[str, str] = MappingProxyType(
    {
        # The file
        "unreadable": "the file is no DICOM Part 10 file, or ends inside an element",
        "trailing-bytes": "something follows the last element of the data set",
        "element-order": "elements do not ascend by tag, or one stands twice (PS3.5 7.1)",
        "odd-length": "a value has an odd number of bytes (PS3.5 7.1)",
        "wrong-vr": "an element has a value representation that the data dictionary does not give it (PS3.6)",
        "invalid-value": "a value is not what its value representation allows (PS3.5 6.2)",
        "text-not-in-character-set": "a text can't be read in the declared Specific Character Set (PS3.3 C.12.1.1.2)",
        "meta-length": "the group length of the file meta information is wrong (PS3.10 7.1)",
        "meta-version": "the file meta information lacks its version 00 01 (PS3.10 7.1)",
        "meta-mismatch": "the file meta information names another SOP class or instance than the data set (PS3.10 7.1)",
        "wrong-transfer-syntax": "the transfer syntax is none that results are written in",
        # What it is
        "not-a-result-class": "the SOP class is none of the five that we make",
        "not-known-as-ours": "the marks by which our own output is told are missing (ImageType, ContributingEquipment)",
        "wrong-modality": "Modality does not fit the SOP class",
        "missing-type-1": "a required attribute is missing, or one whose condition is met (PS3.3, Type 1 and 1C)",
        "empty-type-1": "a required attribute has no value (PS3.3, Type 1 and 1C)",
        "missing-type-2": "an attribute that may be empty but not absent is missing (PS3.3, Type 2)",
        "not-permitted": "an attribute is there that this object must not have",
        "wrong-value": "an attribute has another value than objects of this kind have",
        "wrong-flag": "the report is not COMPLETE, UNVERIFIED and FINAL: no person has looked at it",
        # UIDs
        "malformed-uid": "a UID is too long, or not of components without leading zeros (PS3.5 9.1)",
        "foreign-uid-root": "a UID of ours is not 2.25. and a name-based UUID, so it may not be unique (PS3.5 B.2)",
        "duplicate-instance": "two objects have one SOP Instance UID",
        "duplicate-tracking-uid": "two measurement groups of a report have one Tracking Unique Identifier",
        "series-shared": "two objects of different SOP classes stand in one series",
        # Codes
        "incomplete-code": "a code lacks its value, its scheme or its meaning (PS3.3 8.8)",
        "unknown-code": "the scheme is known and complete, and has no such code",
        "wrong-meaning": "the meaning is not the code's",
        "unknown-scheme": "the scheme is neither the standard's nor named in Coding Scheme Identification Sequence",
        "scheme-not-identified": "our own codes are used and Coding Scheme Identification Sequence does not name them",
        "scheme-uid-claimed": "our coding scheme has no registered UID and must not claim one",
        # Content tree
        "unknown-content-item": "the template has no such content item at this place",
        "missing-content-item": "a content item that the template requires is missing",
        "too-many-content-items": "a content item stands more often than the template allows",
        "wrong-value-type": "a content item has another value type than the template gives it",
        "wrong-relationship": "a content item has another relationship to its parent than the template gives it",
        "wrong-coded-value": "the value of a coded content item is none that the template allows",
        "missing-item-value": "a content item has no value",
        "wrong-template": "a container names another template than the one it follows",
        "unknown-group": "a measurement group has a tracking identifier that we do not use",
        "wrong-document-title": "the note's title is not 113010; archives hide the images that 113001 names",
        "missing-title-modifier": "the note does not say which quality issue there is (TID 2010, 113011)",
        # Figures
        "number-without-value": "a number has neither a value nor a reason why not (PS3.3 C.18.1)",
        "wrong-units": "a figure of ours has another unit than (1, UCUM, no units)",
        "number-disagrees": "Floating Point Value and Numeric Value differ",
        "probability-out-of-range": "a probability, p-value or share is outside 0 to 1",
        "threshold-contradiction": "PASS or FAIL contradicts the score and its threshold",
        "open-outline": "the outline does not end where it began",
        "degenerate-outline": "the outline has fewer than three different points, or is no polyline",
        "outline-outside-image": "a point of the outline lies outside the source image",
        # Verdict and safety
        "no-verdict": "the object does not say PASS, FAIL or REJECT where it should",
        "verdict-contradiction": "the report's verdict contradicts its quality assessment, description or figures",
        "two-verdicts": "the objects of one set state different verdicts",
        "wrong-verdict-words": "a text for the reader does not begin with the words of the verdict",
        "finding-without-pass": "a finding other than Undetermined although the verdict is not PASS",
        "class-without-pass": "a predicted class although the verdict is not PASS",
        "pass-without-class": "the verdict is PASS and the report does not say of what class, or says two",
        "rejection-without-reject": "there is a rejection note although the verdict is not REJECT",
        # Pixels, segments, annotations
        "pixel-format": "photometric interpretation, samples and bits contradict each other or are not ours",
        "pixel-length": "Pixel Data is not as long as rows, columns, samples, bits and frames make it",
        "wrong-frame-size": "the segmentation's frames are not of the source image's size",
        "segment-numbers": "segments are not numbered from 1 without a gap, or a frame is of none of them",
        "frame-count": "Number of Frames and the per-frame items differ",
        "unknown-layer": "an annotation names a graphic layer that is not there",
        "annotation-outside": "an annotation lies outside the displayed area",
        "wrong-displayed-area": "the displayed area is not the source image",
        "text-without-place": "a text object has neither a bounding box nor an anchor point",
        "graphic-data-length": "the graphic data are not as many as the points that are promised",
        # References
        "unresolved-reference": "a reference leads neither to an object of the set nor to its source image",
        "self-reference": "an object refers to itself",
        "wrong-reference-class": "a reference states another SOP class than the object it leads to has",
        "wrong-reference-series": "a reference states another series than the object it leads to is in",
        "wrong-reference-study": "a reference states another study than the object it leads to is in",
        "several-sources": "the objects of a set refer to more than one image that is not of the set",
        "no-source": "an object refers to no source image",
        "missing-evidence": "something that the tree refers to is not listed as evidence",
        "superfluous-evidence": "something is listed as evidence that the tree does not refer to",
        "two-studies": "an object is in another study than the others of its set, or than the source",
        "two-patients": "an object has other patient attributes than the others of its set, or than the source",
        "unreadable-source": "a file given as source is no readable DICOM file",
    }
)


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong with one result: `name` is a key of `DEFECTS`, `place` a path in the tree or an attribute.

    No field holds a patient's data.
    """

    name: str
    sop_instance_uid: str
    place: str
    message: str


class Complaints:
    """Collects what is wrong with one object."""

    def __init__(self, sop_instance_uid: str) -> None:
        self.found: list[Defect] = []
        self.sop_instance_uid = sop_instance_uid

    def add(self, name: str, place: str, message: str = "") -> None:
        """Note one defect; without a `message` the table's own words are the message."""
        self.found.append(Defect(name, self.sop_instance_uid, place, message or DEFECTS[name]))

"""The sanitised reference: what a result may inherit from its source image, in values that can be written.

Sources in the field lack required attributes or hold invalid ones. Identity is never edited; an invalid value of any
other attribute becomes empty where the attribute must be there (Type 2), else it is left out.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pydicom import config as pydicom_config
from pydicom.charset import STAND_ALONE_ENCODINGS, convert_encodings, python_encoding
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.valuerep import PersonName
from pydicom.values import convert_value

from dicom_gam.dicom.identity import is_uid
from dicom_gam.errors import EncodingError
from dicom_gam.records import Radiograph

UTF_8 = "ISO_IR 192"
# Patient, General Study, Patient Study and Clinical Trial modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2).
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
PATIENT_AND_STUDY: tuple[str, ...] = (
    "StudyInstanceUID",
    *_TYPE_2,
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthTime",
    "PatientComments",
    "PatientSpeciesDescription",
    "QualityControlSubject",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "PhysiciansOfRecord",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "AdmissionID",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "TimezoneOffsetFromUTC",
)
IMAGE: tuple[str, ...] = (
    "Modality",
    "SeriesInstanceUID",
    "InstanceNumber",
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    "PatientOrientation",
    "BurnedInAnnotation",
    "RecognizableVisualFeatures",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
# Terms of PS3.16 Annex L for which a Laterality, even an empty one, is out of place.
_UNPAIRED_TERMS = """
ABDOMEN ABDOMENPELVIS AORTA BACK BLADDER BRAIN CEREBELLUM CERVIX CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS
COCCYX COLON CORONARYARTERY CSPINE CTSPINE DUODENUM ESOPHAGUS FACE GALLBLADDER HEAD HEADNECK HEART ILEUM ILIUM JAW
JEJUNUM LARYNX LIVER LSPINE LSSPINE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE
PANCREAS PELVIS PENIS PHARYNX PROSTATE RECTUM SKULL SPINE SPLEEN SSPINE STERNUM STOMACH THYMUS THYROID TLSPINE
TONGUE TRACHEA TSPINE UTERUS VAGINA VULVA WHOLEBODY
"""
_UNPAIRED = frozenset(_UNPAIRED_TERMS.split())
_KEPT_AS_THEY_ARE = frozenset({"PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"})
_ENUMERATED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "PatientSex": frozenset("MFO"),
        "Laterality": frozenset("RL"),
        "ImageLaterality": frozenset("RLUB"),
        "BurnedInAnnotation": frozenset({"YES", "NO"}),
        "RecognizableVisualFeatures": frozenset({"YES", "NO"}),
        "LossyImageCompression": frozenset({"00", "01"}),
        "QualityControlSubject": frozenset({"YES", "NO"}),
        "PatientIdentityRemoved": frozenset({"YES", "NO"}),
    }
)


def sanitised_reference(radiograph: Radiograph) -> Dataset:
    """Collect what results inherit from a radiograph's data set, which stays untouched.

    Raises EncodingError that names the attribute when the study or series can't be told: a result has no place then.
    """
    source, instance = radiograph.dataset, radiograph.instance
    character_set, encodings = _character_set(source)
    reference = Dataset()
    if character_set:
        _put(reference, "SpecificCharacterSet", character_set)
    for keyword in (*PATIENT_AND_STUDY, *IMAGE):
        value = _clean(source, keyword, encodings)
        if value is not None:
            _put(reference, keyword, value)
        elif keyword in _TYPE_2:
            _put(reference, keyword, "")
    _complete_trial(reference)
    _put(reference, "SOPClassUID", instance.sop_class_uid)
    _put(reference, "SOPInstanceUID", instance.sop_instance_uid)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if keyword not in reference:
            msg = (
                f"{keyword} of instance {instance.sop_instance_uid} is missing or not a UID, so a result can't be "
                "filed with it: have the sender supply it"
            )
            raise EncodingError(msg)
    reference.setdefault("Modality", "OT")
    reference.Rows, reference.Columns = (int(side) for side in radiograph.pixels.shape)
    return reference


def _complete_trial(reference: Dataset) -> None:
    """Make the Clinical Trial Subject module (PS3.3 C.7.1.3) whole, or leave it out when what it needs isn't there."""
    subject = "ClinicalTrialSubjectID" in reference or "ClinicalTrialSubjectReadingID" in reference
    if subject and "ClinicalTrialSponsorName" in reference and "ClinicalTrialProtocolID" in reference:
        for keyword in ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName"):
            if keyword not in reference:
                _put(reference, keyword, "")
        return
    for keyword in PATIENT_AND_STUDY:
        if keyword.startswith("ClinicalTrial"):
            reference.pop(keyword, None)


def copied(reference: Dataset, keywords: tuple[str, ...], into: Dataset) -> None:
    """Add those of `keywords` that `reference` has, in its own character set, to a result."""
    for keyword in ("SpecificCharacterSet", *keywords):
        if keyword in reference:
            element = reference[keyword]
            into.add(DataElement(element.tag, element.VR, element.value, validation_mode=pydicom_config.IGNORE))


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an element as text, stripped, whatever they hold; none where it is absent or a sequence."""
    value = _value(dataset, keyword, convert_encodings(None))
    if value is None or isinstance(value, DicomSequence):
        return []
    return [str(v).strip(" \0") for v in (value if isinstance(value, (MultiValue, list, tuple)) else [value])]


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The values of a decimal string; none where one of them isn't a finite number in the form of PS3.5 6.2."""
    values = [float(_CHECKS["DS"](text) or "nan") for text in texts(dataset, keyword)]
    return values if all(map(math.isfinite, values)) else []


def describe_anatomy(reference: Dataset, into: Dataset) -> None:
    """Add body part, side and orientation to a result that shows the source's anatomy (PS3.3 C.7.3.1, C.7.6.1)."""
    copied(reference, ("BodyPartExamined", "PatientOrientation"), into)
    side = reference.get("ImageLaterality") or reference.get("Laterality")
    if side:
        into.ImageLaterality = side  # may be U or B, which Laterality may not
    elif reference.get("BodyPartExamined") not in _UNPAIRED:
        into.Laterality = ""  # Type 2C: a paired part, or we can't know, and the source doesn't say
    if "PatientOrientation" not in into:
        into.PatientOrientation = None  # Type 2C


def describe_series_anatomy(reference: Dataset, into: Dataset) -> None:
    """Add body part and side to a result that is no image: on series level only (PS3.3 C.7.3.1)."""
    copied(reference, ("BodyPartExamined",), into)
    if reference.get("BodyPartExamined") not in _UNPAIRED:  # Type 2C, and forbidden for an unpaired part
        side = reference.get("ImageLaterality") or reference.get("Laterality")
        into.Laterality = side if side in ("L", "R") else ""


def _put(dataset: Dataset, keyword: str, value: Any) -> None:
    # Without validation: the values are clean or identity that isn't ours to edit, and a warning would quote them.
    tag = tag_for_keyword(keyword) or 0
    dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=pydicom_config.IGNORE))


def _character_set(source: Dataset) -> tuple[list[str], list[str]]:
    """What a result declares and how to decode the source; UTF-8 is declared where the source's can't be known."""
    raw = _value(source, "SpecificCharacterSet", [])
    terms = [_spelled(str(term)) for term in (raw if isinstance(raw, (MultiValue, list, tuple)) else [raw or ""])]
    if not any(terms):
        return [], convert_encodings(None)
    if any(term not in python_encoding for term in terms):
        return [UTF_8], convert_encodings(None)
    if terms[0] in STAND_ALONE_ENCODINGS:
        terms = terms[:1]
    terms = [term for i, term in enumerate(terms) if i == 0 or term not in STAND_ALONE_ENCODINGS]
    return terms, convert_encodings(terms)


def _spelled(term: str) -> str:
    """Mend the misspellings that the field is full of, as ISO-IR 100 for ISO_IR 100."""
    match = re.fullmatch(r"ISO[ _-]?(2022[ _-]?)?IR[ _-]?(\d+)", term.strip())
    if match is None:
        return term.strip()
    return f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"


def _value(dataset: Dataset, keyword: str, encodings: list[str]) -> Any:
    """The value of an attribute, read without pydicom's validation, whose warnings would quote it; None if absent."""
    if keyword not in dataset:
        return None
    item: Any = dataset.get_item(keyword)
    if not isinstance(item, RawDataElement):
        return item.value
    vr = dictionary_VR(keyword)
    if vr == "SQ":
        return dataset[keyword].value
    if vr == "PN":  # keeps its bytes even where they can't be decoded
        return PersonName(bytes(item.value or b"").rstrip(b"\0 "), encodings, validation_mode=pydicom_config.IGNORE)
    # Texts of kinds that pydicom holds to no rule: numbers and UIDs stay text, which is what gets copied.
    vr = {"DS": "CS", "IS": "CS", "UI": "CS", "LO": "UC", "SH": "UC"}.get(vr, vr)
    return convert_value(vr, item._replace(value=item.value or b"", length=len(item.value or b"")), encodings)


def _clean(dataset: Dataset, keyword: str, encodings: list[str]) -> Any:
    """A value that can be written, or None."""
    value = _value(dataset, keyword, encodings)
    if value is None or (not isinstance(value, DicomSequence) and not value):
        return None
    if keyword in _KEPT_AS_THEY_ARE:
        return value
    vr, multiplicity = dictionary_VR(keyword), dictionary_VM(keyword)
    if vr == "SQ":
        return _clean_sequence(value, encodings)
    if vr == "PN":
        return value
    check = _CHECKS.get(keyword) or _CHECKS.get(vr, str)
    values = [check(str(v).strip(" \0")) for v in (value if isinstance(value, (MultiValue, list)) else [value])]
    if multiplicity.isdigit() and len(values) != int(multiplicity):
        return None
    if not all(values) or any(v not in _ENUMERATED.get(keyword, (v,)) for v in values):
        return None
    return values if len(values) > 1 else values[0]


def _clean_sequence(value: Any, encodings: list[str]) -> DicomSequence | None:
    items = []
    for source in value if isinstance(value, DicomSequence) else ():
        item = Dataset()
        for keyword in filter(None, map(keyword_for_tag, source.keys())):
            element_value = _clean(source, keyword, encodings)
            if element_value is not None:
                _put(item, keyword, element_value)
        items.append(item)
    return DicomSequence(items) if items else None


def _date(text: str) -> str | None:
    digits = text.replace(".", "")  # 1993.08.22 is the form of before DICOM 3.0
    try:
        datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return None
    return digits if len(digits) == 8 and digits.isascii() else None


def _time(text: str) -> str | None:
    digits = text.replace(":", "")
    return digits if re.fullmatch(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", digits, re.ASCII) else None


def _matching(pattern: str) -> Callable[[str], str | None]:
    return lambda text: text if re.fullmatch(pattern, text, re.ASCII) else None


def _no_longer_than(length: int) -> Callable[[str], str | None]:
    return lambda text: text if len(text) <= length and not any(unicodedata.category(c) == "Cc" for c in text) else None


_CHECKS: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {
        "AS": _matching(r"\d{3}[DWMY]"),
        "CS": lambda text: _matching(r"[A-Z0-9_ ]{1,16}")(text.upper()),
        "DA": _date,
        "DS": _matching(r"(?=.{1,16}$)[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
        "IS": _matching(r"[+-]?\d{1,9}"),
        "LO": _no_longer_than(64),
        "SH": _no_longer_than(16),
        "TM": _time,
        "UI": lambda text: text if is_uid(text) else None,
        "PatientOrientation": _matching(r"[LRAPHF]{1,3}"),  # PS3.3 C.7.6.1.1.1
        "TimezoneOffsetFromUTC": _matching(r"(?!-0000)[+-](0\d|1[0-4])[0-5]\d"),  # PS3.3 C.12.1.1.8
    }
)

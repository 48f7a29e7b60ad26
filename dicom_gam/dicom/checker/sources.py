"""What the checker needs to know of source images, and whether a result carries their patient."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from dicom_gam.dicom.checker.reading import ResultFile
from dicom_gam.dicom.checker.references import Target
from dicom_gam.dicom.checker.report import ImageSize
from dicom_gam.dicom.image.acceptance import Refused
from dicom_gam.dicom.image.part10 import read_part10

PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID")
_DELIMITERS = {0x5C, 0x5E, 0x3D}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A source image: its place in the study, its size if it has one, and its header."""

    uid: str
    target: Target
    size: ImageSize | None
    dataset: Dataset


def read_source(content: bytes) -> Source | None:
    """Read the header of a source image, in whatever transfer syntax; None when that can't be done."""
    try:
        dataset = read_part10(content).dataset
    except Refused:
        return None
    uids = [str(dataset.get(k, "")) for k in ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID")]
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    size = ImageSize(rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None
    return Source(uids[3], Target(*uids[:3]), size, dataset) if uids[3] else None


def differing_patient(file: ResultFile, source: Source) -> list[str]:
    """The patient's attributes in which a result differs from its source.

    A birth date that is no date, a sex that is none and an issuer that is no text are left empty; name and ID are never
    edited.
    """
    return [keyword for keyword in PATIENT if not _same(file, source.dataset, keyword)]


def _same(file: ResultFile, source: Dataset, keyword: str) -> bool:
    raw = file.dataset.raw(keyword).strip(b" \0")
    original = source.get(keyword)
    if isinstance(original, PersonName) and bytes(original.original_string or b"").strip(b" \0") == raw:
        return True
    values = original if isinstance(original, MultiValue) else [original]  # a backslash parts values, even in an ID
    text = "\\".join("" if value is None else str(value) for value in values).strip(" \0")
    if keyword == "PatientBirthDate":
        text = text.replace(".", "")
        return text == raw.decode("latin-1") or (not raw and not _is_date(text))
    if keyword == "PatientSex":
        text = text.upper() if text.upper() in ("M", "F", "O") else ""
        return text == raw.decode("latin-1")
    if keyword == "IssuerOfPatientID" and not raw:
        return not text or len(text) > 64 or not text.isprintable()
    return text == _decoded(raw, file.character_sets)


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return len(text) == 8


def _decoded(raw: bytes, character_sets: tuple[str, ...]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would quote the value
        try:
            return str(decode_bytes(raw, convert_encodings(list(character_sets) or None), _DELIMITERS)).strip(" \0")
        except (LookupError, UnicodeError):
            return ""

"""What every result object has in common, whatever its kind: whose it is, where it belongs, who made it from what."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from pydicom import dcmwrite
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_gam import __version__
from dicom_gam.config import OutputSettings
from dicom_gam.dicom.image.acceptance import OWN_MODEL_NAME
from dicom_gam.dicom.image.part10 import PYDICOM_ERRORS
from dicom_gam.dicom.result.codes import PROCESSING_EQUIPMENT
from dicom_gam.dicom.result.reference import PATIENT_AND_STUDY, copied
from dicom_gam.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    instance_uid,
    series_uid,
)
from dicom_gam.records import BundleIdentity, CodedConcept, ResultReference, Verdict

CONTENT_CREATOR = f"{OWN_MODEL_NAME}^AI"  # as a person's name, which is what Content Creator's Name must look like
_SERIES_INSTANCE_UID = 0x0020000E


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What a result comes from. `reference` is the sanitised reference of the source image.

    `created` is written as local time; where the source states its offset from UTC an aware time is moved to it.
    `predecessors` are the reports that the new one supersedes.
    """

    reference: Dataset
    bundle: BundleIdentity
    settings: OutputSettings
    settings_digest: str
    verdict: Verdict
    created: datetime
    predecessors: tuple[ResultReference, ...] = ()

    def instance_uid(self, role: str) -> str:
        """The SOP Instance UID of the result that plays `role`."""
        return instance_uid(self.reference.SOPInstanceUID, self.bundle.digest, self.settings_digest, role)

    def text(self, text: str, limit: int | None = None) -> str:
        """Our own words as the source's character set can hold them: control characters out, accents off if need be."""
        words = " ".join("".join(c if unicodedata.category(c) != "Cc" else " " for c in text).split())
        words = words.replace("\\", "/")  # the backslash separates values
        if not _encodable(words, self.reference.get("SpecificCharacterSet")):
            words = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode("ascii")
        return words if limit is None or len(words) <= limit else f"{words[: limit - 3]}..."

    @property
    def written_bundle(self) -> BundleIdentity:
        """The bundle's identity in the source's character set."""
        bundle = self.bundle
        return BundleIdentity(
            self.text(bundle.name),
            self.text(bundle.version),
            bundle.digest,
            self.text(bundle.intended_use),
            self.text(bundle.manufacturer),
        )

    @property
    def local_time(self) -> datetime:
        """`created` on the clock that the source's other times are on, as far as that is known."""
        offset = str(self.reference.get("TimezoneOffsetFromUTC", ""))
        if self.created.tzinfo is None or len(offset) != 5 or not offset[1:].isdigit():
            return self.created
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return self.created.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))


def _encodable(text: str, character_set: object) -> bool:
    terms = [character_set] if isinstance(character_set, str) else list(character_set or [])  # type: ignore[call-overload]
    if not terms:
        return text.isascii()
    for encoding in convert_encodings(terms):
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            continue
        return True
    return False


def code_item(concept: CodedConcept) -> Dataset:
    """A coded concept as a sequence item (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = concept.value
    item.CodingSchemeDesignator = concept.scheme
    item.CodeMeaning = concept.meaning
    return item


def reference_item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """A reference to an instance as a sequence item (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def placed(instance: Dataset) -> ResultReference:
    """Where an instance lies, by its own attributes."""
    return ResultReference(
        instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPClassUID, instance.SOPInstanceUID
    )


def hierarchy(references: Sequence[ResultReference]) -> list[Dataset]:
    """References by study and series (PS3.3 C.17.2.1, Hierarchical SOP Instance Reference Macro)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for reference in references:
        item = reference_item(reference.sop_class_uid, reference.sop_instance_uid)
        study = studies.setdefault(reference.study_instance_uid, {})
        study.setdefault(reference.series_instance_uid, []).append(item)
    return [_study_item(study_instance_uid, series) for study_instance_uid, series in studies.items()]


def _study_item(study_instance_uid: str, series: Mapping[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.ReferencedSeriesSequence = []
    for series_instance_uid, items in series.items():
        item = Dataset()
        item.ReferencedSOPSequence = items
        item.SeriesInstanceUID = series_instance_uid
        study.ReferencedSeriesSequence.append(item)
    study.StudyInstanceUID = study_instance_uid
    return study


def new_result(
    origin: Origin, role: str, sop_class_uid: str, *, modality: str, series_number: int, description: str
) -> Dataset:
    """Start a result: the source's patient and study; a series, equipment and identity of its own.

    Results share a series when they agree in everything that stands on series level.
    """
    reference, settings = origin.reference, origin.settings
    result = Dataset()
    copied(reference, PATIENT_AND_STUDY, result)
    if origin.created.tzinfo is None:  # then nobody can say that `created` is on the source's clock
        result.pop("TimezoneOffsetFromUTC", None)
    result.SOPClassUID = sop_class_uid
    result.SOPInstanceUID = origin.instance_uid(role)
    result.InstanceCreationDate = result.ContentDate = f"{origin.local_time:%Y%m%d}"
    result.InstanceCreationTime = result.ContentTime = f"{origin.local_time:%H%M%S}"
    result.InstanceNumber = _instance_number(reference)
    result.Modality = modality
    result.SeriesDescription = origin.text(f"{description} - {origin.verdict}", 64)
    result.SeriesNumber = series_number
    result.SeriesInstanceUID = series_uid(
        reference.StudyInstanceUID,
        origin.bundle.digest,
        origin.settings_digest,
        role,
        reference.SeriesInstanceUID,  # so that instance numbers stay apart
        str(origin.verdict),
        *(str(reference.get(keyword, "")) for keyword in ("BodyPartExamined", "Laterality", "ImageLaterality")),
    )
    result.Manufacturer = origin.text(settings.manufacturer, 64)
    result.ManufacturerModelName = OWN_MODEL_NAME
    result.SoftwareVersions = _software_versions(origin)
    if settings.institution_name:
        result.InstitutionName = origin.text(settings.institution_name, 64)
    result.ContributingEquipmentSequence = [_contribution(origin)]
    return result


def _instance_number(reference: Dataset) -> int:
    number = int(reference.get("InstanceNumber", 1))
    return number if 0 < number < 2**31 else 1


def _software_versions(origin: Origin) -> list[str]:
    return [__version__, origin.text(f"{origin.bundle.name} {origin.bundle.version}", 64)]


def _contribution(origin: Origin) -> Dataset:
    item = Dataset()
    item.Manufacturer = origin.text(origin.bundle.manufacturer, 64)
    item.ManufacturerModelName = OWN_MODEL_NAME
    item.SoftwareVersions = _software_versions(origin)
    item.ContributionDateTime = f"{origin.local_time:%Y%m%d%H%M%S}"
    item.ContributionDescription = origin.text(
        f"AI verification by bundle {origin.bundle.name} {origin.bundle.version}, digest {origin.bundle.digest}", 1024
    )
    item.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    return item


def result_file_bytes(result: Dataset, last_element: bytes = b"") -> bytes:
    """A complete Part 10 file in Explicit VR Little Endian; equal data sets give equal bytes.

    `last_element` is one that is encoded already, with a tag above all others.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = result.SOPClassUID
    meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    result.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, result, enforce_file_format=True)
    buffer.write(last_element)
    return buffer.getvalue()


def series_of(content: bytes) -> str:
    """The Series Instance UID of a result file, empty when it can't be told."""
    try:
        header = read_partial(io.BytesIO(content), stop_when=_after_series, specific_tags=[_SERIES_INSTANCE_UID])
    except PYDICOM_ERRORS:
        return ""
    return str(header.get("SeriesInstanceUID", ""))


def _after_series(tag: BaseTag, _representation: str | None, _length: int) -> bool:
    return bool(tag > _SERIES_INSTANCE_UID)

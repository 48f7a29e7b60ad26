"""Made-up sources, bundles and verifications: each example differs from the first in one thing.

No patient, place or device in here exists.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import numpy as np
import pydicom.uid as uids
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.reference import sanitised_reference
from dicom_gam.dicom.result.rejection_note import build_rejection_note
from dicom_gam.dicom.result.result_file import Origin, result_file_bytes
from dicom_gam.dicom.result.results import encode_results
from dicom_gam.records import (
    BundleIdentity,
    CalibrationRank,
    Check,
    CodedConcept,
    Measurement,
    Prediction,
    Radiograph,
    ReceivedInstance,
    ResultReference,
    ResultRole,
    Verdict,
    Verification,
)

ROLES: tuple[ResultRole, ...] = get_args(ResultRole)
SHAPES = (96, 80), (80, 72)
GARBAGE = "other"
CLASS = CodedConcept("51185008", "SCT", "Thoracic structure")
PREDICTION = Prediction(("chest", GARBAGE), (0.94, 0.06), GARBAGE)
PREDECESSORS = (
    ResultReference("1.2.3.1", "1.2.3.2", uids.Comprehensive3DSRStorage, "1.2.3.3"),
    ResultReference("1.2.4.1", "1.2.4.2", uids.ComprehensiveSRStorage, "1.2.4.3"),
)


@dataclass(frozen=True)
class Example:
    """Everything that results are made from."""

    source: Dataset
    settings: OutputSettings
    bundle: BundleIdentity
    created: datetime
    verification: Verification
    settings_digest: str = "5e" * 32
    predecessors: tuple[ResultReference, ...] = ()
    note_alone: bool = False  # which takes much less time than all objects
    results: dict[ResultRole, Dataset] = field(default_factory=dict)

    def encoded(self) -> dict[ResultRole, Dataset]:
        """The result objects by role, read back from their bytes."""
        if not self.results:
            self.results.update(_rejection_note(self) if self.note_alone else _encode(self))
        return self.results


def _radiograph(source: Dataset) -> Radiograph:
    instance = ReceivedInstance(
        Path("source.dcm"), source.SOPClassUID, source.SOPInstanceUID, uids.ExplicitVRLittleEndian, "", 0
    )
    pixels = np.linspace(0, 1, source.Rows * source.Columns, dtype=np.float32).reshape(source.Rows, source.Columns)
    return Radiograph(instance, source, pixels, "1" * 64)


def _rejection_note(example: Example) -> dict[ResultRole, Dataset]:
    origin = Origin(
        sanitised_reference(_radiograph(example.source)),
        example.bundle,
        example.settings,
        example.settings_digest,
        example.verification.verdict,
        example.created,
        example.predecessors,
    )
    content = result_file_bytes(build_rejection_note(origin, example.verification))
    return {"rejection": dcmread(io.BytesIO(content))}


def _encode(example: Example) -> dict[ResultRole, Dataset]:
    results = encode_results(
        _radiograph(example.source),
        PREDICTION,
        example.verification,
        bundle=example.bundle,
        class_concepts={"chest": CLASS},
        settings=example.settings,
        settings_digest=example.settings_digest,
        created=example.created,
        predecessors=example.predecessors,
    )
    return {result.role: dcmread(io.BytesIO(result.content)) for result in results}


def settings(**changes: object) -> OutputSettings:
    """Every object, with texts that can be told from all others."""
    given = {
        "objects": ROLES,
        "overlay_long_side": 256,
        "manufacturer": "manufacturer of the settings",
        "institution_name": "institution of the settings",
    }
    return OutputSettings.model_validate(given | changes)


def verification(verdict: Verdict, shift: float = 0.0, *, full: bool = False) -> Verification:
    """One measurement of each check, or all there is a code for; `shift` moves all figures, and the attention."""
    names: dict[str, list[str]] = {}
    for name in codes.MEASUREMENTS:
        names.setdefault(name.partition(".")[0], []).append(name)
    if not full:
        names = {check: measured[:1] for check, measured in names.items()}
    failing = {Verdict.PASS: None, Verdict.FAIL: "attention", Verdict.REJECT: "input"}[verdict]
    checks = tuple(_check(check, measured, check != failing, shift) for check, measured in names.items())
    return Verification(
        verdict=verdict,
        checks=checks,
        alpha=0.05 + shift,
        rank=CalibrationRank("chest", 99, (40 if failing is None else 0) + int(10 * shift), 0),
        score=1.5 + shift,
        attention_map=_attention(shift),
        attention_method="hirescam" if not shift else "gradcam",
        attention_status="ok",
        reasons=() if failing is None else (f"{failing}: not like the reference ({0.31 + shift:.2f})",),
        notes=("Body part: a remark",),
    )


def _check(name: str, measured: list[str], good: bool, shift: float) -> Check:
    measurements = tuple(
        Measurement(one, (0.7 if good else 0.3) + shift, 0.5 + shift, "min", 0.4 + shift) for one in measured
    )
    advisory = name == "authenticity"
    return Check(name, measurements, 1.2 + shift, 3.1 + shift, 0.3 + shift, good, "" if good else "odd", advisory)


def _attention(shift: float) -> np.ndarray:
    row, column = np.mgrid[0:8, 0:8]
    bump = np.exp(-(((row - 4) / 2) ** 2) - ((column - 4 - 10 * shift) / 2) ** 2)
    return ((bump - bump.min()) / (bump.max() - bump.min())).astype(np.float32)


def source(number: int) -> Dataset:
    """A DX image in which every attribute that results may inherit has a value, another one for each number."""
    ds = Dataset()
    ds.SpecificCharacterSet = ("ISO_IR 100", "ISO_IR 192")[number - 1]
    ds.SOPClassUID = (uids.DigitalXRayImageStorageForPresentation, uids.ComputedRadiographyImageStorage)[number - 1]
    for place, keyword in enumerate(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")):
        setattr(ds, keyword, f"1.2.826.0.1.3680043.10.999.{number}.{place}")
    for keyword, pair in _SOURCE_VALUES.items():
        setattr(ds, keyword, pair[number - 1])
    for keyword in (
        "OtherPatientIDsSequence",
        "IssuerOfPatientIDQualifiersSequence",
        "IssuerOfAccessionNumberSequence",
    ):
        setattr(ds, keyword, [_item(keyword, number)])
    ds.ProcedureCodeSequence = [_code(number)]
    ds.Rows, ds.Columns = SHAPES[number - 1]
    return ds


def _item(keyword: str, number: int) -> Dataset:
    item = Dataset()
    if keyword == "OtherPatientIDsSequence":
        item.PatientID, item.TypeOfPatientID = f"other {number}", ("TEXT", "RFID")[number - 1]
    else:
        item.UniversalEntityID, item.UniversalEntityIDType = f"1.2.3.{number}", ("ISO", "UUID")[number - 1]
    return item


def _code(number: int) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = f"P{number}", f"99S{number}", f"procedure {number}"
    return item


def bare_source() -> Dataset:
    """As little as a file can hold and still be filed."""
    full = source(1)
    ds = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
        ds[keyword] = full[keyword]
    return ds


_SOURCE_VALUES: dict[str, tuple[object, object]] = {
    "Modality": ("DX", "CR"),
    "PatientName": ("Doe^Jane", "Roe^John"),
    "PatientID": ("ID-1", "ID-2"),
    "PatientBirthDate": ("19700102", "19800203"),
    "PatientSex": ("F", "M"),
    "StudyDate": ("20250303", "20240404"),
    "StudyTime": ("101112", "131415"),
    "ReferringPhysicianName": ("Refer^A", "Refer^B"),
    "StudyID": ("S1", "S2"),
    "AccessionNumber": ("A1", "A2"),
    "IssuerOfPatientID": ("issuer 1", "issuer 2"),
    "TypeOfPatientID": ("TEXT", "BARCODE"),
    "OtherPatientNames": ("Other^A", "Other^B"),
    "PatientBirthTime": ("010203", "020304"),
    "PatientComments": ("comment 1", "comment 2"),
    "PatientSpeciesDescription": ("species 1", "species 2"),
    "QualityControlSubject": ("NO", "YES"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "DeidentificationMethod": ("method 1", "method 2"),
    "StudyDescription": ("study 1", "study 2"),
    "PhysiciansOfRecord": ("Record^A", "Record^B"),
    "PatientAge": ("055Y", "044Y"),
    "PatientSize": ("1.71", "1.82"),
    "PatientWeight": ("71", "82"),
    "AdmissionID": ("adm 1", "adm 2"),
    "ClinicalTrialSponsorName": ("sponsor 1", "sponsor 2"),
    "ClinicalTrialProtocolID": ("protocol 1", "protocol 2"),
    "ClinicalTrialProtocolName": ("trial 1", "trial 2"),
    "ClinicalTrialSiteID": ("site 1", "site 2"),
    "ClinicalTrialSiteName": ("site name 1", "site name 2"),
    "ClinicalTrialSubjectID": ("subject 1", "subject 2"),
    "ClinicalTrialSubjectReadingID": ("reading 1", "reading 2"),
    "TimezoneOffsetFromUTC": ("+0100", "-0500"),
    "SeriesNumber": (1, 2),
    "InstanceNumber": (7, 8),
    "BodyPartExamined": ("HAND", "FOOT"),
    "Laterality": ("L", "R"),
    "ImageLaterality": ("L", "R"),
    "PatientOrientation": (["L", "F"], ["R", "F"]),
    "PixelAspectRatio": ([1, 1], [1, 1]),
    "BurnedInAnnotation": ("NO", "YES"),
    "RecognizableVisualFeatures": ("NO", "YES"),
    "LossyImageCompression": ("01", "00"),
    "LossyImageCompressionRatio": ("12.5", "8"),
    "LossyImageCompressionMethod": ("ISO_10918_1", "ISO_14495_1"),
    "SamplesPerPixel": (1, 1),
    "PhotometricInterpretation": ("MONOCHROME2", "MONOCHROME1"),
    "BitsAllocated": (16, 16),
    "BitsStored": (12, 12),
    "HighBit": (11, 11),
    "PixelRepresentation": (0, 0),
    "RescaleSlope": ("2", "3"),
    "RescaleIntercept": ("-10", "-20"),
    "WindowCenter": ("2048", "1024"),
    "WindowWidth": ("4096", "2048"),
    "PresentationLUTShape": ("IDENTITY", "IDENTITY"),
    "ImagerPixelSpacing": (["0.2", "0.2"], ["0.1", "0.2"]),
    "StationName": ("STATION1", "STATION2"),
    "Manufacturer": ("maker 1", "maker 2"),
    "SeriesDescription": ("series 1", "series 2"),
}

BUNDLE = BundleIdentity("name-of-the-bundle", "9.8.7", "ab" * 32, "intended use", "maker of the bundle")
ZONE = timezone(timedelta(hours=2))
CREATED = datetime(2025, 3, 4, 5, 6, 7, tzinfo=ZONE)


def first(verdict: Verdict = Verdict.PASS) -> Example:
    """What all others differ from."""
    return Example(source(1), settings(), BUNDLE, CREATED, verification(verdict), predecessors=PREDECESSORS[:1])


def report(judged: Verification) -> Example:
    """A report with its overlay and nothing else."""
    return replace(first(), settings=settings(objects=("sr", "overlay")), verification=judged)


def variants(base: Example) -> dict[str, Example]:
    """By the name of what differs."""
    verdict = base.verification.verdict
    other_bundle = BundleIdentity("another-bundle", "2.0.0", "cd" * 32, "another use", "another maker")
    other_settings = settings(
        sr="comprehensive",
        overlay_long_side=384,
        manufacturer="another manufacturer",
        institution_name="another institution",
    )
    nowhere = replace(base.verification, attention_map=np.zeros((8, 8), np.float32), attention_status="degenerate")
    changes: dict[str, dict[str, object]] = {
        "source": {"source": source(2)},
        "bare source": {"source": bare_source()},
        "settings": {"settings": other_settings, "settings_digest": "6f" * 32},
        "default settings": {"settings": settings(institution_name="")},
        "superseded": {"predecessors": PREDECESSORS[1:]},
        "first time": {"predecessors": ()},
        "bundle": {"bundle": other_bundle},
        "time": {"created": datetime(2026, 5, 6, 7, 8, 9, tzinfo=ZONE)},
        "figures": {"verification": verification(verdict, 0.1)},
        "nowhere": {"verification": nowhere},
    }
    alone = verdict is Verdict.REJECT
    return {name: replace(base, note_alone=alone, results={}, **change) for name, change in changes.items()}

"""Made-up radiographs, predictions and verifications for the tests of the result objects."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result.reference import sanitised_reference
from dicom_gam.dicom.result.result_file import Origin
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
    ResultObject,
    Verdict,
    Verification,
)

CREATED = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
SETTINGS_DIGEST = "5e" * 32
BUNDLE = BundleIdentity("radiograph-anatomy", "1.0.0", "ab" * 32, "body part of a radiograph", "Example Maker")
CONCEPTS = {
    "chest": CodedConcept("51185008", "SCT", "Thoracic structure"),
    "hand": CodedConcept("85562004", "SCT", "Hand structure"),
}
CLASSES = ("chest", "hand", "other")
SIMILARITIES = ("iou", "dice", "soft_iou", "ssim", "cosine", "pearson", "kl", "wasserstein")
GOOD = {
    "kl": 0.12,
    "wasserstein": 0.04,
    "feature_distance": 11.0,
    "garbage_probability": 0.02,
    "channel_distance": 7.5,
    "frequency_distance": 1.1,
}
LIMIT = {
    "kl": 0.9,
    "wasserstein": 0.2,
    "feature_distance": 30.0,
    "garbage_probability": 0.35,
    "channel_distance": 25.0,
    "frequency_distance": 4.0,
}
BAD = {
    "kl": 2.4,
    "wasserstein": 0.33,
    "feature_distance": 88.0,
    "garbage_probability": 0.97,
    "channel_distance": 61.0,
    "frequency_distance": 15.0,
}


def measurement(name: str, good: bool = True) -> Measurement:
    """A plausible score on one side of its threshold."""
    metric = name.partition(".")[2]
    p_value = 0.42 if good else 0.004
    if metric in LIMIT:
        return Measurement(name, (GOOD if good else BAD)[metric], LIMIT[metric], "max", p_value)
    return Measurement(name, 0.62 if good else 0.31, 0.5, "min", p_value)


def check(name: str, good: bool = True) -> Check:
    names = {
        "input": ("garbage_probability", "feature_distance"),
        "attention": SIMILARITIES,
        "early": (*SIMILARITIES, "channel_distance"),
        "authenticity": ("frequency_distance",),
    }[name]
    scores = tuple(measurement(f"{name}.{metric}", good) for metric in names)
    return Check(
        name, scores, 1.2 if good else 9.5, 3.1, 0.3 if good else 0.002, good, "" if good else f"{name}: does not match"
    )


def blob(rows: int = 8, columns: int = 8) -> np.ndarray:
    """An attention map (rows, columns) with one smooth peak right of and below the middle."""
    y, x = np.mgrid[0:rows, 0:columns]
    distance = ((y - 0.6 * rows) / (0.25 * rows)) ** 2 + ((x - 0.6 * columns) / (0.2 * columns)) ** 2
    bump = np.exp(-distance)
    return ((bump - bump.min()) / (bump.max() - bump.min())).astype(np.float32)


def verification(verdict: Verdict | str = "PASS", **changes: object) -> Verification:
    verdict = Verdict(verdict)
    checks = (
        check("input", verdict is not Verdict.REJECT),
        check("attention", verdict is not Verdict.FAIL),
        check("early"),
        check("authenticity"),
    )
    values = {
        "verdict": verdict,
        "checks": checks,
        "alpha": 0.05,
        "rank": CalibrationRank("chest", 99, 41 if verdict is Verdict.PASS else 0, 0),
        "score": 1.5 if verdict is Verdict.PASS else 12.0,
        "attention_map": blob(),
        "attention_method": "hirescam",
        "attention_status": "ok",
        "reasons": tuple(c.reason for c in checks if not c.passed),
    }
    return Verification(**(values | changes))


def prediction(label: str = "chest") -> Prediction:
    return Prediction(CLASSES, tuple(0.94 if name == label else 0.03 for name in CLASSES), "other")


def thorax(rows: int = 300, columns: int = 260) -> np.ndarray:
    """Something like a chest: (rows, columns) float32 in [0, 1]."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = np.clip(1.2 - (np.abs(x) ** 4 + 0.4 * np.abs(y) ** 6), 0, 1)
    lungs = sum(np.exp(-(((x - s * 0.42) / 0.28) ** 4) - ((y + 0.05) / 0.62) ** 4) for s in (-1, 1))
    ribs = 0.08 * (np.sin(22 * y + 4 * x**2) > 0.6) * lungs
    return np.clip(0.75 * body - 0.5 * lungs + ribs + 0.25 * np.exp(-((x / 0.07) ** 2)), 0, 1).astype(np.float32)


def radiograph(dataset: Dataset, pixels: np.ndarray | None = None) -> Radiograph:
    instance = ReceivedInstance(
        Path("source.dcm"),
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        "1.2.840.10008.1.2.1",
        "0" * 64,
        1000,
    )
    return Radiograph(instance, dataset, thorax() if pixels is None else pixels, "1" * 64)


def real_source(name: str) -> Dataset:
    """A file of pydicom-data, without its pixels."""
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is missing: install the package pydicom-data"
    return dcmread(path, stop_before_pixels=True)


def encoded(
    source: Radiograph | Dataset,
    verdict: Verdict | str = "PASS",
    *,
    settings: OutputSettings | None = None,
    label: str = "chest",
    bundle: BundleIdentity = BUNDLE,
    settings_digest: str = SETTINGS_DIGEST,
    created: datetime = CREATED,
    concepts: dict[str, CodedConcept] = CONCEPTS,
    **changes: object,
) -> tuple[ResultObject, ...]:
    """The results of a source: the report, the overlay and whatever else the settings ask for."""
    return encode_results(
        source if isinstance(source, Radiograph) else radiograph(source),
        prediction(label),
        verification(verdict, **changes),
        bundle=bundle,
        class_concepts=concepts,
        settings=settings or OutputSettings(overlay_long_side=256),
        settings_digest=settings_digest,
        created=created,
    )


def origin(
    source: Radiograph | Dataset,
    verdict: Verdict | str = "PASS",
    *,
    settings: OutputSettings | None = None,
    bundle: BundleIdentity = BUNDLE,
    created: datetime = CREATED,
) -> Origin:
    """What a single result object is built on."""
    image = source if isinstance(source, Radiograph) else radiograph(source)
    return Origin(
        sanitised_reference(image), bundle, settings or OutputSettings(), SETTINGS_DIGEST, Verdict(verdict), created
    )


def _made(sop_class_uid: str, modality: str, number: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.999.{number}.3"
    ds.StudyInstanceUID = f"1.2.826.0.1.3680043.10.999.{number}.1"
    ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.10.999.{number}.2"
    ds.Modality = modality
    ds.PatientName, ds.PatientID = "Doe^Jane", "ID-1"
    ds.PatientBirthDate, ds.PatientSex = "19700102", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20250303", "101112", "S1", "A1"
    ds.ReferringPhysicianName = "Roe^Richard"
    ds.SeriesNumber, ds.InstanceNumber = 1, 7
    ds.Manufacturer = "Maker"
    ds.Rows, ds.Columns = 300, 260
    return ds


def dx_source() -> Dataset:
    ds = _made(DigitalXRayImageStorageForPresentation, "DX", 1)
    ds.BodyPartExamined = "CHEST"
    ds.ImageLaterality = "U"
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionRatio = "12.5"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    return ds


def mg_source() -> Dataset:
    ds = _made(DigitalMammographyXRayImageStorageForPresentation, "MG", 2)
    ds.BodyPartExamined = "BREAST"
    ds.ImageLaterality = "L"
    ds.PatientOrientation = ["A", "FR"]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    return ds


def sc_source() -> Dataset:
    ds = _made(SecondaryCaptureImageStorage, "DX", 3)
    ds.ConversionType = "DF"
    return ds


def bare_source() -> Dataset:
    """As little as a file can hold and still be filed."""
    ds = Dataset()
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.10.999.4.3"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.10.999.4.1"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.10.999.4.2"
    return ds


ODD_VERIFICATIONS = {
    "degenerate map": {"attention_status": "degenerate", "attention_map": np.zeros((8, 8), np.float32)},
    "no number": {"checks": (check("input"), check("attention", False), check("early")), "alpha": float("nan")},
    "everywhere": {"attention_map": np.ones((7, 7), np.float32)},
    "edge to edge": {"attention_map": np.tile(np.linspace(0, 1, 9, dtype=np.float32), (5, 1))},
    "no checks": {"checks": ()},
    "fine map": {"attention_map": blob(56, 48)},
}

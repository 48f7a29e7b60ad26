"""Valid radiographs of every kind that is accepted, as data sets without pixels: what the oddities are done to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pydicom.uid as uids
from pydicom.dataset import Dataset


def uid(*seed: str) -> str:
    """A UID that is always the same for the same words."""
    return f"2.25.{int.from_bytes(hashlib.sha256('/'.join(seed).encode()).digest()[:15])}"


def identified(seed: str) -> Dataset:
    """Patient, study, series, equipment and SOP instance of an image."""
    ds = Dataset()
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (uid(seed, level) for level in "ijk")
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "ID-1", "19700102", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20250303", "101112", "S1", "A1"
    ds.ReferringPhysicianName = "Roe^Richard"
    ds.StudyDescription = "Plain radiograph"
    ds.PatientAge = "055Y"
    ds.SeriesNumber, ds.InstanceNumber = 1, 7
    ds.Manufacturer, ds.ManufacturerModelName = "Maker", "Radiographer 9"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "17", "1.2"
    ds.ContentDate = ds.AcquisitionDate = "20250303"
    ds.ContentTime = ds.AcquisitionTime = "101115"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    return ds


def cr(seed: str) -> Dataset:
    """PS3.3 A.2."""
    ds = identified(seed)
    ds.SOPClassUID, ds.Modality = uids.ComputedRadiographyImageStorage, "CR"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.KVP = "120"
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _digital(seed: str, sop_class_uid: str, modality: str) -> Dataset:
    """What DX, MG and IO have in common (PS3.3 A.26)."""
    ds = identified(seed)
    ds.SOPClassUID, ds.Modality = sop_class_uid, modality
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.BodyPartExamined = "CHEST"
    ds.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.DetectorType, ds.DetectorConfiguration = "DIRECT", "AREA"
    ds.DetectorDescription, ds.DetectorActiveShape = "Panel", "RECTANGLE"
    ds.ImagerPixelSpacing = ["0.1", "0.1"]
    ds.AcquisitionContextSequence = []
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.VOILUTFunction = "LINEAR"
    ds.PositionerType = "COLUMN"
    return ds


def dx(seed: str) -> Dataset:
    """PS3.3 A.26."""
    return _digital(seed, uids.DigitalXRayImageStorageForPresentation, "DX")


def px(seed: str) -> Dataset:
    """A panoramic image, which comes as DX with a modality of its own."""
    ds = _digital(seed, uids.DigitalXRayImageStorageForPresentation, "PX")
    ds.BodyPartExamined = "JAW"
    ds.AnatomicRegionSequence = [_code("661005", "SCT", "Jaw region")]
    ds.PositionerType = "NONE"
    return ds


def io(seed: str) -> Dataset:
    """PS3.3 A.28."""
    ds = _digital(seed, uids.DigitalIntraOralXRayImageStorageForPresentation, "IO")
    del ds.BodyPartExamined
    ds.AnatomicRegionSequence = [_code("661005", "SCT", "Jaw region")]
    ds.PrimaryAnatomicStructureSequence = [_code("38199008", "SCT", "Tooth")]
    ds.ImageLaterality = "L"
    ds.PositionerType = "NONE"
    return ds


def mg(seed: str) -> Dataset:
    """PS3.3 A.27."""
    ds = _digital(seed, uids.DigitalMammographyXRayImageStorageForPresentation, "MG")
    ds.BodyPartExamined, ds.ImageLaterality = "BREAST", "L"
    ds.PatientOrientation = ["A", "R"]
    ds.AnatomicRegionSequence = [_code("76752008", "SCT", "Breast")]
    ds.OrganExposed = "BREAST"
    ds.PositionerType, ds.PositionerPrimaryAngle = "MAMMOGRAPHIC", "0"
    ds.BreastImplantPresent = ds.PartialView = "NO"
    view = _code("399162004", "SCT", "cranio-caudal")
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    return ds


def sc(seed: str) -> Dataset:
    """PS3.3 A.8.1."""
    ds = identified(seed)
    ds.SOPClassUID, ds.Modality = uids.SecondaryCaptureImageStorage, "DX"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "DF"
    ds.BodyPartExamined = "CHEST"
    return ds


KINDS: Mapping[str, Callable[[str], Dataset]] = MappingProxyType(
    {"CR": cr, "DX": dx, "PX": px, "IO": io, "MG": mg, "SC": sc}
)
DIGITAL = ("DX", "PX", "IO", "MG")  # the kinds whose images have the DX modules

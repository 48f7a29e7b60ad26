"""The radiographs that the bench of the front door sends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

# Class, rows and columns of 16 bit.
KINDS = {"DX 10 MB": ("1.2.840.10008.5.1.4.1.1.1.1", 2500, 2048), "CR 0.5 MB": ("1.2.840.10008.5.1.4.1.1.1", 512, 512)}


def make_radiograph(kind: str, folder: Path) -> Path:
    """A synthetic radiograph: a gradient with noise, 12 of 16 bit, with what its class demands of an image."""
    sop_class, rows, columns = KINDS[kind]
    random = np.random.default_rng(4)
    pixels = np.linspace(0, 3000, rows)[:, None] + random.integers(0, 1000, (rows, columns))
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid(entropy_srcs=[kind])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.4001", "2.25.4002"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101500", "1", ""
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Bench^Front", "BENCH", "", ""
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = kind[:2], "HAND", "PA"
    ds.SeriesNumber, ds.InstanceNumber, ds.ImageType = 1, 1, ["ORIGINAL", "PRIMARY"]
    ds.PresentationIntentType, ds.PixelSpacing = "FOR PRESENTATION", [0.143, 0.143]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, columns, 16, 12, 11
    ds.WindowCenter, ds.WindowWidth = 2000, 4000
    ds.PixelData = pixels.astype("<u2").tobytes()
    path = folder / f"{kind[:2]}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path

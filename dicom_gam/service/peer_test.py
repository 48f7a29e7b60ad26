"""Trying a destination by hand: say hello to it, or send it an object that is no patient's."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_gam import __version__
from dicom_gam.dicom.image.acceptance import OWN_MODEL_NAME
from dicom_gam.dicom.result.lettering import font
from dicom_gam.dicom.result.result_file import result_file_bytes
from dicom_gam.dicom.scu.destination import probe, send
from dicom_gam.errors import ConfigError, DicomGamError
from dicom_gam.service.effective_settings import masked

if TYPE_CHECKING:
    from dicom_gam.config import Settings
    from dicom_gam.dicom.scu.destination import Send
    from dicom_gam.sections import Destination
    from dicom_gam.service.operations import Order
    from dicom_gam.service.store import Store

LONGEST_WAIT_S = 20.0  # somebody looks at a page meanwhile
TEST_NAME, TEST_ID = "TEST^DICOM_GAM^NO PATIENT", "DICOM-GAM-TEST"
_WORDS = ("TEST", "no patient, no finding", "may be deleted")
_SIDE = 256


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """How a destination took it, in words. `sop_instance_uid` is of the test object, empty when none was sent."""

    well: bool
    words: str
    sop_instance_uid: str = ""


def say_hello(store: Store, settings: Settings, name: str, order: Order) -> PeerAnswer:
    """Ask a destination whether it is there and lets us in: C-ECHO or, with a url, a query for what does not exist.

    Raises ConfigError when there is no such destination.
    """
    destination = _named(settings, name)
    store.audit.append("destination.greeted", destination=name, by=order.by, address=order.address)
    began = time.monotonic()
    try:
        probe(destination, settings.node.ae_title)
    except DicomGamError as error:
        return PeerAnswer(False, masked(str(error)))
    what = "answers" if destination.url else "answers C-ECHO"
    return PeerAnswer(True, f"{name} {what}, after {time.monotonic() - began:.2f} s")


def send_test_object(store: Store, settings: Settings, name: str, order: Order, *, send: Send = send) -> PeerAnswer:
    """Send a destination one small Secondary Capture that says that it is a test, as results are sent.

    What came of it is put on record too. Raises ConfigError when there is no such destination.
    """
    destination = _named(settings, name)
    created = datetime.now().astimezone()
    test_object = make_test_object(created)
    uid = str(test_object.SOPInstanceUID)
    keys = {"destination": name, "sop_instance_uid": uid}
    store.audit.append("destination.tested", **keys, by=order.by, address=order.address)
    answer = _sent(destination, settings.node.ae_title, result_file_bytes(test_object), uid, send)
    store.audit.append("destination.test_answered", **keys, stored=answer.well, words=answer.words)
    return answer


def make_test_object(created: datetime) -> Dataset:
    """A Secondary Capture (PS3.3 A.8.1) in a study of its own, of a subject that is none.

    It has a name and an ID, for an archive may lump together what has no patient's ID.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, _new_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _new_uid(), _new_uid()
    ds.PatientName, ds.PatientID = TEST_NAME, TEST_ID
    ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ds.AccessionNumber = ds.StudyID = ""
    ds.QualityControlSubject = "YES"  # PS3.3 C.7.1.1: no person was imaged
    ds.Modality, ds.ConversionType = "OT", "SYN"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.StudyDescription = ds.SeriesDescription = "TEST OBJECT of dicom_gam"
    ds.ImageComments = "Test of the connection. No patient, no finding; may be deleted."
    ds.BurnedInAnnotation = "NO"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = f"{created:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = f"{created:%H%M%S}"
    ds.TimezoneOffsetFromUTC = f"{created:%z}"
    ds.Manufacturer = ds.ManufacturerModelName = OWN_MODEL_NAME
    ds.SoftwareVersions = __version__
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.PatientOrientation = ds.Laterality = ""
    _add_picture(ds)
    return ds


def _sent(destination: Destination, ae_title: str, content: bytes, uid: str, send: Send) -> PeerAnswer:
    try:
        answer = next(iter(send(destination, ae_title, [content])), None)
    except DicomGamError as error:
        return PeerAnswer(False, masked(str(error)), uid)
    if answer is None:
        return PeerAnswer(False, f"{destination.name} ended the association without an answer: see to its log", uid)
    return PeerAnswer(answer.stored, masked(answer.words), uid)


def _add_picture(ds: Dataset) -> None:
    picture = Image.new("L", (_SIDE, _SIDE), 40)
    draw = ImageDraw.Draw(picture)
    for line, (words, size) in enumerate(zip(_WORDS, (56, 18, 18), strict=True)):
        draw.text((_SIDE / 2, 90 + 48 * line), words, 230, font(True, size), anchor="mm")
    pixels = np.asarray(picture)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new("PixelData", "OB", pixels.tobytes())


def _named(settings: Settings, name: str) -> Destination:
    for destination in settings.destinations:
        if destination.name == name:
            return destination.model_copy(update={"timeout_s": min(destination.timeout_s, LONGEST_WAIT_S)})
    there = ", ".join(destination.name for destination in settings.destinations) or "none"
    msg = f"there is no destination {name!r} in the configuration: choose one of it ({there})"
    raise ConfigError(msg)


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"

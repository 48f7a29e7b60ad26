"""What the service's tests run against: small DICOM files, a processor without a network, an archive that answers."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from dicom_gam.config import Settings
from dicom_gam.dicom.result.codes import PROCESSING_EQUIPMENT, SOURCE_IMAGE, SPATIAL_RESAMPLING, VERDICT_WORDS
from dicom_gam.dicom.result.result_file import code_item, reference_item
from dicom_gam.records import (
    AIResult,
    BundleIdentity,
    CalibrationRank,
    Check,
    Measurement,
    Prediction,
    Reason,
    ReceivedInstance,
    Rejection,
    ResultObject,
    Task,
    Verdict,
    Verification,
)
from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.audit import records

SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
CR = UID("1.2.840.10008.5.1.4.1.1.1")
CT = UID("1.2.840.10008.5.1.4.1.1.2")
# pynetdicom leaves the socket of a refused or torn connection to the garbage collector (transport.py,
# _shutdown_socket: `close` is skipped when `shutdown` raises), which complains at some later moment.
TORN_CONNECTIONS = [
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
    pytest.mark.usefixtures("garbage_collected"),
]
BUNDLE = BundleIdentity("fake", "1", "d" * 64, "tests", "tests")


RESULT_SERIES = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, 'overlays').int}"


def image(sop_instance_uid: str, sop_class_uid: str = CR, *, side: int = 16, shade: int = 7) -> Dataset:
    """A small grey image with a patient whose name no log may show."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    ds.SOPClassUID = UID(sop_class_uid)
    ds.SOPInstanceUID = UID(sop_instance_uid)
    ds.StudyInstanceUID = "2.25.1000"
    ds.SeriesInstanceUID = "2.25.1001"
    ds.PatientName = "SECRET^NAME"
    ds.PatientID = "SECRET-ID"
    ds.Modality = "CR"
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes([shade]) * (side * side)
    return ds


def save(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def uids(count: int, seed: str = "") -> list[str]:
    return [f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{seed}{number}').int}" for number in range(count)]


def result_uids(sop_instance_uid: str) -> list[str]:
    """The UIDs of the two objects that `process` makes of an instance."""
    return [f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{sop_instance_uid}/{role}').int}" for role in ("sr", "overlay")]


def process(tasks: Sequence[Task]) -> list[AIResult]:
    """Make two Secondary Captures of each CR or SC; reject the rest by name."""
    return [_one(task.instance, task.created) for task in tasks]


def slowly(seconds: float) -> Callable[[Sequence[Task]], list[AIResult]]:
    def run(tasks: Sequence[Task]) -> list[AIResult]:
        time.sleep(seconds)
        return process(tasks)

    return run


def failed(instance: ReceivedInstance, error: str) -> AIResult:
    return AIResult(instance, BUNDLE, "s" * 64, error=error)


def _one(instance: ReceivedInstance, moment: datetime) -> AIResult:
    if instance.sop_class_uid not in (CR, SECONDARY_CAPTURE):
        return _rejected(instance, Reason.NOT_ACCEPTED_SOP_CLASS)
    try:
        ds = dcmread(instance.path)
        assert blake3(instance.path.read_bytes()).hexdigest() == instance.digest
        pixels = ds.PixelData
    except (InvalidDicomError, AttributeError, EOFError):
        return _rejected(instance, Reason.UNREADABLE)
    measurement = Measurement("ATT_IOU", float("nan"), 0.5, "min", 0.02)
    return AIResult(
        instance,
        BUNDLE,
        "s" * 64,
        radiograph_pixel_sha256=hashlib.sha256(pixels).hexdigest(),
        study_instance_uid=ds.StudyInstanceUID,
        prediction=Prediction(("hand", "chest", "garbage"), (0.75, 0.2, 0.05), "garbage"),
        verification=Verification(
            Verdict.FAIL,
            (Check("attention", (measurement,), 9.0, 3.0, 0.02, passed=False, reason="attention is elsewhere"),),
            0.05,
            CalibrationRank("hand", 99, 1, 0),
            5.0,
            np.zeros((2, 2), np.float32),
            "hirescam",
            "ok",
            ("attention is elsewhere",),
        ),
        objects=tuple(
            _object(role, uid, moment, ds)
            for role, uid in zip(("sr", "overlay"), result_uids(ds.SOPInstanceUID), strict=True)
        ),
    )


def _rejected(instance: ReceivedInstance, reason: Reason) -> AIResult:
    return AIResult(instance, BUNDLE, "s" * 64, rejection=Rejection(reason, f"refused: {reason}"))


def _object(role: str, uid: str, moment: datetime, source: Dataset) -> ResultObject:
    content = overlay_file(uid, source, moment)
    return ResultObject(role, SECONDARY_CAPTURE, uid, ExplicitVRLittleEndian, content)  # type: ignore[arg-type]


def overlay_file(uid: str, source: Dataset, moment: datetime) -> bytes:
    """A tiny overlay of `source` that the courier's check has nothing against."""
    ds = image(uid, SECONDARY_CAPTURE, side=8)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.StudyInstanceUID, RESULT_SERIES
    ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = ""
    ds.StudyID = ds.AccessionNumber = ds.PatientOrientation = ""
    ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "OT", "tests", 9802, 1
    ds.ContentDate, ds.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    ds.ImageType, ds.ConversionType = ["DERIVED", "SECONDARY", "OTHER", "GRADCAM"], "WSD"
    ds.SeriesDescription, ds.ImageComments = "AI Grad-CAM overlay - FAIL", VERDICT_WORDS[Verdict.FAIL]
    ds.DerivationDescription = "made up"
    ds.DerivationCodeSequence = [code_item(SPATIAL_RESAMPLING)]
    equipment = Dataset()
    equipment.Manufacturer, equipment.ManufacturerModelName = "tests", "dicom_gam"
    equipment.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    ds.ContributingEquipmentSequence = [equipment]
    reference = reference_item(source.SOPClassUID, source.SOPInstanceUID)
    reference.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    ds.SourceImageSequence = [reference]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = bytes(8 * 8 * 3)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


class Archive:
    """A storage SCP on 127.0.0.1 that keeps every data set it is sent, with each copy of it."""

    def __init__(self, ae_title: str = "PACS", port: int = 0, classes: Sequence[str] = (SECONDARY_CAPTURE,)) -> None:
        _config.LOG_HANDLER_LEVEL = "none"
        self.status = 0x0000
        self.delay_s = 0.0
        self.received: dict[str, list[bytes]] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._ae = AE(ae_title=ae_title)
        self._ae.require_called_aet = True
        for uid in classes:
            self._ae.add_supported_context(uid, [ExplicitVRLittleEndian])
        self._ae.add_supported_context("1.2.840.10008.1.1")
        self._server = self._ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port: int = self._server.server_address[1]

    def _store(self, event: evt.Event) -> int:
        time.sleep(self.delay_s)
        if self.status not in (0xC123, 0xA700):
            with self._lock:
                uid = str(event.request.AffectedSOPInstanceUID)
                self.received.setdefault(uid, []).append(event.request.DataSet.getvalue())
        return self.status

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._server.shutdown()  # first, so that nobody comes back in between
        for assoc in self._ae.active_associations:
            assoc.abort()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def store(port: int, datasets: Sequence[Dataset], *, called: str = "DICOM_GAM", calling: str = "MODALITY") -> list[int]:
    """Send over one association and return the statuses; ends early, without a status, when the node goes away."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    for uid in {ds.SOPClassUID for ds in datasets}:
        ae.add_requested_context(uid, [ExplicitVRLittleEndian])
        ae.add_requested_context(uid, [ImplicitVRLittleEndian])
    assoc = ae.associate("127.0.0.1", port, ae_title=called)
    statuses = []
    try:
        for ds in datasets:
            if not assoc.is_established:
                break
            try:
                answer = assoc.send_c_store(ds)
            except RuntimeError:
                break
            if "Status" not in answer:
                break
            statuses.append(answer.Status)
    finally:
        if assoc.is_established:
            assoc.release()
    return statuses


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def storescu(port: int, *files: Path, options: Sequence[str] = ("+C",)) -> subprocess.CompletedProcess[str]:
    """Send files with DCMTK and return the finished process."""
    command = ["storescu", "-v", *options, "-aec", "DICOM_GAM", "127.0.0.1", str(port), *map(str, files)]
    environment = os.environ | {"TCP_NODELAY": "1"}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except FileNotFoundError:
        pytest.fail("storescu is missing: install dcmtk (apt-get install dcmtk)")


def events(node_settings: Settings, name: str) -> list[dict[str, Any]]:
    """The keys of all audit records of one event."""
    path = node_settings.node.storage / AUDIT_FILE
    return [record["keys"] for record in records(path) if record["event"] == name]


def inbox_files(node_settings: Settings) -> list[Path]:
    """Every file of the inbox, temporary ones too."""
    return [path for path in (node_settings.node.storage / "inbox").rglob("*") if path.is_file()]


def store_raw(port: int, ds: Dataset, uid: str) -> list[int]:
    """Send with any text as the UID of the command."""
    ae = AE(ae_title="MODALITY")
    ae.dimse_timeout = 5
    ae.add_requested_context(CR, ["1.2.840.10008.1.2.1"])
    assoc = ae.associate("127.0.0.1", port, ae_title="DICOM_GAM")
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID = CR
    request._affected_sop_instance_uid = uid
    request.DataSet = io.BytesIO(encode(ds, False, True))
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    if assoc.is_established:
        assoc.release()
    return [] if answer is None else [answer.Status]


def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait for something another thread does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)

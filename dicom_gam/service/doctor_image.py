"""The doctor's look at bundles and device, and a test image on the whole road."""

from __future__ import annotations

import io
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from dicom_gam.bundle.bundle import bundle_files, load_bundle, select_device
from dicom_gam.bundle.files import MANIFEST, digest
from dicom_gam.bundle.manifest import parse_manifest
from dicom_gam.dicom.checker.checker import check_results
from dicom_gam.dicom.checker.concepts import class_defect
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.dicom.scu.sender import send
from dicom_gam.errors import BundleError, DicomGamError
from dicom_gam.pipeline import Pipeline
from dicom_gam.records import Rejection, Task
from dicom_gam.service.doctor_case import fail, ok, warn
from dicom_gam.service.doctor_door import admitted_title, itself
from dicom_gam.storage.inspection import find_job
from dicom_gam.storage.states import OPEN_JOB_STATES, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import FileDataset

    from dicom_gam.bundle.manifest import Manifest
    from dicom_gam.config import Settings
    from dicom_gam.records import AIResult
    from dicom_gam.service.doctor_case import Case, Finding

TEST_FILE = "RG1_UNCR.dcm"  # a chest radiograph inside pydicom-data: nothing is fetched
TEST_PATIENT = "DICOM_GAM^DOCTOR"
RESULT_WAIT_S = 120.0
_KEPT = (
    "SOPClassUID", "Modality", "BodyPartExamined", "ViewPosition", "Rows", "Columns", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelAspectRatio",
    "PixelSpacing", "ImagerPixelSpacing", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope",
    "RescaleType", "SmallestImagePixelValue", "LargestImagePixelValue", "PixelData",
)  # fmt: skip


def check_bundles(case: Case) -> Iterator[Finding]:
    """Whether every bundle is whole, by its checksums."""
    for name in case.settings.bundles:
        try:
            content = bundle_files(name)
            manifest = parse_manifest(content[MANIFEST].decode("utf-8", "replace"), f"{name}: {MANIFEST}")
        except BundleError as error:
            yield fail(str(error), "without it the node does not start")
        else:
            yield ok(f"{manifest.name} {manifest.version} is whole, digest {digest(content)[:12]}...")
            yield from _wrong_codes(manifest)


def _wrong_codes(manifest: Manifest) -> Iterator[Finding]:
    """The codes of its classes that the check before sending will object to."""
    for entry in manifest.classes:
        concept = entry.concept
        defect = class_defect(concept.value, concept.scheme, concept.meaning)
        if defect:
            told = f"{manifest.name}: class {entry.name} has the code ({concept.value}, {concept.scheme}): {defect}"
            yield fail(f"{told}, so every result with it would be a dead letter", "correct it in a new bundle version")


def check_device(case: Case) -> Iterator[Finding]:
    """Whether what should compute is there."""
    wanted = case.settings.processing.device
    device = str(select_device(wanted))
    if wanted == "auto":
        yield ok(f"processing.device is auto, which finds {'a GPU' if device != 'cpu' else 'no GPU: CPU'} ({device})")
    else:
        yield ok(f"processing.device {device} is there")


def check_image(case: Case) -> Iterator[Finding]:
    """A test image is decoded, classified, verified and encoded by every bundle, in memory; nothing is sent."""
    settings = _for_one_image(case.settings)
    device = select_device(settings.processing.device)
    loaded = {}
    for name in case.settings.bundles:
        try:
            loaded[name] = load_bundle(name, device)
        except BundleError as error:
            yield fail(f"{name}: no test image can be processed: {error}", "")
    if not loaded:
        return
    default = settings.processing.model_copy(update={"bundle": next(iter(loaded))})
    settings = settings.model_copy(update={"processing": default})
    with tempfile.TemporaryDirectory(prefix="dicom-gam-doctor-") as folder, DecoderPool(settings) as decode:
        path = Path(folder) / "image.dcm"
        path.write_bytes(new_test_image())
        instance = read_instance(path)
        if isinstance(instance, Rejection):
            yield fail(f"the test image can't be read: {instance.message}", "reinstall the package pydicom-data")
            return
        pipeline = Pipeline(loaded, settings, decode)
        for name in loaded:
            began = time.monotonic()
            [result] = pipeline([Task(instance, datetime.now(UTC), bundle=name)])
            yield _judged(name, result, time.monotonic() - began)


def check_sent_image(case: Case) -> Iterator[Finding]:
    """A test image is sent to the running node, and its job is waited for."""
    title, database = admitted_title(case), case.database
    if not case.runs or database is None or case.settings.node.port == 0:
        yield fail("no test image was sent: the node does not run on a fixed port", "start it, then try again")
        return
    if title is None:
        remedy = f"add a caller DOCTOR with host {itself(case).host} under [[access.callers]] for the time of the test"
        yield fail("no test image was sent: access.callers lets nobody in from this machine", remedy)
        return
    content = new_test_image()
    uid = str(dcmread(io.BytesIO(content), stop_before_pixels=True).SOPInstanceUID)
    answer = next(send(itself(case), title, [content]), None)
    if answer is None or not answer.stored:
        words = "no answer" if answer is None else answer.words
        yield fail(f"the node did not take the test image: {words}", "see its log")
        return
    yield ok(f"the node took a test image of patient {TEST_PATIENT}, SOP Instance UID {uid}")
    deadline = time.monotonic() + RESULT_WAIT_S
    job = find_job(database, uid)
    while (job is None or job.state in OPEN_JOB_STATES) and time.monotonic() < deadline:
        time.sleep(0.2)
        job = find_job(database, uid)
    if job is None or job.state in OPEN_JOB_STATES:
        yield fail(f"it has no result after {RESULT_WAIT_S:.0f} s", "see the node's log for what its worker does")
    elif job.state is JobState.SKIPPED:
        yield warn("the rules want no result of it", "see: dicom-gam rules test FILE")
    elif job.state is not JobState.DONE:
        yield fail(f"its job {job.job_id} ended as {job.state}: {job.message}", "see the node's log")
    else:
        sent = ", ".join(f"{count} {state}" for state, count in job.deliveries.items()) or "none"
        yield ok(f"its job {job.job_id} ended with the verdict {job.outcome}; deliveries: {sent}")


def new_test_image() -> bytes:
    """A chest radiograph as a Part 10 file under fresh UIDs, of a patient that can't be taken for a real one."""
    found = get_testdata_file(TEST_FILE, download=False)
    if not isinstance(found, str):
        msg = f"the test image {TEST_FILE} is missing: reinstall the package pydicom-data"
        raise DicomGamError(msg)
    ds: FileDataset = dcmread(found)
    for element in list(ds):
        if element.keyword not in _KEPT:
            del ds[element.tag]
    now = datetime.now().astimezone()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(None)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = TEST_PATIENT, "DICOM_GAM_DOCTOR", "", "O"
    ds.StudyDate, ds.StudyTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyDescription, ds.SeriesNumber, ds.InstanceNumber = "dicom-gam doctor: a test, no patient", "1", "1"
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _for_one_image(settings: Settings) -> Settings:
    """The node's settings with one decoder process, and without rules, which may want no result of such an image."""
    decoding = settings.decoding.model_copy(update={"processes": min(1, settings.decoding.processes)})
    return settings.model_copy(update={"decoding": decoding, "rules": ()})


def _judged(name: str, result: AIResult, seconds: float) -> Finding:
    took = f"in {seconds:.1f} s"
    if result.error is not None:
        return fail(f"{name}: the test image could not be processed: {result.error}", "report this defect")
    if result.rejection is not None:
        return fail(f"{name}: a sound test image was refused: {result.rejection.message}", "compare [intake] with it")
    if result.skipped is not None or result.verification is None or result.prediction is None:
        return warn(f"{name}: the test image was skipped: {result.skipped}", "see: dicom-gam rules test FILE")
    defects = check_results([item.content for item in result.objects])
    if defects:
        told = f"{defects[0].name} at {defects[0].place}"
        return fail(f"{name}: the results of the test image would not be sent: {told}", "report this defect")
    verdict, label = result.verification.verdict.value, result.prediction.label
    objects = " and ".join(item.role for item in result.objects)
    return ok(f"{name}: a chest radiograph became {label}, verdict {verdict}, {objects} encoded {took}; nothing sent")

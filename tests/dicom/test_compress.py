"""Overlays in JPEG-LS: the same pixels in fewer bytes, for who accepts them, and for nobody else."""

from __future__ import annotations

import io
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless

from dicom_gam.dicom.scu.compress import can_be_jpeg_ls, compress_to_jpeg_ls
from dicom_gam.dicom.scu.sender import send
from dicom_gam.records import Verdict
from dicom_gam.sections import Destination
from tests.dicom.example_results import dx_source, encoded
from tests.end_to_end.peers import Orthanc, free_port, program, wait_for

# pynetdicom leaves the socket of a refused connection to the garbage collector (transport.py, _shutdown_socket).
pytestmark = [
    pytest.mark.requirement("RES-21"),
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
]

COMPRESSED = "stored (status 0000); compressed from Explicit VR Little Endian as JPEG-LS Lossless Image Compression"


@pytest.fixture(scope="module")
def report_and_overlay():
    """Both as they lie in the outbox."""
    objects = {result.role: result.content for result in encoded(dx_source(), Verdict.PASS)}
    return objects["sr"], objects["overlay"]


@pytest.fixture
def overlay(report_and_overlay):
    return dcmread(io.BytesIO(report_and_overlay[1]))


def destination(port, jpeg_ls=True):
    return Destination(name="archive", ae_title="PACS", host="127.0.0.1", port=port, timeout_s=5, jpeg_ls=jpeg_ls)


@contextmanager
def storescp(folder, *options):
    """DCMTK's archive; what it got lies in `folder`."""
    port = free_port()
    command = [program("storescp"), *options, "-aet", "PACS", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_open(port), what="storescp's start")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def is_open(port):
    ready = subprocess.run([program("echoscu"), "-aec", "PACS", "127.0.0.1", str(port)], capture_output=True)
    return ready.returncode == 0


def by_class(folder):
    return {dcmread(path).SOPClassUID: path for path in folder.iterdir()}


def dcmtk_pixels(path):
    """What DCMTK's JPEG-LS decoder makes of a file."""
    plain = path.with_suffix(".plain")
    subprocess.run([program("dcmdjpls"), str(path), str(plain)], check=True, capture_output=True)
    return dcmread(plain).pixel_array


def test_an_archive_that_accepts_jpeg_ls_gets_the_overlay_so_with_the_same_pixels(tmp_path, report_and_overlay):
    report, overlay = report_and_overlay
    with storescp(tmp_path, "+xt") as port:
        answers = list(send(destination(port), "DICOM_GAM", [report, overlay]))
    assert [answer.words for answer in answers] == ["stored (status 0000)", COMPRESSED]
    before = dcmread(io.BytesIO(overlay))
    path = by_class(tmp_path)[before.SOPClassUID]
    got = dcmread(path)
    assert got.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert path.stat().st_size < len(overlay)
    np.testing.assert_array_equal(got.pixel_array, before.pixel_array)
    np.testing.assert_array_equal(dcmtk_pixels(path), before.pixel_array)
    complaints = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True)
    assert "Error" not in complaints.stdout + complaints.stderr
    del got.PixelData, before.PixelData
    assert got == before  # the same UID, RGB, lossy attributes and all the rest


@pytest.mark.parametrize(
    ("options", "jpeg_ls", "expected"),
    [
        ((), True, ExplicitVRLittleEndian),  # DCMTK's default: native syntaxes alone
        (("+xi",), True, ImplicitVRLittleEndian),
        (("+xt",), False, ExplicitVRLittleEndian),
    ],
)
def test_where_jpeg_ls_is_not_accepted_or_not_wanted_the_overlay_goes_uncompressed(
    tmp_path, report_and_overlay, options, jpeg_ls, expected
):
    overlay = report_and_overlay[1]
    with storescp(tmp_path, *options) as port:
        (answer,) = send(destination(port, jpeg_ls), "DICOM_GAM", [overlay])
    assert answer.stored
    assert "JPEG" not in answer.words
    (path,) = tmp_path.iterdir()
    got = dcmread(path)
    assert got.file_meta.TransferSyntaxUID == expected
    assert got.PixelData == dcmread(io.BytesIO(overlay)).PixelData


def test_orthanc_shows_the_compressed_overlay_with_the_same_pixels(tmp_path, report_and_overlay):
    overlay = report_and_overlay[1]
    before = dcmread(io.BytesIO(overlay))
    orthanc = Orthanc(tmp_path / "orthanc", free_port())
    try:
        (answer,) = send(destination(orthanc.dicom), "DICOM_GAM", [overlay])
        (instance,) = orthanc.get("/instances")
        file = orthanc.call(f"/instances/{instance}/file")
        picture = orthanc.call(f"/instances/{instance}/preview")
    finally:
        orthanc.stop()
    assert answer.words == COMPRESSED
    got = dcmread(io.BytesIO(file))
    assert (got.file_meta.TransferSyntaxUID, got.SOPInstanceUID) == (JPEGLSLossless, before.SOPInstanceUID)
    np.testing.assert_array_equal(got.pixel_array, before.pixel_array)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")), before.pixel_array)


@pytest.mark.parametrize(
    ("shape", "photometric_interpretation"),
    [((5, 7, 3), "RGB"), ((4, 6, 3), "RGB"), ((1, 1), "MONOCHROME2"), ((3, 5), "MONOCHROME1")],
)
def test_any_size_survives_padded_to_even_length_or_not(tmp_path, overlay, shape, photometric_interpretation):
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    overlay.Rows, overlay.Columns = shape[:2]
    overlay.SamplesPerPixel, overlay.PhotometricInterpretation = (
        shape[2] if len(shape) == 3 else 1,
        photometric_interpretation,
    )
    if len(shape) == 2:
        del overlay.PlanarConfiguration
    overlay.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    assert can_be_jpeg_ls(overlay)
    compress_to_jpeg_ls(overlay)
    path = tmp_path / "overlay.dcm"
    overlay.save_as(path)
    np.testing.assert_array_equal(dcmread(path).pixel_array, pixels)
    np.testing.assert_array_equal(dcmtk_pixels(path), pixels)


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["DERIVED", "SECONDARY"]},  # somebody else's
        {"ImageType": "GRADCAM"},
        {"PhotometricInterpretation": "YBR_FULL"},  # its colours would have to be converted
        {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1},
        {"SamplesPerPixel": 1},
        {"PlanarConfiguration": 1},
        {"BitsAllocated": 16},
        {"BitsStored": 7},
        {"PixelRepresentation": 1},
        {"NumberOfFrames": 2},
        {"PixelData": b"\0" * 10},
        {"Rows": 0, "PixelData": b""},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"},
    ],
)
def test_what_is_no_plain_overlay_of_ours_is_left_alone(overlay, changes):
    assert can_be_jpeg_ls(overlay)
    for keyword, value in changes.items():
        setattr(overlay, keyword, value)
    assert not can_be_jpeg_ls(overlay)


def test_what_is_no_image_or_lies_in_another_syntax_is_left_alone(report_and_overlay, overlay):
    assert not can_be_jpeg_ls(dcmread(io.BytesIO(report_and_overlay[0])))
    assert not can_be_jpeg_ls(dcmread(get_testdata_file("CT_small.dcm")))
    overlay.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert not can_be_jpeg_ls(overlay)


def test_jpeg_ls_for_dicomweb_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"jpeg_ls is DIMSE only.*remove it, or give ae_title, host and port"):
        Destination(name="web", url="http://pacs/dicom-web", jpeg_ls=True)

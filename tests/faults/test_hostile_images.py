"""Images made to do harm, sent to `dicom-gam serve` with its real receivers, decoder processes and bundle."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom.uid as syntaxes
import pytest
from openjpeg.utils import encode_array
from pydicom import dcmread
from pydicom.encaps import encapsulate

from tests.dicom.radiograph_files import header, save, standard_pixels, write
from tests.faults.nodes import MB
from tests.faults.serving import ServeProcess
from tests.faults.table import fault
from tests.service.fakes import uids, until


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    node = ServeProcess(tmp_path_factory.mktemp("serve"), decoding={"memory_bytes": 2 * 1024 * MB})
    try:
        node.start()
        yield node
    finally:
        node.kill()


def final_job(service, uid):
    def ended():
        job = service.job(uid)
        return job if job is not None and job.finished_at is not None else None

    until(ended, 60)
    return ended()


def quarantined(service, path: Path, *reasons: str) -> str:
    """Send it; it must be stored, and refused with one of the reasons, without a result."""
    uid, status = service.send(path)
    assert status == 0x0000
    job = final_job(service, uid)
    assert job.state == "rejected", f"{job.state}: {job.message}"
    assert job.reason in reasons, job.message
    assert job.message.count(".") >= 1
    assert "secret" not in job.message.lower()
    assert job.instance.path.is_file()
    with service.open_store() as store:
        assert store.outbox.deliveries(job.job_id) == []
    assert not (job.result or {}).get("outputs")
    return f"stored, quarantined: `{job.reason}`"


def alive(service, folder: Path) -> None:
    """The service still makes a result of a sound image; every test ends with it."""
    (uid,) = uids(1, str(folder))
    sent, status = service.send(write(folder / "sound.dcm", standard_pixels(), SOPInstanceUID=uid))
    assert (sent, status) == (uid, 0x0000)
    assert final_job(service, uid).state == "done"


def fresh(path: Path, stored=None, syntax: str = syntaxes.ExplicitVRLittleEndian, **attributes) -> Path:
    (uid,) = uids(1, str(path))
    return write(path, standard_pixels() if stored is None else stored, syntax, SOPInstanceUID=uid, **attributes)


def test_a_sound_image_becomes_a_result(service, tmp_path):
    alive(service, tmp_path)


@pytest.mark.requirement("DEC-13")
@fault("a data set of garbage")
@pytest.mark.parametrize("content", [b"\xff" * 5000, b"MZ\x90" * 999, bytes(4096)])
def test_garbage_is_never_classified(service, tmp_path, observed, content):
    path = fresh(tmp_path / "garbage.dcm")
    file = path.read_bytes()
    path.write_bytes(file[: 144 + int.from_bytes(file[140:144], "little")] + content)
    observed(quarantined(service, path, "unreadable", "not-accepted-sop-class", "invalid-attributes"))


@pytest.mark.requirement("DEC-03")
@fault("pixels cut short")
@pytest.mark.parametrize("syntax", [syntaxes.ExplicitVRLittleEndian, syntaxes.JPEGLosslessSV1, syntaxes.RLELossless])
def test_pixels_cut_short_are_refused(service, tmp_path, observed, syntax):
    path = fresh(tmp_path / "cut.dcm", None, syntax)
    content = path.read_bytes()
    path.write_bytes(content[: -(len(content) // 3)])
    told = quarantined(service, path, "truncated-pixels", "undecodable-pixels", "unreadable")
    observed(f"{told} ({syntaxes.UID(syntax).name.split(',')[0]})")


@pytest.mark.requirement("DEC-09")
@fault("no bytes of pixels")
def test_an_empty_pixel_data_element_is_refused(service, tmp_path, observed):
    path = fresh(tmp_path / "empty.dcm")
    ds = dcmread(path)
    ds.PixelData = b""
    observed(quarantined(service, save(path, ds), "truncated-pixels", "no-pixels"))


@pytest.mark.requirement("DEC-09")
@fault("no Pixel Data element")
def test_an_image_without_pixels_is_refused(service, tmp_path, observed):
    path = fresh(tmp_path / "none.dcm")
    ds = dcmread(path)
    del ds.PixelData
    observed(quarantined(service, save(path, ds), "no-pixels"))


@pytest.mark.requirement("DEC-05")
@fault("65,535 Rows and Columns for few pixels")
def test_huge_rows_and_columns_cost_no_memory(service, tmp_path, observed):
    with service.peak_memory() as peak:
        told = quarantined(service, fresh(tmp_path / "a", Rows=65535, Columns=65535), "absurd-dimensions")
    assert peak.growth_bytes < 128 * MB
    observed(f"{told}; memory +<128 MB")


@pytest.mark.requirement("DEC-05")
@fault("2,147,483,647 Frames")
def test_a_huge_number_of_frames_costs_no_memory(service, tmp_path, observed):
    with service.peak_memory() as peak:
        told = quarantined(service, fresh(tmp_path / "a", NumberOfFrames="2147483647"), "multi-frame")
    assert peak.growth_bytes < 128 * MB
    observed(f"{told}; memory +<128 MB")


@pytest.mark.requirement("DEC-11")
@fault("an unknown character set")
@pytest.mark.parametrize("charset", ["ISO_IR 999", "utf-8\\ISO 2022 IR 6"])
def test_an_image_in_an_unknown_character_set_is_quarantined(service, tmp_path, observed, charset):
    path = fresh(tmp_path / "a", PatientName="Yamada^Tarou=XXXX^YYYY")
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00UI", 300)
    value = charset.encode() + b" " * (len(charset) % 2)
    content = content.replace(b"XXXX^YYYY", b"\xff\x1b$B;3^\xc3\xc4")
    inserted = struct.pack("<HH2sH", 8, 5, b"CS", len(value)) + value
    path.write_bytes(content[:start] + inserted + content[start:])
    observed(quarantined(service, path, "invalid-attributes"))


@pytest.mark.requirement("DEC-06")
@fault("a deflate bomb, 2.3 MB that become 1.1 GB")
def test_a_deflate_bomb_is_refused_within_the_memory_of_a_decoder(service, tmp_path, observed):
    path = fresh(tmp_path / "bomb.dcm", None, syntaxes.DeflatedExplicitVRLittleEndian)
    file = path.read_bytes()
    meta_end = 144 + int.from_bytes(file[140:144], "little")
    dataset = zlib.decompress(file[meta_end:], -zlib.MAX_WBITS)
    start = dataset.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    path.write_bytes(file[:meta_end] + bomb(dataset[:start] + struct.pack("<L", 1100 * MB), 1100))
    assert path.stat().st_size < 2_400_000
    with service.peak_memory() as peak:
        told = quarantined(service, path, "absurd-dimensions", "too-costly")
    assert peak.growth_bytes < 512 * MB
    alive(service, tmp_path)
    observed(f"{told}; memory +<512 MB; the next image becomes a result")


def bomb(head: bytes, megabytes: int) -> bytes:
    """Deflate `head` and then zeros; each MB of them is the same, so it is compressed but once."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = deflater.compress(head) + deflater.flush(zlib.Z_FULL_FLUSH)
    zeros = deflater.compress(bytes(MB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return start + zeros * megabytes + deflater.flush()


@pytest.mark.requirement("DEC-06")
@fault("sequences nested 5,000 deep")
@pytest.mark.parametrize("defined", [False, True])
def test_deep_nesting_is_refused(service, tmp_path, observed, defined):
    path = fresh(tmp_path / "deep.dcm")
    file = path.read_bytes()
    start = file.index(b"\x28\x00\x02\x00US")
    if defined:
        nested = b""
        for _ in range(5000):
            inner = struct.pack("<HHL", 0xFFFE, 0xE000, len(nested)) + nested
            nested = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, len(inner)) + inner
    else:
        nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    path.write_bytes(file[:start] + nested + file[start:])
    lengths = "defined" if defined else "undefined"
    told = quarantined(service, path, "unreadable", "too-costly")
    alive(service, tmp_path)
    observed(f"{told} ({lengths} lengths); the next image becomes a result")


def huge_stream() -> bytes:
    """A JPEG 2000 code stream whose SIZ marker (ISO 15444-1 A.5.1) says 65,535 x 65,535."""
    stream = bytearray(encode_array(np.zeros((32, 32), np.uint16), photometric_interpretation=2, use_mct=False))
    size = stream.index(b"\xff\x51")
    for place in (size + 6, size + 10, size + 22, size + 26):  # Xsiz, Ysiz, XTsiz, YTsiz
        stream[place : place + 4] = struct.pack(">L", 65535)
    return bytes(stream)


@pytest.mark.requirement("DEC-05")
@pytest.mark.parametrize(
    "both",
    [
        pytest.param(False, marks=fault("JPEG 2000 of 65,535 × 65,535 in the code stream")),
        pytest.param(True, marks=fault("JPEG 2000 of 65,535 × 65,535 in header and code stream")),
    ],
)
def test_a_huge_code_stream_costs_no_memory(service, tmp_path, observed, both):
    (uid,) = uids(1, f"j2k {both}")
    size = {"Rows": 65535, "Columns": 65535} if both else {}
    ds = header(standard_pixels(), SOPInstanceUID=uid, **size)
    ds.PixelData = encapsulate([huge_stream()])
    ds["PixelData"].VR = "OB"
    path = save(tmp_path / "a.dcm", ds, syntaxes.JPEG2000Lossless)
    with service.peak_memory() as peak:
        told = quarantined(service, path, "absurd-dimensions", "undecodable-pixels", "truncated-pixels")
    assert peak.growth_bytes < 128 * MB
    observed(f"{told}; memory +<128 MB")

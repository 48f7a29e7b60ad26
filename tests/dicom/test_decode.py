"""Every transfer syntax gives the right pixels or a refusal, and damage is always a refusal."""

import hashlib
import re
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from blake3 import blake3
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

from dicom_gam.config import IntakeSettings
from dicom_gam.dicom.image.acceptance import ACCEPTED_TRANSFER_SYNTAXES, NATIVE_TRANSFER_SYNTAXES
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.image.stored_pixels import CODECS
from dicom_gam.records import Radiograph, Reason, ReceivedInstance
from tests.dicom.radiograph_files import (
    COMPRESSED,
    HTJ2K_STREAM,
    LOSSY,
    NATIVE,
    decode,
    frame_of,
    header,
    pixels_of,
    reason_of,
    save,
    standard_pixels,
    with_frame,
    write,
)

DAMAGED = {Reason.TRUNCATED_PIXELS, Reason.UNDECODABLE_PIXELS}
JPEG_2000 = (uids.JPEG2000Lossless, uids.JPEG2000, uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K)
JPEG = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEGLossless, uids.JPEGLosslessSV1)
WINDOW = {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"}
LOSSLESS = [syntax for syntax in (*NATIVE, *COMPRESSED) if syntax not in LOSSY]


def name(value):
    return uids.UID(value).keyword if isinstance(value, str) else None


def written(folder: Path, syntax: str, **attributes) -> Path:
    return write(folder / "image.dcm", standard_pixels(), syntax, **attributes)


# ---------------------------------------------------------------- right pixels


@pytest.mark.requirement("DEC-01")
@pytest.mark.parametrize("syntax", LOSSLESS, ids=name)
def test_a_lossless_image_decodes_to_its_very_values(tmp_path, syntax):
    pixels = pixels_of(written(tmp_path, syntax, **WINDOW))
    assert np.allclose(pixels, standard_pixels() / 4095, atol=1e-6)


def test_the_same_image_has_the_same_digest_in_every_lossless_syntax(tmp_path):
    digests = {decode(written(tmp_path, syntax)).pixel_sha256 for syntax in LOSSLESS}
    assert len(digests) == 1


def test_an_image_that_differs_in_one_value_has_another_digest(tmp_path):
    other = standard_pixels()
    other[5, 5] += 1
    digests = {decode(write(tmp_path / "a", stored)).pixel_sha256 for stored in (standard_pixels(), other)}
    assert len(digests) == 2


def test_the_digest_is_of_shape_type_and_little_endian_bytes(tmp_path):
    expected = hashlib.sha256(b"40 36 <u2\n" + standard_pixels().astype("<u2").tobytes()).hexdigest()
    assert decode(written(tmp_path, uids.ExplicitVRBigEndian)).pixel_sha256 == expected


@pytest.mark.requirement("DEC-01")
@pytest.mark.parametrize("syntax", LOSSY, ids=name)
def test_a_lossy_image_decodes_as_another_implementation_decodes_it(tmp_path, syntax):
    # DCMTK for JPEG; for near-lossless JPEG-LS its own promise: no value is more than 2 off
    path = written(tmp_path, syntax, **(WINDOW if syntax == uids.JPEGLSNearLossless else {}))
    if syntax == uids.JPEGLSNearLossless:
        assert np.abs(pixels_of(path) * 4095 - standard_pixels()).max() <= 2.01
        return
    subprocess.run(["dcmdjpeg", str(path), str(tmp_path / "native.dcm")], check=True, timeout=60)
    assert np.array_equal(pixels_of(path), pixels_of(tmp_path / "native.dcm"))


@pytest.mark.requirement("DEC-01")
@pytest.mark.parametrize("syntax", [*NATIVE, uids.RLELossless, uids.JPEGLosslessSV1, uids.JPEGLSLossless], ids=name)
def test_signed_values_keep_their_sign(tmp_path, syntax):
    stored = standard_pixels().astype(np.int16) - 2048
    if syntax == uids.JPEGLSLossless:  # has no sign: the 16-bit codes are what is coded
        path = write(tmp_path / "a", stored.view(np.uint16), syntax, PixelRepresentation=1, BitsStored=16)
    else:
        path = write(tmp_path / "a", stored, syntax, BitsStored=16)
    expected = (stored - stored.min()) / np.ptp(stored)
    dataset = dcmread(path)
    dataset.WindowCenter, dataset.WindowWidth = (int(stored.max()) + int(stored.min())) / 2, int(np.ptp(stored))
    dataset.VOILUTFunction = "LINEAR_EXACT"
    dataset.save_as(path)
    assert np.allclose(pixels_of(path), expected, atol=1e-6)


@pytest.mark.parametrize("syntax", [*NATIVE, uids.RLELossless, uids.JPEGLSLossless], ids=name)
def test_eight_bit_images_of_odd_size_decode(tmp_path, syntax):
    stored = np.repeat(np.arange(15, dtype=np.uint8), 21).reshape(15, 21) * 17  # 0 to 238
    window = {"WindowCenter": 119, "WindowWidth": 238, "VOILUTFunction": "LINEAR_EXACT"}
    if syntax == uids.ExplicitVRBigEndian:  # VR OW: the bytes of each pair are exchanged
        dataset = header(stored, **window)
        dataset.PixelData = np.append(stored, 0).astype(np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
        dataset["PixelData"].VR = "OW"
        path = save(tmp_path / "a", dataset, syntax)
    else:
        path = write(tmp_path / "a", stored, syntax, **window)
    assert np.allclose(pixels_of(path), stored / 238, atol=1e-6)


def test_bits_above_bits_stored_have_no_meaning(tmp_path):
    stored = standard_pixels() | 0xF000  # retired overlays lie there
    assert np.allclose(pixels_of(write(tmp_path / "a", stored, **WINDOW)), standard_pixels() / 4095, atol=1e-6)


def test_values_that_a_lossy_coder_overshot_are_clipped_and_do_not_turn_black(tmp_path):
    path = write(tmp_path / "a", standard_pixels(), uids.JPEGLSNearLossless)
    dataset = dcmread(path)
    dataset.BitsStored, dataset.HighBit = 11, 10  # half of the values are larger than that
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 1023.5, 2047, "LINEAR_EXACT"
    dataset.save_as(path)
    assert pixels_of(path)[standard_pixels() > 2100].min() == 1


@pytest.mark.parametrize("image", ["RG1", "RG3"])
def test_the_lossless_forms_of_a_real_radiograph_are_one_image(image):
    digests = {decode(Path(get_testdata_file(f"{image}_{form}.dcm"))).pixel_sha256 for form in ("UNCR", "J2KR")}
    assert len(digests) == 1


@pytest.mark.requirement("DEC-01")
@pytest.mark.parametrize("image", ["RG1", "RG3"])
@pytest.mark.parametrize("form", ["UNCI", "UNCR", "J2KI", "J2KR"])
def test_a_real_radiograph_decodes_as_pydicom_and_the_standard_say(image, form):
    path = Path(get_testdata_file(f"{image}_{form}.dcm"))
    dataset = dcmread(path)
    center, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    shown = 1 - np.clip((dataset.pixel_array - (center - 0.5)) / (width - 1) + 0.5, 0, 1)  # both are MONOCHROME1
    result = decode(path, IntakeSettings())
    assert isinstance(result, Radiograph)
    assert np.abs(result.pixels - shown).max() < 1e-5
    assert "PixelData" not in result.dataset
    assert result.dataset.StudyInstanceUID == dataset.StudyInstanceUID


@pytest.mark.requirement("DEC-02")
def test_there_is_exactly_one_decoder_for_each_accepted_compressed_syntax():
    assert set(CODECS) | set(NATIVE_TRANSFER_SYNTAXES) == set(ACCEPTED_TRANSFER_SYNTAXES)
    assert set(COMPRESSED) == set(CODECS)


# ---------------------------------------------------------------- truncation


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_a_frame_cut_short_never_gives_pixels(tmp_path, syntax, part):
    path = written(tmp_path, syntax)
    stream = frame_of(path).rstrip(b"\0")
    with_frame(path, stream[: int(part * len(stream))])
    assert reason_of(path) in DAMAGED


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED], ids=name)
def test_a_file_cut_short_within_its_pixels_never_gives_pixels(tmp_path, syntax, part):
    path = written(tmp_path, syntax)
    file = path.read_bytes()
    start = file.find(b"\xe0\x7f\x10\x00") if syntax != uids.ExplicitVRBigEndian else file.find(b"\x7f\xe0\x00\x10")
    start = start + 12 if start > 0 else len(file) // 3  # deflated files show no tags
    path.write_bytes(file[: start + int(part * (len(file) - start))])
    assert reason_of(path) in DAMAGED


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("syntax", NATIVE, ids=name)
def test_uncompressed_pixels_cut_short_inside_a_whole_file_never_give_pixels(tmp_path, syntax, part):
    dataset = header(standard_pixels())
    kept = int(part * standard_pixels().nbytes) // 2 * 2
    dataset.PixelData = standard_pixels().tobytes()[:kept]
    dataset["PixelData"].VR = "OW"
    assert reason_of(save(tmp_path / "a", dataset, syntax)) is Reason.TRUNCATED_PIXELS


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_a_frame_cut_short_whose_end_marker_was_put_back_never_gives_pixels(tmp_path, syntax, part):
    path = written(tmp_path, syntax)
    stream = frame_of(path).rstrip(b"\0")
    kept = int(part * (len(stream) - 2))
    cut = bytearray(stream[:kept] + (b"" if syntax == uids.RLELossless else b"\xff\xd9"))
    tile_part = cut.find(b"\xff\x90\x00\x0a")  # JPEG 2000: with its length put right
    if syntax in JPEG_2000 and tile_part > 0:
        cut[tile_part + 6 : tile_part + 10] = (kept - tile_part).to_bytes(4, "big")
    with_frame(path, bytes(cut))
    assert reason_of(path) in DAMAGED


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("syntax", JPEG, ids=name)
def test_a_jpeg_frame_that_lost_a_piece_of_its_middle_never_gives_pixels(tmp_path, syntax):
    path = written(tmp_path, syntax)
    stream = frame_of(path).rstrip(b"\0")
    data = stream.find(b"\xff\xda") + 10
    middle = (data + len(stream)) // 2
    with_frame(path, stream[:middle] + stream[middle + (len(stream) - data) // 4 :])
    assert reason_of(path) in DAMAGED


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("missing", [1, 2, 3, 4, 8, 9])
@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED], ids=name)
def test_a_file_that_lacks_its_last_bytes_never_gives_pixels(tmp_path, syntax, missing):
    path = written(tmp_path, syntax)
    if syntax == uids.DeflatedExplicitVRLittleEndian:
        missing += 1  # its last byte may be padding
    path.write_bytes(path.read_bytes()[:-missing])
    assert reason_of(path) in DAMAGED


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_no_cut_of_a_frame_at_any_even_length_gives_pixels(tmp_path, syntax):
    path = written(tmp_path, syntax)
    stream = frame_of(path)
    whole = len(stream.rstrip(b"\0\xff"))
    for length in np.linspace(2, whole - 2, 40).astype(int) // 2 * 2:
        with_frame(path, stream[:length])
        assert reason_of(path) in DAMAGED, length


@pytest.mark.requirement("DEC-03")
def test_every_second_half_of_a_real_image_is_refused(tmp_path):
    for image in ("RG1_J2KI.dcm", "RG3_J2KR.dcm"):
        path = tmp_path / image
        path.write_bytes(Path(get_testdata_file(image)).read_bytes())
        stream = frame_of(path)
        with_frame(path, stream[: len(stream) // 2])
        assert reason_of(path, IntakeSettings()) is Reason.TRUNCATED_PIXELS


# ---------------------------------------------------------------- lies and malformed streams


@pytest.mark.parametrize("syntax", [s for s in COMPRESSED if s != uids.RLELossless], ids=name)
@pytest.mark.parametrize(("rows", "columns"), [(36, 40), (40, 35), (39, 36), (80, 36)])
def test_a_stream_of_another_size_than_rows_and_columns_is_refused_before_decoding(tmp_path, syntax, rows, columns):
    path = written(tmp_path, syntax)
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.save_as(path)
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


@pytest.mark.parametrize(("rows", "columns"), [(41, 36), (40, 35), (20, 36)])
def test_an_rle_frame_of_another_size_than_rows_and_columns_is_refused(tmp_path, rows, columns):
    path = written(tmp_path, uids.RLELossless)
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.save_as(path)
    assert reason_of(path) in DAMAGED


@pytest.mark.requirement("DEC-05")
def test_a_jpeg_2000_stream_that_claims_65535_squared_is_refused_without_allocating(tmp_path):
    path = written(tmp_path, uids.JPEG2000Lossless)
    stream = bytearray(frame_of(path))
    stream[8:16] = (65535).to_bytes(4, "big") * 2  # Xsiz, Ysiz
    with_frame(path, bytes(stream))
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


def test_a_jpeg_2000_stream_that_lacks_a_tile_is_refused(tmp_path):
    path = written(tmp_path, uids.JPEG2000Lossless)
    stream = bytearray(frame_of(path))
    stream[24:28] = (20).to_bytes(4, "big")  # XTsiz: two tiles across where one is there
    with_frame(path, bytes(stream))
    assert reason_of(path) is Reason.TRUNCATED_PIXELS


def test_a_jpeg_2000_file_in_boxes_is_refused(tmp_path):
    path = written(tmp_path, uids.JPEG2000Lossless)
    with_frame(path, b"\x00\x00\x00\x0cjP  \r\n\x87\n" + frame_of(path))
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


@pytest.mark.requirement("DEC-02")
def test_a_12_bit_jpeg_with_a_malformed_scan_header_is_refused_and_not_guessed():
    stream = frame_of(Path(get_testdata_file("JPEG-lossy.dcm")))
    assert stream[stream.find(b"\xff\xda") + 7 :][:3] == b"\0\0\0"  # Ss, Se, AhAl: Se is not 63
    dataset_path = Path(get_testdata_file("JPEG-lossy.dcm"))
    anything = IntakeSettings(extra_sop_classes=(uids.SecondaryCaptureImageStorage,))
    assert reason_of(dataset_path, anything) is Reason.UNDECODABLE_PIXELS


def test_the_same_12_bit_jpeg_with_a_right_scan_header_is_decoded():
    anything = IntakeSettings(extra_sop_classes=(uids.SecondaryCaptureImageStorage,))
    assert isinstance(decode(Path(get_testdata_file("JPGExtended.dcm")), anything), Radiograph)


@pytest.mark.parametrize("syntax", JPEG, ids=name)
def test_a_jpeg_stream_that_goes_on_after_its_end_is_refused(tmp_path, syntax):
    path = written(tmp_path, syntax)
    stream = frame_of(path).rstrip(b"\0")
    with_frame(path, stream * 2)
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


RESTART_MARKERS = [bytes((0xFF, 0xD0 + number % 8)) for number in range(40)]


def with_restart_intervals(path: Path) -> Path:
    """A JPEG Baseline image of 320 x 8 pixels in 40 restart intervals, by libjpeg."""
    image = Image.fromarray(np.arange(320 * 8, dtype=np.uint16).reshape(320, 8).astype(np.uint8))
    coded = BytesIO()
    image.save(coded, "jpeg", restart_marker_blocks=1)
    dataset = header(np.asarray(image))
    dataset.PixelData = encapsulate([coded.getvalue()])
    dataset["PixelData"].VR = "OB"
    return save(path, dataset, uids.JPEGBaseline8Bit)


def test_a_jpeg_image_in_restart_intervals_is_decoded(tmp_path):
    path = with_restart_intervals(tmp_path / "a")
    assert all(marker in frame_of(path) for marker in RESTART_MARKERS)
    assert isinstance(decode(path), Radiograph)


@pytest.mark.parametrize(("first", "last"), [(3, 4), (3, 11), (0, 16), (30, 38)])
def test_a_jpeg_image_that_lacks_restart_intervals_never_gives_pixels(tmp_path, first, last):
    # eight of them, or any multiple, leave the markers in their order: then it is their number that tells
    path = with_restart_intervals(tmp_path / "a")
    intervals = re.split(rb"(?=\xff[\xd0-\xd7])", frame_of(path))
    assert len(intervals) == 40
    with_frame(path, b"".join(intervals[: first + 1] + intervals[last + 1 :]))
    assert reason_of(path) in DAMAGED


def test_a_jpeg_image_with_restart_markers_that_its_header_does_not_announce_is_refused(tmp_path):
    path = written(tmp_path, uids.JPEGLosslessSV1)
    stream = frame_of(path)
    middle = stream.rfind(b"\xff\xd9") - 20
    assert 0xFF not in stream[middle - 1 : middle + 1]
    with_frame(path, stream[:middle] + b"\xff\xd0" + stream[middle:])
    assert reason_of(path) in DAMAGED


@pytest.mark.parametrize("padding", [b"\0", b"\xff", b"\0\0\0\0"])
@pytest.mark.parametrize("syntax", [s for s in COMPRESSED if s != uids.RLELossless], ids=name)
def test_padding_after_the_end_marker_is_harmless(tmp_path, syntax, padding):
    path = written(tmp_path, syntax)
    with_frame(path, frame_of(path).rstrip(b"\0") + padding)
    assert isinstance(decode(path), Radiograph)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=name)
def test_a_stream_of_another_coding_is_refused(tmp_path, syntax):
    other = HTJ2K_STREAM if syntax in (*JPEG, uids.RLELossless) else b"\xff\xd8\xff\xe0" + bytes(80)
    path = with_frame(written(tmp_path, syntax), other)
    assert reason_of(path) in DAMAGED


@pytest.mark.parametrize("syntax", [s for s in COMPRESSED if s != uids.RLELossless], ids=name)
def test_a_frame_in_several_fragments_is_put_together(tmp_path, syntax):
    path = written(tmp_path, syntax)
    before = decode(path).pixel_sha256
    stream = frame_of(path)
    middle = len(stream) // 4 * 2
    file = path.read_bytes()
    one = b"\xfe\xff\x00\xe0" + len(stream).to_bytes(4, "little") + stream
    two = b"".join(
        b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part for part in (stream[:middle], stream[middle:])
    )
    assert one in file
    path.write_bytes(file.replace(one, two))
    assert decode(path).pixel_sha256 == before


def test_compressed_pixels_in_an_uncompressed_syntax_are_refused(tmp_path):
    path = written(tmp_path, uids.JPEGLSLossless)
    file = path.read_bytes()
    path.write_bytes(file.replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.1\0\0\0"))
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


def test_uncompressed_pixels_in_a_compressed_syntax_are_refused(tmp_path):
    path = written(tmp_path, uids.ExplicitVRLittleEndian)
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uids.JPEGLSLossless
    file = path.read_bytes().replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.4.80")
    path.write_bytes(file)
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


@pytest.mark.parametrize("excess", [100, 36 * 2 * 40])
def test_more_pixels_than_rows_and_columns_make_are_refused(tmp_path, excess):
    dataset = header(standard_pixels())
    dataset.PixelData = standard_pixels().tobytes() + b"\x01" * excess
    dataset["PixelData"].VR = "OW"
    assert reason_of(save(tmp_path / "a", dataset)) is Reason.UNDECODABLE_PIXELS


def test_a_few_zero_bytes_after_the_pixels_are_padding(tmp_path):
    dataset = header(standard_pixels())
    dataset.PixelData = standard_pixels().tobytes() + bytes(16)
    dataset["PixelData"].VR = "OW"
    assert isinstance(decode(save(tmp_path / "a", dataset)), Radiograph)


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("syntax", [*NATIVE, uids.JPEGLSLossless], ids=name)
def test_an_instance_says_who_it_is_and_what_its_bytes_are(tmp_path, syntax):
    path = written(tmp_path, syntax)
    instance = read_instance(path, calling_ae_title="CT1", called_ae_title="NODE", peer_address="10.0.0.1")
    assert instance == ReceivedInstance(
        path=path,
        sop_class_uid=uids.ComputedRadiographyImageStorage,
        sop_instance_uid="1.2.826.0.1.3",
        transfer_syntax_uid=syntax,
        digest=blake3(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        calling_ae_title="CT1",
        called_ae_title="NODE",
        peer_address="10.0.0.1",
    )

"""Files made to do harm, and files that are none: always a refusal, never an exception, never much memory."""

import re
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from dicom_gam.errors import StorageError
from dicom_gam.records import Radiograph, Reason, ReceivedInstance, Rejection
from tests.dicom.radiograph_files import (
    INTAKE,
    NATIVE,
    decode,
    deflated,
    frame_of,
    inflated,
    reason_of,
    standard_pixels,
    with_frame,
    write,
)


def written(folder: Path, syntax: str, **attributes) -> Path:
    return write(folder / "image.dcm", standard_pixels(), syntax, **attributes)


# ---------------------------------------------------------------- bombs and files that are none


@pytest.mark.requirement("DEC-06")
def test_a_deflate_bomb_of_pixels_is_refused(tmp_path):
    dataset = inflated(written(tmp_path, uids.ExplicitVRLittleEndian))
    start = dataset.find(b"\xe0\x7f\x10\x00OW\0\0") + 8
    bomb = dataset[:start] + (200 * 1024**2).to_bytes(4, "little") + bytes(200 * 1024**2)
    assert reason_of(deflated(tmp_path / "bomb", bomb)) is Reason.ABSURD_DIMENSIONS


@pytest.mark.requirement("DEC-06")
def test_an_rle_frame_longer_than_any_coding_of_its_pixels_is_refused(tmp_path):
    path = written(tmp_path, uids.RLELossless)
    stream = frame_of(path)
    with_frame(path, stream[:64] + b"\x80" * 10_000 + stream[64:])
    assert reason_of(path) is Reason.UNDECODABLE_PIXELS


@pytest.mark.requirement("DEC-06")
def test_a_deflate_bomb_in_the_header_is_refused(tmp_path):
    dataset = inflated(written(tmp_path, uids.ExplicitVRLittleEndian))
    start = dataset.find(b"\x28\x00\x02\x00US")  # an element of 100 MiB before group 0028
    blob = b"\x09\x00\x01\x10OB\0\0" + (100 * 1024**2).to_bytes(4, "little") + bytes(100 * 1024**2)
    path = deflated(tmp_path / "bomb", dataset[:start] + blob + dataset[start:])
    assert path.stat().st_size < 200_000
    assert reason_of(path) is Reason.ABSURD_DIMENSIONS


def test_a_large_deflated_image_is_not_mistaken_for_a_bomb(tmp_path):
    stored = np.zeros((6000, 6000), np.uint16)  # 72 MB: more than is inflated at first
    stored[0, 0] = 9
    assert isinstance(decode(write(tmp_path / "a", stored, uids.DeflatedExplicitVRLittleEndian)), Radiograph)


@pytest.mark.requirement("DEC-05")
def test_a_file_larger_than_any_accepted_image_is_not_even_read(tmp_path):
    path = written(tmp_path, uids.ExplicitVRLittleEndian)
    with path.open("r+b") as file:
        file.truncate(2 * 1024**3)  # sparse
    instance = ReceivedInstance(path, "1.2", "1.2", uids.ExplicitVRLittleEndian, "", 0)
    result = decode_radiograph(instance, INTAKE)
    assert isinstance(result, Rejection)
    assert result.reason is Reason.ABSURD_DIMENSIONS


@pytest.mark.requirement("DEC-06")
def test_5000_nested_sequences_are_refused_or_left_out_but_never_raise(tmp_path):
    path = written(tmp_path, uids.ExplicitVRLittleEndian)
    file = path.read_bytes()
    start = file.find(b"\x28\x00\x02\x00US")
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(file[:start] + opening * 5000 + file[start:])
    assert reason_of(path) is Reason.UNREADABLE


@pytest.mark.requirement("DEC-13")
@pytest.mark.parametrize(
    "content", [b"", b"DICM", b"\x89PNG" + bytes(200), bytes(4000), bytes(128) + b"DICM", bytes(128) + b"DICM\x02"]
)
def test_a_file_that_is_not_dicom_is_unreadable(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    assert reason_of(path) is Reason.UNREADABLE


def test_a_file_without_a_transfer_syntax_is_unreadable():
    assert reason_of(Path(get_testdata_file("meta_missing_tsyntax.dcm"))) is Reason.UNREADABLE


def test_a_file_that_is_not_there_or_is_a_folder_is_unreadable(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        result = read_instance(path)
        assert isinstance(result, Rejection)
        assert result.reason is Reason.UNREADABLE
        assert str(tmp_path) not in result.message  # folders are named after patients


def test_a_received_file_that_our_disk_no_longer_gives_is_no_judgement_on_the_image(tmp_path):
    with pytest.raises(StorageError, match="check the disk") as caught:
        decode_radiograph(_instance(tmp_path / "nothing"), INTAKE)
    assert str(tmp_path) not in str(caught.value)


def _instance(path: Path) -> ReceivedInstance:
    return ReceivedInstance(path, "1.2", "1.2", uids.ExplicitVRLittleEndian, "", 0)


# ---------------------------------------------------------------- anything at all

SEEDS = (*NATIVE, uids.RLELossless, uids.JPEGLSLossless, uids.JPEGLosslessSV1, uids.JPEG2000Lossless, uids.HTJ2K)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return [written(folder, syntax).read_bytes() for syntax in SEEDS]


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut"]),
        st.integers(128, 1399) | st.integers(128, 10**6),  # the header, or anywhere (taken modulo the file)
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=6,
)
"""All that is random is drawn before the file is looked at, so a run can be told again from its draws alone."""


def mutated(file: bytearray, changes: list[tuple[str, int, bytes]]) -> bytearray:
    for kind, place, new in changes:
        at = 128 + (place - 128) % max(len(file) - 128, 1)
        if kind == "set":
            file[at : at + 1] = new[:4]
        elif kind == "insert":
            file[at:at] = new
        elif kind == "delete":
            del file[at : at + len(new)]
        elif new[0] < 40:  # seldom: what is cut off can't be changed any more
            del file[at:]
    return file


@pytest.mark.requirement("DEC-13")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.sampled_from(range(len(SEEDS))), changes=CHANGES)
def test_whatever_bytes_are_changed_the_result_is_a_radiograph_or_a_rejection(tmp_path, seeds, seed, changes):
    path = tmp_path / "mutant"
    path.write_bytes(mutated(bytearray(seeds[seed]), changes))
    result = decode(path)
    assert isinstance(result, Radiograph | Rejection)
    if isinstance(result, Radiograph):
        assert result.pixels.min() >= 0
        assert result.pixels.max() <= 1
    else:
        assert not re.search("secret", result.message, re.IGNORECASE)

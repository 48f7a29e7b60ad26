"""A folder of a hundred mixed files, pushed with DCMTK's storescu: nothing lost, nothing doubled."""

import os
import random
import sqlite3
import subprocess
from collections import Counter
from copy import deepcopy

import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import generate_uid

from dicom_gam.dicom.scu.stand_in_pacs import AE_TITLE, StandInPacs
from tests.end_to_end.peers import NODE_AE, NodeProcess, free_port, program, sample, wait_for

FINAL = {"done", "rejected", "failed", "quarantined"}
VERDICTS = {"PASS", "FAIL", "REJECT"}
GOOD = ["RG1_J2KR.dcm", "RG3_J2KR.dcm", "RG3_UNCR.dcm", "CT_small.dcm", "MR_small.dcm", "US1_UNCR.dcm"]


def cut_stream(ds):
    stream = generate_frames(ds.PixelData, number_of_frames=1)
    half = next(stream)
    ds.PixelData = encapsulate([half[: len(half) // 4 * 2]])


def overwrite_stream(ds):
    frame = bytearray(next(generate_frames(ds.PixelData, number_of_frames=1)))
    frame[:100] = random.Random(7).randbytes(100)
    ds.PixelData = encapsulate([bytes(frame)])


def drop_pixels(ds):
    del ds.PixelData


def lie_about_size(ds):
    ds.Rows = ds.Columns = 65535


def drop_rows(ds):
    del ds.Rows


def claim_frames(ds):
    ds.NumberOfFrames = 40


def small(name: str):
    """A sample with every fourth row and column, in its own compression: its size shows nothing here."""
    ds = pydicom.dcmread(sample(name))
    pixels = ds.pixel_array[::4, ::4].copy()
    ds.Rows, ds.Columns = pixels.shape[:2]
    if name.endswith("_J2KR.dcm"):
        stream = encode_array(pixels, bits_stored=ds.BitsStored, photometric_interpretation=2, use_mct=False)
        ds.PixelData = encapsulate([stream])
    else:
        ds.PixelData = pixels.tobytes()
    return ds


DAMAGES = [cut_stream, overwrite_stream, drop_pixels, lie_about_size, drop_rows, claim_frames]


@pytest.fixture
def hundred(tmp_path):
    """A hundred files with a hundred SOP Instance UIDs: 70 whole ones of several kinds, 30 damaged radiographs."""
    folder = tmp_path / "hundred"
    folder.mkdir()
    kinds = {name: small(name) if name.startswith("RG") else pydicom.dcmread(sample(name)) for name in GOOD}
    for i in range(100):
        ds = deepcopy(kinds[GOOD[i % len(GOOD)] if i < 70 else "RG3_J2KR.dcm"])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"hundred{i}"])
        if i >= 70:
            DAMAGES[i % len(DAMAGES)](ds)
        ds.save_as(folder / f"{i:03d}.dcm")
    return folder


def push(folder, port: int) -> Counter:
    """Push a folder with storescu; returns how often each status was answered."""
    target = ["-aec", NODE_AE, "127.0.0.1", str(port)]
    command = [program("storescu"), "-v", "-nh", "-R", "-xv", "+sd", *target, str(folder)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = (done.stdout + done.stderr).splitlines()
    return Counter(x.rpartition("(")[2].rstrip(")") for x in lines if "Received Store Response" in x)


def jobs(node) -> list[tuple[str, str, str, str]]:
    with sqlite3.connect(node.folder / "data" / "node.sqlite") as db:
        return db.execute("SELECT sop_instance_uid, state, outcome, reason FROM jobs").fetchall()


@pytest.mark.requirement("STO-05", "STO-13")
def test_a_hundred_files_get_a_hundred_answers_one_record_each_and_no_duplicates(hundred, tmp_path):
    with StandInPacs(tmp_path / "pacs") as pacs:
        node = NodeProcess(tmp_path / "node", free_port(), (AE_TITLE, pacs.port))
        node.start()
        try:
            assert push(hundred, node.port) == {"Success": 100}
            wait_for(lambda: all(state in FINAL for _, state, _, _ in jobs(node)), 240, "the end of all jobs")
            first = jobs(node)
            expected = sum(2 + (outcome == "REJECT") for _, _, outcome, _ in first if outcome in VERDICTS)
            wait_for(lambda: len(pacs.files) >= expected, 60, "all deliveries")
            assert push(hundred, node.port) == {"Success": 100}
            again = jobs(node)
        finally:
            node.stop()
        delivered = [path.name for path in pacs.files]

    sent = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in hundred.iterdir()}
    assert sorted(uid for uid, *_ in first) == sorted(sent)
    assert again == first
    assert len(delivered) == len(set(delivered)) == expected
    reasons = Counter(reason for _, state, _, reason in first if state == "rejected")
    assert reasons.pop("not-accepted-sop-class") == 34  # CT, MR and US of the seventy whole files
    assert sum(reasons.values()) == 30
    assert set(reasons) == {
        "truncated-pixels",
        "undecodable-pixels",
        "no-pixels",
        "absurd-dimensions",
        "invalid-attributes",
        "multi-frame",
    }

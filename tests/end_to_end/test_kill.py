"""Kill -9 in mid-work: every acknowledged image, here one that is rejected, gets exactly one result set.

Two kills here; `tests.benchmarks.bench_kill` does hundreds.
"""

import random
import time
from collections import Counter

import pydicom
import pytest

from dicom_gam.config import Destination
from dicom_gam.dicom.scu.sender import send
from dicom_gam.dicom.scu.stand_in_pacs import AE_TITLE, StandInPacs
from tests.end_to_end.peers import NODE_AE, NodeProcess, free_port, wait_for, with_new_uid


@pytest.mark.requirement("STO-02")
def test_every_acknowledged_image_gets_exactly_one_result_set_whenever_the_node_is_killed(tmp_path):
    rng = random.Random(3)
    acknowledged = []
    with StandInPacs(tmp_path / "pacs") as pacs:
        node = NodeProcess(tmp_path / "node", free_port(), (AE_TITLE, pacs.port), more="[processing]\nbatch_size = 2\n")
        destination = Destination(name="node", ae_title=NODE_AE, host="127.0.0.1", port=node.port)
        try:
            for round_ in range(2):
                node.start()
                acknowledged += _send_six(destination, tmp_path, f"round{round_}")
                time.sleep(rng.uniform(0, 1.5))
                node.kill()
            node.start()
            wait_for(lambda: len({p.name for p in pacs.files}) >= 3 * len(acknowledged), 120, "all results")
            time.sleep(1)  # what comes too much, comes now
            assert node.stop() == 0
        finally:
            node.kill()
        objects = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in set(pacs.files)}

    assert len(acknowledged) == 12
    results = Counter((_source_of(ds), ds.Modality) for ds in objects.values())
    assert results == {(uid, modality): 1 for uid in acknowledged for modality in ("SR", "OT", "KO")}


def _send_six(destination: Destination, folder, name: str) -> list[str]:
    """Send six images; returns the UIDs of those that were acknowledged."""
    acknowledged = []
    for i in range(6):
        path = folder / f"{name}-{i}.dcm"
        uid = with_new_uid("RG3_J2KR.dcm", path, path.stem)
        [answer] = send(destination, "SENDER", [path.read_bytes()])
        if answer.stored:
            acknowledged.append(uid)
    return acknowledged


def _source_of(ds) -> str:
    if ds.Modality == "OT":
        return str(ds.SourceImageSequence[0].ReferencedSOPInstanceUID)
    evidence = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    classes = {
        str(i.ReferencedSOPClassUID): str(i.ReferencedSOPInstanceUID) for s in evidence for i in s.ReferencedSOPSequence
    }
    return classes[pydicom.uid.ComputedRadiographyImageStorage]

"""Orthanc is the PACS: it sends an image, and finds report and overlay in the same study."""

import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.peers import program, sample, wait_for, with_new_uid


def complaints(path: Path) -> set[str]:
    """What `dciodvfy` says about a file, but for our private coding scheme, which it can't know."""
    found = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    lines = (found.stdout + found.stderr).splitlines()
    return {x for x in lines if x.startswith(("Error", "Warning")) and "99DGAM" not in x}


@pytest.mark.requirement("RES-26", "RES-02")
def test_results_of_an_image_sent_by_orthanc_arrive_in_its_own_study(site, tmp_path):
    orthanc, _ = site
    sent, earlier = sample("RG1_UNCR.dcm"), set(orthanc.get("/instances"))
    source = orthanc.store(sent)
    before = orthanc.call(f"/instances/{source}/file")
    orthanc.send_to_node(source)
    wait_for(lambda: len(orthanc.get("/instances")) == len(earlier) + 3, what="arrival of report and overlay")

    new = set(orthanc.get("/instances")) - earlier
    assert len({orthanc.get(f"/instances/{instance}/study")["ID"] for instance in new}) == 1
    assert orthanc.call(f"/instances/{source}/file") == before
    results = {orthanc.get(f"/instances/{i}/simplified-tags")["Modality"]: i for i in new if i != source}
    assert set(results) == {"SR", "OT"}
    files = {modality: tmp_path / f"{modality}.dcm" for modality in results}
    for modality, path in files.items():
        path.write_bytes(orthanc.call(f"/instances/{results[modality]}/file"))
    # what the source itself carries (a referring physician called "ward") is not ours to correct
    assert {m: complaints(path) - complaints(sent) for m, path in files.items()} == {"SR": set(), "OT": set()}

    text = subprocess.run([program("dsrdump"), str(files["SR"])], capture_output=True, text=True, check=True).stdout
    overlay = orthanc.get(f"/instances/{results['OT']}/simplified-tags")
    verdict = overlay["SeriesDescription"].rpartition(" - ")[2]
    assert verdict == "PASS"
    assert '"Verification verdict")=(PASS,99DGAM,"PASS")' in text
    assert '"Finding")=(816094009,SCT,"Chest")' in text


@pytest.mark.requirement("DEC-10")
def test_own_results_sent_to_the_node_do_not_loop(site, tmp_path):
    orthanc, _ = site
    earlier = len(orthanc.get("/instances"))
    source = orthanc.store(sample("RG3_UNCR.dcm"))
    orthanc.send_to_node(source)
    wait_for(lambda: len(orthanc.get("/instances")) == earlier + 4, what="report, overlay and rejection note")
    for instance in orthanc.get("/instances"):
        orthanc.send_to_node(instance)
    # one more image afterwards shows that the node has worked off what came before
    with_new_uid("RG1_UNCR.dcm", tmp_path / "other.dcm", "after the loop")
    other = orthanc.store(tmp_path / "other.dcm")
    orthanc.send_to_node(other)
    wait_for(lambda: len(orthanc.get("/instances")) >= earlier + 7, what="arrival of the second results")
    assert len(orthanc.get("/instances")) == earlier + 7

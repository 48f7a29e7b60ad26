"""Debian's Orthanc with the plugin and a real node: images go out, verdicts come back, and nothing is lost."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage, OphthalmicPhotography16BitImageStorage, generate_uid

from tests.end_to_end.peers import program, wait_for
from tests.plugins.orthanc_site import (
    LIBRARY,
    PLUGIN,
    SECRET_NAME,
    SENT,
    Hospital,
    ct_slice,
    hospital,
    photograph,
    radiograph,
)

CHANGED = 'footer = "CHANGED"\n'
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One for all tests, as it takes a while to start. Two SOP classes are routed that the node does not want."""
    extra = [MRImageStorage, OphthalmicPhotography16BitImageStorage]
    with hospital(tmp_path_factory.mktemp("hospital"), ExtraSopClasses=extra, Attempts=2) as running:
        yield running


@pytest.fixture(scope="module")
def chest(site) -> tuple[str, str]:
    """A chest image that the node has judged: Orthanc's IDs of study and image."""
    study, instance = site.store(radiograph("RG1_UNCR.dcm", "chest"))
    wait_for(lambda: site.verdict("studies", study) == "PASS", what="the chest image's verdict")
    return study, instance


@pytest.fixture(scope="module")
def photo(site) -> tuple[str, str]:
    study, instance = site.store(photograph("photograph"))
    wait_for(lambda: site.verdict("studies", study) == "REJECT", what="the photograph's verdict")
    return study, instance


def sent_uids(site: Hospital) -> list[str]:
    return [item["keys"]["sop_instance_uid"] for item in site.received()]


@pytest.mark.requirement("ORT-01")
def test_a_chest_image_and_a_photograph_stored_in_orthanc_get_their_verdicts_by_themselves(site, chest, photo):
    for (study, instance), verdict in ((chest, "PASS"), (photo, "REJECT")):
        assert site.verdict("instances", instance) == verdict
        assert SENT in site.metadata("instances", instance)
        wait_for(lambda study=study: site.panel(study)["images"][0]["report"]["overlay"], what="the overlay")
        page = site.page(study)
        assert re.search(rf'class="banner {verdict}".*?<span class="word">{verdict}</span>', page)
        assert f"instances/{site.panel(study)['images'][0]['report']['overlay']}/preview" in page
        assert "Attention cosine similarity" in page
    assert "Chest" in site.page(chest[0])


@pytest.mark.requirement("ORT-03")
def test_no_ct_and_no_result_of_the_node_is_sent(site, chest, photo):
    ct = [site.store(ct_slice("ct", number))[0] for number in range(20)]
    screenshot, _ = site.store(photograph("screenshot", modality="OT"))
    # one more image afterwards shows that the plugin has worked off what came before
    study, _ = site.store(photograph("marker"))
    wait_for(lambda: site.verdict("studies", study) == "REJECT", what="the last image's verdict")
    sent = set(sent_uids(site))
    for other in (ct[0], screenshot):
        assert not sent & {
            item["MainDicomTags"]["SOPInstanceUID"] for item in site.orthanc.get(f"/studies/{other}/instances")
        }
        assert site.panel(other)["verdict"] == ""
        assert "NO VERDICT" in site.page(other)
    for judged in (chest[0], photo[0], study):
        uids = {item["MainDicomTags"]["SOPInstanceUID"] for item in site.orthanc.get(f"/studies/{judged}/instances")}
        assert len(uids) >= 3
        assert len(sent & uids) == 1


@pytest.mark.requirement("ORT-02")
def test_what_is_stored_while_the_node_is_away_or_waits_when_orthanc_is_killed_is_judged_later_once(site, chest):
    site.node.stop()
    waiting, _ = site.store(photograph("waiting"))
    wait_for(lambda: site.panel(waiting)["outage"], what="the node's absence to be noticed")
    assert "The node has taken no images since" in site.page(waiting)
    assert "Look again" in site.page(waiting)
    assert site.panel(waiting)["images"][0]["state"] == "queued"
    fresh, _ = site.store(photograph("killed before it was stable"))
    site.orthanc._process.kill()
    site.orthanc._process.wait()
    site.orthanc.start()
    site.set_node(CHANGED)
    site.node.start()
    for study in (waiting, fresh):
        wait_for(lambda study=study: site.verdict("studies", study) == "REJECT", what="the verdict of what waited")
        uid = site.panel(study)["images"][0]["sop_instance_uid"]
        assert sent_uids(site).count(uid) == 1
    assert sent_uids(site).count(site.panel(chest[0])["images"][0]["sop_instance_uid"]) == 1


@pytest.mark.requirement("ORT-05")
def test_processing_again_is_asked_for_on_the_page_and_the_newer_report_counts(site, chest):
    study, _ = chest
    if CHANGED not in site.node.config.read_text():  # run alone: the node must have a reason for another report
        site.node.stop()
        site.set_node(CHANGED)
        site.node.start()
    before = site.panel(study)["images"][0]["report"]
    action, token = re.search(
        r'action="([^"]+/again)"><input type="hidden" name="token" value="(\w+)"', site.page(study)
    ).groups()
    path, body = f"/dicom-gam/studies/{action}", f"token={token}".encode()

    foreign = site.post(path, body, **{"Content-Type": FORM, "Sec-Fetch-Site": "cross-site"})
    guessed = site.post(path, b"token=", **{"Content-Type": FORM})
    assert (foreign[0], guessed[0]) == (403, 403)
    assert site.post(path, body, **{"Content-Type": FORM}) == (303, f"../{study}")

    wait_for(lambda: site.panel(study)["images"][0]["reports_before"] == 1, what="the newer report")
    after = site.panel(study)["images"][0]["report"]
    assert before["sop_instance_uid"] in after["supersedes"]
    wait_for(lambda: site.metadata("instances", chest[1])["4302"] == after["instance"], what="the mark on the image")
    assert site.verdict("studies", study) == "PASS"


@pytest.mark.requirement("ORT-05")
def test_a_program_asks_by_json_and_is_told_when_nothing_can_be_processed_again(site):
    study, _ = site.store(photograph("screenshot again", modality="OT"))
    status, said = site.post(f"/dicom-gam/studies/{study}/again", b"{}", **{"Content-Type": "application/json"})
    assert status == 502
    assert "wait for its first verdict" in json.loads(said)["error"]


@pytest.mark.requirement("ORT-04")
def test_a_report_that_did_not_come_from_the_node_changes_nothing(site, photo):
    study, instance = photo
    ours = site.panel(study)["images"][0]["report"]["instance"]
    path = site.folder / "forged.dcm"
    path.write_bytes(site.orthanc.call(f"/instances/{ours}/file"))
    ds = dcmread(path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["forged"])
    for group in ds.ContentSequence[-1].ContentSequence:
        for item in group.ContentSequence:
            if item.ConceptNameCodeSequence[0].CodeValue == "VERDICT":
                item.ConceptCodeSequence[0].CodeValue = "PASS"
    ds.ContentDate = "20991231"
    site.store(ds)
    wait_for(lambda: site.panel(study)["unconfirmed_reports"] == 1, what="the forged report")
    marker, _ = site.store(photograph("after the forgery"))
    wait_for(lambda: site.verdict("studies", marker) == "REJECT", what="the next verdict")
    assert site.verdict("studies", study) == site.verdict("instances", instance) == "REJECT"
    assert "did not come from it" in site.page(study)


@pytest.mark.requirement("ORT-10")
def test_an_image_that_the_node_refuses_is_given_up_holds_up_no_other_and_can_be_sent_again(site):
    ds = photograph("an eye", modality="OP")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = OphthalmicPhotography16BitImageStorage
    refused, _ = site.store(ds)
    other, _ = site.store(photograph("behind the eye"))
    wait_for(lambda: site.verdict("studies", other) == "REJECT", what="the next image's verdict")
    wait_for(lambda: site.panel(refused)["images"][0]["state"] == "refused", what="the giving up")
    page = site.page(refused)
    assert "Sending was given up" in page
    token = re.search(r'/send"><input type="hidden" name="token" value="(\w+)"', page)[1]
    answer = site.post(f"/dicom-gam/studies/{refused}/send", f"token={token}".encode(), **{"Content-Type": FORM})
    assert answer == (303, f"../{refused}")
    wait_for(lambda: site.panel(refused)["images"][0]["state"] == "refused", what="the second giving up")
    wait_for(lambda: "4304" not in site.metadata("studies", refused), what="the request to be dealt with")


@pytest.mark.requirement("ORT-01")
def test_an_image_that_the_node_took_but_can_give_no_verdict_on_is_said_to_be_one(site):
    ds = photograph("an MR", modality="MR")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    study, _ = site.store(ds)
    wait_for(
        lambda: site.panel(study)["images"] and site.panel(study)["images"][0]["state"] == "no-verdict", what="UNUSABLE"
    )
    page = site.page(study)
    assert "The node could not give a verdict: UNUSABLE" in page
    assert "NO VERDICT" in page
    assert "Look again" not in page


@pytest.mark.requirement("ORT-08")
def test_what_an_image_says_is_shown_as_text_on_a_page_without_scripts(site):
    ds = photograph("hostile", modality="OT")
    ds.PatientName, ds.StudyDescription = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>'
    study, _ = site.store(ds)
    page = site.page(study)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not re.search(r'(src|href|action)="(https?:)?//', page)
    with pytest.raises(urllib.error.HTTPError) as unknown:
        site.page("0" * 44)
    with unknown.value as answer:
        assert answer.code == 404


@pytest.mark.requirement("ORT-01")
def test_the_explorer_is_given_the_button(site):
    assert "dicom-gam/studies/" in site.orthanc.call("/plugins/explorer.js").decode()


@pytest.mark.requirement("ORT-06")
def test_an_unusable_configuration_stops_orthanc_with_key_reason_and_remedy(tmp_path):
    settings = {
        "StorageDirectory": str(tmp_path / "storage"), "HttpServerEnabled": False, "DicomServerEnabled": False,
        "Plugins": [str(LIBRARY)], "PythonScript": str(PLUGIN / "dicom_gam_plugin.py"),
        "DicomGam": {"Modality": "nowhere", "Rulez": []},
    }  # fmt: skip
    path = tmp_path / "orthanc.json"
    path.write_text(json.dumps(settings))
    ended = subprocess.run([program("Orthanc"), str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "DicomGam.Rulez is no setting: remove it, or use one of Modality" in ended.stderr
    assert "DicomGam.Modality names 'nowhere', which is not in DicomModalities: add there" in ended.stderr


@pytest.mark.requirement("ORT-07")
def test_orthanc_stops_cleanly_and_its_log_holds_no_patient(site, chest, photo):
    site.orthanc._process.terminate()
    assert site.orthanc._process.wait(20) == 0
    log = site.log()
    site.orthanc.start()
    assert "dicom_gam: first start" in log
    assert "unexpected" not in log
    assert not [word for word in (SECRET_NAME, "SECRET-", "THORAX") if word in log]

"""`dicom-gam fetch` from Debian's Orthanc: C-GET, WADO-RS and C-MOVE."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pydicom
import pydicom.uid as uids
import pytest

from dicom_gam.config import settings_from
from dicom_gam.dicom.image.part10 import read_meta
from dicom_gam.service.fetch import fetch_studies, source_named, survey_studies
from dicom_gam.service.node import Node
from dicom_gam.service.store import AUDIT_FILE, open_store
from dicom_gam.storage.audit import records
from tests.dicom.radiograph_files import STUDY, standard_pixels, write
from tests.end_to_end.peers import DICOMWEB, NODE_AE, Orthanc, sample
from tests.service.fakes import process

SERIES_OF = {"CR": "1.2.826.0.1.2", "MR": "1.2.826.0.1.4"}
SYNTAXES = {
    uids.ImplicitVRLittleEndian: "1.2.826.0.1.3.1",
    uids.ExplicitVRBigEndian: "1.2.826.0.1.3.2",
    uids.RLELossless: "1.2.826.0.1.3.3",
    uids.JPEGLosslessSV1: "1.2.826.0.1.3.4",
    uids.JPEGLSLossless: "1.2.826.0.1.3.5",
    uids.JPEG2000Lossless: "1.2.826.0.1.3.6",
    uids.JPEG2000: "1.2.826.0.1.3.7",
}
OTHER = "1.2.826.0.1.3.99"  # an MR image of the same study


class RetrievableOrthanc(Orthanc):
    """Orthanc that lets everyone query and retrieve, also by DICOMweb."""

    def __init__(self, folder: Path) -> None:
        allowed = dict.fromkeys(("DicomAlwaysAllowFind", "DicomAlwaysAllowGet", "DicomAlwaysAllowMove"), True)
        super().__init__(folder, 0, **DICOMWEB, **allowed, DicomModalities={})  # see `learn`

    def learn(self, node: Node) -> None:
        """Enter a running node into the list of destinations."""
        modality = json.dumps({"AET": NODE_AE, "Host": "127.0.0.1", "Port": node.port}).encode()
        url = f"http://127.0.0.1:{self.http}/modalities/node"
        urllib.request.urlopen(urllib.request.Request(url, data=modality, method="PUT"), timeout=30).close()


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Files by SOP Instance UID: one radiograph in each of several transfer syntaxes, all of one study."""
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for number, (syntax, uid) in enumerate(SYNTAXES.items()):
        path = folder / f"{number}.dcm"
        write(path, standard_pixels(), syntax, SOPInstanceUID=uid)
        found[uid] = path
    return found


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, originals):
    """One Orthanc for all tests, with the originals, an MR image beside them, and a compressed clinical image."""
    folder = tmp_path_factory.mktemp("retrievable")
    running = RetrievableOrthanc(folder / "orthanc")
    try:
        for path in originals.values():
            running.store(path)
        mr = write(
            folder / "mr.dcm",
            standard_pixels(),
            SOPInstanceUID=OTHER,
            SOPClassUID=uids.MRImageStorage,
            SeriesInstanceUID=SERIES_OF["MR"],
            Modality="MR",
        )
        running.store(mr)
        running.store(sample("RG3_J2KR.dcm"))
        yield running
    finally:
        running.stop()


@pytest.fixture
def settings(tmp_path, orthanc):
    dimse = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom, "timeout_s": 20}
    return settings_from(
        {
            "node": {
                "ae_title": NODE_AE,
                "port": 0,
                "storage": tmp_path / "node",
                "minimum_free_bytes": 0,
                "receivers": 0,
            },
            "sources": [
                {"name": "get", **dimse},
                {"name": "move", **dimse, "retrieve": "c-move"},
                {"name": "web", "url": f"http://127.0.0.1:{orthanc.http}/dicom-web", "timeout_s": 20},
            ],
        }
    )


def dicom_gam(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "dicom_gam", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def fetched(settings, way, *study_uids):
    return list(fetch_studies(settings, source_named(settings, way), study_uids, lambda _: None))


def inbox(settings):
    """The data set of each stored instance, by SOP Instance UID, and the transfer syntax it came in."""
    with open_store(settings) as store:
        return {
            job.instance.sop_instance_uid: (job.instance.transfer_syntax_uid, data_set(job.instance.path))
            for job in store.jobs.jobs()
        }


def data_set(path: Path) -> bytes:
    content = path.read_bytes()
    return content[read_meta(content)[1] :]


@pytest.mark.requirement("PUL-01")
@pytest.mark.parametrize("way", ["get", "web"])
def test_every_original_arrives_in_its_own_syntax_with_its_very_bytes(settings, originals, way):
    (report,) = fetched(settings, way, STUDY)
    assert report.error == ""
    assert report.refused == []
    assert (report.stored, len(report.skipped), report.complete) == (len(originals), 1, True)
    arrived = inbox(settings)
    assert arrived == {uid: (syntax, data_set(originals[uid])) for syntax, uid in SYNTAXES.items()}


@pytest.mark.requirement("PUL-01")
def test_an_archive_that_is_told_to_move_sends_every_original_to_the_running_node(settings, orthanc, originals):
    with Node(settings, process) as node:
        orthanc.learn(node)
        (report,) = fetched(settings, "move", STUDY)
        assert report.error == ""
        assert report.refused == []
        assert (report.stored, len(report.skipped), report.complete) == (len(originals), 1, True)
        (again,) = fetched(settings, "move", STUDY)
        assert (again.stored, again.duplicates, again.complete) == (0, len(originals), True)
        assert inbox(settings) == {uid: (syntax, data_set(originals[uid])) for syntax, uid in SYNTAXES.items()}


def test_a_move_without_a_running_node_says_what_to_start(settings):
    (report,) = fetched(settings, "move", STUDY)
    assert "the node does not run: start dicom-gam serve" in report.error
    assert not report.complete


def test_a_node_that_the_archive_does_not_know_is_told_how_to_become_known(settings, orthanc):
    table = settings.model_dump()
    table["node"]["ae_title"] = "STRANGER"
    stranger = settings_from(table)
    with Node(stranger, process):
        (report,) = fetched(stranger, "move", STUDY)
    assert len(report.refused) == len(SYNTAXES)
    assert all("add our AE title, address and port to its list of destinations" in t.why for t in report.refused)


@pytest.mark.requirement("STO-05")
@pytest.mark.parametrize("way", ["get", "web"])
def test_a_study_that_was_fetched_is_recognised_and_not_processed_twice(settings, originals, way):
    fetched(settings, way, STUDY)
    other = "web" if way == "get" else "get"
    (again,) = fetched(settings, other, STUDY)
    assert (again.stored, again.duplicates, again.complete) == (0, len(originals), True)
    assert len(inbox(settings)) == len(originals)


@pytest.mark.requirement("PUL-03")
@pytest.mark.parametrize("way", ["get", "web", "move"])
def test_a_study_that_is_not_there_is_told_in_words_and_does_not_stop_the_next(settings, orthanc, originals, way):
    with Node(settings, process) as node:
        orthanc.learn(node)
        unknown, known = fetched(settings, way, "1.2.826.0.1.404", STUDY)
    assert "knows no such study: check the Study Instance UID" in unknown.error
    assert (known.stored, known.complete) == (len(originals), True)


@pytest.mark.parametrize("way", ["get", "web"])
def test_a_survey_counts_what_there_is_and_leaves_no_trace(settings, way):
    (report,) = survey_studies(settings, source_named(settings, way), [STUDY])
    assert report.error == ""
    classes = [(item.modality, item.sop_class_uid) for item in report.found]
    assert sorted(set(classes)) == [("CR", uids.ComputedRadiographyImageStorage), ("MR", uids.MRImageStorage)]
    assert [item.sop_instance_uid for item in report.skipped] == [OTHER]
    assert not settings.node.storage.exists()


def test_the_audit_log_tells_who_fetched_what_and_how_it_ended(settings):
    fetched(settings, "web", STUDY, "1.2.826.0.1.404")
    kept = [(r["event"], r["keys"]) for r in records(settings.node.storage / AUDIT_FILE)]
    told = [(event, keys["study_instance_uid"]) for event, keys in kept if event.startswith("fetch.")]
    assert told == [
        ("fetch.started", STUDY),
        ("fetch.finished", STUDY),
        ("fetch.started", "1.2.826.0.1.404"),
        ("fetch.failed", "1.2.826.0.1.404"),
    ]
    stored = [keys for event, keys in kept if event == "instance.stored"]
    assert len(stored) == len(SYNTAXES)
    assert {keys["calling_ae_title"] for keys in stored} == {"web"}
    assert {keys["peer_address"] for keys in stored} == {"127.0.0.1"}
    assert "Secret" not in (settings.node.storage / AUDIT_FILE).read_text()


@pytest.mark.requirement("PUL-01")
def test_a_compressed_clinical_image_comes_byte_for_byte_by_dicomweb_and_is_processed_by_the_running_node(settings):
    original = pydicom.dcmread(sample("RG3_J2KR.dcm"))
    with Node(settings, process) as node:
        (report,) = fetched(settings, "web", original.StudyInstanceUID)
        assert report.complete, report
        assert node.wait_idle(60)
        assert [job.instance.sop_instance_uid for job in node.jobs()] == [original.SOPInstanceUID]
    syntax, content = inbox(settings)[original.SOPInstanceUID]
    assert syntax == original.file_meta.TransferSyntaxUID == uids.JPEG2000Lossless
    assert content == data_set(sample("RG3_J2KR.dcm"))


def test_a_compressed_clinical_image_keeps_its_stream_by_c_get_though_orthanc_rewrites_lengths(settings):
    original = pydicom.dcmread(sample("RG3_J2KR.dcm"))
    (report,) = fetched(settings, "get", original.StudyInstanceUID)
    assert report.complete, report
    with open_store(settings) as store:
        (job,) = store.jobs.jobs()
    came = pydicom.dcmread(job.instance.path)
    assert came.file_meta.TransferSyntaxUID == uids.JPEG2000Lossless
    assert came == original
    assert came.PixelData == original.PixelData


@pytest.mark.requirement("PUL-03")
def test_the_command_fetches_a_work_list_and_ends_with_1_when_something_is_missing(settings, tmp_path):
    config = tmp_path / "node.toml"
    web = settings.sources[2]
    config.write_text(
        f'[node]\nae_title = "{NODE_AE}"\nstorage = "data"\nminimum_free_bytes = 0\n'
        f'[[sources]]\nname = "web"\nurl = "{web.url}"\n'
    )
    (tmp_path / "list.csv").write_text(f"name;study_instance_uid\nsomeone;{STUDY}\nsomeone else;1.2.826.0.1.404\n")
    options = ("fetch", "--config", str(config), "--from", "web")
    looked = dicom_gam(*options, "--study", STUDY, "--dry-run")
    assert (looked.returncode, "MR Image Storage" in looked.stdout) == (0, True), looked.stderr
    done = dicom_gam(*options, "--worklist", str(tmp_path / "list.csv"))
    assert done.returncode == 1, done.stderr
    assert "study 1.2.826.0.1.404: source web knows no such study" in " ".join(done.stdout.split())
    assert "someone" not in done.stdout + done.stderr
    assert len(list((tmp_path / "data" / "inbox").rglob("*.dcm"))) == len(SYNTAXES)

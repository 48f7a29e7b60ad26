import resource
import sqlite3
import subprocess
from io import BytesIO

import pytest
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from dicom_gam.errors import StorageError
from dicom_gam.service.node import Node
from dicom_gam.service.store import DATABASE_FILE
from dicom_gam.storage.states import JobState
from tests.service.fakes import (
    CR,
    TORN_CONNECTIONS,
    events,
    image,
    inbox_files,
    process,
    result_uids,
    save,
    store,
    store_raw,
    storescu,
    uids,
    until,
)

pytestmark = TORN_CONNECTIONS


@pytest.mark.requirement("STO-07")
def test_the_inbox_keeps_the_very_bytes_of_the_data_set(node, settings, tmp_path):
    ds = image(*uids(1))
    path = save(ds, tmp_path / "a.dcm")
    assert storescu(node.port, path, options=("-xe",)).returncode == 0
    sent = path.read_bytes()
    start = sent.index(b"\x08\x00\x16\x00UI")
    (kept,) = inbox_files(settings())
    assert kept.read_bytes().endswith(sent[start:])
    (job,) = node.jobs()
    assert job.instance.path == kept
    assert job.instance.size_bytes == kept.stat().st_size


def test_the_file_in_the_inbox_is_sound_for_dcmtk(node, settings, tmp_path):
    assert storescu(node.port, save(image(*uids(1)), tmp_path / "a.dcm")).returncode == 0
    (kept,) = inbox_files(settings())
    dumped = subprocess.run(["dcmdump", "+P", "0002,0003", str(kept)], capture_output=True, text=True, check=True)
    assert uids(1)[0] in dumped.stdout
    assert dumped.stderr == ""


@pytest.mark.requirement("STO-05")
def test_the_same_image_again_is_a_success_and_no_second_job(settings, archive):
    configured = settings(("pacs", archive.port))
    (uid,) = uids(1)
    with Node(configured, process) as node:
        assert store(node.port, [image(uid)]) == [0x0000]
        assert node.wait_idle(10)
        assert store(node.port, [image(uid), image(uid)]) == [0x0000, 0x0000]
        assert node.wait_idle(10)
        assert sum(node.job_counts().values()) == 1
    assert len(inbox_files(configured)) == 1
    assert {uid: len(copies) for uid, copies in archive.received.items()} == dict.fromkeys(result_uids(uid), 1)
    assert len(events(configured, "instance.duplicate")) == 2


@pytest.mark.requirement("STO-06")
def test_other_bytes_under_the_same_uid_are_kept_apart_and_alarmed_but_not_processed(settings, archive):
    configured = settings(("pacs", archive.port))
    (uid,) = uids(1)
    with Node(configured, process) as node:
        assert store(node.port, [image(uid), image(uid, shade=9)]) == [0x0000, 0x0000]
        assert node.wait_idle(10)
        counts = node.job_counts()
        assert (counts[JobState.DONE], counts[JobState.QUARANTINED]) == (1, 1)
    assert len(inbox_files(configured)) == 2
    assert len(events(configured, "instance.quarantined")) == 1
    assert all(len(copies) == 1 for copies in archive.received.values())


@pytest.mark.requirement("DOOR-11")
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, about the very thing that is tested
@pytest.mark.parametrize("uid", ["../../x", "/etc/x", "1", "1.2.\xb2", "1..2"])
def test_a_hostile_uid_is_refused_and_touches_no_file(node, settings, uid):
    hostile = image("1.2.3")
    hostile["SOPInstanceUID"]._value = uid  # pydicom would rather not
    answers = store_raw(node.port, hostile, uid)
    assert answers in ([0xA900], [])  # [] is an association that was aborted
    assert node.job_counts() == dict.fromkeys(JobState, 0)
    assert inbox_files(settings()) == []


@pytest.mark.requirement("DOOR-12")
def test_an_instance_that_says_it_is_another_is_refused(node, settings):
    assert store_raw(node.port, image("1.2.3"), "1.2.4") == [0xA900]
    assert inbox_files(settings()) == []
    (refused,) = events(settings(), "instance.refused")
    assert (refused["sop_instance_uid"], refused["status"]) == ("1.2.4", "A900")


def test_a_garbage_data_set_is_kept_and_rejected_by_name(node):
    garbage = image("1.2.3")
    garbage.clear()
    garbage.add_new(0x00100010, "PN", "no UIDs at all")
    assert store_raw(node.port, garbage, "1.2.3") == [0x0000]
    assert node.wait_idle(10)
    (job,) = node.jobs()
    assert (job.state, job.reason) == (JobState.REJECTED, "unreadable")


@pytest.mark.requirement("DOOR-13")
def test_an_upload_that_breaks_off_leaves_nothing(node, settings):
    big = image("1.2.3", side=2000)
    encoded = encode(big, False, True)
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(CR, ["1.2.840.10008.1.2.1"])
    assoc = ae.associate("127.0.0.1", node.port, ae_title="DICOM_GAM")
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CR, "1.2.3"
    request.DataSet = BytesIO(encoded)
    real = assoc.dul.send_pdu
    sent = []

    def half(primitive):
        sent.append(primitive)
        if len(sent) <= 5:
            real(primitive)

    assoc.dul.send_pdu = half
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    assert len(sent) > 10
    assoc.dul.send_pdu = real
    assoc.abort()
    until(lambda: events(settings(), "association.aborted"))
    assert inbox_files(settings()) == []
    assert sum(node.job_counts().values()) == 0
    assert store(node.port, [big]) == [0x0000]


@pytest.mark.requirement("STO-04")
def test_a_file_that_grows_too_large_for_the_system_is_answered_out_of_resources(node, settings):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        assert store(node.port, [image("1.2.3", side=2000)]) == [0xA700]
        assert inbox_files(settings()) == []
        assert sum(node.job_counts().values()) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store(node.port, [image("1.2.3", side=2000)]) == [0x0000]


@pytest.mark.requirement("STO-04")
def test_below_the_watermark_images_are_refused_and_the_log_says_why(settings):
    configured = settings(node={"minimum_free_bytes": 2**60})
    with Node(configured, process) as node:
        assert store(node.port, [image("1.2.3")]) == [0xA700]
    (refused,) = events(configured, "instance.refused")
    assert "minimum_free_bytes" in refused["why"]


@pytest.mark.requirement("STO-04")
def test_a_locked_database_is_answered_out_of_resources_and_the_node_recovers_by_itself(settings):
    configured = settings()
    with Node(configured, process) as node:
        other = sqlite3.connect(configured.node.storage / DATABASE_FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store(node.port, [image("1.2.3")]) == [0xA700]
        assert inbox_files(configured) == []
        other.execute("ROLLBACK")
        other.close()
        assert store(node.port, [image("1.2.3")]) == [0x0000]
        assert node.wait_idle(10)


@pytest.mark.requirement("AUD-02")
def test_an_audit_log_that_can_not_be_written_withholds_the_success(node, monkeypatch):
    def broken(*_args, **_keys):
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(node._store.audit, "append", broken)
        patch.setattr(node._store.audit, "extend", broken)
        assert store(node.port, [image("1.2.3")]) == [0xA700]
    assert store(node.port, [image("1.2.3")]) == [0x0000]
    assert node.wait_idle(10)
    assert node.job_counts()[JobState.DONE] == 1


@pytest.mark.requirement("DOOR-06")
def test_a_wrong_called_ae_title_is_rejected_and_recorded(node, settings):
    assert store(node.port, [image("1.2.3")], called="SOMEBODY") == []
    until(lambda: events(settings(), "association.rejected"))
    (rejected,) = events(settings(), "association.rejected")
    assert (rejected["called_ae_title"], rejected["calling_ae_title"]) == ("SOMEBODY", "MODALITY")
    assert "Called AE title not recognised" in rejected["why"]

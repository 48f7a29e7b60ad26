"""What becomes of fetched studies: queue, audit log, duplicates, conflicts, interruptions."""

import json
import os
import signal
import threading

import pydicom.uid as uids
import pytest

from dicom_gam.config import settings_from
from dicom_gam.errors import ConfigError
from dicom_gam.service.fetch import Progress, fetch_studies, source_named
from dicom_gam.service.store import AUDIT_FILE, hold_intake, open_store, own
from dicom_gam.storage.audit import records
from dicom_gam.storage.states import JobState
from tests.dicom.test_dicomweb_source import JSON, Server, file_of, item, multipart
from tests.dicom.test_retrieve import Archive, image

UNKNOWN = "1.2.826.0.1.404"
STUDY = "1.2.826.0.1.1"


class Web:
    """A DICOMweb archive with one study of some instances; `files` may be changed, and `before` is called at each."""

    def __init__(self, *numbers):
        self.files = {f"1.2.3.{number}": multipart(file_of(number)) for number in numbers}
        self.listed = [item(number) for number in numbers]
        self.before = lambda uid: None

    def __call__(self, path, query, headers):
        if not path.endswith("/instances"):
            uid = path.rpartition("/")[2]
            self.before(uid)
            return self.files[uid]
        return 200, JSON, json.dumps(self.listed if STUDY in path else []).encode()


@pytest.fixture
def web(tmp_path):
    archive = Web(1, 2)
    with Server(archive).running() as url:
        yield archive, settings_of(tmp_path, url=url)


def settings_of(tmp_path, retrieve="c-get", node=None, **peer):
    return settings_from(
        {
            "node": {"ae_title": "GAM", "storage": tmp_path / "node", "minimum_free_bytes": 0, **(node or {})},
            "sources": [{"name": "archive", "timeout_s": 5, "retrieve": retrieve, **peer}],
        }
    )


def fetched(settings, *study_uids, tell=lambda _: None):
    return list(fetch_studies(settings, source_named(settings, "archive"), study_uids or (STUDY,), tell))


def told(settings, *events):
    kept = records(settings.node.storage / AUDIT_FILE)
    return [record["keys"] for record in kept if record["event"] in events]


def files(settings):
    return [path for path in (settings.node.storage / "inbox").rglob("*") if path.is_file()]


@pytest.mark.requirement("PUL-01")
def test_what_is_fetched_waits_in_the_queue_like_what_is_sent(web):
    _, settings = web
    steps = []
    (report,) = fetched(settings, tell=steps.append)
    assert (report.stored, report.missing, report.complete) == (2, 0, True)
    assert steps == [Progress(STUDY, done, 2) for done in range(3)]
    with open_store(settings) as store:
        jobs = store.jobs.jobs()
        assert {job.state for job in jobs} == {JobState.RECEIVED}
        assert {job.instance.path for job in jobs} == set(files(settings))
        assert {(job.instance.calling_ae_title, job.instance.called_ae_title) for job in jobs} == {("archive", "GAM")}
    assert len(told(settings, "instance.stored")) == 2


@pytest.mark.requirement("STO-05")
def test_what_is_here_already_is_recognised_and_other_bytes_under_its_uid_are_kept_apart(web):
    archive, settings = web
    fetched(settings)
    archive.files["1.2.3.2"] = multipart(file_of(2, length=100))
    (report,) = fetched(settings)
    assert (report.stored, report.duplicates, report.quarantined, report.complete) == (0, 1, 1, False)
    with open_store(settings) as store:
        assert store.jobs.counts()[JobState.QUARANTINED] == 1
    (_, counted) = told(settings, "fetch.finished")
    assert (counted["duplicates"], counted["quarantined"]) == (1, 1)


@pytest.mark.requirement("PUL-03")
def test_a_study_that_fails_does_not_stop_the_next_and_each_is_in_the_audit_log(web):
    _, settings = web
    wrong, unknown, known = fetched(settings, "DOE^JANE", UNKNOWN, STUDY, UNKNOWN)
    assert "it is no UID" in wrong.error
    assert "knows no such study" in unknown.error
    assert known.complete
    failed = told(settings, "fetch.failed")
    assert [keys["study_instance_uid"] for keys in failed] == ["invalid", UNKNOWN]
    assert "DOE" not in (settings.node.storage / AUDIT_FILE).read_text()


def test_what_the_disk_has_no_room_for_is_told_and_leaves_nothing(tmp_path):
    with Server(Web(1, 2)).running() as url:
        settings = settings_of(tmp_path, url=url, node={"minimum_free_bytes": 2**60})
        (report,) = fetched(settings)
    assert [("free some space" in taken.why) for taken in report.refused] == [True, True]
    assert not report.complete
    assert files(settings) == []


@pytest.mark.requirement("PUL-04")
def test_an_interruption_by_hand_leaves_no_half_file_and_is_in_the_audit_log(web):
    archive, settings = web
    over = threading.Event()

    def interrupt(uid):
        if uid == "1.2.3.2":
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(20)

    archive.before = interrupt
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background are deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            fetched(settings)
    finally:
        over.set()
        signal.signal(signal.SIGINT, inherited)
    (keys,) = told(settings, "fetch.failed")
    assert (keys["why"], keys["stored"], keys["missing"]) == ("interrupted", 1, 1)
    assert len(files(settings)) == 1
    archive.before = lambda uid: None
    (report,) = fetched(settings)
    assert (report.stored, report.duplicates) == (1, 1)


def test_a_node_can_put_its_inbox_right_while_a_source_is_slow(web):
    archive, settings = web
    held = []
    archive.before = lambda uid: held.append(os.close(hold_intake(settings.node.storage, alone=True)))
    (report,) = fetched(settings)
    assert (len(held), report.complete) == (2, True)


@pytest.mark.requirement("PUL-02")
def test_an_instance_that_a_source_sends_wrongly_is_refused_and_the_study_is_incomplete(web):
    archive, settings = web
    archive.files["1.2.3.1"] = multipart(file_of(2))
    (report,) = fetched(settings)
    assert (report.stored, len(report.refused), report.complete) == (1, 1, False)
    assert report.refused[0].sop_instance_uid == "1.2.3.1"


def test_a_study_without_radiographs_is_complete_with_nothing_got(tmp_path):
    archive = Web()
    archive.listed = [item(1, **{"00080016": uids.CTImageStorage, "00080060": "CT"})]
    with Server(archive).running() as url:
        (report,) = fetched(settings_of(tmp_path, url=url))
    assert (len(report.found), len(report.skipped), report.wanted, report.complete) == (1, 1, [], True)


@pytest.mark.requirement("PUL-04", "PUL-03")
def test_an_archive_that_breaks_off_leaves_what_came_and_counts_what_is_missing(tmp_path):
    archive = Archive([image(1), image(2, rows=4 * 1024**2), image(3)])
    with archive.running() as port:
        settings = settings_of(
            tmp_path, ae_title="PACS", host="127.0.0.1", port=port, node={"maximum_instance_bytes": 1024**2}
        )
        (report,) = fetched(settings)
    assert "raise node.maximum_instance_bytes" in report.error
    assert (report.stored, report.missing, report.complete) == (1, 2, False)
    assert len(files(settings)) == 1


def test_what_an_archive_claims_to_have_moved_counts_only_once_it_is_here(tmp_path):
    archive = Archive([image(1)])
    archive.move_status = 0x0000
    with archive.running() as port:
        peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": port, "timeout_s": 2}
        settings = settings_of(tmp_path, retrieve="c-move", **peer)
        with open_store(settings, create=True):
            lock = own(settings.node.storage)
        try:
            (report,) = fetched(settings)
        finally:
            os.close(lock)
    assert (report.stored, report.complete) == (0, False)
    (taken,) = report.refused
    assert "the source says that it was sent, but it has not arrived" in taken.why


def test_a_source_that_is_not_in_the_configuration_is_told_with_those_that_are(tmp_path):
    with pytest.raises(ConfigError, match=r"no source 'other' among \[\[sources\]\].*one of these: archive"):
        source_named(settings_of(tmp_path, url="http://127.0.0.1/web"), "other")


def test_a_move_from_a_dicomweb_source_is_refused_as_a_contradiction(tmp_path):
    with pytest.raises(ConfigError, match="retrieve is DIMSE only: remove it"):
        settings_of(tmp_path, retrieve="c-move", url="http://127.0.0.1/web")

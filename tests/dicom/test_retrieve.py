"""Getting studies: what is wanted, what is refused, and archives that misbehave in each of the usual ways."""

import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pydicom.uid as uids
import pytest
from pydicom import DataElement, config
from pydicom.dataset import Dataset, FileMetaDataset
from pynetdicom import AE, association, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import encode
from pynetdicom.transport import ThreadedAssociationServer

from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES
from dicom_gam.dicom.scu.dimse_source import CLASSES_PER_ASSOCIATION, FIND, GET, MOVE, DimseSource
from dicom_gam.dicom.scu.retrieve import Listed, RetrieveError, Station, take, why_not_wanted
from dicom_gam.errors import StorageError
from dicom_gam.sections import Source
from tests.dicom.radiograph_files import SERIES, STUDY, header, standard_pixels
from tests.dicom.self_signed import self_signed

CR, CT, SC = uids.ComputedRadiographyImageStorage, uids.CTImageStorage, uids.SecondaryCaptureImageStorage
LITTLE = uids.ExplicitVRLittleEndian
# pynetdicom leaves the socket of a refused or torn connection to the garbage collector (see tests/service/fakes.py).
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"),
    pytest.mark.usefixtures("garbage_collected"),
]


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch):
    serve = ThreadedAssociationServer.serve_forever
    monkeypatch.setattr(ThreadedAssociationServer, "serve_forever", lambda server: serve(server, 0.02))


class Inbox:
    """Receives into memory; `fault` is raised when a data set is written."""

    def __init__(self, fault=None):
        self.kept, self.arrivals, self.begun, self.abandoned, self.fault = {}, [], 0, 0, fault

    def __call__(self, arrival):
        self.begun += 1
        return Kept(self, arrival)


class Kept:
    def __init__(self, inbox, arrival):
        self.inbox, self.arrival, self.content = inbox, arrival, bytearray()

    def write(self, part):
        if self.inbox.fault is not None:
            raise self.inbox.fault
        self.content += part

    def commit(self):
        self.inbox.arrivals.append(self.arrival)
        self.inbox.kept[self.arrival.sop_instance_uid] = bytes(self.content)
        return "kept"

    def abandon(self):
        self.inbox.abandoned += 1


def station(receive, **changes):
    values = {
        "ae_title": "GAM",
        "calling_ae_title": "PACS",
        "peer_address": "127.0.0.1",
        "sop_classes": ACCEPTED_SOP_CLASSES,
        "maximum_instance_bytes": 1024**2,
        "receive": receive,
    }
    return Station(**values | changes)


def image(number, sop_class_uid=CR, rows=None):
    ds = header(standard_pixels(), SOPClassUID=sop_class_uid, SOPInstanceUID=f"1.2.3.{number}")
    ds.PixelData = standard_pixels().tobytes() if rows is None else bytes(rows)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = LITTLE
    return ds


def listed(number, sop_class_uid=CR):
    return Listed(STUDY, SERIES, f"1.2.3.{number}", sop_class_uid, "CR")


def encoded(ds):
    return encode(ds, False, True)


@pytest.mark.parametrize(
    ("sop_class_uid", "modality", "extra", "why"),
    [
        (CR, "CR", (), ""),
        (CR, "", (), ""),
        ("", "DX", (), ""),
        ("", "", (), ""),
        ("", "MR", (), "another modality"),
        (CT, "CT", (), "another SOP class"),
        (CT, "CT", (CT,), ""),
        (SC, "OT", (), "Secondary Capture of another modality"),
        (SC, "DX", (), ""),
        (SC, "OT", (SC,), ""),
    ],
)
def test_only_what_would_be_refused_as_no_radiograph_is_left_where_it_is(sop_class_uid, modality, extra, why):
    assert why_not_wanted(Listed(STUDY, SERIES, "1.2.3", sop_class_uid, modality), extra) == why


@pytest.mark.requirement("PUL-02")
@pytest.mark.parametrize(
    ("announced", "said", "content", "why"),
    [
        (listed(1), (CR, "1.2.3.2", LITTLE), encoded(image(2)), "another SOP Instance UID than the one"),
        (listed(1), (CR, "1.2.3.1", LITTLE), encoded(image(2)), "data set holds another SOP Instance UID"),
        (listed(1), (SC, "1.2.3.1", LITTLE), encoded(image(1, SC)), "another SOP Class UID than it had announced"),
        (listed(1), (CR, "1.2.3.1", LITTLE), encoded(image(1, SC)), "data set holds another SOP Class UID"),
        (listed(1, ""), (CT, "1.2.3.1", LITTLE), encoded(image(1, CT)), "SOP class that was not asked for"),
        (listed(1, ""), ("name^of", "1.2.3.1", LITTLE), encoded(image(1)), "SOP class that was not asked for"),
        (listed(1), (CR, "1.2.3.1", uids.MPEG2MPML), encoded(image(1)), "no strict decoder"),
        (listed(1), (CR, "1.2.3.1", "name^of"), encoded(image(1)), r"\(not a UID\)"),
        (listed(1), (CR, "1.2.3.1", LITTLE), b"", "empty data set"),
    ],
)
def test_what_is_not_what_was_asked_for_is_refused_before_anything_is_written(announced, said, content, why):
    inbox = Inbox()
    with pytest.raises(RetrieveError, match=why):
        take(station(inbox), announced, said, [content])
    assert inbox.begun == 0


def test_what_comes_in_parts_is_kept_as_it_came_and_counts_as_the_sources():
    inbox, content = Inbox(), encoded(image(1))
    receipt = take(station(inbox), listed(1), (CR, "1.2.3.1", LITTLE), [content[:500], content[500:501], content[501:]])
    (arrival,) = inbox.arrivals
    assert (receipt, inbox.kept) == ("kept", {"1.2.3.1": content})
    assert (arrival.calling_ae_title, arrival.called_ae_title, arrival.peer_address) == ("PACS", "GAM", "127.0.0.1")


@pytest.mark.requirement("PUL-04")
@pytest.mark.parametrize("fault", [StorageError("disk full"), KeyboardInterrupt()])
def test_a_failure_or_an_interruption_leaves_nothing(fault):
    inbox = Inbox(fault)
    with pytest.raises(type(fault)):
        take(station(inbox), listed(1), (CR, "1.2.3.1", LITTLE), [encoded(image(1))])
    assert (inbox.begun, inbox.abandoned, inbox.kept) == (1, 1, {})


def test_more_bytes_than_allowed_leave_nothing():
    inbox, content = Inbox(), encoded(image(1))
    with pytest.raises(RetrieveError, match=r"larger than 1500 bytes.*raise node\.maximum_instance_bytes"):
        take(station(inbox, maximum_instance_bytes=1500), listed(1), (CR, "1.2.3.1", LITTLE), [content[:1000]] * 2)
    assert (inbox.abandoned, inbox.kept) == (1, {})


class Archive:
    """An archive with one series; its attributes say how it misbehaves."""

    def __init__(self, images, classes=(CR, SC)):
        self.images, self.classes = images, classes
        self.tells_class = True
        self.also_found: list[Dataset] = []
        self.sends = None  # instead of what is asked for
        self.find_status = self.move_status = None
        self.offers = (FIND, GET, MOVE)
        self.role = True
        self.silent = threading.Event()
        self.wait_s = 0.0
        self.associations = 0
        self.answers: list[int] = []
        self.ssl_context = None

    @contextmanager
    def running(self):
        ae = AE("PACS")
        ae.require_called_aet = True
        for uid in self.offers:
            ae.add_supported_context(uid)
        for uid in self.classes:
            ae.add_supported_context(uid, LITTLE, scu_role=self.role, scp_role=self.role)
        handlers = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_DIMSE_RECV, self._heard),
        ]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=self.ssl_context)
        try:
            yield server.server_address[1]
        finally:
            self.silent.set()
            server.shutdown()
            for assoc in ae.active_associations:
                assoc.abort()

    def _accepted(self, _):
        self.associations += 1

    def _heard(self, event):
        status = event.message.command_set.get("Status")
        if status is not None:
            self.answers.append(status)

    def _find(self, event):
        if self.find_status is not None:
            yield self.find_status, None
            return
        query = event.identifier
        for ds in self.images[:1] if query.QueryRetrieveLevel != "IMAGE" else self.images:
            match = Dataset()
            match.QueryRetrieveLevel = query.QueryRetrieveLevel
            for element in query:
                if element.keyword in ds:
                    setattr(match, element.keyword, ds[element.keyword].value)
            if not self.tells_class:
                match.pop("SOPClassUID", None)
            yield 0xFF00, match
        for match in self.also_found if query.QueryRetrieveLevel == "IMAGE" else ():
            yield 0xFF00, match

    def _get(self, event):
        wanted = event.identifier.SOPInstanceUID
        wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        found = self.sends or [ds for ds in self.images if ds.SOPInstanceUID in wanted]
        yield len(found)
        for ds in found:
            self.silent.wait(self.wait_s)
            yield 0xFF00, ds

    def _move(self, _):
        yield (None, None) if self.move_status == 0xA801 else ("127.0.0.1", 1)
        yield 0
        yield self.move_status, None


def opened(port, inbox, timeout_s=5.0, **changes):
    tls = {key: changes.pop(key) for key in ("tls", "ca", "certificate", "key") if key in changes}
    where = {"ae_title": changes.pop("called", "PACS"), "host": changes.pop("host", "127.0.0.1"), "port": port}
    return DimseSource(Source(name="pacs", timeout_s=timeout_s, **where, **tls), station(inbox, **changes))


def got(remote, instances):
    done = []
    remote.get(instances, done.append)
    return {taken.sop_instance_uid: taken.why for taken in done}


@pytest.mark.requirement("PUL-03")
def test_what_does_not_come_is_told_beside_what_does():
    archive, inbox = Archive([image(1)]), Inbox()
    with archive.running() as port:
        outcome = got(opened(port, inbox), [listed(1), listed(2)])
    assert outcome["1.2.3.1"] == ""
    assert "it did not come: the source says that it has sent everything" in outcome["1.2.3.2"]
    assert inbox.kept == {"1.2.3.1": encoded(image(1))}


@pytest.mark.requirement("PUL-02")
def test_an_instance_that_was_not_asked_for_is_refused_and_not_kept():
    archive, inbox = Archive([image(1)]), Inbox()
    archive.sends = [image(7), image(1)]
    with archive.running() as port:
        assert got(opened(port, inbox), [listed(1)]) == {"1.2.3.1": ""}
    assert list(inbox.kept) == ["1.2.3.1"]
    assert archive.answers == [0xA900, 0x0000]


def test_the_archive_hears_that_we_are_out_of_space_and_the_operator_why():
    archive, inbox = Archive([image(1)]), Inbox(StorageError("only 5 bytes are free: free some space"))
    with archive.running() as port:
        assert got(opened(port, inbox), [listed(1)]) == {"1.2.3.1": "only 5 bytes are free: free some space"}
    assert archive.answers == [0xA700]


def test_a_source_that_tells_no_sop_class_is_asked_with_all_classes_in_turn():
    archive = Archive([image(1), image(2, SC)], ACCEPTED_SOP_CLASSES)
    archive.tells_class = False
    assert len(ACCEPTED_SOP_CLASSES) > CLASSES_PER_ASSOCIATION
    assert ACCEPTED_SOP_CLASSES.index(SC) >= CLASSES_PER_ASSOCIATION
    inbox = Inbox()
    with archive.running() as port:
        remote = opened(port, inbox)
        found = remote.find(STUDY)
        assert {item.sop_class_uid for item in found} == {""}
        assert got(remote, found) == {"1.2.3.1": "", "1.2.3.2": ""}
    assert sorted(inbox.kept) == ["1.2.3.1", "1.2.3.2"]


def test_matches_that_contradict_the_question_are_left_out():
    archive = Archive([image(1)])
    for keyword, value in (
        ("StudyInstanceUID", "1.2.99"),
        ("SOPInstanceUID", "DOE^JANE"),
        ("SeriesInstanceUID", "1.2.98"),
    ):
        stray = Dataset()
        stray.StudyInstanceUID, stray.SeriesInstanceUID, stray.SOPInstanceUID = STUDY, SERIES, "1.2.3.9"
        stray.SOPClassUID = CR
        stray[keyword] = DataElement(keyword, "UI", value, validation_mode=config.IGNORE)
        archive.also_found.append(stray)
    with archive.running() as port:
        assert opened(port, Inbox()).find(STUDY) == [listed(1)]


@pytest.mark.parametrize(
    ("changes", "call", "why"),
    [
        ({"offers": (FIND, MOVE)}, got, "does not offer C-GET: set source.retrieve to c-move"),
        ({"offers": (GET,)}, DimseSource.find, "accepts nothing of what we ask for .*FIND"),
        ({"find_status": 0xA700}, DimseSource.find, r"answers C-FIND so: .*\(status A700\)"),
        ({"find_status": 0x0124}, DimseSource.find, "allow our AE title to query and retrieve"),
    ],
)
def test_an_archive_that_will_not_is_told_with_what_to_do(changes, call, why):
    archive = Archive([image(1)])
    for name, value in changes.items():
        setattr(archive, name, value)
    with archive.running() as port, pytest.raises(RetrieveError, match=why):
        call(opened(port, Inbox()), [listed(1)] if call is got else STUDY)


@pytest.mark.parametrize("changes", [{"classes": ()}, {"role": None}])
def test_an_archive_that_gives_us_no_storage_role_is_told_with_what_to_do(changes):
    archive = Archive([image(1)])
    for name, value in changes.items():
        setattr(archive, name, value)
    with archive.running() as port:
        outcome = got(opened(port, Inbox()), [listed(1)])
    assert "set source.retrieve to c-move" in outcome["1.2.3.1"]


def test_a_move_to_an_unknown_destination_says_who_has_to_enter_what():
    archive = Archive([image(1)])
    archive.move_status = 0xA801
    with archive.running() as port:
        failures = opened(port, Inbox()).move([listed(1)], lambda _: None)
    assert "move destination unknown) (status A801); have its administrator add our AE title" in failures["1.2.3.1"]


def test_no_answer_is_lost_when_the_machine_is_so_busy_that_pynetdicom_races_with_itself(monkeypatch):
    class Slow(threading.Event):
        """The reactor's checkpoint; a thread that leaves it is held up."""

        def wait(self, timeout=None):
            passed = super().wait(timeout)
            time.sleep(0.1)
            return passed

    def late(provider, block=False):
        if block:
            time.sleep(0.2)
        return get(provider, block)

    get = DIMSEServiceProvider.get_msg
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", late)
    archive, inbox = Archive([image(1)]), Inbox()
    with archive.running() as port:
        monkeypatch.setattr(association, "threading", SimpleNamespace(**vars(threading) | {"Event": Slow}))
        remote = opened(port, inbox)
        assert remote.find(STUDY) == [listed(1)]
        assert got(remote, [listed(1)]) == {"1.2.3.1": ""}


@pytest.mark.requirement("PUL-04")
def test_a_silent_archive_is_given_up_and_what_came_before_is_kept():
    archive, inbox, done = Archive([image(1), image(2)]), Inbox(), []
    archive.wait_s = 60.0
    archive.silent.set()  # the first comes at once

    def hold(arrival):
        archive.silent.clear()
        return inbox(arrival)

    with (
        archive.running() as port,
        pytest.raises(RetrieveError, match=r"it has been silent for 3 s: .*raise timeout_s"),
    ):
        opened(port, hold, timeout_s=3.0).get([listed(1), listed(2)], done.append)
    assert [taken.sop_instance_uid for taken in done] == ["1.2.3.1"]


def test_an_instance_that_is_too_large_ends_the_association_before_it_fills_the_memory():
    archive, inbox = Archive([image(1, rows=4 * 1024**2)]), Inbox()
    with archive.running() as port, pytest.raises(RetrieveError, match=r"raise node\.maximum_instance_bytes"):
        got(opened(port, inbox), [listed(1)])
    assert inbox.begun == 0


def test_an_interruption_by_hand_leaves_nothing_and_ends_the_association():
    archive, inbox = Archive([image(1)]), Inbox(KeyboardInterrupt())
    before = threading.active_count()
    with archive.running() as port:
        with pytest.raises(KeyboardInterrupt):
            got(opened(port, inbox), [listed(1)])
        assert (inbox.begun, inbox.abandoned, inbox.kept) == (1, 1, {})
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(5)
    assert threading.active_count() <= before


def test_an_archive_that_is_not_there_or_does_not_know_us_is_told():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(RetrieveError, match="can't be reached"):
            opened(port, Inbox()).find(STUDY)
    with Archive([image(1)]).running() as port, pytest.raises(RetrieveError, match="check both AE titles"):
        opened(port, Inbox(), called="OTHER").find(STUDY)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"), "localhost")


def test_a_study_comes_over_tls_and_only_from_who_is_trusted(certificate):
    archive, inbox = Archive([image(1)]), Inbox()
    archive.ssl_context = certificate.server_context()
    with archive.running() as port:
        remote = opened(port, inbox, tls=True, ca=certificate.certificate)
        assert got(remote, remote.find(STUDY)) == {"1.2.3.1": ""}
        with pytest.raises(RetrieveError, match="shows a certificate that is not trusted"):
            opened(port, inbox, tls=True).find(STUDY)
    assert inbox.kept == {"1.2.3.1": encoded(image(1))}

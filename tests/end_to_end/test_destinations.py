"""Debian's Orthanc as a destination: storage commitment that comes back to our front door, and STOW-RS."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_gam.dicom.scu.destination import probe, send
from dicom_gam.errors import DeliveryError
from dicom_gam.sections import Destination
from dicom_gam.service.commitment import settle_report
from tests.dicom.front_door import FrontDoor
from tests.end_to_end.peers import DICOMWEB, Orthanc, free_port, wait_for
from tests.service.post_office import QUICK, PostOffice

# pynetdicom leaves the socket of a refused connection to the garbage collector (transport.py, _shutdown_socket).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")


class OrthancWithWeb(Orthanc):
    """Orthanc that speaks DICOMweb too, and knows the node by another title."""

    def __init__(self, folder: Path, node_port: int) -> None:
        super().__init__(folder, node_port, **DICOMWEB, DicomModalities={"node": ["DICOM_GAM", "127.0.0.1", node_port]})

    def uids(self) -> list[str]:
        return [tags["SOPInstanceUID"] for tags in self.instances().values()]

    def forget(self, uid: str) -> None:
        (instance,) = [i for i, tags in self.instances().items() if tags["SOPInstanceUID"] == uid]
        url = f"http://127.0.0.1:{self.http}/instances/{instance}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()


@pytest.fixture(scope="module")
def node_port():
    return free_port()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, node_port):
    running = OrthancWithWeb(tmp_path_factory.mktemp("destination") / "orthanc", node_port)
    yield running
    running.stop()


@pytest.fixture
def office(tmp_path):
    opened = PostOffice(tmp_path / "node")
    yield opened
    opened.close()


def web(orthanc, root="/dicom-web"):
    return {"ae_title": None, "host": None, "port": None, "url": f"http://127.0.0.1:{orthanc.http}{root}"}


@pytest.mark.requirement("COM-01", "COM-04")
def test_orthanc_answers_for_what_it_has_at_our_front_door(orthanc, node_port, office):
    with FrontDoor(port=node_port, report=lambda r: settle_report(office.outbox, office.audit, QUICK, r)):
        names = office.put("2.25.1", "pacs") + office.put("2.25.2", "pacs")
        office.courier(send, ae_title="ORTHANC", port=orthanc.dicom, commitment=True)
        wait_for(lambda: office.states() == ["sent"] * 4, what="Orthanc's commitment")
    assert set(names) <= set(orthanc.uids())
    (asked,), (answered,) = office.events("commitment.asked"), office.events("commitment.answered")
    assert asked["transaction_uid"] == answered["transaction_uid"]
    assert (answered["committed"], answered["failed"], answered["calling_ae_title"]) == (4, 0, "ORTHANC")


@pytest.mark.requirement("COM-02")
def test_what_orthanc_has_lost_in_the_meantime_is_sent_again(orthanc, node_port, office):
    lost, kept = office.put("2.25.3", "pacs")
    forgotten = []

    def lose_one(destination, title, files):
        for answer in send(destination, title, files):
            yield answer
            if not forgotten:
                forgotten.append(lost)
                orthanc.forget(lost)

    with FrontDoor(port=node_port, report=lambda r: settle_report(office.outbox, office.audit, QUICK, r)):
        courier = office.courier(lose_one, ae_title="ORTHANC", port=orthanc.dicom, commitment=True)
        wait_for(lambda: office.events("commitment.answered"), what="Orthanc's first report")
        courier.loop.wake()
        wait_for(lambda: office.states() == ["sent"] * 2, what="Orthanc's second commitment")
    assert {lost, kept} <= set(orthanc.uids())
    (again,) = office.events("delivery.postponed")
    assert (again["sop_instance_uid"], again["status"]) == (lost, "0112")
    first, second = office.events("commitment.asked")
    assert first["transaction_uid"] != second["transaction_uid"]
    assert (first["objects"], second["objects"]) == (2, 1)


@pytest.mark.requirement("RES-26", "DEL-10")
def test_orthanc_gets_the_very_bytes_by_stow(orthanc, office):
    names = office.put("2.25.4", "pacs")
    office.courier(send, **web(orthanc))
    wait_for(lambda: office.states() == ["sent"] * 2, what="STOW-RS")
    found = {tags["SOPInstanceUID"]: i for i, tags in orthanc.instances().items()}
    for name, row in zip(names, office.deliveries(), strict=True):
        assert orthanc.call(f"/instances/{found[name]}/file") == office.results.read(row.what.blob)


@pytest.mark.requirement("DEL-10")
def test_orthanc_explains_by_stow_what_it_does_not_take(orthanc):
    destination = Destination(name="web", url=f"http://127.0.0.1:{orthanc.http}/dicom-web", timeout_s=20)
    with open(get_testdata_file("CT_small.dcm"), "rb") as file:
        good = file.read()
    bad = good[:400]
    answers = list(send(destination, "DICOM_GAM", [bad, good]))
    assert answers[1].stored
    assert not answers[0].stored
    assert str(dcmread(get_testdata_file("CT_small.dcm")).SOPInstanceUID) in orthanc.uids()


def test_the_probe_finds_orthanc_by_either_way_and_names_a_wrong_url(orthanc):
    probe(Destination(name="pacs", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom), "DICOM_GAM")
    probe(Destination(name="web", url=f"http://127.0.0.1:{orthanc.http}/dicom-web/"), "DICOM_GAM")
    with pytest.raises(DeliveryError, match="check url"):
        probe(Destination(name="web", url=f"http://127.0.0.1:{orthanc.http}/wado"), "DICOM_GAM")


@pytest.mark.requirement("DEL-02", "DEL-08")
@pytest.mark.parametrize("by", ["c-store", "stow"])
def test_orthanc_down_for_the_whole_push_gets_everything_in_order_when_it_is_back(orthanc, office, by):
    orthanc.stop()
    try:
        names = []
        for number in range(6):
            names += office.put(f"2.25.5{number % 2}", "pacs")
        keys = web(orthanc) if by == "stow" else {"ae_title": "ORTHANC", "port": orthanc.dicom}
        office.courier(send, **keys)
        wait_for(lambda: len(office.events("destination.unreachable")) >= 2, what="failed tries")
        assert set(office.states()) == {"retry"}
    finally:
        orthanc.start()
    wait_for(lambda: office.states() == ["sent"] * 12, what="delivery")
    assert [keys["sop_instance_uid"] for keys in office.events("delivery.sent")] == names
    stored = orthanc.uids()
    assert [stored.count(name) for name in names] == [1] * 12

"""Storage commitment: what counts as delivered, and what becomes of answers that are bad, late, repeated or missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_gam.dicom.commitment import CommitmentReport, explain_failure
from dicom_gam.dicom.scu.commitment_request import CommitmentRefusedError
from dicom_gam.dicom.scu.destination import send
from dicom_gam.errors import ConfigError, DeliveryError
from dicom_gam.service.commitment import settle_report
from tests.service.fakes import SECONDARY_CAPTURE, TORN_CONNECTIONS, until
from tests.service.post_office import QUICK, Pacs, PostOffice

pytestmark = TORN_CONNECTIONS


@pytest.fixture
def office(tmp_path: Path) -> Iterator[PostOffice]:
    opened = PostOffice(tmp_path / "node")
    yield opened
    opened.close()


class Notebook:
    """An `ask` that only notes what was asked for; the answers come later, as to the front door."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.refuses: Exception | None = None

    def __call__(self, destination, title, transaction_uid, objects, report, enough) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.asked.append((transaction_uid, [name for _, name in objects]))


def answer(office, transaction_uid, committed=(), failed=()):
    report = CommitmentReport(transaction_uid, tuple(committed), tuple(failed), "PACS", "127.0.0.1")
    settle_report(office.outbox, office.audit, QUICK, report)


@pytest.mark.requirement("COM-01")
def test_a_stored_object_counts_as_delivered_only_when_the_destination_answers_for_it(office):
    ask = Notebook()
    names = office.put("1.1", "pacs")
    office.courier(Pacs(), ask=ask, commitment=True)
    until(lambda: ask.asked)
    assert office.states() == ["unconfirmed"] * 2
    assert office.events("delivery.sent") == []
    ((uid, asked),) = ask.asked
    assert asked == names
    answer(office, uid, names)
    assert office.states() == ["sent", "sent"]
    told = office.events("delivery.sent")
    assert [(keys["sop_instance_uid"], keys["status"], keys["attempt"]) for keys in told] == [
        (name, "0000", 1) for name in names
    ]
    assert uid in told[0]["words"]


@pytest.mark.requirement("COM-03")
def test_the_same_report_twice_changes_nothing(office):
    ask = Notebook()
    names = office.put("1.1", "pacs")
    office.courier(Pacs(), ask=ask, commitment=True)
    until(lambda: ask.asked)
    answer(office, ask.asked[0][0], names)
    answer(office, ask.asked[0][0], names)
    answer(office, ask.asked[0][0], [], [(name, 0x0112) for name in names])
    assert office.states() == ["sent", "sent"]
    assert len(office.events("delivery.sent")) == 2


@pytest.mark.requirement("COM-03")
def test_a_report_that_nobody_asked_for_is_recorded_and_refused(office):
    for uid, shown in (("2.25.5", "2.25.5"), ("SECRET^NAME", "invalid")):
        with pytest.raises(DeliveryError, match=f"no storage commitment was asked for .* {shown}"):
            answer(office, uid, ["1.2.3"])
    told = office.events("commitment.unknown")
    assert [(keys["transaction_uid"], keys["calling_ae_title"]) for keys in told] == [
        ("2.25.5", "PACS"),
        ("invalid", "PACS"),
    ]


@pytest.mark.requirement("COM-02")
def test_what_the_destination_does_not_answer_for_is_sent_and_asked_for_again_under_a_new_uid(office):
    ask, pacs = Notebook(), Pacs()
    first, second = office.put("1.1", "pacs")
    courier = office.courier(pacs, ask=ask, commitment=True)
    until(lambda: ask.asked)
    answer(office, ask.asked[0][0], [first], [(second, 0x0112)])
    row = office.deliveries()[1]
    assert (row.status, row.cause) == (0x0112, explain_failure(0x0112))
    courier.loop.wake()
    until(lambda: len(ask.asked) == 2)
    assert pacs.arrived == [first, second, second]
    assert ask.asked[1][1] == [second]
    assert ask.asked[0][0] != ask.asked[1][0]
    answer(office, ask.asked[1][0], [second])
    assert office.states() == ["sent", "sent"]


def test_an_object_that_is_never_answered_for_ends_as_a_dead_letter_with_the_cause(office):
    office.put("1.1", "pacs", objects=1)
    ask, pacs = Notebook(), Pacs()
    office.courier(pacs, ask=ask, commitment=True, commitment_timeout_s=0.01)
    until(lambda: office.states() == ["dead"], 20)
    assert len(pacs.arrived) == len(ask.asked) == QUICK.attempts
    assert len({uid for uid, _ in ask.asked}) == QUICK.attempts
    assert office.deliveries()[0].cause.startswith("given up after 4 attempts: the destination has stored it, but")


@pytest.mark.requirement("COM-03")
def test_a_late_answer_to_an_earlier_request_is_honoured(office):
    names = office.put("1.1", "pacs")
    ask = Notebook()
    office.courier(Pacs(), ask=ask, commitment=True, commitment_timeout_s=0.01)
    until(lambda: len(ask.asked) >= 2)
    answer(office, ask.asked[0][0], names)
    assert office.states() == ["sent", "sent"]


def test_a_late_answer_raises_even_a_dead_letter(office):
    names = office.put("1.1", "pacs", objects=1)
    ask = Notebook()
    office.courier(Pacs(), ask=ask, commitment=True, commitment_timeout_s=0.01)
    until(lambda: office.states() == ["dead"], 20)
    answer(office, ask.asked[0][0], names)
    assert office.states() == ["sent"]


def test_bad_news_about_an_earlier_request_does_not_disturb_the_newer_one(office):
    (name,) = office.put("1.1", "pacs", objects=1)
    ask = Notebook()
    courier = office.courier(Pacs(), ask=ask, commitment=True)
    until(lambda: ask.asked)
    answer(office, ask.asked[0][0], [], [(name, 0x0213)])
    courier.loop.wake()
    until(lambda: len(ask.asked) == 2)
    answer(office, ask.asked[0][0], [], [(name, 0x0213)])
    assert office.states() == ["unconfirmed"]


@pytest.mark.requirement("COM-03")
def test_an_object_both_committed_and_failed_is_not_taken_for_safe(office):
    (name,) = office.put("1.1", "pacs", objects=1)
    ask = Notebook()
    office.courier(Pacs(), ask=ask, commitment=True)
    until(lambda: ask.asked)
    answer(office, ask.asked[0][0], [name], [(name, 0x0110)])
    assert "sent" not in office.states()


def test_objects_that_were_not_asked_for_are_left_alone(office):
    (name,) = office.put("1.1", "pacs", objects=1)
    (other,) = office.put("1.1", "elsewhere", objects=1)
    ask = Notebook()
    office.courier(Pacs(), ask=ask, commitment=True)
    until(lambda: ask.asked)
    answer(office, ask.asked[0][0], [other, name, "1.2.3"])
    assert (office.states(), office.states("elsewhere")) == (["sent"], ["pending"])


def test_a_destination_without_storage_commitment_is_named_with_the_remedy(office):
    ask = Notebook()
    ask.refuses = CommitmentRefusedError("the destination offers no storage commitment: ask its administrator")
    office.put("1.1", "pacs", objects=1)
    office.courier(Pacs(), ask=ask, commitment=True)
    until(lambda: office.states() == ["dead"], 20)
    assert "offers no storage commitment: ask its administrator" in office.deliveries()[0].cause


@pytest.mark.parametrize("error", [DeliveryError("can't be reached"), ConfigError("/ca.pem can't be read")])
def test_a_destination_that_can_not_be_reached_for_the_request_is_asked_later_and_nothing_is_sent_again(office, error):
    ask, pacs = Notebook(), Pacs()
    ask.refuses = error
    office.put("1.1", "pacs", objects=1)
    office.courier(pacs, ask=ask, commitment=True)
    until(lambda: len(office.events("commitment.asked")) > QUICK.attempts + 1)
    ask.refuses = None
    until(lambda: ask.asked)
    assert (office.states(), len(pacs.arrived)) == (["unconfirmed"], 1)
    assert office.outbox.held("pacs") is None


@pytest.mark.parametrize("reason", [0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213])
def test_every_failure_reason_of_the_standard_has_its_own_words(reason):
    words = explain_failure(reason)
    assert f"{reason:04X}" in words
    assert "does not define" not in words


class CommittingArchive:
    """A pynetdicom archive that answers for what it has, over the same association."""

    def __init__(self, offers: bool = True, status: int = 0x0000) -> None:
        self.report_status: int | None = None
        self.failed: set[str] = set()
        self.stored: list[str] = []
        self._status = status
        ae = AE(ae_title="PACS")
        ae.add_supported_context(SECONDARY_CAPTURE, [ExplicitVRLittleEndian])
        if offers:
            ae.add_supported_context(StorageCommitmentPushModel, [ImplicitVRLittleEndian])
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def _store(self, event):
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event):
        if self._status == 0x0000:
            threading.Thread(target=self._report, args=(event.assoc, event.action_information)).start()
        return self._status, None

    def _report(self, assoc, asked):
        time.sleep(0.1)  # until the response is out
        information = Dataset()
        information.TransactionUID = asked.TransactionUID
        good, bad = [], []
        for item in asked.ReferencedSOPSequence:
            (bad if item.ReferencedSOPInstanceUID in self.failed else good).append(item)
        for item in bad:
            item.FailureReason = 0x0112
        if good:
            information.ReferencedSOPSequence = good
        if bad:
            information.FailedSOPSequence = bad
        status, _ = assoc.send_n_event_report(
            information, 2 if bad else 1, StorageCommitmentPushModel, UID("1.2.840.10008.1.20.1.1")
        )
        self.report_status = status.get("Status")

    def close(self):
        self._server.shutdown()


@pytest.mark.requirement("COM-04")
def test_an_answer_over_the_same_association_is_taken_in_and_answered(office):
    archive = CommittingArchive()
    first, second = office.put("1.1", "pacs")
    archive.failed = {second}
    try:
        office.courier(send, commitment=True, port=archive.port)
        until(lambda: archive.report_status is not None)
        archive.failed = set()
        until(lambda: office.states() == ["sent", "sent"])
    finally:
        archive.close()
    assert archive.report_status == 0x0000
    assert archive.stored == [first, second, second]


@pytest.mark.parametrize(("offers", "status"), [(False, 0x0000), (True, 0x0118)])
def test_a_real_archive_that_refuses_the_request_is_named_with_the_remedy(office, offers, status):
    archive = CommittingArchive(offers, status)
    office.put("1.1", "pacs", objects=1)
    try:
        office.courier(send, commitment=True, port=archive.port)
        until(lambda: office.states() == ["dead"], 20)
    finally:
        archive.close()
    assert "offers no storage commitment: ask its administrator" in office.deliveries()[0].cause

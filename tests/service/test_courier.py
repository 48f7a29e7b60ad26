"""What a courier does with answers, silence, pauses and the order of a study."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_gam.dicom.scu.sender import Answer
from dicom_gam.errors import ConfigError, DeliveryError
from dicom_gam.service.outbox import OBJECTS_PER_ASSOCIATION
from dicom_gam.service.result_check import ResultCheck
from tests.service.fakes import until
from tests.service.post_office import QUICK, STORED, Pacs, PostOffice

BUSY = Answer(stored=False, status=0xA700, words="the destination is out of resources (status A700)")
BROKEN = Answer(stored=False, status=None, words="it fell silent", broken=True)
DOWN = DeliveryError("destination pacs can't be reached (Connection refused): check that it runs")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[PostOffice]:
    opened = PostOffice(tmp_path / "node")
    yield opened
    opened.close()


def sent(office, destination="pacs"):
    return set(office.states(destination)) == {"sent"}


@pytest.mark.requirement("DEL-02", "DEL-08")
def test_a_pacs_that_was_down_for_the_whole_push_gets_everything_in_order_and_nothing_twice(office):
    pacs = Pacs()
    pacs.down = DOWN
    courier = office.courier(pacs)
    names = []
    for number in range(12):
        names += office.put(f"1.2.{number % 3}", "pacs")
        courier.loop.wake()
    until(lambda: pacs.tries >= 3)
    assert "sent" not in office.states()
    pacs.down = None
    until(lambda: sent(office))
    assert pacs.arrived == names
    assert {row.attempts for row in office.deliveries()} == {1}


@pytest.mark.requirement("DEL-02")
def test_however_long_it_is_down_nothing_becomes_a_dead_letter(office):
    pacs = Pacs()
    pacs.down = DOWN
    office.put("1.1", "pacs")
    office.courier(pacs)
    until(lambda: pacs.tries > 2 * QUICK.attempts)
    assert set(office.states()) == {"retry"}
    assert all("Connection refused" in row.cause for row in office.deliveries())
    assert office.outbox.held("pacs").attempts >= 2 * QUICK.attempts


def test_an_unreachable_pacs_is_tried_once_a_wait_however_many_objects_and_arrivals_there_are(office):
    pacs = Pacs()
    pacs.down = DOWN
    slow = QUICK.model_copy(update={"first_retry_s": 60.0, "maximum_retry_s": 60.0})
    for _ in range(2 * OBJECTS_PER_ASSOCIATION):
        office.put("1.1", "pacs")
    courier = office.courier(pacs, slow)
    until(lambda: pacs.tries == 1 and office.outbox.held("pacs") is not None)
    for _ in range(5):
        office.put("1.1", "pacs")
        courier.loop.wake()
    office.outbox.revive("pacs", 0.0)
    courier.loop.wake()
    until(lambda: pacs.tries == 2)
    until(lambda: len(office.events("destination.unreachable")) == 2)
    assert [(keys["attempt"], keys["waiting"]) for keys in office.events("destination.unreachable")] == [
        (1, 64),
        (2, 74),
    ]


def test_the_return_of_a_pacs_is_recorded_and_ends_its_being_unreachable(office):
    pacs = Pacs()
    pacs.down = DOWN
    office.put("1.1", "pacs")
    office.courier(pacs)
    until(lambda: pacs.tries >= 2)
    pacs.down = None
    until(lambda: sent(office))
    assert office.outbox.held("pacs") is None
    (keys,) = office.events("destination.reached")
    assert keys["attempts"] >= 2


def test_settings_that_can_not_be_used_hold_the_destination_with_their_own_words(office):
    pacs = Pacs()
    pacs.down = ConfigError("ca of pacs: /ca.pem can't be read (No such file)")
    office.put("1.1", "pacs")
    office.courier(pacs)
    until(lambda: office.outbox.held("pacs") is not None)
    assert "ca.pem can't be read" in office.outbox.held("pacs").cause


@pytest.mark.requirement("DEL-08")
def test_an_object_that_waits_holds_back_its_own_study_only(office):
    first, second = office.put("1.1", "pacs")
    others = office.put("1.2", "pacs")
    patience = iter([BUSY, BUSY])
    pacs = Pacs(lambda name: next(patience, STORED) if name == first else STORED)
    office.courier(pacs)
    until(lambda: sent(office))
    assert sorted(pacs.arrived) == sorted([first, second, *others])
    assert pacs.arrived.index(first) < pacs.arrived.index(second)
    assert pacs.arrived.index(others[1]) < pacs.arrived.index(first)
    assert pacs.offered.count(second) == 1


def test_a_dead_letter_lets_the_later_objects_of_its_study_go(office):
    first, second = office.put("1.1", "pacs")
    pacs = Pacs(lambda name: BUSY if name == first else STORED)
    office.courier(pacs)
    until(lambda: office.states() == ["dead", "sent"])
    assert pacs.offered == [first] * QUICK.attempts + [second]
    assert office.deliveries()[0].cause.startswith("given up after 4 attempts: the destination is out of resources")


@pytest.mark.requirement("DEL-03")
def test_one_destination_that_hangs_does_not_delay_the_other(office):
    hanging, release = threading.Event(), threading.Event()

    def hang(name):
        hanging.set()
        assert release.wait(60)
        return STORED

    broken, pacs = Pacs(hang), Pacs()
    office.put("1.1", "broken", "pacs")
    office.courier(broken, name="broken")
    assert hanging.wait(10)
    courier = office.courier(pacs)
    for _ in range(8):
        office.put("1.1", "broken", "pacs")
    courier.loop.wake()
    try:
        until(lambda: sent(office))  # all of it, while the first object still hangs at the other destination
        assert broken.arrived == []
        assert set(office.states("broken")) == {"pending"}
    finally:
        release.set()


def test_an_object_that_upsets_the_pacs_costs_only_its_own_attempts(office):
    poison, *_ = office.put("1.1", "pacs")
    others = office.put("1.2", "pacs") + office.put("1.3", "pacs")
    pacs = Pacs(lambda name: BROKEN if name == poison else STORED)
    office.courier(pacs)
    until(lambda: office.states() == ["dead", *["sent"] * 5])
    assert office.events("destination.unreachable") == []
    assert pacs.arrived[:4] == others
    assert pacs.offered.count(poison) == QUICK.attempts


def test_a_pacs_that_breaks_off_over_one_object_after_another_is_held_as_a_whole(office):
    for number in range(5):
        office.put(f"1.{number}", "pacs", objects=1)
    pacs = Pacs(lambda _: BROKEN)
    slow = QUICK.model_copy(update={"first_retry_s": 60.0, "maximum_retry_s": 60.0})
    office.courier(pacs, slow)
    until(lambda: office.outbox.held("pacs") is not None)
    assert len(pacs.offered) == 2
    assert sorted({row.attempts for row in office.deliveries()}) == [0, 1]


@pytest.mark.requirement("DEL-05")
def test_a_hopeless_object_is_given_up_at_once(office):
    hopeless = Answer(stored=False, status=None, words="it is no DICOM file", hopeless=True)
    office.put("1.1", "pacs")
    pacs = Pacs(lambda _: hopeless)
    office.courier(pacs)
    until(lambda: office.states() == ["dead", "dead"])
    assert len(pacs.offered) == 2
    assert office.deliveries()[0].cause == "it is no DICOM file"


@pytest.mark.requirement("DEL-06")
def test_a_pause_is_heeded_between_two_objects_and_ended_by_resume(office):
    names = office.put("1.1", "pacs", objects=6)

    def pause_at_second(name):
        if name == names[1]:
            office.outbox.pause("pacs", "maintenance", 1.0)
        return STORED

    pacs = Pacs(pause_at_second)
    courier = office.courier(pacs)
    until(lambda: office.states() == ["sent"] * 2 + ["pending"] * 4)
    courier.loop.wake()
    until(lambda: not courier.loop._woken.is_set())
    assert pacs.arrived == names[:2]
    office.outbox.resume("pacs")
    courier.loop.wake()
    until(lambda: sent(office))
    assert pacs.arrived == names


@pytest.mark.requirement("AUD-05")
def test_every_attempt_is_recorded_with_where_what_which_and_how(office):
    first, _ = office.put("1.1", "pacs")
    answers = iter([BUSY])
    office.courier(Pacs(lambda _: next(answers, STORED)))
    until(lambda: sent(office))
    (postponed,) = office.events("delivery.postponed")
    delivered = office.events("delivery.sent")[0]
    row = office.deliveries()[0]
    for keys in (postponed, delivered):
        assert (keys["destination"], keys["job_id"], keys["sop_instance_uid"]) == ("pacs", row.job_id, first)
        assert keys["sha256"] == row.what.blob
    assert (postponed["attempt"], postponed["status"], postponed["words"]) == (1, "A700", BUSY.words)
    assert (delivered["attempt"], delivered["status"], delivered["words"]) == (2, "0000", STORED.words)


def test_a_sender_that_answers_nothing_at_all_is_no_endless_loop(office):
    tries = []

    def mute(*_):
        tries.append(1)
        return iter(())

    office.put("1.1", "pacs")
    slow = QUICK.model_copy(update={"first_retry_s": 60.0, "maximum_retry_s": 60.0})
    office.courier(mute, slow)
    until(lambda: office.outbox.held("pacs") is not None)
    assert (len(tries), office.outbox.held("pacs").cause) == (1, "destination pacs gave no answer: see to its log")


def spoilt(content: bytes) -> bytes:
    return content.replace(b"AI VERIFICATION: FAIL", b"AI VERIFICATION: FINE")


@pytest.mark.requirement("CHK-03")
def test_a_result_with_a_defect_is_never_sent_nor_is_what_belongs_to_it(office):
    first, _ = office.put("1.1", "pacs", "other", spoil=spoilt)
    whole = office.put("1.1", "pacs")
    pacs = Pacs()
    office.courier(pacs)
    office.courier(pacs, name="other")
    until(lambda: office.states() == ["dead", "dead", "sent", "sent"] and office.states("other") == ["dead", "dead"])
    assert pacs.offered == whole
    own, held_back = office.deliveries()[:2]
    assert own.cause.startswith("check-result: wrong-verdict-words: ImageComments: ")
    assert held_back.cause.startswith(f"check-result: wrong-verdict-words: held back with object {first} ")
    dead = office.events("delivery.dead")
    assert sorted(keys["destination"] for keys in dead) == ["other", "other", "pacs", "pacs"]
    assert all(keys["words"].startswith("check-result: ") and keys["status"] is None for keys in dead)


@pytest.mark.requirement("CHK-03")
def test_a_result_with_a_defect_is_checked_again_when_its_dead_letter_is_sent_again(office):
    office.put("1.1", "pacs", spoil=spoilt)
    pacs = Pacs()
    courier = office.courier(pacs)
    until(lambda: office.states() == ["dead", "dead"])
    assert len(office.outbox.revive("pacs", 0.0)) == 2
    courier.loop.wake()
    until(lambda: office.states() == ["dead", "dead"] and len(office.events("delivery.dead")) == 4)
    assert pacs.offered == []


def test_a_set_is_read_and_checked_once_however_many_destinations_and_attempts_there_are(office):
    office.put("1.1", "pacs", "other")
    deliveries = office.deliveries() + office.deliveries("other")
    read = []

    class Counting:
        def read(self, name):
            read.append(name)
            return office.results.read(name)

    check = ResultCheck()
    assert [check(delivery, deliveries, Counting()) for delivery in deliveries * 3] == [""] * 12
    assert len(read) == 2


def test_a_set_of_which_one_file_is_gone_is_judged_by_the_others(office):
    office.put("1.1", "pacs", spoil=spoilt)
    first, second = deliveries = office.deliveries()
    check = ResultCheck()
    office.results.remove(first.what.blob)
    assert check(second, deliveries, office.results) == ""


def test_what_is_remembered_of_sets_is_bounded(office):
    for _ in range(3):
        office.put("1.1", "pacs")
    check = ResultCheck(remembered=2)
    jobs = {row.job_id for row in office.deliveries()}
    for job_id in jobs:
        rows = office.outbox.deliveries(job_id)
        assert check(rows[0], rows, office.results) == ""
    assert len(check._found) == 2

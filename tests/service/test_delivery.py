import hashlib

import pytest

from dicom_gam.config import DeliverySettings
from dicom_gam.service.node import Node
from dicom_gam.service.outbox import retry_delay_s
from dicom_gam.storage.states import DeliveryState, JobState
from tests.service.fakes import (
    CR,
    TORN_CONNECTIONS,
    Archive,
    events,
    free_port,
    image,
    process,
    result_uids,
    store,
    uids,
    until,
)

pytestmark = TORN_CONNECTIONS


def states(node, name):
    return {state: count for state, count in node.delivery_counts().get(name, {}).items() if count}


@pytest.mark.requirement("DEL-04")
def test_the_wait_between_attempts_doubles_from_half_a_minute_to_ten_minutes():
    waits = [retry_delay_s(attempt, DeliverySettings(), spread=1.0) for attempt in range(1, 8)]
    assert waits == [30, 60, 120, 240, 480, 600, 600]


@pytest.mark.requirement("DEL-04")
def test_the_wait_is_spread_but_never_above_the_cap_and_never_overflows():
    assert retry_delay_s(1, DeliverySettings(), spread=0.8) == 24
    assert retry_delay_s(6, DeliverySettings(), spread=1.2) == 600
    assert retry_delay_s(10_000, DeliverySettings(), spread=1.0) == 600


@pytest.mark.requirement("DEL-02")
def test_an_archive_that_was_down_gets_every_result_when_it_is_back(settings):
    port = free_port()
    names = uids(3)
    with Node(settings(("pacs", port)), process) as node:
        store(node.port, [image(uid) for uid in names])
        until(lambda: states(node, "pacs") == {DeliveryState.RETRY: 6})
        (delivery, _) = node.deliveries(node.jobs()[0].job_id)
        assert "can't be reached" in delivery.cause
        with Archive(port=port) as archive:
            assert node.wait_idle(10)
            assert sorted(archive.received) == sorted(uid for name in names for uid in result_uids(name))
        assert states(node, "pacs") == {DeliveryState.SENT: 6}


@pytest.mark.requirement("DEL-03")
def test_a_broken_destination_does_not_hold_up_the_other(settings, archive):
    configured = settings(("broken", free_port()), ("pacs", archive.port), delivery={"attempts": 1000})
    with Node(configured, process) as node:
        store(node.port, [image(uid) for uid in uids(3)])
        until(lambda: len(archive.received) == 6)
        until(lambda: states(node, "pacs") == {DeliveryState.SENT: 6})
        broken = states(node, "broken")
        assert sum(broken.values()) == 6
        assert set(broken) <= {DeliveryState.PENDING, DeliveryState.RETRY}


@pytest.mark.requirement("DEL-05")
def test_a_destination_that_refuses_becomes_a_dead_letter_with_the_cause_in_plain_words(settings, archive):
    archive.status = 0xC123
    configured = settings(("pacs", archive.port), delivery={"attempts": 2})
    with Node(configured, process) as node:
        store(node.port, [image("1.2.3")])
        assert node.wait_idle(10)
        first, second = node.deliveries(node.jobs()[0].job_id)
        assert node.job_counts()[JobState.DONE] == 1
    assert (first.state, second.state) == (DeliveryState.DEAD, DeliveryState.DEAD)
    assert (first.attempts, first.status) == (2, 0xC123)
    assert "given up after 2 attempts: the destination cannot understand the object" in first.cause
    assert len(events(configured, "delivery.postponed")) == 2
    assert [keys["status"] for keys in events(configured, "delivery.dead")] == ["C123", "C123"]


def test_a_refusal_that_passes_is_followed_by_success(settings, archive):
    archive.status = 0xA700
    with Node(settings(("pacs", archive.port)), process) as node:
        store(node.port, [image("1.2.3")])
        until(lambda: states(node, "pacs") == {DeliveryState.RETRY: 1, DeliveryState.PENDING: 1})
        archive.status = 0x0000
        assert node.wait_idle(10)
        assert states(node, "pacs") == {DeliveryState.SENT: 2}
    assert sorted(archive.received) == sorted(result_uids("1.2.3"))


@pytest.mark.requirement("DEL-09")
@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_counts_as_stored_and_is_kept(settings, archive, status):
    archive.status = status
    with Node(settings(("pacs", archive.port)), process) as node:
        store(node.port, [image("1.2.3")])
        assert node.wait_idle(10)
        (delivery, _) = node.deliveries(node.jobs()[0].job_id)
    assert (delivery.state, delivery.status, delivery.attempts) == (DeliveryState.SENT, status, 1)
    assert all(len(copies) == 1 for copies in archive.received.values())


def test_a_destination_that_does_not_take_the_sop_class_is_named_with_the_remedy(settings):
    with Archive(classes=[CR]) as archive, Node(settings(("pacs", archive.port)), process) as node:
        store(node.port, [image("1.2.3")])
        until(lambda: states(node, "pacs") == {DeliveryState.RETRY: 1, DeliveryState.PENDING: 1})
        (delivery, _) = node.deliveries(node.jobs()[0].job_id)
    assert "ask its administrator to allow" in delivery.cause


def test_a_destination_with_another_ae_title_is_named_with_the_remedy(settings):
    with Archive(ae_title="OTHER") as archive, Node(settings(("pacs", archive.port)), process) as node:
        store(node.port, [image("1.2.3")])
        until(lambda: states(node, "pacs") == {DeliveryState.RETRY: 2})
        (delivery, _) = node.deliveries(node.jobs()[0].job_id)
    assert "Called AE title not recognised" in delivery.cause


@pytest.mark.requirement("DEL-01")
def test_what_is_sent_are_the_very_bytes_that_were_committed(settings, archive):
    configured = settings(("pacs", archive.port))
    with Node(configured, process) as node:
        store(node.port, [image("1.2.3")])
        assert node.wait_idle(10)
        (job,) = node.jobs()
    for item in job.result["outputs"]:
        kept = (configured.node.storage / "results" / item["sha256"][:2] / f"{item['sha256']}.dcm").read_bytes()
        assert hashlib.sha256(kept).hexdigest() == item["sha256"]
        (sent,) = archive.received[item["sop_instance_uid"]]
        assert kept.endswith(sent)


@pytest.mark.requirement("DEL-01")
def test_a_result_that_was_damaged_on_disk_is_not_sent_but_buried(settings):
    port = free_port()
    configured = settings(("pacs", port))
    with Node(configured, process) as node:
        store(node.port, [image("1.2.3")])
        until(lambda: states(node, "pacs") == {DeliveryState.RETRY: 2})
        damaged, gone = node.deliveries(node.jobs()[0].job_id)
        folder = configured.node.storage / "results"
        with (folder / damaged.what.blob[:2] / f"{damaged.what.blob}.dcm").open("r+b") as file:
            file.seek(200)
            file.write(b"?")
        (folder / gone.what.blob[:2] / f"{gone.what.blob}.dcm").unlink()
        with Archive(port=port) as archive:
            assert node.wait_idle(10)
            assert archive.received == {}
        damaged, gone = node.deliveries(damaged.job_id)
    assert (damaged.state, gone.state) == (DeliveryState.DEAD, DeliveryState.DEAD)
    assert "damaged on our own disk" in damaged.cause
    assert "No such file" in gone.cause


def test_an_archive_that_goes_away_in_the_middle_gets_the_rest_later(settings, archive):
    archive.delay_s = 0.15
    with Node(settings(("pacs", archive.port)), process) as node:
        store(node.port, [image(uid) for uid in uids(4)])
        until(lambda: len(archive.received) >= 2)
        archive.close()
        got = len(archive.received)
        until(lambda: states(node, "pacs").get(DeliveryState.RETRY))
        with Archive(port=archive.port) as back:
            assert node.wait_idle(10)
            assert got < 8
            assert len(archive.received | back.received) == 8
    copies = {uid: set(archive.received.get(uid, [])) | set(back.received.get(uid, [])) for uid in back.received}
    assert all(len(versions) == 1 for versions in copies.values())

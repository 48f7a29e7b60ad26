"""Faults at the destinations: each with a real storage SCP that misbehaves."""

from __future__ import annotations

import dataclasses
import io
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, _config, evt

from dicom_gam.service.node import Node, verify_audit_log
from dicom_gam.storage.audit import records
from tests.faults.table import fault
from tests.service.fakes import (
    CR,
    SECONDARY_CAPTURE,
    TORN_CONNECTIONS,
    Archive,
    free_port,
    image,
    process,
    result_uids,
    store,
    uids,
    until,
)

pytestmark = TORN_CONNECTIONS


class Pacs:
    """A storage SCP with chosen contexts that answers each object as `answer` says, after `delay_s`."""

    def __init__(self, contexts: Mapping[str, Sequence[str]], answer: Callable[[str], int] = lambda uid: 0) -> None:
        _config.LOG_HANDLER_LEVEL = "none"
        self.answer, self.delay_s = answer, 0.0
        self.received: dict[str, str] = {}
        self._ae = AE(ae_title="PACS")
        for sop_class, syntaxes in contexts.items():
            self._ae.add_supported_context(sop_class, list(syntaxes))
        self._server = self._ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port: int = self._server.server_address[1]

    def _store(self, event: evt.Event) -> int:
        threading.Event().wait(self.delay_s)
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.answer(uid)
        if status < 0xA000 or status & 0xF000 == 0xB000:
            self.received[uid] = str(event.context.transfer_syntax)
        return status

    def __enter__(self) -> Pacs:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        for assoc in self._ae.active_associations:
            assoc.abort()


EVERY = {SECONDARY_CAPTURE: [ExplicitVRLittleEndian, ImplicitVRLittleEndian], CR: [ExplicitVRLittleEndian]}


def states(node: Node, name: str) -> dict[str, int]:
    return {str(state): count for state, count in node.delivery_counts().get(name, {}).items() if count}


def all_results(names: Sequence[str]) -> list[str]:
    return sorted(uid for name in names for uid in result_uids(name))


@pytest.mark.requirement("DEL-02")
@fault("the PACS is down")
def test_a_pacs_that_was_down_gets_everything_when_it_is_back(settings, observed):
    port, names = free_port(), uids(3, "down")
    configured = settings(("pacs", port))
    with Node(configured, process) as node:
        assert store(node.port, [image(uid) for uid in names]) == [0x0000] * 3
        until(lambda: sum(states(node, "pacs").values()) == 6)
        until(lambda: moments(configured.node.storage, "destination.unreachable"))
        assert "sent" not in states(node, "pacs")
        with Archive(port=port) as archive:
            assert node.wait_idle(20)
            assert sorted(archive.received) == all_results(names)
        assert all(len(copies) == 1 for copies in archive.received.values())
    observed("6 objects wait with the cause; all 6 arrive when it is back, each once")


@fault("the PACS is slow")
def test_a_slow_pacs_slows_no_sender(settings, archive, observed):
    archive.delay_s = 0.4
    names = uids(6, "slow")
    with Node(settings(("pacs", archive.port)), process) as node:
        assert store(node.port, [image(uid) for uid in names]) == [0x0000] * 6
        until(lambda: node.job_counts()["done"] == 6)
        waiting = 12 - len(archive.received)
        assert waiting > 0, "the senders waited for the PACS"
        archive.delay_s = 0.0
        assert node.wait_idle(30)
    assert sorted(archive.received) == all_results(names)
    observed("images are taken in and processed meanwhile; everything arrives")


@fault("the PACS does not answer in time")
def test_a_pacs_that_does_not_answer_in_time_is_tried_again(settings, observed):
    with Pacs(EVERY) as pacs:
        pacs.delay_s = 3.0
        configured = settings()
        destination = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "timeout_s": 0.5}
        configured = type(configured).model_validate(configured.model_dump() | {"destinations": [destination]})
        with Node(configured, process) as node:
            assert store(node.port, [image("1.2.3")]) == [0x0000]
            until(lambda: states(node, "pacs").get("retry"), 20)
            (delivery, _) = node.deliveries(node.jobs()[0].job_id)
            pacs.delay_s = 0.0
            assert node.wait_idle(30)
        assert sorted(pacs.received) == all_results(["1.2.3"])
    assert delivery.cause
    observed("given up at the timeout, tried again, delivered when it answers")


def unchecked(*_: object) -> str:
    """A check that has nothing against objects that are none of ours."""
    return ""


def two_classes(*arguments: object) -> list[object]:
    """The fake processor, with the report in another class than the overlay."""
    return [
        dataclasses.replace(result, objects=(_as_cr(result.objects[0]), *result.objects[1:]))
        if result.objects
        else result
        for result in process(*arguments)  # type: ignore[arg-type]
    ]


def _as_cr(item):
    ds = image(item.sop_instance_uid, CR, side=8)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return dataclasses.replace(item, sop_class_uid=CR, content=buffer.getvalue())


@pytest.mark.requirement("DEL-05")
@fault("the PACS refuses one SOP class")
def test_a_refused_sop_class_holds_up_no_other(settings, observed):
    with (
        Pacs({SECONDARY_CAPTURE: [ExplicitVRLittleEndian]}) as pacs,
        Node(settings(("pacs", pacs.port), delivery={"attempts": 3}), two_classes, check=unchecked) as node,
    ):
        assert store(node.port, [image("1.2.3")]) == [0x0000]
        until(lambda: states(node, "pacs") == {"dead": 1, "sent": 1}, 20)
        dead = next(d for d in node.deliveries(node.jobs()[0].job_id) if d.state == "dead")
    assert dead.what.sop_class_uid == CR
    assert "ask its administrator" in dead.cause
    observed("the other class arrives at once; this one: 3 tries, then a dead letter that names the remedy")


@pytest.mark.requirement("DEL-07")
@fault("the PACS refuses the transfer syntax")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEG2000Lossless])
def test_a_refused_transfer_syntax_is_encoded_anew_or_named(settings, observed, syntax):
    with (
        Pacs({SECONDARY_CAPTURE: [syntax]}) as pacs,
        Node(settings(("pacs", pacs.port), delivery={"attempts": 2}), process) as node,
    ):
        assert store(node.port, [image("1.2.3")]) == [0x0000]
        assert node.wait_idle(20)
        seen = states(node, "pacs")
        (delivery, _) = node.deliveries(node.jobs()[0].job_id)
    if seen == {"sent": 2}:
        assert set(pacs.received.values()) == {syntax}
        observed(f"{syntax.name.split(' (')[0]} only: encoded anew and delivered")
    else:
        assert seen == {"dead": 2}
        assert "Explicit VR Little Endian" in delivery.cause
        assert "ask its administrator" in delivery.cause
        observed(f"{syntax.name.split(' (')[0]} only: dead letters that name the transfer syntax and the remedy")
    assert syntax == JPEG2000Lossless or seen == {"sent": 2}


@pytest.mark.requirement("DEL-09")
@fault("the PACS answers with a warning")
@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_counts_as_stored_and_is_kept(settings, archive, observed, status):
    archive.status = status
    with Node(settings(("pacs", archive.port)), process) as node:
        assert store(node.port, [image("1.2.3")]) == [0x0000]
        assert node.wait_idle(20)
        kept = {(str(d.state), d.status, d.attempts) for d in node.deliveries(node.jobs()[0].job_id)}
    assert kept == {("sent", status, 1)}
    observed(f"{status:04X}: sent, once, the status kept")


@pytest.mark.requirement("DEL-05")
@fault("the PACS refuses one instance")
def test_one_refused_instance_is_a_dead_letter_and_the_others_arrive(settings, observed):
    names = uids(3, "refused")
    refused = result_uids(names[1])[0]
    with Pacs(EVERY, lambda uid: 0xC123 if uid == refused else 0x0000) as pacs:
        with Node(settings(("pacs", pacs.port), delivery={"attempts": 3}), process) as node:
            assert store(node.port, [image(uid) for uid in names]) == [0x0000] * 3
            assert node.wait_idle(20)
            assert states(node, "pacs") == {"dead": 1, "sent": 5}
            job = next(job for job in node.jobs() if job.instance.sop_instance_uid == names[1])
            dead = next(d for d in node.deliveries(job.job_id) if d.state == "dead")
        assert sorted(pacs.received) == sorted(set(all_results(names)) - {refused})
    assert (dead.attempts, dead.status) == (3, 0xC123)
    assert "the destination cannot understand the object" in dead.cause
    observed("5 of 6 arrive; one: 3 tries, then a dead letter with C123 in plain words")


def moments(storage, event: str, **wanted: str) -> list[float]:
    """When the audit log recorded such an event."""
    return [
        datetime.fromisoformat(record["time"]).timestamp()
        for record in records(storage / "audit.jsonl")
        if record["event"] == event and wanted.items() <= record["keys"].items()
    ]


def waits(told: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(told)]


LEAST_WAITS_S = (0.15, 0.3, 0.6, 0.6)  # of 0.2, 0.4, 0.8, 0.8 s, spread by 20 %


@pytest.mark.requirement("DEL-04", "DEL-05")
@fault("a PACS that is always broken")
def test_the_waits_between_tries_grow_and_the_dead_letter_says_why(settings, observed):
    retries = {"first_retry_s": 0.2, "maximum_retry_s": 0.8, "attempts": 5}
    with Pacs(EVERY, lambda uid: 0xA700) as pacs:
        configured = settings(("pacs", pacs.port), delivery=retries)
        with Node(configured, process) as node:
            assert store(node.port, [image("1.2.3")]) == [0x0000]
            assert node.wait_idle(30)
            dead = node.deliveries(node.jobs()[0].job_id)
    assert [(str(d.state), d.attempts) for d in dead] == [("dead", 5)] * 2
    assert all("given up after 5 attempts: the destination is out of resources" in d.cause for d in dead)
    uid = dead[0].what.sop_instance_uid
    told = moments(configured.node.storage, "delivery.postponed", sop_instance_uid=uid)
    told += moments(configured.node.storage, "delivery.dead", sop_instance_uid=uid)
    assert all(wait >= least for wait, least in zip(waits(told), LEAST_WAITS_S, strict=True)), waits(told)
    assert verify_audit_log(configured.node.storage) > 0
    observed("refusing every time: waits of 0.2, 0.4, 0.8, 0.8 s, spread by 20 %, then a dead letter with the cause")


@fault("a PACS that is always broken")
def test_the_waits_for_a_pacs_that_is_never_there_grow_and_nothing_is_given_up(settings, observed):
    configured = settings(("pacs", free_port()), delivery={"first_retry_s": 0.2, "maximum_retry_s": 0.8, "attempts": 2})
    with Node(configured, process) as node:
        assert store(node.port, [image("1.2.3")]) == [0x0000]
        until(lambda: len(moments(configured.node.storage, "destination.unreachable")) >= 5, 30)
        told = moments(configured.node.storage, "destination.unreachable")[:5]
        assert "dead" not in states(node, "pacs")
    assert all(wait >= least for wait, least in zip(waits(told), LEAST_WAITS_S, strict=True)), waits(told)
    observed("never there: the same waits, for the destination as a whole, and nothing is given up")


@pytest.mark.requirement("DEL-03")
@fault("one of two destinations is broken")
def test_a_broken_destination_does_not_hold_up_the_other(settings, archive, observed):
    names = uids(4, "two")
    with Pacs(EVERY) as stuck:
        stuck.delay_s = 30.0
        with Node(settings(("stuck", stuck.port), ("down", free_port()), ("pacs", archive.port)), process) as node:
            started = time.monotonic()
            assert store(node.port, [image(uid) for uid in names]) == [0x0000] * 4
            until(lambda: len(archive.received) == 8)
            until(lambda: states(node, "pacs") == {"sent": 8})
            assert time.monotonic() - started < 10
            assert "sent" not in states(node, "stuck") | states(node, "down")
            stuck.delay_s = 0.0
    assert sorted(archive.received) == all_results(names)
    observed("one hangs, one is down: the third has all 8 objects while none of theirs is through")

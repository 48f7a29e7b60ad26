from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from dicom_gam.service.loop import Pulse
from dicom_gam.service.node import Node
from dicom_gam.service.readiness import FRESH_S, Readiness, ReadinessReader, read_readiness
from dicom_gam.service.store import AUDIT_FILE, DATABASE_FILE, open_store
from dicom_gam.service.vitals import Vitals
from tests.service.fakes import TORN_CONNECTIONS, process

pytestmark = TORN_CONNECTIONS
LOOPS = (
    Pulse("worker host:7", True, 0.5, ""),
    Pulse("courier pacs", True, None, ""),
    Pulse("retention", True, 1.0, ""),
)
WELL = Vitals(0.0, True, 2, 2, LOOPS, {})


@pytest.fixture
def configured(settings):
    return settings()


@pytest.fixture
def opened(configured):
    with open_store(configured, create=True) as store:
        store.audit.append("node.started")
        yield store


def parts(found: Readiness) -> list[str]:
    return [obstacle.part for obstacle in found.obstacles]


@pytest.mark.requirement("MET-01")
def test_a_running_node_is_ready_and_one_that_stops_is_not(settings):
    configured = settings()
    with Node(configured, process) as node, open_store(configured) as store:
        assert read_readiness(configured, store, node.vitals()).obstacles == ()
        node.stop()
        assert "node" in parts(read_readiness(configured, store, node.vitals()))


@pytest.mark.requirement("MET-01")
@pytest.mark.parametrize(
    ("vitals", "part"),
    [
        (replace(WELL, accepting=False), "node"),
        (replace(WELL, receivers=1), "receivers"),
        (replace(WELL, loops=(replace(LOOPS[0], alive=False),)), "worker"),
        (replace(WELL, loops=(replace(LOOPS[0], step_s=1e5),)), "worker"),
        (replace(WELL, loops=(replace(LOOPS[1], step_s=1e5),)), "courier pacs"),
    ],
    ids=["stopping", "receivers", "dead", "stuck", "stuck courier"],
)
def test_it_says_which_part_of_the_node_stands_in_the_way(configured, opened, vitals, part):
    assert parts(read_readiness(configured, opened, WELL)) == []
    (obstacle,) = read_readiness(configured, opened, vitals).obstacles
    assert obstacle.part == part
    assert "host:7" not in obstacle.words


def test_a_batch_of_slow_images_is_not_taken_for_a_stuck_worker(settings):
    configured = settings(processing={"batch_size": 100, "batch_wait_ms": 5})
    slow = replace(WELL, loops=(replace(LOOPS[0], step_s=3000.0),))
    with open_store(configured, create=True) as store:
        store.audit.append("node.started")
        assert read_readiness(configured, store, slow).ready


@pytest.mark.requirement("MET-01")
def test_a_full_disk_is_named(settings):
    configured = settings(node={"minimum_free_bytes": 1000})
    with open_store(configured, create=True) as store:
        store.audit.append("node.started")
        assert parts(read_readiness(configured, store, WELL, free=lambda _: 999)) == ["disk"]
        assert parts(read_readiness(configured, store, WELL, free=lambda _: 1000)) == []


@pytest.mark.requirement("MET-01")
def test_a_database_that_another_program_holds_is_named(configured, opened):
    other = sqlite3.connect(configured.node.storage / DATABASE_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert parts(read_readiness(configured, opened, WELL)) == ["database"]
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert read_readiness(configured, opened, WELL).ready


@pytest.mark.requirement("MET-01")
def test_an_audit_log_that_was_cut_off_is_named(configured, opened):
    for _ in range(3):
        opened.audit.append("test")
    log = configured.node.storage / AUDIT_FILE
    log.write_bytes(log.read_bytes()[:-50])
    assert parts(read_readiness(configured, opened, WELL)) == ["audit log"]


@pytest.mark.requirement("MET-01")
def test_asking_leaves_nothing_in_the_audit_log(configured, opened):
    before = (configured.node.storage / AUDIT_FILE).read_bytes()
    read_readiness(configured, opened, WELL)
    assert (configured.node.storage / AUDIT_FILE).read_bytes() == before


def test_many_that_ask_at_once_cost_one_look():
    looks, now = [], [100.0]

    def read() -> Readiness:
        looks.append(1)
        return Readiness(())

    reader = ReadinessReader(read, clock=lambda: now[0])
    for _ in range(5):
        reader.read()
    assert len(looks) == 1
    now[0] += FRESH_S
    reader.read()
    assert len(looks) == 2

"""The page Now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from lxml import html

from dicom_gam.service.loop import Pulse
from dicom_gam.service.vitals import Vitals
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import HOSTILE, made_settings, made_store

WELL = Vitals(
    started_at=1e9,
    accepting=True,
    receivers=2,
    receivers_wanted=2,
    loops=(Pulse("worker", True, None, ""), Pulse("courier pacs", True, 3.0, "")),
    about={"device": "cuda:0", "device_memory_bytes": 8 * 1024**3},
)


@pytest.fixture
def store(settings):
    """Few images, for each of them takes its time; the last outcomes of the table in `made_site` are among them."""
    with made_store(settings, jobs=20) as made:
        yield made


@pytest.fixture
def shown(settings, store):
    """The page as a viewer sees it, as text; `vitals` are the node's, `changes` those of the settings."""

    def look(vitals: Vitals | None, **changes: Mapping[str, Any]) -> str:
        changed = made_settings(settings.node.storage, **changes) if changes else settings
        made = make_app(Site(changed, store, None if vitals is None else lambda: vitals))
        made.config["TESTING"] = True
        answer = logged_in(made, "viewer").get("/")
        assert answer.status_code == 200
        return " ".join(html.fromstring(answer.text).text_content().split())

    return look


@pytest.mark.requirement("WEB-11")
def test_it_says_that_all_is_well_only_when_nothing_needs_anybody(store, shown, settings):
    text = shown(WELL, retention={"make_room_below_bytes": 0})
    assert "an operator: pacs did not take" in text
    assert "All is well" not in text
    with store.database.transaction() as connection:
        connection.execute("UPDATE deliveries SET state = 'sent' WHERE state = 'dead'")
        connection.execute("DELETE FROM jobs WHERE state = 'received'")
        connection.execute("UPDATE jobs SET outcome = 'PASS' WHERE outcome = 'ERROR'")
        connection.execute("UPDATE jobs SET received_at = ?", (time.time(),))
    assert "All is well" in shown(WELL, retention={"make_room_below_bytes": 0})
    assert "the node does not run" in shown(None, retention={"make_room_below_bytes": 0})


@pytest.mark.requirement("WEB-11")
def test_what_is_wrong_is_said_in_words_with_whom_it_needs(store, shown):
    now = time.time()
    store.outbox.hold("pacs", now + 300, "connection refused: check that it runs", now)
    store.outbox.pause("research", "moving house", now)
    sick = replace(
        WELL,
        receivers=1,
        loops=(Pulse("worker", False, None, ""), Pulse("courier pacs", True, None, "disk full")),
    )
    text = shown(sick, node={"minimum_free_bytes": 2**60})
    for words in (
        "an administrator: pacs can't be reached: connection refused: check that it runs",
        "an operator: research is paused (moving house): resume it in time",
        "1 of 2 receivers run",
        "the thread worker has ended",
        "the thread courier pacs failed lately: disk full",
        "the disk is so full that images are refused",
        "cuda:0, 8.0 GiB of memory",
    ):
        assert words in text
    assert text.index("the disk is so full") < text.index("research is paused")  # the urgent ones first


@pytest.mark.requirement("WEB-12")
def test_the_page_holds_no_patient_s_data(shown):
    text = shown(WELL)
    assert "XRAY_ROOM_1" in text
    for secret in ("Doe", "Jane", "P0000", "A00000", HOSTILE, "alert(1)"):
        assert secret not in text

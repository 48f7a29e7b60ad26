"""The page Quality, on the storage of a node that has seen forty images, some from a hostile patient."""

from __future__ import annotations

import re
import time
from datetime import date

import pytest
from lxml import html

from dicom_gam.storage.rows import DriftSample, DriftStep
from dicom_gam.storage.sqlite_drift import record_drift
from dicom_gam.web.app import make_app
from dicom_gam.web.quality import _dates, _midnight
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import BUNDLES, SENDERS, made_settings, made_store

CHARTS = {"by-day", "by-sender", "by-bundle", "p-values"}
SIMILARITIES = {"iou", "dice", "ssim", "cosine", "pearson", "kl", "wasserstein"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One storage for all tests here, which only read; three senders have drifted little, more, and too far."""
    settings = made_settings(tmp_path_factory.mktemp("quality") / "node")
    with made_store(settings) as made:
        for sender, log10 in zip(SENDERS, (-0.5, 1.0, 3.2), strict=True):
            drift_to(made, sender, log10)
        yield made


@pytest.fixture(scope="module")
def client(store):
    app = make_app(Site(made_settings(store.folder), store))
    app.config["TESTING"] = True
    return logged_in(app, "viewer")


def seen(client, url="/quality"):
    answer = client.get(url)
    assert answer.status_code == 200
    return html.fromstring(answer.get_data(as_text=True))


def rows(page, panel):
    return [[cell.text_content() for cell in row] for row in page.get_element_by_id(f"{panel}-rows")]


def drift_to(store, sender, log10, bundle=BUNDLES[0]):
    name, version, digest = bundle
    step = DriftStep("", log10, log10, alarm=log10 >= 3)
    with store.database.transaction() as connection:
        sample = DriftSample(sender, name, version, digest, "chest", 99, 1, 0, 0.5)
        record_drift(connection, lambda *_: step, sample, time.time())


@pytest.mark.requirement("WEB-63")
def test_every_chart_has_a_label_and_a_table_of_the_same_figures(client):
    page = seen(client)
    drawn = {svg.get("id").removesuffix("-chart") for svg in page.iter("svg")}
    assert drawn == CHARTS | SIMILARITIES | {"drift"}
    for svg in page.iter("svg"):
        assert (svg.get("role"), len(svg.get("aria-label")) > 20) == ("img", True)
    for panel in drawn:
        assert rows(page, panel), panel
    assert not page.xpath("//*[@style]")


@pytest.mark.requirement("WEB-60")
def test_the_tables_count_what_the_database_holds(client, store):
    with store.database.reading() as connection:
        held = dict(connection.execute("SELECT outcome, count(*) FROM job_figures GROUP BY outcome").fetchall())
    page = seen(client)
    columns = [cell.text_content() for cell in page.get_element_by_id("by-sender-rows").getparent()[1][0]]
    for outcome, images in held.items():
        place = columns.index(outcome)
        for panel in ("by-day", "by-sender", "by-bundle"):
            assert sum(int(row[place]) for row in rows(page, panel)) == images, (panel, outcome)
    assert {row[0] for row in rows(page, "by-sender")} == set(SENDERS)


@pytest.mark.requirement("WEB-60")
def test_filters_leave_only_what_was_chosen_and_keep_the_other_choices_on_offer(client):
    page = seen(client, f"/quality?sender={SENDERS[1]}&bundle={BUNDLES[0][2]}&days=7")
    assert [row[0] for row in rows(page, "by-sender")] == [SENDERS[1]]
    assert [row[0] for row in rows(page, "by-bundle")] == ["radiograph-anatomy 0.1.1"]
    assert len(rows(page, "by-day")) == 7
    assert len(rows(page, "drift")) == 1
    assert len(page.xpath("//select[@name='sender']/option")) == 1 + len(SENDERS)
    assert page.xpath("//select[@name='days']/option[@selected]/text()") == ["7"]


@pytest.mark.requirement("WEB-60")
@pytest.mark.parametrize(
    "query", ["sender=<script>alert(1)</script>", "days=99999", "days=x", "bundle=../../etc", "sender=%00", "days=-1"]
)
def test_filters_that_make_no_sense_are_words_or_the_usual_span(client, query):
    answer = client.get(f"/quality?{query}")
    assert answer.status_code == 200
    assert b"<script>alert" not in answer.data


@pytest.mark.requirement("WEB-61")
def test_the_page_says_when_figures_are_drawn_from_a_sample(client, monkeypatch):
    assert "are those of all" in seen(client).get_element_by_id("extent").text_content()
    monkeypatch.setattr("dicom_gam.web.quality.PER_DAY", 5)
    words = seen(client).get_element_by_id("extent").text_content()
    drawn, every = map(int, re.search(r"drawn from (\d+) of the (\d+) images", words).groups())
    assert 0 < drawn < every


@pytest.mark.requirement("WEB-64")
def test_a_drift_alarm_is_told_in_words(client):
    page = seen(client)
    label = page.get_element_by_id("drift-chart").get("aria-label")
    assert "1 reached the alarm level of 1,000 : 1: MOBILE_7" in label
    figures = {row[0].split(",")[0]: row[2:5] for row in rows(page, "drift")}
    assert [figures[sender] for sender in SENDERS] == [
        ["-0.50", "-0.50", "3.00"], ["1.00", "1.00", "3.00"], ["3.20", "3.20", "3.00"]]  # fmt: skip


@pytest.mark.requirement("WEB-65")
def test_no_patient_is_on_the_page(client):
    text = client.get("/quality").get_data(as_text=True)
    for word in ("Doe", "alert(1)", "P0000", "A0000"):
        assert word not in text


@pytest.mark.requirement("WEB-60")
def test_days_are_local_and_one_of_a_change_of_the_clocks_is_whole(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Brussels")
    time.tzset()
    try:
        autumn = date(2026, 10, 25)  # 25 hours long
        assert _midnight(date(2026, 10, 26)) - _midnight(autumn) == 25 * 3600
        late = _midnight(autumn) + 24.5 * 3600
        assert [f"{day:%m-%d}" for day in _dates(3, late)] == ["10-23", "10-24", "10-25"]
    finally:
        monkeypatch.undo()
        time.tzset()

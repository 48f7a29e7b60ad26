from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from dicom_gam.service.loop import Pulse
from dicom_gam.service.vitals import Vitals
from dicom_gam.storage.rows import DriftReading
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_metrics import MetricsFigures, SenderFigures, SqliteMetrics
from dicom_gam.storage.states import DeliveryState, JobState
from dicom_gam.web import metrics as metrics_module
from dicom_gam.web.app import make_app
from dicom_gam.web.metrics import MOST_SENDERS, OTHER, Snapshot, label
from dicom_gam.web.site import Site
from tests.web.made_site import DAY_S, HOSTILE, add_job, made_conclusion, made_settings, made_store

DOCKER = Path(__file__).parents[2] / "docker"
VITALS = Vitals(
    1000.0, True, 1, 2, (Pulse("worker host:7", True, 0.5, ""), Pulse("courier pacs", False, None, "x")), {}
)
NAME = re.compile(r"\b(dicom_gam_\w+|process_\w+)")
PROMETHEUS_OWN = {"up"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return made_settings(tmp_path_factory.mktemp("metrics") / "node")


@pytest.fixture(scope="module")
def store(settings):
    """One for all, as it takes a while to make; whoever changes it sets it right again."""
    with made_store(settings) as made:
        made.audit.append("audit.checkpoint")
        yield made


@pytest.fixture
def served(settings, store):
    return make_app(Site(settings, store, lambda: VITALS)).test_client()


def samples(client, **headers) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = client.get("/metrics", headers=headers).get_data(as_text=True)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in plain_text(text)
        for sample in family.samples
    }


def value(client, name: str, **labels: str) -> float:
    return samples(client)[name, tuple(sorted(labels.items()))]


@pytest.mark.requirement("MET-04")
def test_the_figures_agree_with_the_storage(served, store):
    counts = store.jobs.counts()
    for state, count in counts.items():
        assert value(served, "dicom_gam_jobs", state=state.value) == count
    deliveries = store.outbox.counts()["pacs"]
    assert value(served, "dicom_gam_deliveries", destination="pacs", state="sent") == deliveries[DeliveryState.SENT]
    assert value(served, "dicom_gam_dead_letters", destination="pacs") == deliveries[DeliveryState.DEAD] > 0
    found = samples(served)
    results = sum(count for (name, _), count in found.items() if name == "dicom_gam_results_total")
    assert results == counts[JobState.DONE] + counts[JobState.REJECTED]
    received = sum(count for (name, _), count in found.items() if name == "dicom_gam_jobs_received_total")
    assert received == sum(counts.values())


def test_what_the_node_itself_knows_is_there(served):
    assert value(served, "dicom_gam_receivers") == 1
    assert value(served, "dicom_gam_loop_alive", loop="worker") == 1
    assert value(served, "dicom_gam_loop_alive", loop="courier pacs") == 0
    assert value(served, "dicom_gam_loop_failing", loop="courier pacs") == 1
    assert value(served, "dicom_gam_loop_step_seconds", loop="worker") == 0.5
    assert value(served, "dicom_gam_obstacle", part="receivers") == 1
    assert value(served, "dicom_gam_ready") == 0


def test_a_pause_and_an_unreachable_destination_show(served, store):
    assert value(served, "dicom_gam_destination_unreachable", destination="pacs") == 0
    store.outbox.pause("research", "moving house", 5.0)
    store.outbox.hold("pacs", 10.0, "no answer", 5.0)
    assert value(served, "dicom_gam_destination_unreachable", destination="pacs") == 1
    assert value(served, "dicom_gam_destination_paused", destination="research") == 1
    store.outbox.resume("research")
    store.outbox.release("pacs")


@pytest.mark.requirement("MET-04")
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_both_formats_of_prometheus_are_sound(served, accept):
    answer = served.get("/metrics", headers={"Accept": accept})
    text = answer.get_data(as_text=True)
    assert ("openmetrics" in answer.content_type) is bool(accept)
    families = list((open_metrics if accept else plain_text)(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert family.documentation
        keys = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(keys) == len(set(keys))
        if family.name.startswith("dicom_gam_"):
            assert not re.search(r"_(ms|milliseconds|minutes|kilobytes|percent)$", family.name)


@pytest.mark.requirement("MET-05")
def test_counters_never_go_down_whatever_comes(settings, store, monkeypatch):
    app = make_app(Site(settings, store))
    chance, client = random.Random(3), app.test_client()
    before: dict[object, float] = {}
    for number in range(100, 160, 6):
        for next_one in range(number, number + 6):
            add_job(store, next_one, chance, 1e9 + number * DAY_S)
        now = {key: count for key, count in samples(client).items() if key[0].endswith("_total")}
        assert {key: count for key, count in before.items() if now[key] < count and "dicom_gam" in key[0]} == {}
        before = now


@pytest.mark.requirement("MET-05")
def test_a_result_that_comes_late_is_counted_although_later_ones_were_counted_before(settings, store):
    """Jobs that were open at the first count are looked at again."""
    with_memory = SqliteMetrics()
    for number in range(200, 230):
        add_job(store, number, random.Random(number), 1e9)
        assert with_memory.read(store.database).results == SqliteMetrics().read(store.database).results
    before = with_memory.read(store.database).results
    (job,) = store.jobs.claim("late", 1, 60.0, 2e9)  # one that waited for long
    assert with_memory.read(store.database).results == before
    store.jobs.finish(job.lease, made_conclusion(0, job.instance.sop_instance_uid, random.Random(1))[0], (), 2e9)
    after = with_memory.read(store.database).results
    assert sum(after.values()) == sum(before.values()) + 1
    assert after == with_memory.read(store.database).results == SqliteMetrics().read(store.database).results


@pytest.mark.requirement("MET-06")
def test_ever_new_senders_end_in_one_series_and_move_no_older_one(settings, store, monkeypatch):
    def figures(senders: int) -> MetricsFigures:
        seen = [SenderFigures(f"AE{number}", 1, 5.0) for number in range(senders)]
        return MetricsFigures({}, {}, seen, {}, {}, None, {}, {}, 0)

    app = make_app(Site(settings, store))
    snapshots = app.extensions["dicom_gam.snapshots"]
    for senders in (MOST_SENDERS, MOST_SENDERS + 500):
        monkeypatch.setattr(snapshots, "read", lambda senders=senders: Snapshot(figures(senders), []))
        found = {key: count for key, count in samples(app.test_client()).items() if "jobs_received" in key[0]}
        assert len(found) <= MOST_SENDERS + 1
        assert found["dicom_gam_jobs_received_total", (("sender", "AE0"),)] == 1
    assert found["dicom_gam_jobs_received_total", (("sender", OTHER),)] == 500


@pytest.mark.requirement("MET-06")
def test_a_hostile_sender_can_not_break_the_format(settings, store, monkeypatch):
    hostile = 'A"} 1\nevil_metric 1 ' + HOSTILE + "\x00\u202e" + "x" * 500
    reading = DriftReading(hostile, hostile, "1", "d", 3, float("nan"), 0.0, 1.0, 1.0, 2.0)
    seen = MetricsFigures({}, {hostile: 1}, [SenderFigures(hostile, 1, 5.0)], {}, {}, None, {}, {}, 0)
    app = make_app(Site(settings, store))
    monkeypatch.setattr(app.extensions["dicom_gam.snapshots"], "read", lambda: Snapshot(seen, [reading]))
    found = samples(app.test_client())
    assert "evil_metric" not in {name for name, _ in found}
    assert all(len(text) <= 64 and text.isprintable() for name, labels in found for _, text in labels if "gam" in name)
    assert label("MÖBEL") == "M?BEL"


def test_nothing_of_a_patient_is_in_the_metrics(served):
    text = served.get("/metrics").get_data(as_text=True)
    for phi in ("Doe", "Jane", HOSTILE, "P000001", "A0000001"):
        assert phi not in text


def test_a_database_that_can_not_be_read_leaves_the_rest(served, monkeypatch, settings):
    (settings.node.storage / "node.sqlite").rename(settings.node.storage / "aside")
    assert value(served, "dicom_gam_storage_readable") == 0
    assert value(served, "dicom_gam_loop_alive", loop="worker") == 1
    (settings.node.storage / "aside").rename(settings.node.storage / "node.sqlite")


def test_a_scrape_reads_over_a_connection_of_its_own(served, store, monkeypatch):
    def refuse(database):
        assert database is not store.database
        return read(database)

    read = Database.reading
    monkeypatch.setattr(metrics_module.Database, "reading", refuse)
    with monkeypatch.context():
        figures = served.application.extensions["dicom_gam.snapshots"].read().figures
    assert figures.audit_records > 0


def exposed(client, store) -> set[str]:
    """Every name that /metrics gives, with those that need data that the made site does not have."""
    text = client.get("/metrics").get_data(as_text=True)
    families = list(plain_text(text))
    return {sample.name for family in families for sample in family.samples} | {family.name for family in families}


@pytest.mark.requirement("MET-07")
def test_every_alert_asks_for_figures_that_exist_and_says_what_to_do(served, store):
    known = exposed(served, store)
    rules = [rule for group in yaml.safe_load((DOCKER / "prometheus-alerts.yml").read_text())["groups"]
             for rule in group["rules"]]  # fmt: skip
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 9
    for rule in rules:
        names = set(NAME.findall(rule["expr"]))
        assert names <= known, rule["alert"]
        assert names or PROMETHEUS_OWN & set(re.findall(r"\w+", rule["expr"]))
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert len(rule["annotations"]["remedy"]) > 20
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


@pytest.mark.requirement("MET-07")
def test_every_panel_of_the_dashboard_shows_figures_that_exist(served, store):
    known = exposed(served, store)
    board = json.loads((DOCKER / "grafana-dashboard.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    for panel in panels:
        for target in panel["targets"]:
            assert set(NAME.findall(target["expr"])) <= known, panel["title"]
            assert NAME.search(target["expr"])
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_scrape_configuration_names_our_rules_and_path():
    table = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    assert all((DOCKER / name).is_file() for name in table["rule_files"])
    assert table["scrape_configs"][0]["metrics_path"] == "/metrics"

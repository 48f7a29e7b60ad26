from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_gam.service.loop import Pulse
from dicom_gam.service.vitals import Vitals
from dicom_gam.storage.sqlite_access import ACCESS_FILE
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.made_site import made_settings, made_store


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return made_settings(tmp_path_factory.mktemp("health") / "node")


@pytest.fixture(scope="module")
def store(settings):
    with made_store(settings, jobs=2) as made:
        yield made


WELL = Vitals(0.0, True, 2, 2, (Pulse("worker host:7", True, 0.5, ""),), {})


@pytest.mark.requirement("MET-02")
def test_live_answers_anybody(visit):
    answer = visit().get("/live")
    assert (answer.status_code, answer.get_json()) == (200, {"live": True})


@pytest.mark.requirement("MET-02")
@pytest.mark.parametrize(("accepting", "status"), [(True, 200), (False, 503)])
def test_ready_says_why_not_to_anybody(settings, store, accepting, status):
    app = make_app(Site(settings, store, lambda: replace(WELL, accepting=accepting)))
    answer = app.test_client().get("/ready")
    assert answer.status_code == status
    assert answer.get_json()["ready"] is accepting
    assert [item["part"] for item in answer.get_json()["why_not"]] == ([] if accepting else ["node"])


@pytest.mark.requirement("MET-02")
def test_ready_gives_no_path_address_or_machine_name_away(settings, store, tmp_path):
    failing = Vitals(0.0, False, 0, 2, (Pulse("worker secret-host:7", False, None, str(tmp_path)),), {"bundle": "b"})
    app = make_app(Site(settings, store, lambda: failing))
    text = app.test_client().get("/ready").get_data(as_text=True)
    for secret in ("secret-host", str(tmp_path), "node.sqlite", ACCESS_FILE):
        assert secret not in text


@pytest.mark.requirement("MET-03")
def test_metrics_are_for_this_machine_and_for_who_has_a_token(app, visit):
    def status(client, address, **headers):
        return client.get("/metrics", environ_base={"REMOTE_ADDR": address}, headers=headers).status_code

    assert status(visit(), "127.0.0.1") == 200
    assert status(visit(), "::1") == 200
    assert status(visit(), "10.0.0.7") == 401
    assert status(visit("auditor"), "10.0.0.7") == 200


@pytest.mark.requirement("MET-03")
@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_whoever_comes_through_a_proxy_on_this_machine_is_not_taken_for_it(visit, header):
    assert visit().get("/metrics", headers={header: "10.0.0.7"}).status_code == 401


def test_metrics_can_be_opened_to_everybody_in_words(tmp_path):
    settings = made_settings(tmp_path / "node", web={"metrics_for_all": True})
    with made_store(settings, jobs=1) as store:
        client = make_app(Site(settings, store)).test_client()
        assert client.get("/metrics", environ_base={"REMOTE_ADDR": "10.0.0.7"}).status_code == 200

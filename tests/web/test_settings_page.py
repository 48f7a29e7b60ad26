"""The page Settings."""

from __future__ import annotations

import pytest
from lxml import html

from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.audit import records
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.service.fakes import TORN_CONNECTIONS, Archive, image, save
from tests.web.logged_in import logged_in
from tests.web.made_site import made_settings, made_store

pytestmark = TORN_CONNECTIONS


@pytest.fixture
def store(settings):
    """A small one: what is shown here has little to do with jobs."""
    with made_store(settings, jobs=2) as made:
        yield made


def text_of(answer):
    return " ".join(html.fromstring(answer.text).text_content().split())


@pytest.mark.requirement("WEB-10")
def test_every_key_is_shown_with_its_origin_and_no_secret(settings, store):
    token = settings.node.storage / "token"
    token.write_text("Bearer hunter3")
    pacs = {"name": "pacs", "url": "https://user:hunter2@pacs/dicom-web", "authorization_file": str(token)}
    changed = made_settings(settings.node.storage, destinations=[pacs])
    auditor = logged_in(make_app(Site(changed, store)), "auditor")
    answer = auditor.get("/settings")
    tree = html.fromstring(answer.text)
    rows = {row[0].text_content(): row for row in tree.xpath("//section[starts-with(@id, 'section-')]//tbody/tr")}
    assert rows["batch_wait_ms"][1].text_content() == "50"
    assert rows["batch_size"][2].text_content() == "default"
    assert rows["minimum_free_bytes"][2].text_content() == "file"
    assert "hunter" not in answer.text
    assert "https://***@pacs/dicom-web" in answer.text
    assert str(token) in answer.text
    assert not tree.xpath("//button[@value='hello']")  # an auditor only looks
    assert auditor.post("/settings/destinations", data={"destination": "pacs", "action": "test"}).status_code == 403
    assert logged_in(make_app(Site(changed, store)), "viewer").get("/settings").status_code == 403


@pytest.mark.requirement("WEB-07")
def test_an_operator_says_hello_to_a_real_archive_and_sends_it_a_test_object(settings, store):
    with Archive() as archive:
        pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port, "timeout_s": 5}
        operator = logged_in(
            make_app(Site(made_settings(settings.node.storage, destinations=[pacs]), store)), "operator"
        )
        for action, words in (("hello", "Hello for pacs: pacs answers C-ECHO"), ("test", "Test object for pacs:")):
            answer = operator.post("/settings/destinations", data={"destination": "pacs", "action": action})
            assert answer.status_code == 303
            assert words in text_of(operator.get(answer.location))
        assert len(archive.received) == 1
    operator.post("/settings/destinations", data={"destination": "<b>", "action": "hello"})
    assert "Not tried: there is no destination '<b>'" in text_of(operator.get("/settings"))
    acts = [r["keys"] for r in records(store.folder / AUDIT_FILE) if r["event"] in ("destination.greeted",
            "destination.tested")]  # fmt: skip
    assert [keys["by"] for keys in acts] == ["operator", "operator"]


@pytest.mark.requirement("WEB-08")
def test_a_file_is_tried_on_the_rules_and_nothing_of_it_is_kept(settings, store, tmp_path):
    rules = [{"name": "no hands", "when": {"body_part_examined": ["HAND"]}, "process": False}, {"name": "rest"}]
    operator = logged_in(make_app(Site(made_settings(settings.node.storage, rules=rules), store)), "operator")
    before = {path for path in settings.node.storage.rglob("*") if path.is_file()}
    chest = image("2.25.77")
    chest.BodyPartExamined = "CHEST"
    with save(chest, tmp_path / "x.dcm").open("rb") as file:
        answer = operator.post("/settings/rules", data={"file": (file, "CITIZEN^Joan.dcm"), "calling": "ER"})
    text = text_of(answer)
    assert "Processed by the rule “rest”" in text
    assert "1. no hands no match" in text
    assert "does not match" in text
    after = {path for path in settings.node.storage.rglob("*") if path.is_file()}
    assert after == before
    assert store.jobs.of_instance("2.25.77") == []
    [look] = [r["keys"] for r in records(store.folder / AUDIT_FILE) if r["event"] == "access.looked"]
    assert look["what"] == "rule trial"
    assert operator.post("/settings/rules", data={}).status_code == 400

from __future__ import annotations

import io
import json
import zipfile

import pytest
from lxml import html as parsed_html

from dicom_gam.storage.audit import records
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.service.dossier_store import JOB, STUDY, dossier_settings, real_store
from tests.web.logged_in import logged_in

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with real_store(tmp_path_factory.mktemp("audit") / "node") as made:
        made.audit.append("association.rejected", calling_ae_title=HOSTILE, peer_address="10.0.0.66", why=HOSTILE)
        made.audit.extend([("echo.answered", {"calling_ae_title": "ROOM_9", "n": number}) for number in range(120)])
        yield made


@pytest.fixture(scope="module")
def app(store):
    made = make_app(Site(dossier_settings(store.folder), store))
    made.config["TESTING"] = True
    return made


@pytest.fixture(scope="module")
def auditor(app):
    return logged_in(app, "auditor")


def table(answer):
    """The numbers and the events of the records that are shown."""
    rows = parsed_html.fromstring(answer.data).xpath("//table[contains(@class, 'records')]/tbody/tr")
    return [(int(row.xpath("td[1]")[0].text_content()), row.xpath("td[3]")[0].text_content()) for row in rows]


def logged(store):
    return list(records(store.folder / "audit.jsonl"))


@pytest.mark.requirement("DOS-13")
@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_an_auditor_searches_verifies_and_exports(app, role):
    client = logged_in(app, role)
    assert client.get("/audit").status_code == 403
    assert client.post("/audit/verify").status_code == 403
    assert client.post("/audit/export", data={"study": STUDY}).status_code == 403


def test_a_search_by_job_shows_its_records_and_pages_lead_through_all_of_them(auditor):
    shown = table(auditor.get("/audit", query_string={"text": JOB}))
    assert [event for _, event in shown][-3:] == ["job.result", "job.started", "instance.stored"]
    seen, url = [], "/audit?event=echo.answered"
    while url:
        answer = auditor.get(url)
        seen += [number for number, _ in table(answer)]
        url = next(iter(parsed_html.fromstring(answer.data).xpath("//a[text()='Older']/@href")), None)
    assert len(seen) == len(set(seen)) == 120
    assert seen == sorted(seen, reverse=True)


@pytest.mark.requirement("DOS-14")
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"since": "yesterday"}, "is no time"),
        ({"until": "2026-99-99"}, "is no time"),
        ({"since": "9999-12-31T23:59:59-23:00"}, ""),
        ({"until": "9999-12-31"}, "is no time"),
        ({"since": "2026-02-01", "until": "2026-01-01"}, "ends before it begins"),
        ({"before": "-1"}, "is no number of a record"),
        ({"before": "9" * 40}, "is no number of a record"),
        ({"before": "1 OR 1=1"}, "is no number of a record"),
        ({"text": "' OR 1=1 --"}, "No record is like that"),
        ({"text": "%00\x00"}, "No record is like that"),
        ({"event": "job.%"}, "No record is like that"),
        ({"text": "\U0010ffff" * 300}, "No record is like that"),
    ],
)
def test_what_can_not_be_searched_for_is_answered_in_words(auditor, query, words):
    answer = auditor.get("/audit", query_string=query)
    assert answer.status_code in (200, 400)
    assert words in parsed_html.fromstring(answer.data).text_content()


@pytest.mark.requirement("DOS-10")
def test_a_search_is_on_record_but_a_name_that_is_nowhere_in_the_log_does_not_get_in(auditor, store):
    auditor.get("/audit", query_string={"text": "ROOM_9"})
    last = logged(store)[-1]
    assert (last["event"], last["keys"]["filters"], last["keys"]["by"]) == (
        "audit.searched",
        {"text": "ROOM_9"},
        "auditor",
    )
    auditor.get("/audit", query_string={"text": "Doe^Jane", "event": "Doe^Jane"})
    last = logged(store)[-1]
    assert last["event"] == "audit.searched"
    assert "Doe" not in json.dumps(last)


def test_what_a_peer_or_a_person_typed_is_shown_as_text(auditor):
    for query in ({"event": "association.rejected"}, {"event": "result.overridden"}, {"text": HOSTILE}):
        answer = auditor.get("/audit", query_string=query)
        tree = parsed_html.fromstring(answer.data)
        assert "alert(" in tree.text_content()
        assert all("alert" not in (script.text or "") for script in tree.xpath("//script"))


@pytest.mark.requirement("DOS-15")
def test_verify_says_that_the_log_is_whole_and_which_record_is_bad_when_it_is_not(auditor, tmp_path, store):
    shown = auditor.post("/audit/verify", follow_redirects=True)
    assert "The audit log is whole. All " in shown.text
    assert logged(store)[-1]["event"] in ("audit.verified", "audit.searched")
    path = store.folder / "audit.jsonl"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b'"attempt":1,"job_id"', b'"attempt":7,"job_id"', 1))
        shown = auditor.post("/audit/verify", follow_redirects=True)
        assert "THE AUDIT LOG IS BROKEN. The first bad record is number 3." in shown.text
    finally:
        added = path.read_bytes()[len(whole) :]
        path.write_bytes(whole + added)


@pytest.mark.requirement("DOS-10")
def test_a_dossier_is_handed_out_as_one_file_or_as_a_zip_of_all(auditor, store):
    answer = auditor.post("/audit/export", data={"study": STUDY, "format": "html"}, buffered=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == f"attachment; filename=dossier-study-{STUDY}.html"
    assert b"What was decided" in answer.data
    assert logged(store)[-1]["event"] == "audit.exported"
    answer = auditor.post("/audit/export", data={"study": "", "job": JOB, "format": "all"}, buffered=True)
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert {name.rpartition(".")[2] for name in archive.namelist()} == {"html", "pdf", "csv", "json"}
        assert archive.testzip() is None


@pytest.mark.requirement("DOS-14")
@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "only one of them"),
        ({"study": STUDY, "job": JOB}, "only one of them"),
        ({"study": "1.2.3"}, "nothing is on record about the study"),
        ({"job": "../../etc/passwd"}, "nothing is on record about the job"),
        ({"from": "bad"}, "is no time"),
        ({"from": "2001-01-01", "to": "2001-01-02"}, "nothing is on record for this span"),
        ({"study": STUDY, "format": "../x"}, "there is no format"),
    ],
)
def test_an_export_that_can_not_be_made_is_answered_in_words(auditor, form, words):
    answer = auditor.post("/audit/export", data=form)
    assert answer.status_code == 400
    assert words in answer.text


def test_a_link_from_elsewhere_fills_in_the_study(auditor):
    tree = parsed_html.fromstring(auditor.get("/audit", query_string={"study": STUDY}).data)
    assert tree.xpath("//input[@name='study']/@value") == [STUDY]

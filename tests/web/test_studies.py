"""The pages Studies and Study."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from flask import Flask

from dicom_gam.service.store import Store
from dicom_gam.web import studies
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from dicom_gam.web.studies import dicom_date, person
from tests.web.made_site import HOSTILE, made_settings, made_store

PATIENT = ("Doe", "Jane", "P00000", "A00000", "alert(1)")


pytestmark = pytest.mark.usefixtures("forgotten")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with made_store(made_settings(tmp_path_factory.mktemp("studies") / "node"), jobs=24) as made:
        yield made


@pytest.fixture(scope="module")
def app(store: Store) -> Flask:
    made = make_app(Site(made_settings(store.folder), store))
    made.config["TESTING"] = True
    return made


def jobs_in(page: str) -> list[str]:
    return re.findall(r'href="/jobs/([0-9a-f]{32})"', page)


def test_the_latest_images_are_listed_without_asking(viewer, store):
    page = viewer.get("/studies").text
    assert jobs_in(page) == [job.job_id for job in store.jobs.jobs(limit=50)]


def test_a_search_by_name_shows_that_patient_s_images_only(viewer):
    page = viewer.post("/studies", data={"patient_name": "doe jane2"}).text
    assert len(jobs_in(page)) == 2
    assert page.count("Doe, Jane2") == 2


@pytest.mark.requirement("WEB-33")
@pytest.mark.parametrize("field", ["patient_name", "patient_id", "accession_number"])
def test_a_patient_s_data_never_stands_in_an_address(viewer, field, monkeypatch):
    monkeypatch.setattr(studies, "ROWS", 1)
    assert viewer.get(f"/studies?{field}=Doe").status_code == 400
    values = {"patient_name": "Doe", "patient_id": "P000002", "accession_number": "A0000002"}
    answer = viewer.post("/studies", data={field: values[field]})
    assert answer.status_code == 200
    assert "Older images" in answer.text
    addresses = re.findall(r'(?:href|action|src)="([^"]*)"', answer.text)
    assert not [address for address in addresses for part in PATIENT if part in address]


def test_a_search_without_a_patient_s_data_gets_an_address(viewer):
    answer = viewer.post("/studies", data={"outcome": "FAIL", "sender": "XRAY_ROOM_1"})
    assert (answer.status_code, answer.location) == (303, "/studies?sender=XRAY_ROOM_1&outcome=FAIL")
    page = viewer.get(answer.location).text
    assert jobs_in(page)
    assert "badge PASS" not in page


@pytest.mark.requirement("WEB-32")
@pytest.mark.parametrize("typed", [{}, {"patient_name": "d"}])
def test_walking_through_the_pages_shows_every_image_once(viewer, store, monkeypatch, typed):
    monkeypatch.setattr(studies, "ROWS", 7)
    seen: list[str] = []
    page = viewer.post("/studies", data=typed, follow_redirects=True).text
    while True:
        seen += jobs_in(page)
        following = re.search(r"before=(\d+)|name=\"before\" value=\"(\d+)\"", page)
        if following is None:
            break
        data = typed | {"before": following[1] or following[2]}
        page = viewer.post("/studies", data=data, follow_redirects=True).text
    known = [job.job_id for job in store.jobs.jobs(limit=50)]
    assert seen == known if not typed else set(seen) < set(known) and len(seen) == len(set(seen)) > 14


@pytest.mark.requirement("WEB-34")
def test_each_search_that_shows_patients_is_on_record_without_what_was_typed(viewer, on_record):
    viewer.post("/studies", data={"patient_name": "Doe Jane3"})
    viewer.post("/studies", data={"patient_name": "Nobody"})
    (look,) = on_record("access.looked")
    assert (look["what"], look["by"], look["images"]) == ("list", "viewer", 2)
    assert not [part for part in PATIENT if part in json.dumps(look)]


@pytest.mark.requirement("WEB-34")
def test_looking_at_a_study_is_on_record(viewer, store, on_record):
    uid = store.jobs.jobs(limit=1)[0].study_instance_uid or store.jobs.jobs(limit=3)[2].study_instance_uid
    page = viewer.get(f"/studies/{uid}")
    assert page.status_code == 200
    assert uid in page.text
    assert [(look["what"], look["study_instance_uid"]) for look in on_record("access.looked")] == [("study", uid)]


def test_a_study_shows_all_of_its_images_with_their_verdicts(viewer, store):
    of_study = [job for job in store.jobs.jobs(limit=50) if job.study_instance_uid]
    uid = of_study[-1].study_instance_uid
    members = [job for job in of_study if job.study_instance_uid == uid]
    page = viewer.get(f"/studies/{uid}").text
    assert jobs_in(page) == [job.job_id for job in members]
    for job in members:
        assert f'class="badge {job.outcome}"' in page


@pytest.mark.requirement("WEB-31")
def test_a_hostile_name_is_text_wherever_it_is_shown(viewer, store):
    page = viewer.post("/studies", data={"patient_name": HOSTILE}).text
    assert jobs_in(page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    study = next(job for job in store.jobs.jobs(limit=50) if job.job_id in jobs_in(page)).study_instance_uid
    assert "<script>alert" not in viewer.get(f"/studies/{study}").text


@pytest.mark.parametrize(
    "query",
    [
        "outcome=WRONG", "since=yesterday", "until=9999-12-31", "before=-1", "before=x", "before=99999999999999999999",
        "uid=" + "1" * 300, "job_id=%00",
    ],
)  # fmt: skip
def test_what_can_t_be_searched_for_is_told_in_words_and_shows_nobody(viewer, query, on_record):
    answer = viewer.get(f"/studies?{query}")
    assert answer.status_code == 400
    assert "Not searched" in answer.text
    assert on_record("access.looked") == []


@pytest.mark.parametrize("url", ["/studies/1.2.3", "/studies/..%2f..%2fetc", "/studies/%00", "/studies/1.2.3?before=x"])
def test_a_study_that_is_not_there_is_not_found(viewer, url, on_record):
    assert viewer.get(url).status_code == 404
    assert on_record("access.looked") == []


@pytest.mark.parametrize(
    ("dicom", "shown"),
    [("Doe^Jane^M", "Doe, Jane M"), ("Doe", "Doe"), ("", ""), ("Yamada^Tarou=山田^太郎", "Yamada, Tarou = 山田 太郎")],
)
def test_a_name_is_shown_as_people_write_it(dicom, shown):
    assert person(dicom) == shown


def test_a_date_is_shown_with_its_parts_apart_and_what_is_none_as_it_is():
    assert (dicom_date("20250304"), dicom_date("March")) == ("2025-03-04", "March")

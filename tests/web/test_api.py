from __future__ import annotations

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_gam.service import submission
from dicom_gam.service.store import AUDIT_FILE, open_store
from dicom_gam.storage.audit import records
from dicom_gam.storage.states import JobState
from dicom_gam.web.app import make_app
from dicom_gam.web.server import WebServer
from dicom_gam.web.site import Site
from tests.web.fuzz_api import token_of
from tests.web.made_site import HOSTILE, made_settings, made_store
from tests.web.part10 import part10

DICOM = "application/dicom"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return made_settings(tmp_path_factory.mktemp("api") / "node")


@pytest.fixture(scope="module")
def store(settings):
    """One for all tests, as it takes a while to make; each works on images and jobs of its own."""
    with made_store(settings) as made:
        yield made


def audit(settings, event: str) -> list[dict]:
    return [item["keys"] for item in records(settings.node.storage / AUDIT_FILE) if item["event"] == event]


def submit(client, content: bytes, **headers):
    return client.post("/api/v1/instances", data=content, content_type=DICOM, headers=headers)


def with_outcome(store, outcome: str):
    return next(job for job in store.jobs.jobs(200) if job.outcome == outcome)


@pytest.mark.requirement("API-01")
def test_a_file_is_submitted_and_its_job_can_be_followed(visit, settings, store):
    client = visit("operator")
    answer = submit(client, part10("1.2.826.1"))
    assert answer.status_code == 202
    said = answer.get_json()
    assert said["duplicate"] is False
    assert answer.headers["Location"] == said["href"]
    job = client.get(said["href"]).get_json()
    assert (job["state"], job["sop_instance_uid"], job["finding"]) == ("received", "1.2.826.1", None)
    assert audit(settings, "instance.stored")[-1]["by"] == "operator"


@pytest.mark.requirement("API-02")
def test_the_same_file_again_is_the_earlier_job_and_other_bytes_are_a_conflict(visit, store):
    client = visit("operator")
    first = submit(client, part10("1.2.826.2")).get_json()
    again = submit(client, part10("1.2.826.2"))
    assert (again.status_code, again.get_json()["job_id"]) == (200, first["job_id"])
    assert again.get_json()["duplicate"] is True
    other = submit(client, part10("1.2.826.2", shade=5))
    assert (other.status_code, other.content_type) == (409, "application/problem+json")
    assert "quarantined" in other.get_json()["detail"]
    assert store.jobs.get(other.get_json()["job_id"]).state is JobState.QUARANTINED


@pytest.mark.requirement("API-03")
@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (part10("1.2.826.3"), "text/plain", 415, "content-type"),
        (b"no DICOM", DICOM, 422, "unreadable"),
        (part10("1.2.826.3", sop_class_uid="1.2.3"), DICOM, 422, "not-accepted-sop-class"),
        (
            part10("1.2.826.3").replace(b"10008.1.2.1", b"10008.9.9.9"),
            DICOM,
            415,
            "unsupported-transfer-syntax",
        ),
    ],
    ids=["media type", "not DICOM", "class", "syntax"],
)
def test_what_is_not_taken_is_refused_with_a_reason_by_name(visit, content, kind, status, reason):
    answer = visit("operator").post("/api/v1/instances", data=content, content_type=kind)
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert answer.get_json()["reason"] == reason
    assert answer.get_json()["status"] == status


@pytest.mark.requirement("API-04")
def test_too_little_disk_is_507(visit, monkeypatch):
    real = submission.submit
    monkeypatch.setattr(
        "dicom_gam.web.api.submit", lambda *args, **keys: real(*args, **keys, free=lambda _: -1)
    )  # fmt: skip
    assert submit(visit("operator"), part10("1.2.826.4")).status_code == 507


@pytest.mark.requirement("API-05")
@pytest.mark.parametrize("outcome", ["FAIL", "REJECT", "UNUSABLE", "ERROR"])
def test_only_an_image_that_passed_has_a_finding(visit, store, outcome):
    client = visit("viewer")
    job = client.get(f"/api/v1/jobs/{with_outcome(store, outcome).job_id}").get_json()
    assert job["finding"] is None
    assert "label" not in json.dumps(job)
    for part in ("verification", "analysis"):
        if outcome in ("FAIL", "REJECT"):
            assert "no finding" in job[part]["warning"]
    passed = client.get(f"/api/v1/jobs/{with_outcome(store, 'PASS').job_id}").get_json()
    assert passed["finding"] == {"label": "chest", "probability": 0.93}


@pytest.mark.requirement("API-05")
def test_a_pass_whose_verification_says_otherwise_has_no_finding(visit, store):
    """Whatever damaged the row."""
    job = with_outcome(store, "FAIL")
    with store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET outcome = 'PASS' WHERE job_id = ?", (job.job_id,))
    try:
        assert visit("viewer").get(f"/api/v1/jobs/{job.job_id}").get_json()["finding"] is None
    finally:
        with store.database.transaction() as connection:
            connection.execute("UPDATE jobs SET outcome = 'FAIL' WHERE job_id = ?", (job.job_id,))


@pytest.mark.requirement("API-05")
def test_no_answer_names_a_patient_or_a_class_of_an_image_that_failed(visit, store):
    client = visit("viewer", "operator", "auditor")
    failed = with_outcome(store, "FAIL").job_id
    urls = ["/api/v1/jobs?limit=200", "/api/v1/metrics-summary", "/api/v1/destinations"]
    urls += [f"/api/v1/jobs/{failed}{part}" for part in ("", "/results", "/timeline")]
    for url in urls:
        text = client.get(url).get_data(as_text=True)
        assert '"label"' not in text
        for phi in ("Doe", HOSTILE, json.dumps(HOSTILE)[1:-1], "P0000", "A00000"):
            assert phi not in text, url


@pytest.mark.requirement("API-06")
def test_pages_of_jobs_give_each_job_once_newest_first(visit, store):
    client, found, url = visit("viewer"), [], "/api/v1/jobs?limit=7"
    page = client.get(url).get_json()
    while True:
        found += [job["number"] for job in page["jobs"]]
        if page["next"] is None:
            break
        page = client.get(f"{url}&before={page['next']}").get_json()
    assert found == sorted(found, reverse=True)
    assert len(found) == len(set(found)) == sum(store.jobs.counts().values())


@pytest.mark.requirement("API-06")
@pytest.mark.parametrize("limit", [3, 200])
@pytest.mark.parametrize(
    "wanted",
    [
        {"state": "failed"},
        {"outcome": "REJECT"},
        {"sender": "MOBILE_7"},
        {"sender": "MOBILE_7", "outcome": "PASS"},
        {"state": "done", "sender": "XRAY_ROOM_1"},
        {"state": "done", "outcome": "FAIL", "sender": "XRAY_ROOM_1"},
        {"sender": "NOBODY"},
    ],
    ids=lambda wanted: "-".join(wanted.values()),
)
def test_every_filter_gives_what_a_look_at_all_jobs_gives(visit, store, wanted, limit):
    told = visit("viewer").get("/api/v1/jobs", query_string={"limit": limit, **wanted}).get_json()["jobs"]
    expected = [
        job.job_id
        for job in store.jobs.jobs(200)
        if all(
            {"state": job.state.value, "outcome": job.outcome, "sender": job.instance.calling_ae_title}[key] == value
            for key, value in wanted.items()
        )
    ]
    assert [job["job_id"] for job in told] == expected[:limit]


def test_the_jobs_of_a_study_are_found(visit, store):
    study = with_outcome(store, "PASS").study_instance_uid
    told = visit("viewer").get(f"/api/v1/jobs?study={study}").get_json()["jobs"]
    assert told
    assert {job["study_instance_uid"] for job in told} == {study}


@pytest.mark.requirement("API-07")
@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "before=-1", "state=lost", "study=1.2/../3", "unknown=1", "limit=1&limit=2",
     "sender=%00", "before=1e5"],
)  # fmt: skip
def test_parameters_that_do_not_fit_are_refused_and_not_repeated(visit, query):
    answer = visit("viewer").get(f"/api/v1/jobs?{query}")
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert "1.2/../3" not in answer.get_data(as_text=True)


@pytest.mark.parametrize("job_id", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e", "x" * 32, "0" * 32, "'; DROP TABLE jobs"])
@pytest.mark.parametrize("part", ["", "/results", "/results/sr", "/timeline"])
def test_no_path_leads_out(visit, job_id, part):
    assert visit("viewer").get(f"/api/v1/jobs/{job_id}{part}").status_code in (404, 422)


@pytest.mark.requirement("API-08")
def test_a_result_comes_as_the_very_bytes_that_were_sent(visit, store, settings):
    job = with_outcome(store, "PASS")
    content = part10("2.25.77")
    name = hashlib.sha256(content).hexdigest()
    store.results.write(name, (content,))
    changed = dict(job.result) | {"outputs": [dict(job.result["outputs"][0]) | {"sha256": name}]}
    with store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET result = ? WHERE job_id = ?", (json.dumps(changed), job.job_id))
    client = visit("viewer")
    listed = client.get(f"/api/v1/jobs/{job.job_id}/results").get_json()["outputs"][0]
    assert listed["available"] is True
    assert {item["destination"] for item in listed["deliveries"]} == {"pacs", "research"}
    answer = client.get(listed["href"])
    assert (answer.status_code, answer.content_type, answer.data) == (200, DICOM, content)
    looked = audit(settings, "access.looked")[-1]
    assert (looked["what"], looked["job_id"], looked["by"]) == ("download", job.job_id, "viewer")
    store.results.path(name).write_bytes(content[:-1])
    assert client.get(listed["href"]).status_code == 503  # damaged on our own disk: never given out
    store.results.remove(name)
    assert client.get(listed["href"]).get_json()["reason"] == "file-deleted"


@pytest.mark.requirement("API-08")
def test_every_look_at_a_job_is_on_record(visit, store, settings):
    job = with_outcome(store, "PASS").job_id
    client = visit("auditor")
    for part in ("", "/results", "/timeline"):
        assert client.get(f"/api/v1/jobs/{job}{part}").status_code == 200
    looks = {item["what"] for item in audit(settings, "access.looked") if item.get("job_id") == job}
    assert {"job", "results", "timeline"} <= looks


def test_the_timeline_tells_what_happened_to_a_job(visit, store):
    job = with_outcome(store, "PASS").job_id
    told = visit("viewer").get(f"/api/v1/jobs/{job}/timeline").get_json()["records"]
    events = [record["event"] for record in told]
    assert events[:2] == ["instance.stored", "job.result"]
    assert [record["number"] for record in told] == sorted(record["number"] for record in told)


@pytest.mark.requirement("API-09")
def test_an_operator_pauses_resumes_and_retries_a_destination_on_record(visit, store, settings):
    client = visit("operator")
    paused = client.post("/api/v1/destinations/pacs/pause", json={"why": "its disk is exchanged"})
    assert paused.get_json() == {"destination": "pacs", "paused": True, "changed": True}
    assert store.outbox.paused("pacs").why == "its disk is exchanged"
    listed = {item["name"]: item for item in client.get("/api/v1/destinations").get_json()["destinations"]}
    assert listed["pacs"]["paused"]["why"] == "its disk is exchanged"
    assert client.post("/api/v1/destinations/pacs/resume").get_json()["changed"] is True
    assert client.post("/api/v1/destinations/pacs/resume").get_json()["changed"] is False
    dead = listed["pacs"]["counts"]["dead"]
    assert dead > 0
    assert client.post("/api/v1/destinations/pacs/retry", json={}).get_json()["dead_letters"] == dead
    assert [item["by"] for item in audit(settings, "destination.paused")] == ["operator"]
    assert [item["by"] for item in audit(settings, "destination.retried")] == ["operator"]
    assert client.post("/api/v1/destinations/nowhere/resume").status_code == 404


@pytest.mark.requirement("API-09")
def test_an_image_is_processed_again_once(visit, store, settings):
    client = visit("operator")
    job = submit(client, part10("1.2.826.9")).get_json()["job_id"]
    url = f"/api/v1/jobs/{job}/reprocess"
    waits = client.post(url, json={})
    assert waits.status_code == 409
    assert "not finished" in waits.get_json()["detail"]
    with store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET state = 'done' WHERE job_id = ?", (job,))
    again = client.post(url, json={})
    assert again.status_code == 202
    assert store.jobs.get(again.get_json()["job_id"]).predecessor == job
    assert client.post(url, json={"bundle": "/etc"}).status_code == 409
    assert client.post(url, json={"again": "yes"}).status_code == 422
    assert client.post(url, data="{}", content_type="text/plain").status_code == 415
    assert audit(settings, "job.reprocess_ordered")[0]["by"] == "operator"


@pytest.mark.requirement("API-10")
def test_the_audit_log_is_verified_for_auditors_alone(visit):
    assert visit("operator").get("/api/v1/audit/verify").status_code == 403
    told = visit("auditor").get("/api/v1/audit/verify").get_json()
    assert told["unbroken"] is True
    assert told["first_bad_record"] is None


@pytest.mark.requirement("API-10")
def test_a_changed_record_is_named(tmp_path):
    settings = made_settings(tmp_path / "node")
    with made_store(settings, jobs=3) as store:
        app = make_app(Site(settings, store))
        token = {"Authorization": f"Bearer {token_of(app, store, 'auditor')}"}
        log = settings.node.storage / AUDIT_FILE
        lines = log.read_bytes().splitlines(keepends=True)
        lines[2] = lines[2].replace(b"instance", b"instants").replace(b"0000", b"0001", 1)
        log.write_bytes(b"".join(lines))
        told = app.test_client().get("/api/v1/audit/verify", headers=token).get_json()
    assert told["unbroken"] is False
    assert told["first_bad_record"] == 3


@pytest.mark.requirement("API-11")
@pytest.mark.parametrize("role", ["viewer", "auditor"])
def test_only_operators_change_anything(visit, store, role):
    client, job = visit(role), store.jobs.jobs(1)[0].job_id
    before = sum(store.jobs.counts().values())
    for url, body in (
        (f"/api/v1/jobs/{job}/reprocess", {}),
        ("/api/v1/destinations/pacs/retry", {}),
        ("/api/v1/destinations/pacs/pause", {"why": "because"}),
        ("/api/v1/destinations/pacs/resume", {}),
    ):
        assert client.post(url, json=body).status_code == 403
    assert submit(client, part10("1.2.826.11")).status_code == 403
    assert sum(store.jobs.counts().values()) == before
    assert store.outbox.paused("pacs") is None


@pytest.mark.requirement("API-11")
def test_a_session_alone_posts_nothing_without_the_token_against_cross_site_posts(visit):
    client = visit("operator")
    del client.environ_base["HTTP_X_CSRFTOKEN"]
    answer = client.post("/api/v1/destinations/pacs/pause", json={"why": "because"})
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")


@pytest.mark.requirement("API-11")
@pytest.mark.parametrize("url", ["/api/v1/jobs", "/api/v1/nothing", "/openapi/openapi.json"])
def test_strangers_learn_nothing(visit, url):
    assert visit().get(url, headers={"Accept": "application/json"}).status_code in (401, 404)


def test_the_summary_agrees_with_the_storage(visit, store):
    told = visit("viewer").get("/api/v1/metrics-summary").get_json()
    assert told["jobs"] == {state.value: count for state, count in store.jobs.counts().items()}
    assert told["ready"] is True


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    settings = made_settings(tmp_path_factory.mktemp("server") / "node", web={"maximum_upload_bytes": 4 * 1024**2})
    with open_store(settings, create=True) as store:
        app = make_app(Site(settings, store))
        token = token_of(app, store, "operator")
        server = WebServer(settings, app)
        server.start()
        try:
            host, port = server.url.removeprefix("http://").split(":")
            yield host, int(port), {"Authorization": f"Bearer {token}", "Content-Type": DICOM}, store
        finally:
            server.stop()


class TestOverTheNetwork:
    """A real server, as only there a body comes bit by bit."""

    @staticmethod
    def files(store) -> list[Path]:
        return [path for path in (store.folder / "inbox").rglob("*") if path.is_file()]

    def post(self, served, body, **keys):
        host, port, headers, _ = served
        connection = http.client.HTTPConnection(host, port, timeout=20)
        try:
            connection.request("POST", "/api/v1/instances", body, headers, **keys)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    @pytest.mark.requirement("API-04")
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_file_of_several_megabytes_is_kept_byte_for_byte(self, served, chunked):
        content = part10(f"1.2.826.20.{int(chunked)}") + bytes(range(256)) * 8192
        body = iter([content[i : i + 100_000] for i in range(0, len(content), 100_000)]) if chunked else content
        status, said = self.post(served, body, encode_chunked=chunked)
        assert status == 202
        assert served[3].jobs.get(said["job_id"]).instance.path.read_bytes() == content

    @pytest.mark.requirement("API-04")
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_file_above_the_limit_is_413_and_leaves_nothing(self, served, chunked):
        before = self.files(served[3])
        content = part10("1.2.826.21") + bytes(5 * 1024**2)
        body = iter([content[i : i + 500_000] for i in range(0, len(content), 500_000)]) if chunked else content
        try:
            status, _ = self.post(served, body, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):  # the server answers before all was sent, as it may
            status = 413
        assert status == 413
        assert self.files(served[3]) == before

    @pytest.mark.requirement("API-04")
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_sender_that_goes_away_in_the_middle_leaves_nothing(self, served, chunked):
        host, port, headers, store = served
        before, jobs = self.files(store), sum(store.jobs.counts().values())
        content = part10("1.2.826.22") + bytes(1024**2)
        how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(content)}"
        body = b"".join(b"10000\r\n" + content[i : i + 65536] + b"\r\n" for i in range(0, 8 * 65536, 65536))
        lines = [how, *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join(["POST /api/v1/instances HTTP/1.1", f"Host: {host}", *lines, "", ""])
        with socket.create_connection((host, port), timeout=20) as connection:
            connection.sendall(head.encode() + (body if chunked else content[:-500_000]))
            until(lambda: self.files(store) != before)  # it is being written
            connection.shutdown(socket.SHUT_WR)
            assert b" 400 " in connection.recv(1000)
        assert self.files(store) == before
        assert sum(store.jobs.counts().values()) == jobs


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)

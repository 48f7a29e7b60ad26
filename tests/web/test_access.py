"""Who gets in where: roles, tokens, cross-site posts, headers, and what refused requests are told."""

from __future__ import annotations

import logging

import pytest
from flask import abort

from dicom_gam.errors import StorageError
from dicom_gam.oversight_sections import WebSettings
from dicom_gam.service.store import open_store
from dicom_gam.web.access import PERMISSIONS, Permission, Visitor, needs, record_look
from dicom_gam.web.app import make_app
from dicom_gam.web.recently import Recently
from dicom_gam.web.security import served_names
from dicom_gam.web.site import Site
from tests.dicom.self_signed import self_signed
from tests.web.made_site import HOSTILE, made_settings
from tests.web.people import accounts_of, add_person, log_in, quick_passwords, records

__all__ = ["quick_passwords"]
pytestmark = pytest.mark.usefixtures("quick_passwords")

# What strangers may reach: all else is refused to them.
OPEN = {
    "static", "login.page", "login.submit", "login.leave", "login.password", "login.change", "login.elsewhere",
    "login.returned", "health.live", "health.ready", "health.metrics",
}  # fmt: skip


@pytest.fixture
def store(settings):
    with open_store(settings, create=True) as opened:
        yield opened


def url_of(app, rule):
    values = dict.fromkeys(rule.arguments, "1")
    return rule.build(values, append_unknown=False)[1]


@pytest.mark.requirement("ACC-06")
def test_every_view_but_a_named_few_refuses_strangers_and_roles_without_its_permission(app, visit):
    stranger = visit()
    by_role = {role: visit(role) for role in PERMISSIONS}
    walked = 0
    for rule in app.url_map.iter_rules():
        if rule.endpoint in OPEN:
            continue
        permission = getattr(app.view_functions[rule.endpoint], "permission", None)
        assert permission is not None, f"{rule.endpoint} doesn't say what it needs"
        for method in rule.methods - {"OPTIONS", "HEAD"}:
            walked += 1
            url = url_of(app, rule)
            assert stranger.open(url, method=method).status_code in (302, 401), url
            for role, client in by_role.items():
                if permission not in PERMISSIONS[role]:
                    assert client.open(url, method=method).status_code == 403, (url, role)
    assert walked > 20


def test_a_view_that_forgets_to_say_what_it_needs_is_still_closed_to_strangers(app):
    app.add_url_rule("/forgotten", "forgotten", lambda: "open")
    assert app.test_client().get("/forgotten").status_code == 302


@pytest.mark.requirement("ACC-06")
@pytest.mark.parametrize("endpoint", ["login.password", "login.change"])
def test_a_password_is_changed_by_its_owner_only(app, visit, endpoint):
    method = "POST" if endpoint.endswith("change") else "GET"
    token = {"X-CSRFToken": visit("viewer").environ_base["HTTP_X_CSRFTOKEN"]}
    assert visit().open("/password", method=method, headers=token).status_code in (302, 400)


@pytest.mark.requirement("ACC-07")
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
    ],
)
def test_a_post_that_another_site_sends_does_nothing_says_so_and_is_on_record(visit, store, headers):
    client = visit("viewer")
    page = client.post("/logout", headers=headers)
    assert page.status_code == 403
    assert "Another site had your browser send this" in page.text
    assert client.get("/").status_code == 200
    assert records(store, "access.refused") == [
        {"user": "viewer", "why": "cross-site post", "at": "login.leave", "address": "127.0.0.1"}
    ]


@pytest.mark.requirement("ACC-07")
@pytest.mark.parametrize("token", ["", "Ijk1NTUi.aaaa.bbbb"])
def test_a_form_without_the_right_token_does_nothing_says_so_and_is_on_record(visit, store, token):
    client = visit("viewer")
    del client.environ_base["HTTP_X_CSRFTOKEN"]
    page = client.post("/logout", data={"csrf_token": token})
    assert page.status_code == 400
    assert "Nothing was done" in page.text
    assert client.get("/").status_code == 200
    assert records(store, "access.refused")[0]["why"].startswith("cross-site post")


@pytest.mark.requirement("ACC-07")
def test_a_form_of_our_own_is_taken_from_the_browsers_that_name_their_origin(visit):
    client = visit("viewer")
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}
    assert client.post("/logout", headers=headers).location == "/login"


@pytest.mark.requirement("ACC-07")
def test_behind_a_proxy_the_public_address_is_our_own_and_the_visitors_address_is_believed(store, tmp_path):
    web = {"public_url": "https://gam.hospital.example"}
    app = make_app(Site(made_settings(tmp_path / "node", web=web), store))
    client = app.test_client()
    headers = {"Origin": "https://gam.hospital.example", "X-Forwarded-For": "10.9.8.7", "X-Forwarded-Proto": "https"}
    assert client.post("/login", headers=headers).status_code == 400  # no form token; the origin was fine
    headers["Host"] = "gam.hospital.example"
    page = client.get("/login", headers=headers)
    assert page.status_code == 200
    assert "Strict-Transport-Security" in page.headers
    assert records(store, "access.refused")[0]["address"] == "10.9.8.7"

    client.environ_base["REMOTE_ADDR"] = "10.0.0.66"  # no proxy of ours
    client.post("/login", headers=headers)
    assert records(store, "access.refused")[-1]["address"] == "10.0.0.66"


HOSTS = {
    "localhost": True, "localhost:8180": True, "127.0.0.1:8180": True, "10.1.2.3": True, "[::1]:8180": True,
    "evil.example": False, "localhost.evil.example": False, "127.0.0.1.evil.example:8180": False, "[::1": False,
    "a b": False, "": False, "localhost@evil.example": False,
}  # fmt: skip


@pytest.mark.requirement("ACC-08")
def test_only_our_own_host_names_are_answered_to(app):
    for host, served in HOSTS.items():
        page = app.test_client().get("/login", headers={"Host": host})
        assert page.status_code == (200 if served else 400), host
        assert served or "answer to the host name in the address" in page.text


@pytest.mark.requirement("ACC-08")
def test_with_tls_the_names_in_the_certificate_are_ours(tmp_path):
    own = self_signed(tmp_path, "dashboard", "DNS:gam.hospital.example")
    names = served_names(WebSettings(certificate=own.certificate, key=own.key, public_url="https://proxy.example/gam"))
    assert {"gam.hospital.example", "proxy.example", "localhost", "127.0.0.1"} <= names


@pytest.mark.requirement("ACC-08")
def test_every_answer_carries_the_headers_that_keep_browsers_careful(visit):
    client = visit("viewer")
    for url in ("/", "/login", "/nothing", "/static/app.css", "/api/v1/jobs"):
        with client.get(url) as answer:
            headers = answer.headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
        assert (headers["Cache-Control"] == "no-store") == (not url.startswith("/static"))


@pytest.fixture
def token(app):
    add_person(app, "bot", "viewer", "operator")
    return accounts_of(app).make_token("bot", "nightly", ["viewer"], by="root")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.requirement("ACC-09")
def test_a_token_gives_the_roles_it_was_made_with_and_is_named_in_the_record(app, store, token):
    app.add_url_rule("/api/v1/look", "api.look", needs(Permission.LOOK)(lambda: record_look("job", job_id="a") or "ok"))
    client = app.test_client()
    assert client.get("/api/v1/look", headers=bearer(token)).text == "ok"
    assert client.post("/api/v1/destinations/pacs/pause", headers=bearer(token)).status_code == 403
    assert records(store, "access.looked") == [
        {"what": "job", "job_id": "a", "by": "bot", "token": "nightly", "address": "127.0.0.1"}
    ]
    assert token.encode() not in (store.folder / "access.sqlite").read_bytes()


@pytest.mark.requirement("ACC-09")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda accounts: accounts.revoke_tokens("bot", "nightly", by="root"),
        lambda accounts: accounts.disable("bot", by="root"),
        lambda accounts: accounts.set_roles("bot", ["auditor"], by="root"),
    ],
)
def test_a_token_is_worth_nothing_when_revoked_or_its_user_may_no_more(app, store, token, spoil):
    client = app.test_client()
    assert client.get("/api/v1/jobs", headers=bearer(token)).status_code == 200
    spoil(accounts_of(app))
    answer = client.get("/api/v1/jobs", headers=bearer(token))
    assert answer.status_code == 401
    assert answer.content_type == "application/problem+json"
    assert answer.json["status"] == 401
    assert "revoked" in answer.json["detail"]
    assert len(records(store, "access.refused")) == 1


@pytest.mark.requirement("ACC-09")
@pytest.mark.parametrize("shown", ["", "é" * 9, "0" * 9000])
def test_a_forged_token_is_refused_even_with_a_good_session_beside_it(visit, store, shown):
    assert visit("operator").get("/api/v1/jobs", headers=bearer(shown)).status_code == 401
    assert "bearer token" in records(store, "access.refused")[0]["why"]


@pytest.mark.requirement("ACC-09")
def test_whoever_guesses_tokens_is_made_to_wait(app, token):
    client = app.test_client()
    answers = [client.get("/api/v1/jobs", headers=bearer(f"dgam_{n}")).status_code for n in range(21)]
    assert answers == [401] * 20 + [429]


@pytest.mark.requirement("ACC-07")
def test_the_api_takes_a_post_by_token_without_a_form_token_and_by_cookie_only_with_one(app, visit, token):
    operating = accounts_of(app).make_token("bot", "operating", ["operator"], by="root")
    url = "/api/v1/destinations/nowhere/pause"
    by_token = app.test_client().post(url, headers=bearer(operating), json={"why": "x"})
    assert by_token.status_code in (404, 422)  # it got through to the view

    client = visit("operator")
    del client.environ_base["HTTP_X_CSRFTOKEN"]
    by_cookie = client.post(url, json={"why": "x"})
    assert by_cookie.status_code == 400
    assert by_cookie.content_type == "application/problem+json"


@pytest.mark.requirement("ACC-10")
@pytest.mark.parametrize(
    ("status", "words"), [(403, "Ask the administrator"), (404, "list of studies"), (405, "kind of request"),
                          (413, "web.maximum_upload_bytes"), (429, "Wait a few minutes")],
)  # fmt: skip
def test_a_refusal_says_what_why_and_what_to_do_to_people_and_the_same_to_programs(app, visit, status, words):
    for path in ("/refused", "/api/v1/refused"):
        app.add_url_rule(path, path, needs(Permission.LOOK)(lambda: abort(status)))
    page = visit("viewer").get("/refused")
    assert page.status_code == status
    assert words in page.text
    assert "What to do:" in page.text
    answer = visit("viewer").get("/api/v1/refused")
    assert answer.status_code == answer.json["status"] == status
    assert answer.content_type == "application/problem+json"
    assert set(answer.json) >= {"type", "title", "status", "detail"}


@pytest.mark.requirement("ACC-10")
def test_a_mistake_in_the_node_shows_no_trace_and_logs_no_value(app, visit, caplog):
    app.config["TESTING"] = False
    app.add_url_rule("/broken", "broken", needs(Permission.LOOK)(lambda: {}[HOSTILE]))
    page = visit("viewer").get("/broken")
    assert page.status_code == 500
    assert "The node made a mistake" in page.text
    assert "KeyError" not in page.text
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("web.failed endpoint=broken KeyError at test_access.py:")
    assert "alert" not in caplog.text


@pytest.mark.requirement("ACC-10")
def test_a_storage_that_fails_is_told_in_its_own_words_and_escaped(app, visit):
    def fail():
        raise StorageError("the disk is <full>")

    app.add_url_rule("/full", "full", needs(Permission.LOOK)(fail))
    page = visit("viewer").get("/full")
    assert page.status_code == 503
    assert "the disk is &lt;full&gt;" in page.text


@pytest.mark.requirement("ACC-11")
def test_the_same_look_is_on_record_once_in_ten_minutes_and_an_export_each_time(app, store, visit):
    def look(what, job_id):
        record_look(what, job_id=job_id)
        return "ok"

    app.add_url_rule("/look/<what>/<job_id>", "look", needs(Permission.LOOK)(look))
    viewer, operator = visit("viewer"), visit("operator")
    for url in ("/look/job/a", "/look/job/a", "/look/job/b", "/look/export/a", "/look/export/a"):
        viewer.get(url, headers={"X-Live": "1"})
    operator.get("/look/job/a")
    looks = [(look["by"], look["what"], look["job_id"]) for look in records(store, "access.looked")]
    assert looks == [
        ("viewer", "job", "a"), ("viewer", "job", "b"), ("viewer", "export", "a"), ("viewer", "export", "a"),
        ("operator", "job", "a"),
    ]  # fmt: skip


@pytest.mark.requirement("ACC-11")
def test_what_was_seen_is_forgotten_after_its_time_and_beyond_its_bound():
    now = [0.0]
    seen = Recently(600.0, most=2, clock=lambda: now[0])
    for key in "abc":
        seen.add(key)
    assert [seen.holds(key) for key in "abc"] == [False, True, True]
    now[0] = 600.0
    assert not seen.holds("c")


def test_roles_add_up():
    both = Visitor("x", frozenset({"viewer", "auditor"}), "")
    assert both.may(Permission.COMMENT)
    assert both.may(Permission.AUDIT)
    assert not both.may(Permission.OPERATE)


@pytest.mark.requirement("ACC-10")
def test_a_stranger_who_sends_much_is_refused_before_it_is_read(app):
    client = app.test_client()
    too_much = {"csrf_token": "x", "name": "n" * 100_000}
    assert client.post("/login", data=too_much).status_code == 413
    answer = client.post("/api/v1/instances", data=b"x" * 100_000)
    assert answer.status_code == 401
    assert answer.headers["Connection"] == "close"
    assert log_in(client, "nobody").status_code == 401

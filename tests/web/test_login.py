"""Logging in and out, passwords and sessions, as a browser does it."""

from __future__ import annotations

import time

import pytest
from argon2 import PasswordHasher

from dicom_gam.service import accounts as accounts_module
from dicom_gam.service.accounts import password_fault
from dicom_gam.service.store import open_store
from dicom_gam.storage.sqlite_access import User
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.made_site import made_settings
from tests.web.people import PASSWORD, accounts_of, add_person, choose, csrf_token, log_in, quick_passwords, records

__all__ = ["quick_passwords"]
pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def store(settings):
    with open_store(settings, create=True) as opened:
        yield opened


@pytest.fixture
def client(app):
    add_person(app, "ann", "viewer")
    return app.test_client()


def status_of_first_page(client, **headers):
    return client.get("/", headers=headers).status_code


@pytest.mark.requirement("ACC-01")
def test_a_password_given_by_another_serves_for_one_log_in_only_at_which_a_new_one_is_forced(app):
    given = accounts_of(app).add("ben", ["operator"], by="root")
    client = app.test_client()

    assert log_in(client, "ben", given, next="/studies").location == "/password"
    for page in ("/", "/studies", "/settings"):
        assert client.get(page).location == "/password"
    assert client.get("/api/v1/jobs").status_code == 401
    assert "given" in client.get("/password").text
    assert choose(client, given, given).status_code == 400
    assert choose(client, given, PASSWORD).location == "/"

    assert status_of_first_page(client) == 200
    assert log_in(app.test_client(), "ben", given).status_code == 401
    assert log_in(app.test_client(), "BEN").location == "/"


@pytest.mark.requirement("ACC-01")
@pytest.mark.parametrize(
    ("new", "again", "words"),
    [
        ("short words", None, "too short"),
        ("correct horse", "correct house", "differ"),
        ("ann.ann.ann1", None, "different characters"),
        ("aaaaaaaaaaaaaaaa", None, "different characters"),
        ("the old password", None, "the old one"),
        ("x" * 257, None, "too long"),
        ("ＴＨＥ　ＯＬＤ　ＰＡＳＳＷＯＲＤ".lower(), None, "the old one"),
        ("annemarie-ann-x", None, "little more than your name"),
        ("five words are very good", None, ""),
    ],
)
def test_a_new_password_is_refused_in_words_that_say_why(new, again, words):
    user = User("annemarie-ann", ("viewer",), False, False, 0.0, "")
    fault = password_fault(user, "the old password", new, again or new)
    assert words in fault
    assert bool(fault) == bool(words)


@pytest.mark.requirement("ACC-02")
def test_a_failed_log_in_is_on_record_and_names_an_account_only_if_there_is_one(client, store):
    mistaken = "my-secret-typed-as-name"
    assert log_in(client, "Ann", "wrong").status_code == 401
    page = log_in(client, mistaken, PASSWORD)
    assert page.status_code == 401
    assert "Name and password" in page.text
    assert mistaken not in page.text

    first, second = records(store, "access.refused")
    assert first["user"] == "ann"
    assert "user" not in second
    assert mistaken not in (store.folder / "audit.jsonl").read_text()


@pytest.mark.requirement("ACC-02")
def test_a_name_that_nobody_has_is_checked_as_long_as_one_that_somebody_has(client, app, monkeypatch):
    checked = []
    hasher = accounts_of(app)._hasher
    monkeypatch.setattr(type(hasher), "verify", lambda self, known, password: checked.append(known) or True)
    assert accounts_of(app).authenticated("nobody", PASSWORD) is None
    assert accounts_of(app).authenticated("ann", PASSWORD) is not None
    accounts_of(app).disable("ann", by="root")
    assert accounts_of(app).authenticated("ann", PASSWORD) is None
    assert len(checked) == 3


def test_the_hash_of_nobody_costs_what_the_others_cost(monkeypatch):
    monkeypatch.undo()
    assert not PasswordHasher().check_needs_rehash(accounts_module._NOBODY)


@pytest.mark.requirement("ACC-02")
def test_guessing_the_password_of_an_account_ends_in_a_page_that_says_to_wait(client, store):
    answers = [log_in(client, "ann", f"guess {number}").status_code for number in range(11)]
    assert answers == [401] * 10 + [429]
    page = log_in(client, "ann")
    assert page.status_code == 429
    assert "Too many tries" in page.text
    assert status_of_first_page(client) == 302
    assert records(store, "access.refused")[-1]["user"] == "ann"

    client.environ_base["REMOTE_ADDR"] = "10.0.0.9"  # ann herself, elsewhere, isn't locked out
    assert log_in(client, "ann").location == "/"


@pytest.mark.requirement("ACC-02")
def test_an_address_that_tries_many_accounts_is_made_to_wait(client):
    form = {"csrf_token": csrf_token(client.get("/login")), "password": "guess"}
    answers = {client.post("/login", data=form | {"name": f"user{number}"}).status_code for number in range(30)}
    assert answers == {401}
    assert log_in(client, "ann").status_code == 429


@pytest.mark.requirement("ACC-03")
def test_the_session_has_a_new_id_after_log_in_and_after_a_new_password(client):
    seen = set()
    log_in(client, "ann")
    for new in ("a second password", "a third password"):
        with client.session_transaction() as session:
            seen.add(session["id"])
        choose(client, PASSWORD if len(seen) == 1 else "a second password", new)
    with client.session_transaction() as session:
        seen.add(session["id"])
    assert len(seen) == 3


@pytest.mark.requirement("ACC-03")
def test_logging_out_ends_the_session_for_whoever_has_copied_its_cookie(client, app, store):
    log_in(client, "ann")
    cookie = client.get_cookie("dicom_gam").value
    page = client.get("/")
    token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
    assert client.post("/logout", data={"csrf_token": token}).location == "/login"

    thief = app.test_client()
    thief.set_cookie("dicom_gam", cookie)
    assert status_of_first_page(thief) == 302
    assert [record["by"] for record in records(store, "access.logged_in")] == ["ann"]
    assert [record["by"] for record in records(store, "access.logged_out")] == ["ann"]


@pytest.mark.requirement("ACC-03")
def test_a_session_ends_without_a_click_and_pages_that_refresh_themselves_are_none(client, app):
    log_in(client, "ann")
    start = time.time()
    for minutes in (20, 40, 60):  # clicks keep it
        accounts_of(app)._clock = lambda now=start + minutes * 60: now
        assert status_of_first_page(client) == 200
    for minutes, status in ((80, 200), (95, 401)):
        accounts_of(app)._clock = lambda now=start + minutes * 60: now
        assert status_of_first_page(client, **{"X-Live": "1"}) == status


@pytest.mark.requirement("ACC-03")
def test_a_session_ends_after_twelve_hours_however_busy(client, app):
    log_in(client, "ann")
    start = time.time()
    statuses = []
    for clicks in range(26):
        accounts_of(app)._clock = lambda now=start + clicks * 29 * 60: now
        statuses.append(client.get("/password").status_code)
    assert statuses == [200] * 25 + [302]  # the last one after 12 h 5 min


@pytest.mark.requirement("ACC-03")
@pytest.mark.parametrize(
    ("act", "name"),
    [
        (lambda accounts: accounts.disable("ann", by="root"), "disabled"),
        (lambda accounts: accounts.reset_password("ann", by="root"), "reset"),
        (lambda accounts: accounts.end_sessions("ann", by="root"), "logged out by an administrator"),
        (lambda accounts: accounts.change_password(accounts.user("ann"), "another one here", address=""), "changed"),
    ],
)
def test_a_session_ends_at_once_when_its_user_is(client, app, act, name):
    log_in(client, "ann")
    assert status_of_first_page(client) == 200
    act(accounts_of(app))
    assert status_of_first_page(client) == 302


@pytest.mark.requirement("ACC-03")
def test_a_role_that_is_taken_away_is_gone_from_the_next_request_on(client, app):
    log_in(client, "ann")
    accounts_of(app).set_roles("ann", ["auditor"], by="root")
    assert client.get("/audit").status_code == 200
    accounts_of(app).set_roles("ann", ["viewer"], by="root")
    assert client.get("/audit").status_code == 403


@pytest.mark.requirement("ACC-04")
@pytest.mark.parametrize("change", ["", ".", "{0}x", "é", "{0}" * 3])
def test_a_forged_or_tampered_session_is_nobodys_and_on_record(client, app, store, change):
    log_in(client, "ann")
    cookie = client.get_cookie("dicom_gam").value
    forged = change.format(cookie[:-3] + ("AAA" if cookie[-3:] != "AAA" else "BBB"))
    visitor = app.test_client(use_cookies=False)
    for _ in range(3):
        assert visitor.get("/", headers={"Cookie": f"dicom_gam={forged}"}).status_code == 302
    assert len(records(store, "access.refused")) == (1 if change else 0)


@pytest.mark.requirement("ACC-04")
def test_a_session_signed_with_another_key_is_nobodys(client, app, visit, store, tmp_path):
    log_in(client, "ann")
    cookie = client.get_cookie("dicom_gam").value
    app.secret_key = b"another key"
    client.set_cookie("dicom_gam", cookie)
    assert status_of_first_page(client) == 302
    assert records(store, "access.refused")[0]["why"] == "the session cookie was not made by us"


ELSEWHERE = (
    "https://evil.example/", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example",
    "/\t/evil.example", "/\n/evil.example", "javascript:alert(1)", "http:evil.example", "/%0d%0aX: 1\r\nY: 2",
    "/logout", "//[", "/" + "a" * 5000, "evil.example/studies",
)  # fmt: skip


@pytest.mark.requirement("ACC-05")
def test_no_link_of_a_strangers_leads_from_the_log_in_to_elsewhere(client):
    assert log_in(client, "ann", next=ELSEWHERE[0]).location == "/"
    for wanted in ELSEWHERE:
        assert client.get("/login", query_string={"next": wanted}).location == "/", wanted


@pytest.mark.requirement("ACC-05")
def test_after_the_log_in_one_is_where_one_wanted_to_go(client):
    asked = client.get("/studies?outcome=FAIL")
    assert asked.location == "/login?next=/studies?outcome%3DFAIL"
    assert 'value="/studies?outcome=FAIL"' in client.get(asked.location).text
    assert log_in(client, "ann", next="/studies?outcome=FAIL").location == "/studies?outcome=FAIL"


@pytest.mark.requirement("ACC-03")
def test_the_cookie_is_kept_from_scripts_other_sites_and_plain_connections(store, tmp_path):
    settings = made_settings(tmp_path / "node", web={"public_url": "https://gam.hospital.example"})
    app = make_app(Site(settings, store))
    plain = make_app(Site(made_settings(tmp_path / "node"), store))
    [cookie] = app.test_client().get("/login").headers.getlist("Set-Cookie")
    name, *flags = cookie.split("; ")
    assert name.startswith("__Host-dicom_gam=")
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]
    [cookie] = plain.test_client().get("/login").headers.getlist("Set-Cookie")
    assert sorted(cookie.split("; ")[1:]) == ["HttpOnly", "Path=/", "SameSite=Lax"]


@pytest.mark.requirement("ACC-03")
def test_sessions_outlive_a_restart_of_the_node(client, settings, store):
    log_in(client, "ann")
    cookie = client.get_cookie("dicom_gam").value
    again = make_app(Site(settings, store)).test_client()
    again.set_cookie("dicom_gam", cookie)
    assert status_of_first_page(again) == 200
    for name in ("web-secret.key", "access.sqlite"):
        assert (store.folder / name).stat().st_mode & 0o777 == 0o600
    assert PASSWORD.encode() not in (store.folder / "access.sqlite").read_bytes()

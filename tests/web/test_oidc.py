"""Log-in by the hospital's directory, against an OpenID provider that speaks real HTTP on loopback."""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from dicom_gam.errors import ConfigError
from dicom_gam.service.store import open_store
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.made_site import made_settings
from tests.web.openid_provider import CLIENT_ID, CLIENT_SECRET, OpenIdProvider
from tests.web.people import accounts_of, records


@pytest.fixture(scope="module")
def running():
    provider = OpenIdProvider()
    yield provider
    provider.close()


@pytest.fixture
def provider(running):
    """The provider as it is before somebody spoils it."""
    before = dict(vars(running))
    yield running
    vars(running).update(before)


def oidc_settings(tmp_path, url, **more):
    (tmp_path / "secret").write_text(CLIENT_SECRET + "\n")
    oidc = {
        "discovery_url": url,
        "client_id": CLIENT_ID,
        "client_secret_file": tmp_path / "secret",
        "viewers": ["radiographers"],
        "auditors": ["quality"],
    }
    return made_settings(tmp_path / "node", web={"oidc": oidc | more})


@pytest.fixture
def settings(tmp_path, provider):
    return oidc_settings(tmp_path, f"{provider.issuer}/.well-known/openid-configuration")


@pytest.fixture
def store(settings):
    with open_store(settings, create=True) as opened:
        yield opened


def to_the_provider_and_back(client, wanted="/"):
    """Follow the redirects as a browser does; return the path that the provider sends the browser to."""
    there = client.get("/login/directory", query_string={"next": wanted})
    back = httpx.get(there.location).headers["Location"]
    assert back.startswith("http://localhost/login/directory/back?")
    return back.removeprefix("http://localhost")


@pytest.mark.requirement("ACC-15")
def test_a_person_of_a_group_gets_its_roles_and_arrives_where_they_wanted_to_go(app, provider, store):
    client = app.test_client()
    assert "Log in with your hospital account" in client.get("/login").text
    answer = client.get(to_the_provider_and_back(client, "/quality"))
    assert answer.location == "/quality"
    page = client.get("/")
    assert page.status_code == 200
    assert "oidc:jane" in page.text
    assert client.get("/audit").status_code == 403
    assert client.get("/password").status_code == 403
    [login] = records(store, "access.logged_in")
    assert login == {"by": "oidc:jane", "address": "127.0.0.1", "how": "directory", "subject": "248289"}

    accounts_of(app).end_sessions("oidc:jane", by="root")
    assert client.get("/").status_code == 302


@pytest.mark.requirement("ACC-15")
def test_several_groups_give_several_roles_and_a_single_one_may_come_as_text(app, provider):
    provider.person = provider.person | {"groups": "quality"}
    client = app.test_client()
    client.get(to_the_provider_and_back(client))
    assert client.get("/audit").status_code == 200


@pytest.mark.requirement("ACC-15")
@pytest.mark.parametrize("groups", [["cleaners"], [], None, [7, {"a": 1}], "radiographers quality"])
def test_who_is_in_no_group_that_has_a_role_is_told_whom_to_ask(app, provider, store, groups):
    provider.person = provider.person | {"groups": groups}
    client = app.test_client()
    page = client.get(to_the_provider_and_back(client))
    assert page.status_code == 403
    assert "Ask the administrator of this node" in page.text
    assert client.get("/").status_code == 302
    assert "none of your groups" in records(store, "access.refused")[0]["why"]


SPOILT = {
    "wrong nonce": lambda claims: claims.update(nonce="another"),
    "no nonce": lambda claims: claims.pop("nonce"),
    "expired": lambda claims: claims.update(exp=int(time.time()) - 300),
    "no expiry": lambda claims: claims.pop("exp"),
    "from the future": lambda claims: claims.update(iat=int(time.time()) + 3000),
    "foreign audience": lambda claims: claims.update(aud="somebody else"),
    "foreign audience, authorised for us": lambda claims: claims.update(aud="somebody else", azp=CLIENT_ID),
    "foreign issuer": lambda claims: claims.update(iss="https://evil.example"),
    "no audience": lambda claims: claims.pop("aud"),
    "nobody": lambda claims: claims.update(sub="", preferred_username=""),
}


@pytest.mark.requirement("ACC-16")
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_token_with_wrong_claims_lets_nobody_in(app, provider, store, spoil):
    provider.spoil = spoil
    refused(app, store)


@pytest.mark.requirement("ACC-16")
@pytest.mark.parametrize("how", ["foreign key", "public key as secret", "unsigned", "changed", "no token", "rubbish"])
def test_a_token_that_the_provider_has_not_signed_lets_nobody_in(app, provider, store, how):
    provider.sign = {
        "foreign key": lambda claims: provider.signed(claims, RSAKey.generate_key(2048, {"kid": "1"})),
        "public key as secret": provider.signed_with_what_all_know,
        "unsigned": provider.unsigned,
        "changed": lambda claims: _with_other_claims(provider, claims),
        "no token": lambda claims: "",
        "rubbish": lambda claims: "a.b",
    }[how]
    refused(app, store)


def _with_other_claims(provider, claims):
    header, _, signature = provider.signed(claims).split(".")
    other = provider.signed(claims | {"groups": ["quality"]}).split(".")[1]
    return f"{header}.{other}.{signature}"


def refused(app, store):
    client = app.test_client()
    page = client.get(to_the_provider_and_back(client))
    assert page.status_code == 403
    assert client.get("/").status_code == 302
    assert records(store, "access.logged_in") == []
    assert len(records(store, "access.refused")) == 1


@pytest.mark.requirement("ACC-16")
@pytest.mark.parametrize("change", ["state=stolen", "code=stolen", "", "error=access_denied", "state=", "code="])
def test_an_answer_that_we_did_not_ask_for_lets_nobody_in(app, provider, store, change):
    client = app.test_client()
    asked = {key: values[0] for key, values in parse_qs(urlsplit(to_the_provider_and_back(client)).query).items()}
    key, _, value = change.partition("=")
    page = client.get("/login/directory/back", query_string=asked | {key: value} if key else {})
    assert page.status_code == 403
    assert records(store, "access.logged_in") == []


@pytest.mark.requirement("ACC-16")
def test_an_answer_is_worth_nothing_in_another_browser_nor_twice(app, provider, store):
    client = app.test_client()
    back = to_the_provider_and_back(client)
    assert app.test_client().get(back).status_code == 403
    assert client.get(back).location == "/"
    assert client.get(back).status_code == 403


@pytest.mark.requirement("ACC-15")
def test_the_provider_is_told_the_public_address_and_asked_with_pkce(tmp_path, provider, store):
    settings = oidc_settings(tmp_path, f"{provider.issuer}/.well-known/openid-configuration")
    web = settings.web.model_copy(update={"public_url": "https://gam.hospital.example/"})
    app = make_app(Site(settings.model_copy(update={"web": web}), store))
    there = app.test_client().get("/login/directory", headers={"Host": "gam.hospital.example"})
    asked = {key: values[0] for key, values in parse_qs(urlsplit(there.location).query).items()}
    assert asked["redirect_uri"] == "https://gam.hospital.example/login/directory/back"
    assert asked["code_challenge_method"] == "S256"
    assert asked["response_type"] == "code"
    assert "openid" in asked["scope"].split()
    assert {"state", "nonce", "code_challenge"} <= asked.keys()


def test_keys_that_the_provider_has_changed_since_are_fetched_anew(app, provider):
    client = app.test_client()
    client.get(to_the_provider_and_back(client))
    provider.key = RSAKey.generate_key(2048, {"kid": "2", "use": "sig"})
    other = app.test_client()
    assert other.get(to_the_provider_and_back(other)).location == "/"


@pytest.mark.requirement("ACC-15")
@pytest.mark.parametrize("path", ["", "/keys", "/nothing"])
def test_a_directory_that_cannot_be_reached_is_told_without_the_reason(tmp_path, running, store, path):
    url = f"{running.issuer}{path}" if path else "http://127.0.0.1:9/.well-known/openid-configuration"
    app = make_app(Site(oidc_settings(tmp_path, url), store))
    page = app.test_client().get("/login/directory")
    assert page.status_code == 503
    assert "directory can&#39;t be reached" in page.text


@pytest.mark.requirement("ACC-15")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"discovery_url": "http://directory.hospital.example/x"}, "is not https"),
        ({"client_secret_file": "/nowhere/secret"}, "can't be read"),
        ({"client_secret_file": "/dev/null"}, "is empty"),
    ],
)
def test_settings_that_cannot_work_are_told_at_the_start(tmp_path, store, change, words):
    settings = oidc_settings(tmp_path, "https://directory.hospital.example/x", **change)
    with pytest.raises(ConfigError, match=words):
        make_app(Site(settings, store))

"""A client that is logged in, for tests, benches and pictures."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer

from dicom_gam.storage.sqlite_access import ACCESS_FILE, AccessDatabase, SqliteAccess, User
from dicom_gam.web.access import Guard
from dicom_gam.web.site import Site

CSRF_SEED = "5" * 40


def logged_in(app: Flask, *roles: str) -> FlaskClient:
    """Make a client that is logged in as somebody with these roles; without roles as nobody.

    No password is hashed, as that takes a while. Whoever is logged in posts with the right token against cross-site
    posts; to go without, remove `HTTP_X_CSRFTOKEN` from `client.environ_base`.
    """
    client = app.test_client()
    if not roles:
        return client
    name = "-".join(roles)
    site: Site = app.extensions["dicom_gam"]
    guard: Guard = app.extensions["dicom_gam_guard"]
    database = AccessDatabase(site.store.folder / ACCESS_FILE)
    SqliteAccess(database).put_user(User(name, tuple(roles), False, False, 0.0, "none"))
    database.close()
    with client.session_transaction() as session:
        session["id"] = guard.accounts.begin_session(name, "127.0.0.1")
        session["csrf_token"] = CSRF_SEED
    token = URLSafeTimedSerializer(app.secret_key, salt="wtf-csrf-token").dumps(CSRF_SEED)
    client.environ_base["HTTP_X_CSRFTOKEN"] = token
    return client

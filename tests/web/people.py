"""People who log in, with passwords that are quick to check."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from dicom_gam.service import accounts as accounts_module
from dicom_gam.service.accounts import Accounts
from dicom_gam.service.store import Store

PASSWORD = "correct horse battery"
QUICK = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real argon2 with the least memory and time."""
    quicken(monkeypatch)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have passwords cost little."""
    monkeypatch.setattr(accounts_module, "PasswordHasher", QUICK)
    monkeypatch.setattr(accounts_module, "_NOBODY", QUICK().hash("nobody's"))


def accounts_of(app: Flask) -> Accounts:
    return app.extensions["dicom_gam_guard"].accounts


def add_person(app: Flask, name: str, *roles: str, password: str = PASSWORD) -> None:
    """Add somebody who has chosen a password already."""
    accounts = accounts_of(app)
    accounts.add(name, roles, by="test")
    accounts.change_password(accounts.user(name), password, address="")


def csrf_token(page: TestResponse) -> str:
    return re.search(r'name="csrf_token" value="([^"]+)"', page.get_data(as_text=True)).group(1)


def log_in(client: FlaskClient, name: str, password: str = PASSWORD, **more: str) -> TestResponse:
    """Log in as a browser does: get the form, send it back."""
    form = {"csrf_token": csrf_token(client.get("/login")), "name": name, "password": password}
    return client.post("/login", data=form | more)


def choose(client: FlaskClient, old: str, new: str, again: str | None = None) -> TestResponse:
    """Fill in the form for a new password."""
    form = {"csrf_token": csrf_token(client.get("/password")), "old": old, "new": new, "again": again or new}
    return client.post("/password", data=form)


def records(store: Store, event: str) -> list[dict]:
    """What the audit log says of an event, oldest first."""
    lines = (store.folder / "audit.jsonl").read_text().splitlines()
    return [record["keys"] for record in map(json.loads, lines) if record["event"] == event]

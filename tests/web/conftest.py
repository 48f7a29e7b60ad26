from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from dicom_gam.config import Settings
from dicom_gam.service.store import AUDIT_FILE, Store
from dicom_gam.web.app import make_app
from dicom_gam.web.recently import Recently
from dicom_gam.web.security import LOOK_S
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import made_settings, made_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return made_settings(tmp_path / "node")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The storage of a node that has seen forty images."""
    with made_store(settings) as made:
        yield made


@pytest.fixture
def app(settings: Settings, store: Store) -> Flask:
    made = make_app(Site(settings, store))
    made.config["TESTING"] = True
    return made


@pytest.fixture
def visit(app: Flask) -> Callable[..., FlaskClient]:
    """Make a client that is logged in as somebody with these roles; without roles as nobody."""
    return partial(logged_in, app)


@pytest.fixture
def forgotten(app: Flask) -> None:
    """What one test has looked at is a new look in the next one, also where they share the application."""
    app.extensions["dicom_gam_guard"] = replace(app.extensions["dicom_gam_guard"], looks=Recently(LOOK_S))


@pytest.fixture
def viewer(app: Flask) -> FlaskClient:
    return logged_in(app, "viewer")


@pytest.fixture
def on_record(store: Store) -> Callable[[str], list[dict[str, object]]]:
    """Read what was put on record of an event since the test began."""
    log = store.folder / AUDIT_FILE
    start = log.stat().st_size

    def read(event: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in log.read_bytes()[start:].splitlines()]
        return [record["keys"] for record in found if record["event"] == event]

    return read

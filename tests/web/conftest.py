from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from dicom_gam.config import Settings
from dicom_gam.service.store import Store
from dicom_gam.web.app import make_app
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

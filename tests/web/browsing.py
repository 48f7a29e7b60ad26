"""A dashboard that is really served, and a real browser to walk through it."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from playwright.sync_api import Browser, Page, sync_playwright

from dicom_gam.config import Settings
from dicom_gam.oversight_sections import WebSettings
from dicom_gam.service.loop import Pulse
from dicom_gam.service.store import Store
from dicom_gam.service.vitals import Vitals
from dicom_gam.web.app import make_app
from dicom_gam.web.server import WebServer
from dicom_gam.web.site import Site
from tests.service.dossier_store import JOB, STUDY, dossier_settings, real_store
from tests.web.made_site import DAY_S, add_job, receive
from tests.web.people import PASSWORD, accounts_of

SIZES = {"desktop": {"width": 1280, "height": 900}, "tablet": {"width": 820, "height": 1180}}
SCHEMES = ("light", "dark")
SERIOUS = ("serious", "critical")
PAGES = {
    "now": "/",
    "studies": "/studies",
    "study": f"/studies/{STUDY}",
    "job": f"/jobs/{JOB}",
    "attention": "/attention",
    "quality": "/quality?days=30",
    "bundles": "/bundles",
    "settings": "/settings",
    "audit": "/audit",
    "password": "/password",
}


@dataclass(frozen=True)
class Served:
    """A dashboard at `url`, and what is behind it."""

    url: str
    app: Flask
    store: Store

    def add_person(self, name: str, *roles: str) -> str:
        """Add somebody who has not logged in yet; returns the one-time password."""
        return accounts_of(self.app).add(name, roles, by="test")


def vitals() -> Vitals:
    """A node that fares well."""
    names = ("worker host:1", "courier pacs", "retention", "audit checkpoints")
    about = {"device": "cpu", "bundles": {}}
    return Vitals(time.time() - 5000, True, 2, 2, tuple(Pulse(name, True, None, "") for name in names), about)


@contextmanager
def served(folder: Path, jobs: int = 60) -> Iterator[Served]:
    """Serve a node's dashboard: one FAIL with real objects, and jobs of every other kind around it."""
    settings: Settings = dossier_settings(folder).model_copy(update={"web": WebSettings(enabled=True, port=0)})
    with real_store(folder) as store:
        chance, now = random.Random(1), time.time()
        for number in range(jobs):
            add_job(store, number, chance, now - (jobs - number) * 9 * DAY_S / jobs)
        receive(store, jobs, now - 40)
        app = make_app(Site(settings, store, vitals))
        server = WebServer(settings, app)
        server.start()
        try:
            yield Served(server.url, app, store)
        finally:
            server.stop()


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield opened
        finally:
            opened.close()


def log_in(page: Page, site: Served, name: str, password: str) -> None:
    """Log in, and choose a password where the first one is to be replaced."""
    page.goto(site.url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    if page.url.endswith("/password"):
        page.locator("#old").fill(password)
        page.locator("#new").fill(PASSWORD)
        page.locator("#again").fill(PASSWORD)
        page.locator("main button").click()


def serious_faults(page: Page) -> list[str]:
    """What axe-core holds against the page as it is now: rule, and the elements."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {[node['html'][:120] for node in fault['nodes'][:3]]}"
        for fault in found
        if fault["impact"] in SERIOUS
    ]

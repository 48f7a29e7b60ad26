"""What people do with the dashboard, in Debian's chromium over a real connection."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from dicom_gam.storage.rows import ReviewKind
from dicom_gam.storage.states import DeliveryState
from tests.service.dossier_store import JOB, STUDY
from tests.web.browsing import PAGES, SIZES, Served, browser, log_in, serious_faults, served
from tests.web.people import quicken, records

pytestmark = pytest.mark.usefixtures("quick_passwords_once")


NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def quick_passwords_once() -> Iterator[None]:
    """The real argon2 with the least memory and time, for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield


@pytest.fixture(scope="module")
def site(quick_passwords_once: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("walk") / "node", 24) as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(site: Served, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of somebody who has just been given an account with these roles, and whose every script error fails."""
    roles = request.param
    context = chromium.new_context(viewport=SIZES["desktop"], accept_downloads=True)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    name = f"somebody{next(NUMBERS)}-{'-'.join(roles)}"
    log_in(opened, site, name, site.add_person(name, *roles))
    yield opened
    context.close()
    assert complaints == []


@pytest.mark.requirement("WEB-80")
@pytest.mark.parametrize("page", [("operator",)], indirect=True)
def test_an_operator_finds_a_study_opens_its_overlay_and_sends_a_dead_letter_again(site: Served, page: Page) -> None:
    page.get_by_role("link", name="Studies").click()
    page.get_by_label("Study or SOP Instance UID").fill(STUDY)
    page.get_by_role("button", name="Search").click()
    page.locator("main table a").first.click()
    page.goto(f"{site.url}/jobs/{JOB}")
    picture = page.get_by_role("img", name="banner FAIL")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth >= 200)")
    assert "Do not use the AI result" in page.locator("main").inner_text()
    assert [row.state for row in site.store.outbox.deliveries(JOB)].count(DeliveryState.DEAD) == 1
    page.get_by_role("button", name="Send again to pacs").click()
    assert page.get_by_role("status").is_visible()
    assert [row.state for row in site.store.outbox.deliveries(JOB)].count(DeliveryState.DEAD) == 0
    assert records(site.store, "destination.retried")[-1]["by"].endswith("operator")


@pytest.mark.requirement("WEB-80")
@pytest.mark.parametrize("page", [("operator",)], indirect=True)
def test_an_operator_overrides_a_result_with_a_reason_which_is_kept_and_takes_it_off_the_list(
    site: Served, page: Page
) -> None:
    page.goto(f"{site.url}/attention?kind=FAIL")
    waiting = page.get_by_role("link", name="Override").count()
    page.get_by_role("link", name="Override").first.click()
    page.get_by_label("Why").fill("seen by the radiologist, who reads it as normal")
    page.get_by_role("button", name="Override this result").click()
    page.goto(f"{site.url}/attention?kind=FAIL")
    assert page.get_by_role("link", name="Override").count() == waiting - 1
    (said,) = [
        said for said in site.store.reviews.all_of([ReviewKind.OVERRIDDEN]) if said.reviewer.endswith("operator")
    ]
    assert said.words == "seen by the radiologist, who reads it as normal"


@pytest.mark.requirement("WEB-80")
@pytest.mark.parametrize("page", [("auditor",)], indirect=True)
def test_an_auditor_verifies_the_log_and_takes_a_dossier_away(site: Served, page: Page, tmp_path: Path) -> None:
    page.get_by_role("link", name="Audit").click()
    page.get_by_role("button", name="Verify the log").click()
    assert "records" in page.locator("main").inner_text()
    page.get_by_label("Study Instance UID").fill(STUDY)
    page.get_by_label("As").select_option("all")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "dossier.zip")
    with zipfile.ZipFile(tmp_path / "dossier.zip") as dossier:
        kinds = {Path(name).suffix for name in dossier.namelist()}
    assert {".html", ".pdf", ".csv", ".json"} <= kinds
    assert records(site.store, "audit.exported")[-1]["by"].endswith("auditor")


@pytest.mark.requirement("WEB-81")
@pytest.mark.parametrize("page", [("viewer", "operator", "auditor")], indirect=True)
def test_axe_finds_no_serious_fault_of_accessibility_on_any_page(site: Served, page: Page) -> None:
    """Light on a desktop and dark on a tablet by turns; `tests.web.pictures` takes every page in all four ways."""
    found = {}
    for turn, (name, path) in enumerate(PAGES.items()):
        page.emulate_media(color_scheme=("light", "dark")[turn % 2])
        page.set_viewport_size(SIZES[("desktop", "tablet")[turn % 2]])
        page.goto(site.url + path)
        found[name] = serious_faults(page)
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.requirement("WEB-82")
@pytest.mark.parametrize("page", [("viewer",)], indirect=True)
def test_a_page_shows_what_is_new_without_being_loaded_again(site: Served, page: Page) -> None:
    page.goto(site.url)
    page.evaluate("window.stayed = true")
    site.store.outbox.pause("pacs", "maintenance", 0.0)
    page.get_by_text("paused").first.wait_for(timeout=20_000)
    assert page.evaluate("window.stayed")
    site.store.outbox.resume("pacs")

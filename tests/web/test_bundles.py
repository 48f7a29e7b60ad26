"""The page Bundles: cards read from folders and zips, and a model card that nobody need trust."""

from __future__ import annotations

import shutil
import zipfile

import pytest
from lxml import html

from dicom_gam.bundle.bundle import bundle_files
from dicom_gam.bundle.files import CHECKSUMS, WEIGHTS, digest, write_files
from dicom_gam.config import BUILT_IN_BUNDLE, Settings
from dicom_gam.service.bundle_cards import PICTURES, read_card, read_picture
from dicom_gam.service.vitals import Vitals
from dicom_gam.web.app import make_app
from dicom_gam.web.bundles import render_markdown
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import made_settings, made_store

HOSTILE_CARD = """# Title <script>alert(1)</script>

<img src=x onerror=alert(2)>

[press](javascript:alert(3)) ![picture](https://elsewhere.example/spy.png) [site](https://site.example/a)
[own](/settings) <b onclick="x">bold</b>

| a | b |
|:--|--:|
| <script>1</script> | 2 |
"""


@pytest.fixture(scope="module")
def built_in():
    return bundle_files(BUILT_IN_BUNDLE)


@pytest.fixture
def bundle(tmp_path, built_in):
    """A bundle in a folder, with a hostile card and without proper weights, which cards have no need of."""
    content = {k: v for k, v in built_in.items() if k != CHECKSUMS} | {"MODEL_CARD.md": HOSTILE_CARD.encode()}
    write_files(tmp_path / "site-bundle", content)
    (tmp_path / "site-bundle" / WEIGHTS).unlink()
    return tmp_path / "site-bundle"


def page_of(tmp_path, vitals=None, jobs=0, **changes):
    settings: Settings = made_settings(tmp_path / "node", **changes)
    store = made_store(settings, jobs)
    app = make_app(Site(settings, store, vitals))
    app.config["TESTING"] = True
    return store, logged_in(app, "viewer")


@pytest.mark.requirement("WEB-66")
def test_a_card_says_what_the_bundle_is_for_and_by_what_it_decides(tmp_path, built_in):
    store, client = page_of(tmp_path, jobs=2)
    with store:
        page = html.fromstring(client.get("/bundles").get_data(as_text=True))
    words = " ".join(page.text_content().split())
    assert digest(built_in) in words
    for fact in ("Not for diagnosis", "chest: Chest", "0.05", "input, attention, early", "authenticity",
                 "hirescam at layer layer3", "every image, as there are no rules"):  # fmt: skip
        assert fact in words, fact
    assert "site-chest 2.0" in words.partition("No longer in use")[2]


@pytest.mark.requirement("WEB-66")
def test_rules_are_named_by_the_bundle_that_they_use(tmp_path, bundle):
    rules = [{"name": "chests", "bundle": str(bundle)}, {"name": "keep", "process": False}, {"name": "rest"}]
    store, client = page_of(tmp_path, rules=rules)
    with store:
        page = html.fromstring(client.get("/bundles").get_data(as_text=True))
    uses = [fact.getnext().text_content() for fact in page.iter("dt") if fact.text == "Used for"]
    assert uses == ["rule rest", "rule chests"]


@pytest.mark.requirement("WEB-67")
def test_a_model_card_can_run_nothing_fetch_nothing_and_style_nothing():
    article = html.fromstring(f"<div>{render_markdown(HOSTILE_CARD)}</div>")
    tags = {element.tag for element in article.iter()}
    assert tags <= {"div", "h3", "p", "a", "table", "thead", "tbody", "tr", "th", "td"}
    assert [link.get("href") for link in article.iter("a")] == ["https://site.example/a"]
    assert not article.xpath("//*[@style or @onclick or @onerror or @src]")
    assert "<script>alert(1)</script>" in article.text_content()  # as words


@pytest.mark.requirement("WEB-67")
def test_pictures_are_those_of_a_fixed_list_and_nothing_else_is_handed_out(tmp_path, built_in):
    store, client = page_of(tmp_path)
    stranger = client.application.test_client()
    assert stranger.get("/bundles/1/training.png").status_code in (302, 401)
    answer = client.get("/bundles/1/training.png")
    assert (answer.status_code, answer.mimetype, answer.data) == (200, "image/png", built_in["training.png"])
    for url in ("/bundles/1/weights.safetensors", "/bundles/1/..%2fbundle.toml", "/bundles/1/../../node.toml",
                "/bundles/2/training.png", "/bundles/0/training.png", "/bundles/-1/training.png"):  # fmt: skip
        assert client.get(url).status_code == 404, url
    store.close()


@pytest.mark.requirement("WEB-66")
def test_a_folder_and_a_zip_of_it_have_the_same_card_and_the_digest_that_results_bear(tmp_path, built_in):
    folder, archive = tmp_path / "one", tmp_path / "one.zip"
    write_files(folder, built_in)
    with zipfile.ZipFile(archive, "w") as packed:
        for file in folder.iterdir():
            packed.write(file, f"one/{file.name}")
    of_folder, of_zip = read_card(str(folder)), read_card(str(archive))
    assert (of_folder.problem, of_folder.digest) == ("", digest(built_in))
    assert (of_zip.digest, of_zip.classes, of_zip.pictures) == (of_folder.digest, of_folder.classes, tuple(PICTURES))
    assert read_picture(str(archive), "training.png") == built_in["training.png"]


@pytest.mark.requirement("WEB-68")
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "MODEL_CARD.md").write_text("better"), "differs from its checksum"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS can't be read"),
        (lambda folder: (folder / "SHA256SUMS").write_text("nonsense"), "is not a list of checksums"),
        (lambda folder: (folder / "bundle.toml").write_bytes(b"x" * (8 * 1024**2 + 1)), "is larger than"),
        (shutil.rmtree, "can't be read"),
    ],
)
def test_a_bundle_that_is_not_whole_is_told_on_the_page_and_the_page_stays(tmp_path, bundle, harm, words):
    harm(bundle)
    store, client = page_of(tmp_path, rules=[{"name": "chests", "bundle": str(bundle)}])
    with store:
        answer = client.get("/bundles")
        assert answer.status_code == 200
        assert words in html.fromstring(answer.get_data(as_text=True)).text_content()
        assert client.get("/bundles/2/training.png").status_code == 404 or harm is not shutil.rmtree


@pytest.mark.requirement("WEB-68")
def test_a_folder_that_was_changed_under_a_running_node_is_told(tmp_path):
    def vitals():
        return Vitals(0.0, True, 0, 0, (), {"bundles": {BUILT_IN_BUNDLE: {"digest": "9" * 64}}})

    store, client = page_of(tmp_path, vitals)
    with store:
        words = client.get("/bundles").get_data(as_text=True)
    assert "has changed since the node was started" in words
    assert "9" * 64 in words

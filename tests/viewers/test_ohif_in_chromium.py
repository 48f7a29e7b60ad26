"""The published OHIF in a real Chromium, on a real Orthanc: what a reader sees with plugins/ohif/app-config.js."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_gam.config import OutputSettings
from tests.dicom.example_results import encoded
from tests.end_to_end.peers import DICOMWEB, Orthanc, free_port, sample
from tests.viewers.published_ohif import browser_context, installed_viewer
from tests.viewers.reading import Reader, as_shown
from tests.viewers.studies import Study, make_studies
from tests.viewers.web_server import viewer_server

VERDICTS = ("PASS", "REJECT", "FAIL")
BANNER = {"PASS": (0, 92, 70), "FAIL": (156, 8, 16), "REJECT": (255, 176, 0)}
HEADLINE = {
    "PASS": "AI VERIFICATION: PASS",
    "FAIL": "AI VERIFICATION: FAIL - DO NOT USE AI RESULT",
    "REJECT": "AI VERIFICATION: INPUT REJECTED",
}


@dataclass(frozen=True)
class Archive:
    """What stands in Orthanc: a study for each verdict, one of two verified images in a series, one without results."""

    verified: dict[str, Study]
    pair: dict[str, Dataset]  # the overlays by verdict
    plain: str

    @property
    def pair_uid(self) -> str:
        return str(self.pair["PASS"].StudyInstanceUID)


def sample_of(study: str) -> Dataset:
    ds = dcmread(sample("RG1_UNCR.dcm"))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, generate_uid(entropy_srcs=["chromium", study, keyword]))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def two_images(folder: Path) -> tuple[list[Path], dict[str, Dataset]]:
    """A chest that passed and its mirror image that failed, in one series, as some units file both views."""
    files, overlays = [], {}
    for number, verdict in enumerate(("PASS", "FAIL"), 1):
        source = sample_of("pair")
        source.InstanceNumber = str(number)
        if verdict == "FAIL":
            source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = generate_uid(
                entropy_srcs=["mirrored"]
            )
            source.PixelData = np.ascontiguousarray(source.pixel_array[:, ::-1]).tobytes()
        files.append(folder / f"{verdict}.dcm")
        source.save_as(files[-1])
        for item in encoded(source, verdict, settings=OutputSettings(overlay_long_side=512)):
            files.append(folder / f"{verdict}-{item.role}.dcm")
            files[-1].write_bytes(item.content)
            if item.role == "overlay":
                overlays[verdict] = dcmread(files[-1])
    return files, overlays


def fill(orthanc: Orthanc, folder: Path) -> Archive:
    studies = {study.verdict: study for study in make_studies(folder / "studies")}
    files, overlays = two_images(folder)
    plain = sample_of("plain")
    plain.save_as(folder / "plain.dcm")
    verified = [path for study in studies.values() for path in (study.source, *study.results.values())]
    for path in (*files, *verified, folder / "plain.dcm"):
        orthanc.store(path)
    return Archive(studies, overlays, str(plain.StudyInstanceUID))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ohif")
    try:
        viewer = installed_viewer()
    except RuntimeError as error:
        pytest.fail(str(error))
    orthanc = Orthanc(folder / "orthanc", free_port(), **DICOMWEB)
    try:
        archive = fill(orthanc, folder)
        with viewer_server(viewer, orthanc.http) as address, browser_context(1120, 640) as context:
            yield Reader.at(context, address), archive
    finally:
        orthanc.stop()


@pytest.fixture
def reader(opened):
    found, _ = opened
    found.errors.clear()
    yield found
    assert found.errors == [], "the browser complains"


@pytest.fixture
def archive(opened) -> Archive:
    return opened[1]


@pytest.mark.requirement("OHI-06")
def test_the_study_list_tells_the_verdict_where_the_study_is_unfolded(reader, archive):
    row = reader.list_row(archive.verified["FAIL"].uid)
    row.get_by_text("AI verification report - FAIL").first.wait_for()
    reader.page.locator(f"[data-cy='{archive.verified['FAIL'].uid}']").click()  # folded again


@pytest.mark.requirement("OHI-01")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_source_overlay_and_report_stand_side_by_side_with_the_verdict(verdict, reader, archive):
    study = archive.verified[verdict]
    reader.open(study.uid)
    reader.page.locator("[data-cy=ai-report]").wait_for()
    left, *right = reader.panes()
    upper, lower = sorted(right, key=lambda pane: (pane.bounding_box() or {})["y"])
    assert reader.shows(left, as_shown(dcmread(study.source)))
    overlay = dcmread(study.results["overlay"]).pixel_array
    assert tuple(overlay[3, -3]) == BANNER[verdict], "the banner is not where this test looks"
    assert reader.shows(upper, overlay)
    assert reader.shows_at_top_right(upper, overlay, BANNER[verdict])
    assert "".join(upper.locator("[data-cy^=viewport-overlay]").all_inner_texts()).strip() == "", "text on the banner"
    words = lower.locator("[data-cy=ai-report]").inner_text()
    assert words.startswith(HEADLINE[verdict])
    assert re.search(r"Attention check\s+(PASS|FAIL)", words)
    outline = lower.locator("svg polyline")
    assert outline.first.get_attribute("stroke") == "rgb(0, 192, 208)", "green would read as passed"
    assert reader.verdicts() == [verdict]


@pytest.mark.requirement("OHI-02")
def test_every_score_of_the_report_is_one_click_away(reader, archive):
    reader.open(archive.verified["FAIL"].uid)
    reader.page.get_by_text("All scores").click()
    row = reader.page.locator("[data-cy=ai-scores] tr", has_text="Attention structural similarity")
    row.wait_for()
    assert re.fullmatch(r"Attention structural similarity\s+-0\.\d+\s+≥ 0\.\d+\s+p = 0\.\d+\s+FAIL", row.inner_text())
    advisory = reader.page.locator("[data-cy=ai-scores] tr", has_text="Frequency statistics").inner_text()
    assert advisory.endswith("FAIL, advisory only"), "it has no part in the verdict"
    reader.page.keyboard.press("Escape")


@pytest.mark.requirement("OHI-03")
def test_a_study_without_results_opens_as_ohif_opens_it(reader, archive):
    reader.open(archive.plain)
    (only,) = reader.panes()
    assert reader.shows(only, as_shown(sample_of("plain")))
    assert reader.verdicts() == []
    assert reader.page.locator("[data-cy=ai-report]").count() == 0


@pytest.mark.requirement("OHI-04")
def test_two_images_of_a_series_are_each_shown_with_their_own_overlay_and_report(reader, archive):
    reader.open(archive.pair_uid)
    report = reader.page.locator("[data-cy=ai-report]")
    report.wait_for()
    first = verdict_shown(reader, archive)
    reader.page.keyboard.press(".")  # the next stage
    other = {"PASS": "FAIL", "FAIL": "PASS"}[first]
    reader.page.wait_for_function(
        "words => document.querySelector('[data-cy=ai-report]')?.innerText.startsWith(words)", arg=HEADLINE[other]
    )
    assert verdict_shown(reader, archive) == other
    for button in reader.page.locator("[data-cy=ai-verification] button").all():
        button.click(trial=True)  # nothing lies over a verdict
    chip = reader.page.locator(f"[data-cy=ai-verification] [data-verdict={first}]")
    chip.click()
    reader.page.wait_for_function(
        "words => document.querySelector('[data-cy=ai-report]')?.innerText.startsWith(words)", arg=HEADLINE[first]
    )
    assert chip.get_attribute("aria-pressed") == "true"


def verdict_shown(reader: Reader, archive: Archive) -> str:
    """The verdict of the stage, on which source, overlay and report must agree."""
    left, *right = reader.panes()
    upper, lower = sorted(right, key=lambda pane: (pane.bounding_box() or {})["y"])
    words = lower.locator("[data-cy=ai-report]").inner_text()
    (verdict,) = (each for each, headline in HEADLINE.items() if words.startswith(headline + "\n"))
    source = as_shown(sample_of("pair"))
    assert reader.shows(left, source if verdict == "PASS" else source[:, ::-1])
    assert reader.shows(upper, archive.pair[verdict].pixel_array)
    assert sorted(re.sub(r"^\d: ", "", said) for said in reader.verdicts()) == ["FAIL", "PASS"]
    return verdict

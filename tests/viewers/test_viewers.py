from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_gam.config import OutputSettings
from tests.dicom.example_results import CREATED, dx_source, encoded, real_source, sc_source
from tests.end_to_end.peers import Orthanc, free_port, program
from tests.viewers.web_server import CONFIGURATION

ALL = OutputSettings(overlay_long_side=256, objects=("sr", "overlay", "region", "presentation", "rejection"))
VERDICTS = ("PASS", "FAIL", "REJECT")


def results(verdict: str, source: Dataset | None = None, **changes: object) -> dict[str, bytes]:
    items = encoded(source or real_source("RG1_UNCR.dcm"), verdict, settings=ALL, **changes)
    return {item.role: item.content for item in items}


def display_set(*instances: Dataset) -> dict:
    """As OHIF makes them: one per series, attributes by keyword, sequences as lists."""
    first = instances[0]
    natural = [naturalised(instance) for instance in instances]
    pictured = first.Modality not in ("SR", "SEG", "PR", "KO")
    return {
        "displaySetInstanceUID": f"display-{first.SeriesInstanceUID}",
        "StudyInstanceUID": first.StudyInstanceUID,
        "Modality": first.Modality,
        "SeriesDescription": first.get("SeriesDescription"),
        "numImageFrames": len(instances) if pictured else 0,
        "instances": natural,
        "instance": natural[-1],
        "isImagingMeasurementReport": True,
    }


def naturalised(ds: Dataset) -> dict:
    found = {}
    for element in ds:
        if element.VR == "SQ":
            found[element.keyword] = [naturalised(item) for item in element.value]
        elif element.VR not in ("OB", "OW"):
            value = element.value
            found[element.keyword] = [str(v) for v in value] if element.VM > 1 else str(value)
    return found


def hung(*display_sets: dict, **more: str) -> dict:
    """What OHIF's configuration makes of a study's display sets, computed by the configuration itself."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("node is missing: install the Debian package nodejs")
    command = [node, str(Path(__file__).with_name("hanging.js")), str(CONFIGURATION)]
    made = subprocess.run(
        command,
        input=json.dumps({"displaySets": display_sets, **more}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def shown(protocol: dict, stage: int) -> list[str]:
    """The display sets of a stage's viewports."""
    selectors = protocol["displaySetSelectors"]
    return [
        selectors[viewport["displaySets"][0]["id"]]["seriesMatchingRules"][0]["constraint"]["equals"]["value"]
        for viewport in protocol["stages"][stage]["viewports"]
    ]


def series(ds: Dataset) -> str:
    return f"display-{ds.SeriesInstanceUID}"


def report(ds: Dataset) -> str:
    return f"report-{ds.SOPInstanceUID}"


def parsed(objects: dict[str, bytes]) -> dict[str, Dataset]:
    return {role: dcmread(io.BytesIO(content)) for role, content in objects.items()}


@pytest.mark.requirement("RES-27")
@pytest.mark.parametrize(("kind", "verdict"), [("DX", "PASS"), ("SC", "FAIL"), ("CR", "REJECT")])
def test_ohif_hangs_the_source_beside_its_overlay_and_its_report(kind, verdict):
    source = {"DX": dx_source, "SC": sc_source, "CR": lambda: real_source("RG3_UNCR.dcm")}[kind]()
    made = parsed(results(verdict, source))
    answer = hung(*(display_set(ds) for ds in (*reversed(list(made.values())), source)))
    protocol = answer["protocol"]
    assert answer["mode"]["@ohif/mode-longitudinal"]["hangingProtocol"]["$set"] == [protocol["id"], "default"]
    assert answer["default"] in answer["sources"]
    assert protocol["protocolMatchingRules"], "OHIF would take its own protocol"
    assert shown(protocol, 0) == [series(source), series(made["overlay"]), report(made["sr"])]
    assert answer["unsupported"] == [series(made["region"])], "OHIF breaks on regions that lie nowhere in the patient"


@pytest.mark.requirement("RES-27")
def test_ohif_never_pairs_an_image_with_the_overlay_of_another():
    sources = [dx_source(), dx_source()]
    sources[1].SOPInstanceUID += ".2"
    sources[1].SeriesInstanceUID += ".2"
    made = [parsed(results("PASS", sources[0])), parsed(results("FAIL", sources[1]))]
    sets = [display_set(ds) for ds in (*sources, *made[1].values(), *made[0].values())]
    protocol = hung(*sets)["protocol"]
    assert len(protocol["stages"]) == 2
    assert sorted(tuple(shown(protocol, n)) for n in range(2)) == sorted(
        (series(source), series(objects["overlay"]), report(objects["sr"]))
        for source, objects in zip(sources, made, strict=True)
    )


@pytest.mark.requirement("OHI-04")
def test_ohif_gives_every_image_of_one_series_its_own_overlay_and_its_own_report():
    first, second = sc_source(), sc_source()
    second.SOPInstanceUID += ".2"
    made = {str(source.SOPInstanceUID): parsed(results("PASS", source)) for source in (first, second)}
    overlays, reports = ([objects[role] for objects in made.values()] for role in ("overlay", "sr"))
    for stack in (overlays, reports):
        assert stack[0].SeriesInstanceUID == stack[1].SeriesInstanceUID
    answer = hung(display_set(first, second), display_set(*overlays), display_set(*reports))
    assert len(answer["protocol"]["stages"]) == 2
    for number, stage in enumerate(answer["protocol"]["stages"]):
        source, overlay = (
            viewport["viewportOptions"]["initialImageOptions"]["index"] for viewport in stage["viewports"][:2]
        )
        assert source == overlay
        assert shown(answer["protocol"], number)[2] == report(reports[source])
    assert answer["again"] == 0, "OHIF asks for the same instances again, and would list the reports twice"


@pytest.mark.requirement("OHI-05")
def test_ohif_tells_the_verdicts_of_the_open_study_only():
    here, prior = dx_source(), dx_source()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(prior, keyword, f"{prior[keyword].value}.9")
    made = {"FAIL": parsed(results("FAIL", here)), "PASS": parsed(results("PASS", prior))}
    sets = [display_set(ds) for ds in (here, prior, *made["FAIL"].values(), *made["PASS"].values())]
    answer = hung(*sets, study=str(here.StudyInstanceUID))
    assert [result["verdict"] for result in answer["results"]] == ["FAIL"]
    assert len(answer["protocol"]["stages"]) == 1


@pytest.mark.requirement("OHI-05")
def test_a_verdict_that_overlay_and_report_state_differently_is_none():
    source = dx_source()
    made = parsed(results("FAIL", source))
    made["overlay"].SeriesDescription = "AI Grad-CAM overlay - PASS"
    (result,) = hung(*(display_set(ds) for ds in (source, *made.values())))["results"]
    assert result["verdict"] == "UNCLEAR"


@pytest.mark.requirement("OHI-05")
def test_a_result_whose_image_is_not_in_the_study_is_still_told():
    made = parsed(results("FAIL", dx_source()))
    without_image = hung(*(display_set(ds) for ds in made.values()))
    assert [result["verdict"] for result in without_image["results"]] == ["FAIL"]
    assert without_image["protocol"]["protocolMatchingRules"] == []
    (result,) = hung(display_set(made["sr"]))["results"]
    assert result["verdict"] == "FAIL"


@pytest.mark.requirement("OHI-07")
def test_the_configuration_works_where_the_data_source_is_set_behind_it():
    """As Orthanc's own OHIF plugin does: it appends assignments to the user's file."""
    after = (
        "window.config.routerBasename = '/ohif/';"
        "window.config.dataSources = [{ sourceName: 'dicomweb', configuration: {} }];"
        "window.config.defaultDataSourceName = 'dicomweb';"
    )
    source = dx_source()
    made = parsed(results("PASS", source))
    answer = hung(*(display_set(ds) for ds in (source, *made.values())), after=after)
    assert answer["sources"] == [answer["default"]] == ["dicomweb"]
    assert shown(answer["protocol"], 0) == [series(source), series(made["overlay"]), report(made["sr"])]


def test_ohif_shows_the_newest_overlay_first_when_an_image_was_processed_again():
    source = dx_source()
    old = parsed(results("PASS", source))
    new = parsed(results("FAIL", source, settings_digest="7a" * 32, created=CREATED + timedelta(days=1)))
    protocol = hung(*(display_set(ds) for ds in (source, *old.values(), *new.values())))["protocol"]
    assert shown(protocol, 0)[1] == series(new["overlay"])
    assert shown(protocol, 1)[1] == series(old["overlay"])
    assert ["earlier" in stage["name"] for stage in protocol["stages"]] == [False, True]


def test_a_study_without_overlay_keeps_ohifs_own_protocol():
    assert hung(display_set(dx_source()))["protocol"]["protocolMatchingRules"] == []
    assert hung()["protocol"]["stages"]


def test_ohif_gets_the_outline_alone_and_a_report_without_one_as_text():
    def groups(content):
        (measurements,) = (i for i in content if i["ConceptNameCodeSequence"][0]["CodeValue"] == "126010")
        return measurements["ContentSequence"]

    source = dx_source()
    with_outline = hung(*(display_set(ds) for ds in (source, *parsed(results("PASS", source)).values())))
    (given,) = with_outline["reports"]
    assert not given["asText"]
    assert len(groups(given["stored"])) > len(groups(given["content"])), "the stored report was changed"
    for group in groups(given["content"]):  # OHIF 3.12 breaks on a group without coordinates
        types = [item["ValueType"] for item in group["ContentSequence"]]
        assert "SCOORD" in types
        assert "NUM" not in types
    flat = {"attention_status": "degenerate", "attention_map": np.zeros((8, 8), np.float32)}
    without = hung(*(display_set(ds) for ds in (source, *parsed(results("REJECT", source, **flat)).values())))
    assert [given["asText"] for given in without["reports"]] == [True]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    server = Orthanc(tmp_path_factory.mktemp("viewers") / "orthanc", free_port())
    yield server
    server.stop()


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_viewer_shows_the_overlays_very_pixels(verdict, orthanc, tmp_path):
    path = tmp_path / "overlay.dcm"
    path.write_bytes(results(verdict)["overlay"])
    pixels = dcmread(path).pixel_array
    instance = orthanc.store(path)
    for address in (f"/instances/{instance}/preview", f"/instances/{instance}/rendered"):
        with Image.open(io.BytesIO(orthanc.call(address))) as preview:
            assert np.array_equal(np.asarray(preview.convert("RGB")), pixels), address
    run("dcmj2pnm", "+on", path, tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), pixels)


@pytest.mark.requirement("RES-29")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_report_reads_well_as_a_page(verdict, tmp_path):
    path, page = tmp_path / "sr.dcm", tmp_path / "sr.html"
    path.write_bytes(results(verdict)["sr"])
    said = run("dsr2html", path, page)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^[EW]: ", said, re.MULTILINE), said
    assert "error" not in text.lower()
    assert f"AI verification report - {verdict}" in text
    assert ("51185008" in text) == (verdict == "PASS"), "the class is told on PASS only"


@pytest.mark.requirement("RES-23")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_dcmtk_applies_the_presentation_state_to_its_source(verdict, tmp_path):
    source = Path(tmp_path / "source.dcm")
    ds = dcmread(sample_path())
    ds.save_as(source)
    state = tmp_path / "presentation.dcm"
    state.write_bytes(results(verdict)["presentation"])
    assert not re.search(r"^[EF]: |error", run("dcmpschk", state), re.MULTILINE | re.IGNORECASE)
    run("dcmp2pgm", "--pstate", state, source, tmp_path / "shown.pgm")
    with Image.open(tmp_path / "shown.pgm") as picture:
        assert picture.size == (ds.Columns, ds.Rows)
        assert np.asarray(picture).std() > 10, "nothing is to be seen"


def sample_path() -> str:
    return str(real_source("RG1_UNCR.dcm").filename)


def run(name: str, *arguments: object) -> str:
    """A DCMTK program that must succeed; what it said."""
    command = [program(name), *map(str, arguments)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout + made.stderr

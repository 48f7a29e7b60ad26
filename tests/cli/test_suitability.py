"""`dicom-gam suitability` from a folder of pictures to the report and the exit status."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dicom_gam.cli.main import app
from dicom_gam.errors import BundleError, ConfigError, DicomGamError
from dicom_gam.training.making import recalibrate_bundle
from tests.tiny_bundle import CPU, DISC, NOISE, STRIPES, one_thread, shapes

PER_CLASS = {"reference": 20, "scaling": 20, "calibration": 45}


def write_pictures(folder: Path, kinds: tuple[int, ...], count: int, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        for i, content in enumerate(shapes(kind, count, seed)):
            Image.fromarray((content.numpy() * 255).round().astype(np.uint8)).save(folder / f"{kind}-{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, calibrated on pictures: files are stretched to their percentiles, its own images were not."""
    folder = write_pictures(tmp_path_factory.mktemp("calibration"), (DISC, STRIPES), sum(PER_CLASS.values()), 60)
    roles = [role for role, count in PER_CLASS.items() for _ in range(count)]
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "group", "source", "role"])
        for kind, label in ((DISC, "disc"), (STRIPES, "stripes")):
            rows.writerows([f"{kind}-{i:03d}.png", label, f"{kind}-{i}", "made", role] for i, role in enumerate(roles))
    path = folder / "bundle"
    changes = {"checks": ("input", "attention", "early")}
    with one_thread():
        recalibrate_bundle(str(tiny_bundle_dir), folder / "images.csv", path, changes, CPU)
    return path


def suitability(*arguments: object) -> Result:
    with one_thread():
        return CliRunner().invoke(app, ["suitability", *map(str, arguments), "--device", "cpu"])


@pytest.fixture(scope="module")
def sound(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("sound")
    site = write_pictures(folder / "site", (DISC, STRIPES), 25, 50)
    (site / "broken.png").write_bytes(b"not a picture")
    return folder / "out", suitability(bundle, site, "--output", folder / "out")


@pytest.mark.requirement("EVD-04")
def test_a_sound_site_is_suitable_and_the_exit_status_says_so(sound):
    folder, result = sound
    assert result.exit_code == 0, result.output
    told = json.loads((folder / "report.json").read_text())
    assert told["conclusion"] == "SUITABLE"
    assert len(told["images"]) == 50
    assert "SUITABLE: on 50 images" in result.output
    assert "noticed at all with 80 %" in result.output.replace("\n", "")


def test_a_bad_file_is_told_and_listed_and_loses_nothing_else(sound):
    folder, result = sound
    assert "files that could not be used: 1 (broken.png)" in result.output
    told = json.loads((folder / "report.json").read_text())
    assert [Path(item["path"]).name for item in told["left_out"]] == ["broken.png"]
    assert "broken.png" in (folder / "report.html").read_text()


@pytest.mark.requirement("EVD-06")
def test_the_page_is_self_contained_and_has_every_part(sound):
    folder, _ = sound
    page = (folder / "report.html").read_text()
    for heading in (
        "What decides",
        "The measurements",
        "Where the network looks",
        "The images least like the reference",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == 4
    for name in ("effects", "distributions", "attention", "oddest"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.requirement("EVD-04")
def test_noise_is_unsuitable_with_exit_status_1(bundle, tmp_path):
    result = suitability(bundle, write_pictures(tmp_path / "site", (NOISE,), 30, 51), "--output", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "UNSUITABLE: on 30 images more than is tolerated: images not passed" in result.output.replace("\n", " ")


def test_a_mixture_is_inconclusive_with_exit_status_2_and_says_how_many_criteria_are_open(bundle, tmp_path):
    site = write_pictures(tmp_path / "site", (DISC, STRIPES), 13, 52)
    write_pictures(site, (NOISE,), 9, 52)
    result = suitability(bundle, site, "--output", tmp_path / "out")
    assert result.exit_code == 2, result.output
    criteria = json.loads((tmp_path / "out" / "report.json").read_text())["criteria"]
    still_open = sum(c["conclusion"] == "INCONCLUSIVE" for c in criteria)
    assert f"INCONCLUSIVE: 35 images don't settle {still_open} of {len(criteria)} criteria" in result.output


def test_29_images_are_refused_with_the_reason(bundle, tmp_path):
    site = write_pictures(tmp_path / "site", (DISC,), 29, 53)
    (site / "broken.png").write_bytes(b"not a picture")
    result = suitability(bundle, site, "--output", tmp_path / "out")
    assert isinstance(result.exception, DicomGamError)
    message = str(result.exception)
    assert "29 usable images of different patients; 30 are needed" in message
    assert "1 files could not be used (broken.png: can't be read as a picture" in message


def test_images_of_too_few_patients_are_refused_with_the_remedy(bundle, tmp_path):
    site = write_pictures(tmp_path / "site", (DISC,), 40, 53)
    lines = [f"site/{path.name},{i // 2}" for i, path in enumerate(sorted(site.iterdir()))]
    (tmp_path / "site.csv").write_text("\n".join(["path,group", *lines]))
    result = suitability(bundle, tmp_path / "site.csv", "--output", tmp_path / "out")
    assert isinstance(result.exception, DicomGamError)
    assert "20 are further images of the same patients" in str(result.exception)
    assert "CSV with the columns path and group" in str(result.exception)


def test_labels_of_a_csv_give_the_accuracy(bundle, tmp_path):
    site = write_pictures(tmp_path / "site", (DISC, STRIPES), 16, 54)
    names = {str(DISC): "disc", str(STRIPES): "stripes"}
    lines = [f"site/{path.name},{names[path.name[0]]}" for path in sorted(site.iterdir())]
    (tmp_path / "site.csv").write_text("\n".join(["path,label", *lines]))
    result = suitability(bundle, tmp_path / "site.csv", "--output", tmp_path / "out")
    assert "right class: 100.0 %" in result.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["accuracy"]["n"] == 32


def test_a_network_is_judged_by_a_trusted_bundles_references(bundle, tiny_bundle_dir, tmp_path):
    site = write_pictures(tmp_path / "site", (DISC, STRIPES), 20, 55)
    result = suitability(tiny_bundle_dir, site, "--against", bundle, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["against"]["digest"] != told["bundle"]["digest"]
    assert "judged by another bundle" in (tmp_path / "out" / "report.html").read_text()


def test_a_missing_trusted_bundle_is_refused(bundle, tmp_path):
    result = suitability(bundle, tmp_path, "--against", tmp_path / "absent", "--output", tmp_path / "out")
    assert isinstance(result.exception, BundleError)


def test_an_output_among_the_images_is_refused(bundle, tmp_path):
    result = suitability(bundle, tmp_path, "--output", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "lies in the folder of the site's images" in str(result.exception)
    assert not (tmp_path / "out").exists()

"""`dicom-gam evaluate` from a manifest of pictures to the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dicom_gam.cli.main import app
from dicom_gam.errors import DicomGamError
from tests.tiny_bundle import DISC, NOISE, STRIPES, one_thread, shapes

HEADER = ["path", "label", "group", "source", "family", "role"]


def write_pictures(folder: Path) -> list[list[str]]:
    """Rows of a manifest: discs, stripes and noise as 8-bit PNG, four of each, and one disc that is to be left out."""
    rows = []
    for name, kind, family in (("disc", DISC, ""), ("stripes", STRIPES, ""), ("garbage", NOISE, "photograph")):
        for i, content in enumerate(shapes(kind, 4, seed=77)):
            path = folder / f"{name}{i}.png"
            Image.fromarray((content.numpy() * 255).astype(np.uint8)).resize((80, 64)).save(path)
            rows.append([path.name, name, f"{name}{i}", "generated", family, "unseen" if family else "test"])
    rows.append(["disc0.png", "disc", "disc0", "generated", "", "train"])
    return rows


def write_manifest(folder: Path, rows: list[list[str]]) -> Path:
    path = folder / "images.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def evaluate(*arguments: object) -> Result:
    with one_thread():
        return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--quick", "--device", "cpu"])


@pytest.fixture(scope="module")
def evaluated(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("evaluate")
    manifest = write_manifest(folder, [*write_pictures(folder), ["broken.png", "disc", "x", "generated", "", "test"]])
    (folder / "broken.png").write_bytes(b"not a picture")
    result = evaluate(tiny_bundle_dir, manifest, "--output", folder / "out")
    assert result.exit_code == 0, result.output
    return folder / "out", result.output


def test_the_report_and_its_json_are_written_and_told(evaluated):
    folder, told = evaluated
    assert str(folder / "report.html") in told.replace("\n", "")
    assert "wrongly passed" in told
    page = (folder / "report.html").read_text()
    for heading in ("False alarms", "What each check adds", "Attention methods side by side", "Odd images, by family"):
        assert f"<h2>{heading}</h2>" in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.requirement("EVD-01")
def test_only_held_out_rows_are_counted_and_the_unreadable_one_is_listed(evaluated):
    found = json.loads((evaluated[0] / "report.json").read_text())
    assert found["counts"]["expected"] == 8
    assert found["counts"]["far"] == 4
    assert [Path(item["path"]).name for item in found["unusable"]] == ["broken.png"]
    assert {row["label"]: row["accuracy"]["n"] for row in found["sources"]} == {"disc": 4, "stripes": 4}


def test_noise_is_told_from_shapes(evaluated):
    found = json.loads((evaluated[0] / "report.json").read_text())
    noise = next(row for row in found["detections"] if row["family"] == "photograph")
    assert noise["provenance"] == "never in training"
    assert noise["separation"]["auroc"] > 0.95
    assert noise["verdicts"]["PASS"] == 0


@pytest.mark.requirement("EVD-01")
def test_a_manifest_of_used_images_only_is_refused(tiny_bundle_dir, tmp_path):
    rows = [[*row[:5], "train"] for row in write_pictures(tmp_path)]
    result = evaluate(tiny_bundle_dir, write_manifest(tmp_path, rows), "--output", tmp_path / "out")
    assert isinstance(result.exception, DicomGamError)
    assert "role test or unseen" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_manifest_of_odd_images_only_is_refused(tiny_bundle_dir, tmp_path):
    rows = [row for row in write_pictures(tmp_path) if row[1] == "garbage"]
    result = evaluate(tiny_bundle_dir, write_manifest(tmp_path, rows), "--output", tmp_path / "out")
    assert isinstance(result.exception, DicomGamError)
    assert "disc, stripes" in str(result.exception)


def test_an_output_that_is_a_file_is_refused_before_any_work(tiny_bundle_dir, tmp_path):
    (tmp_path / "out").write_text("in the way")
    manifest = write_manifest(tmp_path, write_pictures(tmp_path))
    result = evaluate(tiny_bundle_dir, manifest, "--output", tmp_path / "out")
    assert isinstance(result.exception, DicomGamError)
    assert "Name another with --output" in str(result.exception)

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from dicom_gam.dicom.checker.checker import DEFECTS
from tests.dicom.example_results import CREATED, dx_source, encoded, mg_source
from tests.dicom.negative_controls import CONTROLS, clean, source_file, spoilt

RUNNER = CliRunner(env={"COLUMNS": "200"})


def write(folder: Path, files: list[bytes], prefix: str = "result") -> list[str]:
    paths = [folder / f"{prefix}-{number}.dcm" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def run(*arguments: str):
    return RUNNER.invoke(app, ["check-result", *arguments])


@pytest.fixture
def results(tmp_path: Path) -> list[str]:
    return write(tmp_path, [item.content for item in clean("PASS")])


def control(name: str) -> list[bytes]:
    return spoilt(next(control for control in CONTROLS if control.name == name))


@pytest.mark.requirement("CHK-04")
def test_clean_results_end_with_zero(results):
    answer = run(*results)
    assert (answer.exit_code, answer.stdout) == (0, "4 results checked: no defect\n")


def test_an_image_that_is_no_result_counts_as_the_source(results, tmp_path):
    answer = run(*results, *write(tmp_path, [source_file()], "source"))
    assert (answer.exit_code, answer.stdout) == (0, "4 results checked with 1 source image: no defect\n")


@pytest.mark.requirement("CHK-04")
def test_a_defect_is_told_with_its_file_name_place_and_message(tmp_path):
    paths = write(tmp_path, control("a p-value in percent"))
    answer = run(*paths)
    assert answer.exit_code == 1
    line = f"{paths[0]}: wrong-units: 126010[1].125007[1].P_COMBINED[1]: {DEFECTS['wrong-units']}"
    assert line in answer.stdout.splitlines()


def test_what_is_out_of_the_source_image_is_found_when_it_is_given(tmp_path):
    paths = write(tmp_path, control("an outline beyond the source's edge"))
    source = write(tmp_path, [source_file()], "source")
    assert run(*paths).exit_code == 0
    answer = json.loads(run(*paths, *source, "--json").stdout)
    assert [(d["file"], d["name"]) for d in answer["defects"]] == [(paths[0], "outline-outside-image")]


def test_results_of_two_images_are_checked_apart(tmp_path):
    first = write(tmp_path, [item.content for item in clean("PASS")], "first")
    second = write(tmp_path, [item.content for item in encoded(mg_source(), "FAIL")], "second")
    answer = run(*first, *second)
    assert (answer.exit_code, answer.stdout) == (0, f"{len(first + second)} results checked: no defect\n")


def test_results_that_were_made_anew_later_are_checked_apart(tmp_path):
    first = write(tmp_path, [item.content for item in clean("PASS")], "first")
    anew = encoded(dx_source(), "FAIL", settings_digest="00" * 32, created=CREATED + timedelta(days=1))
    answer = run(*first, *write(tmp_path, [item.content for item in anew], "anew"))
    assert answer.exit_code == 0, answer.stdout


@pytest.mark.requirement("CHK-04")
def test_a_file_that_is_no_dicom_ends_with_two(results, tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    answer = run(*results, str(tmp_path / "x.txt"), str(tmp_path / "missing.dcm"))
    assert answer.exit_code == 2
    assert f"{tmp_path / 'x.txt'}: can't be read as a DICOM file" in answer.stdout
    assert f"{tmp_path / 'missing.dcm'}: can't be read as a DICOM file" in answer.stdout


def test_no_result_among_the_files_ends_with_two(tmp_path):
    answer = run(*write(tmp_path, [source_file()]))
    assert (answer.exit_code, "none of the files is a result" in answer.stdout) == (2, True)


def test_the_defects_can_be_listed():
    assert all(name in run("--defects").stdout for name in DEFECTS)
    assert json.loads(run("--defects", "--json").stdout) == dict(DEFECTS)


def test_without_a_file_it_says_what_to_give():
    answer = run()
    assert (answer.exit_code, "--defects" in answer.output) == (2, True)

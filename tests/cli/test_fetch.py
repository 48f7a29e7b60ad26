"""`dicom-gam fetch` as an operator types it."""

import pydicom.uid as uids
import pytest
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from tests.dicom.test_dicomweb_source import Server, file_of, item, multipart
from tests.service.test_fetch import STUDY, UNKNOWN, Web


@pytest.fixture
def web():
    """An archive with two radiographs and a CT image in one study."""
    archive = Web(1, 2)
    ct = {"00080016": uids.CTImageStorage, "00080018": "1.2.3.9", "00080060": "CT"}
    archive.listed.append(item(9, **ct))
    with Server(archive).running() as url:
        archive.url = url
        yield archive


@pytest.fixture
def command(tmp_path, web):
    config = tmp_path / "node.toml"
    config.write_text(
        '[node]\nstorage = "data"\nminimum_free_bytes = 0\n'
        f'[[sources]]\nname = "archive"\nurl = "{web.url}"\ntimeout_s = 5\n'
    )

    def run(*arguments):
        options = ["fetch", "--config", str(config), *arguments]
        return CliRunner().invoke(app, options, env={"COLUMNS": "200"})

    return run


def row(shown, study):
    """The cells of a study's row in the table."""
    (line,) = (line for line in shown.stdout.splitlines() if study in line and "│" in line)
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


@pytest.mark.requirement("PUL-03")
def test_a_complete_fetch_ends_with_0_and_shows_what_came(command, tmp_path):
    shown = command("--from", "archive", "--study", STUDY)
    assert shown.exit_code == 0, shown.output
    assert row(shown, STUDY) == [STUDY, "3", "2", "0", "0", "0", "0", "1"]
    assert len(list((tmp_path / "data" / "inbox").rglob("*.dcm"))) == 2
    again = command("--study", STUDY)  # there is but one source
    assert (again.exit_code, row(again, STUDY)) == (0, [STUDY, "3", "0", "2", "0", "0", "0", "1"])


@pytest.mark.requirement("PUL-03")
def test_what_is_missing_ends_with_1_and_is_told_in_words(command, web):
    web.files["1.2.3.2"] = (500, "text/plain", b"DOE^JANE")
    shown = command("--from", "archive", "--study", STUDY, "--study", UNKNOWN)
    assert shown.exit_code == 1
    assert row(shown, STUDY) == [STUDY, "3", "1", "0", "0", "1", "0", "1"]
    words = " ".join(shown.stdout.split())
    assert f"study {STUDY}: instance 1.2.3.2: source archive" in words
    assert "has a fault of its own: look at its log, then try again (HTTP status 500)" in words
    assert f"study {UNKNOWN}: source archive knows no such study: check the Study Instance UID" in words
    assert "DOE" not in shown.output


def test_an_instance_with_other_bytes_than_before_ends_with_1_and_says_what_to_do(command, web):
    command("--from", "archive", "--study", STUDY)
    web.files["1.2.3.2"] = multipart(file_of(2, length=10))
    shown = command("--from", "archive", "--study", STUDY)
    assert shown.exit_code == 1
    assert row(shown, STUDY) == [STUDY, "3", "0", "1", "1", "0", "0", "1"]
    assert "are here under the same UID with other bytes" in " ".join(shown.stdout.split())


def test_a_dry_run_shows_what_there_is_by_modality_and_class_and_gets_nothing(command, tmp_path):
    shown = command("--from", "archive", "--study", STUDY, "--dry-run")
    assert shown.exit_code == 0, shown.output
    rows = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in shown.stdout.splitlines()
        if "Storage" in line
    ]
    assert [cells[-4:] for cells in rows] == [
        ["CR", "Computed Radiography Image Storage", "2", "yes"],
        ["CT", "CT Image Storage", "1", "no, no radiograph"],
    ]
    assert not (tmp_path / "data").exists()
    assert command("--from", "archive", "--study", UNKNOWN, "--dry-run").exit_code == 1


def test_a_work_list_may_stand_beside_a_named_study_and_each_is_fetched_once(command, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"patient,study_instance_uid\nDOE^JANE,{STUDY}\n")
    shown = command("--from", "archive", "--study", STUDY, "--worklist", str(path))
    assert shown.exit_code == 0, shown.output
    assert row(shown, STUDY)[2] == "2"
    assert "DOE" not in shown.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--from", "archive"), "there is nothing to fetch"),
        (("--from", "other", "--study", STUDY), "there is no source 'other'"),
        (("--from", "archive", "--study", "DOE^JANE"), "digits and dots"),
        (("--from", "archive", "--worklist", "missing.csv"), "can't be read"),
    ],
)
def test_wrong_use_is_refused_before_anything_happens(command, tmp_path, arguments, why):
    shown = command(*arguments)
    assert shown.exit_code != 0
    assert why in str(shown.exception)
    assert not (tmp_path / "data").exists()

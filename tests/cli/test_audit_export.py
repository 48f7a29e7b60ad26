"""`dicom-gam audit export` as a user types it."""

from __future__ import annotations

import hashlib

import pytest
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from dicom_gam.errors import ConfigError
from dicom_gam.storage.audit import records
from tests.service.dossier_store import STUDY, real_store


def command(*arguments):
    return CliRunner().invoke(app, ["audit", "export", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with real_store(tmp_path_factory.mktemp("cli") / "node") as store:
        return store.folder


@pytest.mark.requirement("DOS-16")
def test_a_study_becomes_the_files_that_were_asked_for_with_their_digests(storage, tmp_path):
    told = command("--study", STUDY, "--storage", storage, "-o", tmp_path / "out", "--format", "html, json")
    assert told.exit_code == 0, told.output
    for line, suffix in zip(told.stdout.splitlines(), (".html", ".json"), strict=True):
        path = tmp_path / "out" / f"dossier-study-{STUDY}{suffix}"
        assert str(path) in line
        assert hashlib.sha256(path.read_bytes()).hexdigest() in line
    assert list(records(storage / "audit.jsonl"))[-1]["event"] == "audit.exported"


def test_a_configuration_and_a_span_of_time_do_as_well(storage, tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nstorage = "{storage}"\n')
    told = command("--from", "2020-01-01", "-c", config, "-o", tmp_path / "out", "--format", "csv")
    assert told.exit_code == 0, told.output
    (path,) = (tmp_path / "out").iterdir()
    assert path.name.endswith("-to-open.csv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--study", STUDY, "--job", "a"], "only one of them"),
        ([], "only one of them"),
        (["--from", "tomorrow"], "is no time"),
        (["--study", "1.2.3"], "nothing is on record"),
        (["--study", STUDY, "--format", "docx"], "there is no format docx"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(storage, tmp_path, options, words):
    told = command(*options, "--storage", storage, "-o", tmp_path / "out")
    assert isinstance(told.exception, ConfigError)
    assert words in str(told.exception)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_folder_that_is_no_storage_is_refused(tmp_path):
    assert command("--study", STUDY, "--storage", tmp_path, "-o", tmp_path / "out").exit_code != 0
    assert command("--study", STUDY, "-o", tmp_path / "out").exit_code == 2

"""`dicom-gam rules` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from click.testing import Result
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from dicom_gam.cli.main import app

CONFIG = """
[node]
ae_title = "NODE"
[[destinations]]
name = "PACS"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
[[destinations]]
name = "RIS [old]"
ae_title = "RIS"
host = "127.0.0.1"
port = 104
[[rules]]
name = "no hands"
when = { body_part_examined = ["HAND", "finger*"] }
process = false
[[rules]]
name = "emergency [room]"
when = { modality = ["CR", "DX"], body_part_examined = ["CHEST"], calling_ae_title = ["ER*"] }
bundle = "site"
destinations = ["RIS [old]"]
[[rules]]
name = "to this node"
when = { called_ae_title = ["NODE"], body_part_examined = ["CHEST"] }
"""


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["rules", *arguments], env={"COLUMNS": "60"})


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG)
    return str(path)


def file(folder: Path, name: str = "x.dcm", source: str = "RG1_UNCR.dcm", **changes: object) -> str:
    ds = pydicom.dcmread(get_testdata_file(source, download=False))
    ds.BodyPartExamined = "CHEST"
    ds.PatientName, ds.PatientID = "SECRET^NAME", "SECRET-ID"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(folder / name)
    return str(folder / name)


@pytest.mark.requirement("RUL-02")
def test_it_says_which_rule_matches_with_bundle_and_destinations_and_why_the_others_do_not(config, tmp_path):
    shown = command("test", file(tmp_path), "--config", config, "--calling", "ER_1")
    assert shown.exit_code == 0
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert "processed (rule 'emergency [room]'): bundle site, results to RIS [old]" in lines
    assert "1. no hands: no match" in lines
    assert "body_part_examined does not match: found 'CHEST', wanted 'HAND' or 'finger*'" in lines
    assert "2. emergency [room]: matches" in lines
    assert "calling_ae_title matches: found 'ER_1', wanted 'ER*'" in lines
    assert "3. to this node: matches, but an earlier rule counts" in lines


def test_the_sender_and_the_called_title_are_taken_from_the_options(config, tmp_path):
    path = file(tmp_path)
    shown = command("test", path, "--config", config)
    assert "processed (rule 'to this node'): bundle radiograph-anatomy, results to PACS, RIS [old]" in shown.stdout
    assert "calling_ae_title does not match: found nothing (absent or empty), wanted 'ER*'" in shown.stdout
    assert "not processed: no rule matches" in command("test", path, "--config", config, "--called", "OTHER").stdout


def test_a_rule_against_processing_is_named(config, tmp_path):
    shown = command("test", file(tmp_path, BodyPartExamined="FINGER1"), "--config", config)
    assert "not processed: the rule 'no hands'" in shown.stdout
    assert shown.exit_code == 0


def test_what_is_no_radiograph_is_not_promised_a_result_whatever_the_rules_say(config, tmp_path):
    shown = command("test", file(tmp_path, source="CT_small.dcm"), "--config", config)
    assert "not processed" in shown.stdout
    assert "3. to this node: matches" in shown.stdout


def test_json_holds_the_same_for_programs(config, tmp_path):
    paths = [file(tmp_path, "a.dcm"), file(tmp_path, "b.dcm", BodyPartExamined="HAND")]
    shown = command("test", *paths, "--config", config, "--json")
    first, second = json.loads(shown.stdout)
    assert (first["processed"], first["rule"], first["bundle"]) == (True, "to this node", "radiograph-anatomy")
    assert first["destinations"] == ["PACS", "RIS [old]"]
    assert first["rules"][1]["keys"][1] == {
        "key": "body_part_examined", "found": ["CHEST"], "patterns": ["CHEST"], "matched": True,
    }  # fmt: skip
    assert (second["processed"], second["rule"], second["bundle"], second["destinations"]) == (
        False,
        "no hands",
        None,
        [],
    )


@pytest.mark.requirement("SAF-02")
def test_neither_form_shows_who_the_patient_is(config, tmp_path):
    for form in ([], ["--json"]):
        assert "SECRET" not in command("test", file(tmp_path), "--config", config, *form).output


def test_a_file_that_can_not_be_read_is_told_and_the_others_are_tested(config, tmp_path):
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no DICOM")
    shown = command("test", str(bad), str(tmp_path / "none.dcm"), file(tmp_path), "--config", config)
    assert shown.exit_code == 12
    assert shown.stdout.count("can't be read:") == 2
    assert "processed (rule 'to this node')" in shown.stdout


def test_without_rules_everything_is_processed_and_it_says_so(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text("")
    shown = command("test", file(tmp_path), "--config", str(config))
    assert "processed (there are no rules): bundle radiograph-anatomy, results to no destination" in shown.stdout
    assert "no rules" in command("list", "--config", str(config)).stdout


def test_the_list_shows_conditions_and_consequences_in_order(config):
    lines = [line.strip() for line in command("list", "--config", config).stdout.splitlines()]
    assert lines == [
        "1. no hands: not processed",
        "body_part_examined: 'HAND' or 'finger*'",
        "2. emergency [room]: bundle site, results to RIS [old]",
        "modality: 'CR' or 'DX'",
        "body_part_examined: 'CHEST'",
        "calling_ae_title: 'ER*'",
        "3. to this node: bundle radiograph-anatomy, results to PACS, RIS [old]",
        "body_part_examined: 'CHEST'",
        "called_ae_title: 'NODE'",
        "An image that none of them matches is kept and not processed.",
    ]

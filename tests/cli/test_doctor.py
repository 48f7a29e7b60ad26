"""`dicom-gam doctor` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli.doctor import doctor as doctor_command
from dicom_gam.service import doctor
from dicom_gam.service.doctor_case import fail, ok, warn

REMEDY = "ask the administrator of the archive to allow [our AE title], then send the dead letters again"


def command(*arguments: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(doctor_command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nstorage = "data"\n')
    return str(path)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the doctor find just this."""

    def give(*findings: object) -> None:
        monkeypatch.setattr(doctor, "CHECKS", (("deliveries", lambda case: findings, False),))

    return give


@pytest.mark.requirement("OPS-03")
def test_all_well_ends_with_0_warnings_with_1_and_failures_with_2(config, found):
    found(ok("x"))
    assert command("--config", config).exit_code == 0
    found(ok("x"), warn("y", "z"))
    assert command("--config", config).exit_code == 1
    found(warn("y", "z"), fail("y", "z"))
    shown = command("--config", config)
    assert shown.exit_code == 2
    assert "1 OK, 1 WARN, 1 FAIL" in shown.stdout


@pytest.mark.requirement("OPS-03")
def test_every_line_fits_80_columns_and_says_level_check_finding_and_remedy(config, found):
    found(
        fail("17 of 17 dead letters for [archive]: the destination does not accept Comprehensive 3D SR Storage", REMEDY)
    )
    lines = command("--config", config).stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    text = " ".join(" ".join(lines).split())
    assert "FAIL deliveries 17 of 17 dead letters for [archive]: the destination" in text
    assert f"-> {REMEDY}" in text


def test_json_holds_every_finding_and_nothing_else_is_printed(config, found):
    found(ok("x"), warn("y", "z"))
    shown = command("--config", config, "--json")
    told = json.loads(shown.stdout)
    assert (shown.exit_code, told["status"]) == (1, 1)
    assert [(item["check"], item["level"], item["remedy"]) for item in told["findings"]] == [
        ("configuration", "OK", ""),
        ("deliveries", "OK", ""),
        ("deliveries", "WARN", "z"),
    ]
    assert all(item["seconds"] >= 0 for item in told["findings"])


def test_a_configuration_that_is_not_there_is_told_without_a_traceback(tmp_path):
    shown = command("--config", str(tmp_path / "none.toml"), "--json")
    assert shown.exit_code == 2
    [only] = json.loads(shown.stdout)["findings"]
    assert "can't be read" in only["found"]


def test_a_node_that_never_ran_is_looked_at_as_a_whole(tmp_path, tiny_bundle_dir):
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\nstorage = "data"\nport = 0\n[processing]\nbundle = "{tiny_bundle_dir}"\ndevice = "cpu"\n')
    shown = command("--config", str(path), "--json", "--offline")
    told = json.loads(shown.stdout)["findings"]
    assert [item for item in told if item["level"] == "FAIL"] == []
    assert {"storage folder", "disk space", "node", "bundles", "test image"} <= {item["check"] for item in told}
    assert shown.exit_code == 1
    assert not (tmp_path / "data").exists()

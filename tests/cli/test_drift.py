"""`dicom-gam drift` as a user types it, on a storage folder with two senders."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from dicom_gam.service.drift import drift_rule
from dicom_gam.service.store import AUDIT_FILE, DATABASE_FILE
from dicom_gam.storage.audit import records
from dicom_gam.storage.rows import DriftSample
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_drift import record_drift


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["drift", *arguments], env={"COLUMNS": "160"})


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A folder in which [ROOM 1] has drifted and ROOM 2 has not."""
    database = Database(tmp_path / DATABASE_FILE)
    for sender, odder in (("[ROOM 1]", 0), ("ROOM 2", 500)):
        sample = DriftSample(sender, "anatomy", "1.2", "abcdef" * 10, "hand", 999, odder, 0, 0.5)
        with database.transaction() as connection:
            for _ in range(8):
                record_drift(connection, drift_rule(0.001), sample, 1_700_000_000.0)
    database.close()
    return tmp_path


def test_table_shows_images_evidence_and_alarm_and_says_what_to_do(storage):
    shown = command(str(storage))
    assert shown.exit_code == 1
    steady, drifted = (line.split("│") for line in shown.stdout.splitlines() if "ROOM" in line and "│" in line)
    assert (drifted[1].strip(), drifted[2].strip(), drifted[3].strip()) == (
        "[ROOM 1]",
        "anatomy 1.2 (abcdefabcdef)",
        "8",
    )
    assert drifted[4].strip().startswith("10^")
    assert drifted[6].strip().startswith("2023-11-")
    assert (steady[1].strip(), steady[6].strip()) == ("ROOM 2", "")
    assert 0 < float(steady[4]) <= float(steady[5]) < 1000
    assert f"dicom-gam drift {storage} --reset SENDER" in shown.stdout


def test_reset_starts_the_sender_anew_and_the_alarm_is_over(storage):
    done = command(str(storage), "--reset", "[ROOM 1]")
    assert (done.exit_code, "8 images forgotten" in done.stdout) == (0, True)
    (record,) = [record for record in records(storage / AUDIT_FILE) if record["event"] == "drift-reset"]
    assert record["keys"]["sender"] == "[ROOM 1]"
    shown = command(str(storage))
    assert shown.exit_code == 0
    assert "ROOM 1" not in shown.stdout
    assert "What to do" not in shown.stdout


def test_storage_is_found_by_the_configuration_too(storage):
    settings = storage / "node.toml"
    settings.write_text('[node]\nstorage = "."\n')
    assert "ROOM 2" in command("--config", str(settings)).stdout


def test_folder_or_configuration_must_be_named(storage):
    assert command().exit_code == 2


def test_a_node_without_images_has_nothing_to_show(tmp_path):
    Database(tmp_path / DATABASE_FILE).close()
    shown = command(str(tmp_path))
    assert (shown.exit_code, shown.stdout.strip()) == (0, "no images yet")

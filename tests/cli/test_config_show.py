"""`dicom-gam config show` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from dicom_gam.config import Settings, load_settings
from dicom_gam.service.effective_settings import effective

CONFIG = """
[node]
ae_title = "NODE"
port = 11112
[access]
callers = [{ ae_title = "ROOM", hosts = ["10.0.0.0/8"] }]
[[destinations]]
name = "web"
url = "https://user:hunter2@pacs/dicom-web"
authorization_file = "token"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG)
    (tmp_path / "token").write_text("Bearer hunter3")
    return path


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", "show", *arguments])


@pytest.mark.requirement("WEB-09")
def test_without_effective_it_shows_what_the_file_sets_and_nothing_else(config):
    lines = [line for line in command("-c", str(config)).stdout.splitlines() if line and not line.startswith("#")]
    assert [line.split(" = ")[0] for line in lines] == [
        "node.ae_title",
        "node.port",
        "access.callers.0.ae_title",
        "access.callers.0.hosts",
        "destinations.0.name",
        "destinations.0.url",
        "destinations.0.authorization_file",
    ]
    assert lines[0] == 'node.ae_title = "NODE"  # node.toml; default: "DICOM_GAM"'


@pytest.mark.requirement("WEB-09")
def test_effective_shows_every_key_and_where_its_value_comes_from(config):
    shown = command("-c", str(config), "--effective")
    assert 'node.ae_title = "NODE"  # node.toml' in shown.stdout
    assert "processing.batch_size = 8  # default\n" in shown.stdout
    assert f'node.storage = "{config.parent}/dicom-gam-data"  # default\n' in shown.stdout
    assert "rules = []  # default\n" in shown.stdout
    found = json.loads(command("-c", str(config), "--effective", "--json").stdout)
    assert found["node.ae_title"]["from"] == "file"  # also a key that is set to its default
    assert found["node.port"] == {
        "value": 11112, "from": "file", "default": 11112, "description": "the port to listen on; 0 picks a free one",
    }  # fmt: skip
    assert len(found) == len(effective(load_settings(config)))


@pytest.mark.requirement("WEB-10")
@pytest.mark.parametrize("options", [(), ("--effective",), ("--effective", "--json")])
def test_no_secret_is_shown_but_where_it_lies(config, options):
    shown = command("-c", str(config), *options).stdout
    assert "hunter" not in shown
    assert "https://***@pacs/dicom-web" in shown
    assert str(config.parent / "token") in shown


def test_every_key_of_the_settings_has_a_description_and_a_value_that_json_can_hold():
    keys = effective(Settings())
    assert all(key.description for key in keys)
    json.dumps([(key.value, key.default) for key in keys], allow_nan=False)
    assert not any(key.is_set for key in keys)


def test_a_wrong_key_is_refused_with_the_nearest_right_name(config):
    config.write_text("[node]\nae_titel = 'X'\n")
    failed = command("-c", str(config))
    assert failed.exit_code != 0
    assert "did you mean ae_title?" in str(failed.exception)

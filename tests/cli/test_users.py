"""`dicom-gam users` as an administrator types it."""

from __future__ import annotations

import json
import re

import pytest
from argon2 import PasswordHasher
from typer.testing import CliRunner

from dicom_gam.cli.users import app
from dicom_gam.config import load_settings
from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.service import accounts as accounts_module
from dicom_gam.service.accounts import Accounts
from dicom_gam.service.store import open_store


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(
        accounts_module, "PasswordHasher", lambda: PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    )
    path = tmp_path / "node.toml"
    path.write_text('[node]\nstorage = "data"\n')
    return path


def command(config, *arguments):
    done = CliRunner().invoke(app, [*arguments, "--config", str(config)], env={"COLUMNS": "200", "USER": "root"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def accounts(config):
    store = open_store(load_settings(config))
    return Accounts(store.folder, store.audit)


@pytest.mark.requirement("ACC-12")
def test_the_password_that_is_printed_for_a_new_user_lets_them_in(config):
    printed = command(config, "add", "ann", "--role", "viewer", "--role", "auditor").stdout
    password = re.search(r"is  (\S+)", printed).group(1)
    user = accounts(config).authenticated("ANN", password)
    assert user.must_change
    assert user.roles == ("auditor", "viewer")

    again = re.search(r"is  (\S+)", command(config, "passwd", "ann").stdout).group(1)
    assert accounts(config).authenticated("ann", password) is None
    assert accounts(config).authenticated("ann", again) is not None


@pytest.mark.requirement("ACC-12")
def test_every_change_of_an_account_is_on_record_with_who_made_it_and_without_secrets(config):
    printed = command(config, "add", "ann", "-r", "viewer").stdout
    for line in ("passwd ann", "roles ann -r operator", "token ann --label prometheus", "revoke ann", "disable ann",
                 "enable ann", "revoke ann --sessions"):  # fmt: skip
        printed += command(config, *line.split()).stdout
    text = (config.parent / "data/audit.jsonl").read_text()
    made = [record for record in map(json.loads, text.splitlines()) if record["event"].startswith("access.")]
    assert [record["event"].removeprefix("access.") for record in made] == [
        "user_added", "password_reset", "roles_changed", "token_made", "token_revoked", "user_disabled",
        "user_enabled", "sessions_revoked",
    ]  # fmt: skip
    assert all(record["keys"]["user"] == "ann" and record["keys"]["by"] for record in made)
    secrets = re.findall(r"is  (\S+)|(dgam_\S+)", printed)
    assert len(secrets) == 3
    assert not any(part in text for found in secrets for part in found if part)


@pytest.mark.requirement("ACC-12")
def test_the_list_shows_users_and_tokens_and_no_secret(config):
    assert "no users" in command(config, "list").stdout
    command(config, "add", "ann", "-r", "viewer")
    token = command(config, "token", "ann", "--label", "grafana").stdout.split()[0]
    command(config, "add", "ben", "-r", "operator")
    command(config, "disable", "ben")
    shown = command(config, "list").stdout
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [line[:3] for line in lines] == [
        ["ann", "viewer", "must choose a password"], ["ben", "operator", "disabled"], ["ann", "grafana", "viewer"]
    ]  # fmt: skip
    assert token.startswith("dgam_")
    assert token not in shown


@pytest.mark.requirement("ACC-12")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "ann", "-r", "viewer"), "already"),
        (("add", "ben", "-r", "admin"), "viewer, operator, auditor"),
        (("add", "oidc:ben", "-r", "viewer"), "can't be a user's name"),
        (("add", "../ben", "-r", "viewer"), "can't be a user's name"),
        (("passwd", "ben"), "dicom-gam users list"),
        (("token", "ann", "-r", "auditor"), "can't do more than its user"),
        (("token", "ann", "--label", "a b"), "can't be a token's label"),
        (("revoke", "ben"), "there is no user"),
    ],
)
def test_a_mistake_is_refused_in_words_that_help(config, arguments, words):
    command(config, "add", "ann", "-r", "viewer")
    with pytest.raises(ConfigError, match=re.escape(words)):
        command(config, *arguments)


def test_a_second_token_of_the_same_label_is_refused_and_the_first_still_works(config):
    command(config, "add", "ann", "-r", "viewer")
    token = command(config, "token", "ann").stdout.split()[0]
    with pytest.raises(ConfigError, match="revoke that one first"):
        command(config, "token", "ANN")
    assert accounts(config).token(token).label == "token"


@pytest.mark.requirement("ACC-12")
def test_a_damaged_or_open_file_of_secrets_is_told_with_its_remedy(config, tmp_path):
    command(config, "add", "ann", "-r", "viewer")
    (config.parent / "data/access.sqlite").write_bytes(b"no database at all, but long enough to be one" * 99)
    with pytest.raises(StorageError, match="move it aside"):
        command(config, "list")

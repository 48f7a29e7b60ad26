"""`dicom-gam init`: every answer comes back when the file is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli import init as command_module
from dicom_gam.cli.main import app
from dicom_gam.config import Settings, load_settings
from dicom_gam.errors import ConfigError
from dicom_gam.service.first_settings import Answers, settings_text, write_settings
from dicom_gam.service.front_door import refuse_wide_open


def command(*arguments: str, answers: str | None = None) -> Result:
    return CliRunner().invoke(app, ["init", *arguments], input=answers, env={"COLUMNS": "200"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


@pytest.mark.requirement("REP-10")
@pytest.mark.parametrize(
    "answers",
    [
        Answers(),
        Answers(
            "NODE 1@home", 104, Path('/srv/a "quoted" \\ folder\x7f/ü'), (("ROOM_1", "10.1.2.3"), ("*", "fd00::/8")),
            ("PACS", "pacs.example", 11113), dashboard=False, dashboard_port=443,
        ),
        Answers(senders=(("ROOM_1", "10.1.0.0/16"),), pacs=("A", "::1", 1), dashboard_port=0),
    ],
)  # fmt: skip
def test_every_answer_comes_back_and_a_node_may_start_with_it(file, answers):
    write_settings(answers, file)
    settings = load_settings(file)
    node = settings.node
    assert (node.ae_title, node.port, node.storage) == (answers.ae_title, answers.port, file.parent / answers.storage)
    assert tuple((c.ae_title, *c.hosts) for c in settings.access.callers) == answers.senders
    assert [(d.ae_title, d.host, d.port) for d in settings.destinations] == ([answers.pacs] if answers.pacs else [])
    assert (settings.web.enabled, settings.web.port) == (answers.dashboard, answers.dashboard_port)
    refuse_wide_open(settings)
    assert (node.host == "127.0.0.1") == (not answers.senders)


@pytest.mark.requirement("REP-10")
def test_each_key_stands_under_what_it_means_and_each_default_in_a_comment_is_right(file):
    text = settings_text(Answers(senders=(("ROOM_1", "10.1.2.3"),), pacs=("PACS", "10.1.2.4", 104)))
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if re.match(r"#? ?[a-z_]+ = ", line):
            assert lines[place - 1].startswith("# "), line
    uncommented = re.sub(r'^# ([a-z_]+ = (?!"\.\.\.").*)$', r"\1", text, flags=re.MULTILINE)
    assert uncommented != text
    file.write_text(uncommented)
    assert load_settings(file).model_dump(exclude={"node", "access", "destinations", "web"}) == Settings().model_dump(
        exclude={"node", "access", "destinations", "web"}
    )
    assert load_settings(file).node.receivers == Settings().node.receivers


@pytest.mark.requirement("REP-11")
def test_a_file_that_is_there_is_replaced_only_when_that_is_said(file):
    file.write_text("mine")
    refused = command("--yes", "--output", str(file))
    assert isinstance(refused.exception, ConfigError)
    assert "--overwrite" in str(refused.exception)
    assert file.read_text() == "mine"
    assert command("--yes", "--output", str(file), "--overwrite").exit_code == 0
    assert load_settings(file).node.ae_title == "DICOM_GAM"


@pytest.mark.requirement("REP-11")
def test_questions_are_asked_until_the_answer_can_be_right(file):
    answers = "\n".join([
        "an AE title that is far too long", "NODE", "not a number", "104", "", "ROOM_1", "ROOM_1@10.1.1.300",
        "ROOM_1@10.1.1.3", "", "PACS", "PACS@10.1.2.4:104", "n", "n",
    ])  # fmt: skip
    done = command("--output", str(file), answers=answers + "\n")
    assert done.exit_code == 0, done.output
    settings = load_settings(file)
    assert (settings.node.ae_title, settings.node.port) == ("NODE", 104)
    assert [(c.ae_title, c.hosts) for c in settings.access.callers] == [("ROOM_1", ("10.1.1.3",))]
    assert (settings.destinations[0].host, settings.web.enabled) == ("10.1.2.4", False)
    assert "10.1.1.300" in done.output


@pytest.mark.requirement("REP-11")
def test_what_is_given_is_not_asked_and_what_is_wrong_is_refused_before_anything_is_written(file):
    given = ["--ae-title", "NODE", "--port", "104", "--storage", "data", "--sender", "A@10.0.0.1", "--pacs", "P@h:104",
             "--no-dashboard", "--no-check"]  # fmt: skip
    assert command("--output", str(file), *given, answers="").exit_code == 0
    for wrong in (["--sender", "10.0.0.1"], ["--pacs", "PACS@host"], ["--port", "70000"], ["--sender", "A@nowhere"]):
        other = file.with_name("other.toml")
        assert isinstance(command("--yes", "--output", str(other), *wrong).exception, ConfigError), wrong
        assert not other.exists()


@pytest.mark.requirement("REP-11")
def test_an_end_of_the_questions_in_the_middle_leaves_no_file(file):
    assert command("--output", str(file), answers="NODE\n104\n").exit_code == 1
    assert not file.exists()


@pytest.mark.requirement("REP-11")
def test_it_offers_to_check_the_file_and_says_what_comes_next(file, monkeypatch):
    checked = []
    monkeypatch.setattr(command_module, "doctor", lambda path, **how: checked.append((path, how["offline"])))
    done = command("--output", str(file), "--ae-title", "N", answers="\n\n\n\ny\n\ny\n")
    assert done.exit_code == 0, done.output
    assert checked == [(file, True)]
    for line in ("users add", "doctor", "serve"):
        assert f"dicom-gam {line}" in done.output.partition("Next:")[2]

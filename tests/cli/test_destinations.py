"""`dicom-gam destinations` as an administrator types it, on a storage folder whose node might be running."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli.destinations import app
from dicom_gam.errors import ConfigError
from tests.service.post_office import PostOffice


def command(*arguments: str, config: Path) -> Result:
    return CliRunner().invoke(app, [*arguments, "--config", str(config)], env={"COLUMNS": "200"})


@pytest.fixture
def office(tmp_path: Path) -> Iterator[PostOffice]:
    opened = PostOffice(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def config(office: PostOffice, tmp_path: Path) -> Path:
    """Destinations `pacs` (two dead letters, one waiting) and `web`, and `gone`, which only the outbox knows."""
    path = tmp_path / "node.toml"
    path.write_text(
        '[node]\nstorage = "data"\n'
        '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\ncommitment = true\n'
        '[[destinations]]\nname = "web"\nurl = "https://127.0.0.1/dicom-web"\n'
    )
    office.put("1.1", "pacs", objects=3)
    office.put("1.2", "gone", objects=1)
    first, second, third = office.deliveries()
    for row in (first, second):
        office.outbox.bury(row.delivery_id, 0xC000, "given up after 20 attempts: [it] cannot understand", 10.0)
    office.outbox.postpone(third.delivery_id, 1_700_000_000.0, 0xA700, "full", 10.0)
    return path


def lines(shown: Result) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.stdout.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in cells}


def test_the_list_shows_kind_state_counts_next_try_and_causes(config):
    shown = command("list", config=config)
    assert shown.exit_code == 1
    rows = lines(shown)
    assert rows["pacs"] == ["C-STORE + commitment", "open", "0", "1", "0", "0", "2"]
    assert rows["web"] == ["STOW-RS", "open", "0", "0", "0", "0", "0"]
    assert rows["gone"] == ["not in the settings", "open", "1", "0", "0", "0", "0"]
    assert "pacs: 2 dead letters: given up after 20 attempts: [it] cannot understand" in shown.stdout
    assert "pacs: next try at 2023-11-1" in shown.stdout


def test_the_list_is_what_comes_without_a_command_too(config):
    assert lines(command(config=config)) == lines(command("list", config=config))


def test_an_unreachable_destination_is_listed_with_its_cause(config, office):
    office.outbox.hold("web", 1_700_000_100.0, "connection refused: check host", 1_700_000_000.0)
    shown = command("list", config=config)
    assert lines(shown)["web"][1] == "unreachable"
    assert re.search(r"web: unreachable since 2023-11-1\S+ \S+ tried 1 times: connection refused: check", shown.stdout)


@pytest.mark.requirement("DEL-06")
def test_pause_and_resume_are_shown_and_recorded(config, office):
    assert "pacs: paused" in command("pause", "pacs", "--why", "moving house", config=config).stdout
    assert office.outbox.paused("pacs").why == "moving house"
    shown = command("list", config=config)
    assert lines(shown)["pacs"][1] == "paused"
    assert re.search(r"pacs: paused since 20\S+ \S+ moving house", shown.stdout)
    assert "pacs: resumed" in command("resume", "pacs", config=config).stdout
    assert "was not paused" in command("resume", "pacs", config=config).stdout
    assert office.outbox.paused("pacs") is None
    (paused,), (resumed,) = office.events("destination.paused"), office.events("destination.resumed")
    assert (paused["destination"], paused["why"], resumed["destination"]) == ("pacs", "moving house", "pacs")
    assert paused["by"]


def test_a_pause_needs_a_reason(config):
    assert command("pause", "pacs", config=config).exit_code == 2


@pytest.mark.requirement("DEL-06")
def test_retry_puts_dead_letters_back_with_all_their_attempts(config, office):
    done = command("retry", "pacs", config=config)
    assert "pacs: 2 dead letters are sent again" in done.stdout
    assert office.states() == ["pending", "pending", "retry"]
    assert [row.attempts for row in office.deliveries()] == [0, 0, 1]
    assert len(office.events("destination.retried")) == 1
    assert command("list", config=config).exit_code == 0


def test_retry_of_one_job_leaves_the_others(config, office):
    office.put("1.3", "pacs", objects=1)
    last = office.deliveries()[-1]
    office.outbox.bury(last.delivery_id, None, "refused", 20.0)
    assert "pacs: 1 dead letters" in command("retry", "pacs", "--job", last.job_id, config=config).stdout
    assert office.states() == ["dead", "dead", "retry", "pending"]


@pytest.mark.requirement("DEL-06")
def test_dismiss_ends_dead_letters_for_good_and_keeps_the_reason(config, office):
    assert "pacs: 2 dismissed" in command("dismiss", "pacs", "--why", "test images", config=config).stdout
    assert office.states() == ["dismissed", "dismissed", "retry"]
    (keys,) = office.events("destination.dismissed")
    assert (keys["why"], keys["everything"]) == ("test images", False)


def test_everything_is_dismissed_only_where_nothing_can_be_on_its_way(config, office):
    refused = command("dismiss", "pacs", "--why", "closed", "--everything", config=config)
    assert isinstance(refused.exception, ConfigError)
    assert "pause it first" in str(refused.exception)
    assert "gone: 1 dismissed" in command("dismiss", "gone", "--why", "closed", "--everything", config=config).stdout
    command("pause", "pacs", "--why", "closed", config=config)
    assert "pacs: 3 dismissed" in command("dismiss", "pacs", "--why", "closed", "--everything", config=config).stdout


@pytest.mark.parametrize("arguments", [("pause", "pax", "--why", "x"), ("resume", "pax"), ("retry", "pax")])
def test_an_unknown_name_is_refused_with_the_known_ones(config, office, arguments):
    refused = command(*arguments, config=config)
    assert isinstance(refused.exception, ConfigError)
    assert "there is no destination 'pax'" in str(refused.exception)
    assert "(gone, pacs, web)" in str(refused.exception)


def test_the_storage_folder_alone_will_do(config):
    shown = CliRunner().invoke(app, ["list", "-s", str(config.parent / "data")], env={"COLUMNS": "200"})
    assert lines(shown)["pacs"][0] == "not in the settings"
    assert CliRunner().invoke(app, ["list"]).exit_code == 2


@pytest.mark.requirement("DOC-06")
def test_the_list_is_shown_whole_on_a_terminal_of_eighty_columns(config, office):
    office.outbox.hold("web", 1_700_000_100.0, "connection refused: check host", 1_700_000_000.0)
    shown = CliRunner().invoke(app, ["list", "--config", str(config)], env={"COLUMNS": "80"}).stdout
    assert "…" not in shown
    assert "│unreachable │" in shown

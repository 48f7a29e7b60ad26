"""`dicom-gam reprocess` as a user types it, on a storage folder with two finished images."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from dicom_gam.config import load_settings
from dicom_gam.records import ReceivedInstance
from dicom_gam.service.store import Store, open_store
from dicom_gam.storage.rows import Conclusion, NewJob
from dicom_gam.storage.states import JobEvent

DAY = 86400.0
MIDDLE = time.mktime((2026, 11, 20, 0, 0, 0, 0, 0, -1))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["reprocess", *arguments], env={"COLUMNS": "200"})


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nstorage = "node"\nminimum_free_bytes = 0\n[[rules]]\nname = "all"\nbundle = "new"\n')
    return str(path)


@pytest.fixture
def store(config):
    with open_store(load_settings(Path(config)), create=True) as opened:
        for number, moment in ((1, MIDDLE - DAY), (2, MIDDLE + DAY)):
            receive(opened, number, moment)
        for job in opened.jobs.claim("w", 9, 60.0, time.time()):
            end = Conclusion(JobEvent.FINISH, "PASS", study_instance_uid=f"2.25.9{job.instance.sop_instance_uid[-1]}")
            opened.jobs.finish(job.lease, end, (), time.time())
        yield opened


def receive(store: Store, number: int, moment: float) -> None:
    name = f"{number:032x}"
    stored = store.inbox.write(name, (b"image",))
    instance = ReceivedInstance(stored.path, "1.2.3", f"2.25.{number}", "1.2.840.10008.1.2.1", stored.digest, 5)
    store.jobs.add(NewJob(name, name, instance, moment))


def waiting(store: Store) -> list[tuple[str, str]]:
    return [(job.instance.sop_instance_uid, job.bundle) for job in store.jobs.claim("w", 9, 60.0, time.time())]


@pytest.mark.parametrize(
    ("options", "uid"),
    [
        (["--study", "2.25.91"], "2.25.1"),
        (["--instance", "2.25.2"], "2.25.2"),
        (["--job", f"{1:032x}"], "2.25.1"),
        (["--since", "2026-11-20"], "2.25.2"),
        (["--since", "2026-11-20T12:00"], "2.25.2"),
    ],
)
def test_what_is_selected_is_queued_and_shown_with_how_to_watch_it(store, config, options, uid):
    shown = command("--config", config, *options, "--bundle", "new")
    assert shown.exit_code == 0
    assert "1 are processed again" in shown.stdout
    assert uid in shown.stdout
    assert "audit.jsonl" in shown.stdout
    assert waiting(store) == [(uid, "new")]


def test_all_takes_everything_and_a_dry_run_takes_nothing(store, config):
    shown = command("--config", config, "--all", "--dry-run")
    assert (shown.exit_code, "2 would be processed again" in shown.stdout) == (0, True)
    assert waiting(store) == []
    assert command("--config", config, "--all").exit_code == 0
    assert waiting(store) == [("2.25.1", ""), ("2.25.2", "")]


def test_several_jobs_may_be_named(store, config):
    assert command("--config", config, "--job", f"{1:032x}", "--job", f"{2:032x}").exit_code == 0
    assert len(waiting(store)) == 2


def test_nothing_to_do_is_told_with_the_reason_for_each(store, config):
    with store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET purged_at = 1.0")
    shown = command("--config", config, "--all")
    assert shown.exit_code == 1
    assert shown.stdout.count("its file has been deleted") == 2
    assert "Nothing to do" in shown.stdout


def test_a_study_without_results_is_told_with_the_other_ways(store, config):
    shown = command("--config", config, "--study", "2.25.777")
    assert shown.exit_code == 1
    assert "--instance, --job or --since" in shown.stdout


@pytest.mark.parametrize("wrong", [[], ["--all", "--since", "2026-11-20"], ["--since", "yesterday"]])
def test_a_wrong_selection_is_refused_before_anything_happens(store, config, wrong):
    assert command("--config", config, *wrong).exit_code != 0
    assert waiting(store) == []


def test_a_long_list_is_cut_short(store, config):
    for number in range(3, 43):
        receive(store, number, MIDDLE)
    for job in store.jobs.claim("w", 99, 60.0, time.time()):
        store.jobs.finish(job.lease, Conclusion(JobEvent.SKIP, "SKIPPED"), (), time.time())
    shown = command("--config", config, "--all", "--dry-run")
    assert "42 would be" in shown.stdout
    assert "and 22 more" in shown.stdout
    assert shown.stdout.count("after job") == 20

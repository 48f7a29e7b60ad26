"""`dicom-gam reproduce` as a user types it; what is recomputed is shown in tests/service/test_reproduce.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_gam.cli import reproduce as command_module
from dicom_gam.cli.main import app
from dicom_gam.service.comparison import Comparison, Difference
from dicom_gam.service.reproduce import Outcome, Reproduction
from dicom_gam.service.store import open_store
from tests.service.reproducible import reproducible_settings

SAME = Reproduction("a" * 32, Outcome.EQUAL, "PASS", "", Comparison(193, True, True, 0.0, (), 0.0))
CLOSE = Reproduction("b" * 32, Outcome.EQUAL, "PASS", "", Comparison(193, False, False, 0.4, (), 0.0004))
GONE = Reproduction("c" * 32, Outcome.IMPOSSIBLE, "FAIL", "its image has been deleted")
ODD = Difference("verification.checks.input.score", "1.5", "2.25", 0.75)
OTHER = Reproduction("d" * 32, Outcome.DIFFERENT, "PASS", "", Comparison(193, False, True, 0.0, (ODD,) * 7))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *arguments], env={"COLUMNS": "200"})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the service was asked for; it answers with what stands under "made"."""
    seen: dict[str, Any] = {"made": []}

    def recompute(settings: Any, jobs: Any, bundle: str) -> Iterator[Reproduction]:
        seen.update(storage=settings.node.storage, jobs=jobs, bundle=bundle)
        return iter(seen["made"])

    monkeypatch.setattr(command_module, "recompute", recompute)
    return seen


@pytest.mark.requirement("REP-06")
@pytest.mark.parametrize(
    ("made", "status"), [([SAME, CLOSE], 0), ([SAME, OTHER, GONE], 1), ([SAME, GONE], 2), ([GONE], 2), ([], 0)]
)
def test_the_exit_status_tells_equal_different_and_impossible_apart(asked, made, status):
    asked["made"] = made
    assert command("--all", "--storage", "node").exit_code == status


@pytest.mark.requirement("REP-06")
def test_the_table_says_how_equal_a_result_is_what_differs_by_how_much_and_why_it_can_not_be(asked):
    asked["made"] = [SAME, CLOSE, OTHER, GONE]
    words = command("--all", "--storage", "node").stdout
    for part in (
        "all 193 figures to the bit, attention map too",
        "within tolerance; attention map within 0.0004; the files differ",
        "verification.checks.input.score: was 1.5, is 2.25, by 0.75",
        "and 2 more",
        "can't be reproduced: its image has been deleted",
        "2 equal, 1 different, 1 impossible",
    ):
        assert part in words, part


@pytest.mark.requirement("REP-06")
def test_json_holds_every_difference(asked):
    asked["made"] = [OTHER]
    (item,) = json.loads(command("--all", "--storage", "node", "--json").stdout)
    assert (item["outcome"], len(item["comparison"]["differences"])) == ("different", 7)


def test_jobs_and_bundle_are_handed_on_and_all_means_every_job(asked):
    command("one", "two", "--storage", "node", "--bundle", "old")
    assert (asked["jobs"], asked["bundle"], asked["storage"].name) == (["one", "two"], "old", "node")
    command("--all", "--storage", "node")
    assert asked["jobs"] is None


@pytest.mark.parametrize(
    "arguments", [["--all"], ["--storage", "x"], ["j", "--all", "--storage", "x"], ["j", "--storage", "x", "-c", "y"]]
)
def test_half_a_question_is_refused(asked, arguments):
    assert command(*arguments).exit_code == 2
    assert "jobs" not in asked


@pytest.mark.requirement("REP-06")
def test_a_real_folder_without_that_job_says_so(tmp_path, tiny_bundle_dir):
    with open_store(reproducible_settings(tmp_path / "node", tiny_bundle_dir), create=True):
        pass
    done = command("f" * 32, "--storage", str(tmp_path / "node"))
    assert (done.exit_code, "there is no such job" in done.stdout) == (2, True)

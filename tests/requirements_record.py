"""A pytest plugin that records which requirement was shown by which test: `pytest --requirements-record=FILE`.

The file holds no times, so that a run with the same outcomes writes the same file. It works under xdist.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTION = "--requirements-record"
OUTCOMES = ("failed", "skipped", "passed")  # the worst first: a test is what the worst of its cases is
_PROPERTY = "requirement"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", type=Path, help="write which requirement was shown by which test, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(OPTION) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(config.getoption(OPTION)), "requirements-record")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each report carry the identifiers, for reports are all that comes from a worker of xdist."""
    if config.getoption(OPTION):
        for item in items:
            item.user_properties.extend((_PROPERTY, identifier) for identifier in identifiers_of(item))


def identifiers_of(item: pytest.Item) -> Iterator[str]:
    """The requirements that a test is marked with."""
    for marker in item.iter_markers(_PROPERTY):
        yield from marker.args


class Record:
    """Gathers the reports of a run and writes the file at its end, but for a run that was broken off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, str] = {}
        self._requirements: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return  # of setting up and cleaning up only what went wrong counts
        before = self._outcomes.get(report.nodeid, report.outcome)
        self._outcomes[report.nodeid] = worst([before, report.outcome])
        self._requirements[report.nodeid] = {value for name, value in report.user_properties if name == _PROPERTY}

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self._path.write_text(json.dumps(self.content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def content(self) -> dict[str, object]:
        """What the file holds: the cases of the whole run, and of each requirement its tests and cases."""
        cases: defaultdict[str, Counter[str]] = defaultdict(Counter)
        tests: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for node_id, outcome in self._outcomes.items():
            for identifier in self._requirements[node_id]:
                cases[identifier][outcome] += 1
                tests[identifier][node_id.partition("[")[0]].add(outcome)
        return {
            "cases": counts(Counter(self._outcomes.values())),
            "requirements": {
                identifier: {
                    "cases": counts(cases[identifier]),
                    "tests": {test: worst(outcomes) for test, outcomes in sorted(tests[identifier].items())},
                }
                for identifier in sorted(tests)
            },
        }


def worst(outcomes: Iterator[str] | list[str] | set[str]) -> str:
    """Failed if one failed, else skipped if one was skipped."""
    return min(outcomes, key=OUTCOMES.index)


def counts(cases: Counter[str]) -> dict[str, int]:
    """Every outcome with its number, in a fixed order."""
    return {outcome: cases[outcome] for outcome in reversed(OUTCOMES)}

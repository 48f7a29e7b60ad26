"""Requirements, the tests that carry their identifiers, and the committed table of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from conformance.traceability import (
    DOCUMENT,
    RECORD,
    Record,
    Requirement,
    marked_tests,
    read_record,
    read_requirements,
    render,
)

pytestmark = pytest.mark.requirement("OPS-07")

MADE_TESTS = """
import pytest

pytestmark = [pytest.mark.requirement("A-01"), pytest.mark.timeout(60)]

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.requirement("A-02", "A-03")
def test_of_two_cases(number):
    assert number == 1

@pytest.mark.requirement("A-02")
def test_that_passes():
    pass

@pytest.mark.requirement("A-04")
@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.skip)])
def test_of_which_a_part_is_skipped(number):
    pass

@pytest.fixture
def broken():
    yield
    raise OSError

@pytest.mark.requirement("A-05")
def test_whose_cleaning_up_fails(broken):
    pass

class TestMany:
    @pytest.mark.requirement("A-06")
    def test_in_a_class(self):
        pass
"""
PLUGIN = "pytest_plugins = ['tests.requirements_record']\n"


@pytest.fixture(scope="module")
def marked():
    return marked_tests()


def test_every_identifier_of_a_marker_is_a_requirement(marked):
    known = {requirement.identifier for requirement in read_requirements()[1]}
    assert set(marked) - known == set()


def test_a_requirement_has_a_test_or_says_what_shows_it_instead_and_never_both(marked):
    wrong = [
        item.identifier
        for item in read_requirements()[1]
        if (item.identifier in marked) == (item.tested_by is not None)
    ]
    assert wrong == []


def test_every_recorded_test_is_still_there_and_still_shows_the_requirement(marked):
    there = {(identifier, test) for identifier, tests in marked.items() for test in tests}
    recorded = {
        (identifier, test) for identifier, found in read_record().requirements.items() for test in found["tests"]
    }
    assert recorded - there == set(), "run `make traceability`"


def test_the_document_is_in_step_with_requirements_markers_and_record(marked):
    areas, requirements = read_requirements()
    text = render(areas, requirements, marked, read_record())
    assert DOCUMENT.read_text(encoding="utf-8") == text, "run `python -m conformance.traceability`"


@pytest.fixture(scope="module", params=[(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def made_record(request, tmp_path_factory):
    """A run of the made-up tests, in one process or dealt out to two; gives its record and the tests' folder."""
    folder = tmp_path_factory.mktemp("made") / "tests"
    folder.mkdir()
    (folder / "test_made.py").write_text(MADE_TESTS)
    (folder / "conftest.py").write_text(PLUGIN)
    path = folder / "record.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder.parent)]
    command += ["-o", "markers=requirement\ntimeout", "--requirements-record", str(path), *request.param, str(folder)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the other plugins take seconds to load
    found = subprocess.run(command, cwd=RECORD.parents[1], env=environment, capture_output=True, text=True)
    assert found.returncode == 1, found.stdout + found.stderr
    return json.loads(path.read_text(encoding="utf-8")), folder


def test_a_run_is_recorded_by_requirement_with_each_test_as_its_worst_case(made_record):
    record, _ = made_record
    name = "tests/test_made.py::"
    two, passes = f"{name}test_of_two_cases", f"{name}test_that_passes"
    parts, cleaning, many = (
        f"{name}{rest}"
        for rest in ("test_of_which_a_part_is_skipped", "test_whose_cleaning_up_fails", "TestMany::test_in_a_class")
    )
    assert record["cases"] == {"passed": 4, "skipped": 1, "failed": 2}
    assert {key: value["tests"] for key, value in record["requirements"].items()} == {
        "A-01": {two: "failed", passes: "passed", parts: "skipped", cleaning: "failed", many: "passed"},
        "A-02": {two: "failed", passes: "passed"},
        "A-03": {two: "failed"},
        "A-04": {parts: "skipped"},
        "A-05": {cleaning: "failed"},
        "A-06": {many: "passed"},
    }
    assert record["requirements"]["A-02"]["cases"] == {"passed": 2, "skipped": 0, "failed": 1}


def test_what_stands_in_the_source_is_what_pytest_records(made_record):
    record, folder = made_record
    recorded = {identifier: sorted(found["tests"]) for identifier, found in record["requirements"].items()}
    assert {identifier: sorted(tests) for identifier, tests in marked_tests(folder).items()} == recorded


def test_an_identifier_that_is_not_written_out_is_refused(tmp_path):
    (tmp_path / "test_computed.py").write_text("@pytest.mark.requirement(NAME)\ndef test_it(): pass\n")
    with pytest.raises(ValueError, match="must be written out"):
        marked_tests(tmp_path)


def test_a_failed_skipped_or_missing_result_stands_out_in_the_table():
    requirements = [
        Requirement("A-01", "It works.", "issue 1"),
        Requirement("A-02", "It is quick.", "issue 1", "measured by `make bench`"),
        Requirement("A-03", "It lasts.", "issue 1"),
    ]
    tests = {"A-01": ["tests/test_a.py::test_1"], "A-03": [f"tests/test_a.py::test_{i}" for i in (2, 3, 4, 5)]}
    results = {"test_2": "passed", "test_3": "failed", "test_4": "skipped"}
    cases = {"passed": 7, "skipped": 0, "failed": 0}
    record = Record(
        {"passed": 8, "skipped": 1, "failed": 1},
        {
            "A-01": {"cases": cases, "tests": {"tests/test_a.py::test_1": "passed"}},
            "A-03": {"cases": cases, "tests": {f"tests/test_a.py::{test}": result for test, result in results.items()}},
        },
    )
    text = render({"A": "Area"}, requirements, tests, record)
    assert "3 requirements: 1 with every test passed, 1 with a test that failed, was skipped or not run, 1 with" in text
    assert "| [A-01](#a-01) | It works. | issue 1 | [test_a.py](../tests/test_a.py) (1) | 1 passed (7 cases) |" in text
    assert "| A-02 | It is quick. | issue 1 | no test; measured by `make bench` | – |" in text
    assert "**1 failed, 1 skipped, 1 not run**, 1 passed |" in text
    assert "- not run: `tests/test_a.py::test_5`" in text

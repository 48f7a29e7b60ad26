"""The matrix as a whole: no demand without a test, and the table in the repository is about these demands."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults.table import DEMANDS, fault, render

FOLDER = Path(__file__).parent
TABLE = FOLDER.parents[1] / "conformance" / "FAULTS.md"


def marked() -> list[str]:
    """Every fault that a test of this folder is marked with, read from the source."""
    found = []
    for path in FOLDER.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant)
                found.append(argument.value)
    return found


@pytest.mark.requirement("OPS-08")
def test_every_fault_of_the_matrix_has_a_test():
    assert set(DEMANDS) - set(marked()) == set()


def test_a_fault_that_is_not_in_the_matrix_is_refused():
    with pytest.raises(KeyError, match="add it there"):
        fault("something else")


def test_a_table_that_is_short_of_a_row_is_not_written():
    with pytest.raises(ValueError, match="no test shows: a PDU that says it has 4 GiB"):
        render([])


@pytest.mark.requirement("OPS-08")
def test_the_table_in_the_repository_has_every_row_with_what_is_demanded_and_observed():
    rows = [line.strip("|").split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in row] for row in rows[2:]]
    assert [(row[0], row[1]) for row in cells] == list(DEMANDS.items()), "write it again: see its first lines"
    assert all(row[2] and row[3] for row in cells)

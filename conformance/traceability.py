"""Write TRACEABILITY.md, requirement by requirement, with tests and last results: `python -m conformance.traceability`.

Requirements are those of requirements.toml; which test shows which stands in the tests, as markers, and is read from
their source; the results are those of a run of `pytest --requirements-record=conformance/requirements-record.json`.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER / "TRACEABILITY.md"
REQUIREMENTS = FOLDER / "requirements.toml"
RECORD = FOLDER / "requirements-record.json"
TESTS = FOLDER.parent / "tests"
MARKER = "requirement"
NOT_RUN = "not run"

HEAD = """\
# Traceability

Made by `python -m conformance.traceability`; do not edit. Each requirement of [requirements.toml](requirements.toml)
with the tests that are marked with it and what became of them in the last recorded run of the whole suite
([requirements-record.json](requirements-record.json)). A test counts as its worst case does; cases are the
parametrised variants. A requirement that no test shows says so, and what shows it instead, if anything does.
"""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One checkable statement. `tested_by` is given where no test is marked with it: what shows it, or why nothing."""

    identifier: str
    text: str
    source: str
    tested_by: str | None = None

    @property
    def area(self) -> str:
        """The letters before the number."""
        return self.identifier.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Record:
    """A run of the suite: cases by outcome, as a whole and by requirement, and each test's outcome."""

    cases: Mapping[str, int]
    requirements: Mapping[str, Mapping[str, Any]]

    def outcome(self, identifier: str, test: str) -> str:
        """What became of a test."""
        found = self.requirements.get(identifier, {"tests": {}})["tests"].get(test, NOT_RUN)
        return str(found)


def read_requirements(path: Path = REQUIREMENTS) -> tuple[dict[str, str], list[Requirement]]:
    """The areas' titles, and the requirements in their order. Raises ValueError when they contradict themselves."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    requirements = [
        Requirement(identifier, **keys) for area in content["areas"] for identifier, keys in content[area].items()
    ]
    strays = content.keys() - content["areas"].keys() - {"areas"}
    strays |= {item.identifier for item in requirements if item.area not in content["areas"]}
    if strays:
        msg = f"requirements.toml: no area is called as in {sorted(strays)}: enter it under [areas]"
        raise ValueError(msg)
    return content["areas"], requirements


def read_record(path: Path = RECORD) -> Record:
    """The committed record of a run."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Record(content["cases"], content["requirements"])


def marked_tests(folder: Path = TESTS) -> dict[str, list[str]]:
    """Of each requirement the tests that are marked with it, as pytest names them, read from the source."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        name = path.relative_to(folder.parent).as_posix()
        for test, identifiers in _marked(ast.parse(path.read_text(encoding="utf-8")), ()):
            for identifier in identifiers:
                found[identifier].append(f"{name}::{test}")
    return dict(found)


def _marked(scope: ast.Module | ast.ClassDef, inherited: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every test of a module or class with its identifiers, its own and those of what it stands in."""
    around = tuple(inherited) + tuple(
        identifier
        for node in scope.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]
        for identifier in _identifiers(node.value)
    )
    for node in scope.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        own = around + tuple(identifier for mark in node.decorator_list for identifier in _identifiers(mark))
        if isinstance(node, ast.ClassDef):
            if node.name.startswith("Test"):
                yield from ((f"{node.name}::{test}", identifiers) for test, identifiers in _marked(node, own))
        elif node.name.startswith("test"):
            yield node.name, tuple(dict.fromkeys(own))


def _identifiers(expression: ast.expr) -> Iterator[str]:
    """What stands in `pytest.mark.requirement(...)`, anywhere within an expression."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{MARKER}":
            for argument in node.args:
                if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                    msg = f"line {node.lineno}: an identifier of a requirement must be written out, to be found"
                    raise ValueError(msg)
                yield argument.value


def render(
    areas: Mapping[str, str],
    requirements: Sequence[Requirement],
    tests: Mapping[str, Sequence[str]],
    record: Record,
) -> str:
    """The whole document."""
    parts = [HEAD, _summary(requirements, tests, record)]
    for area, title in areas.items():
        mine = [item for item in requirements if item.area == area]
        rows = [_row(item, tests.get(item.identifier, ()), record) for item in mine]
        table = ["| | requirement | from | shown by | last result |", "|---|---|---|---|---|", *rows]
        parts.append(f"## {title}\n\n" + "\n".join(table) + "\n")
    parts.append("# Every test\n")
    for item in requirements:
        lines = [
            f"- {record.outcome(item.identifier, test)}: `{test}`" for test in sorted(tests.get(item.identifier, ()))
        ]
        if lines:
            parts.append(f"## {item.identifier}\n\n{item.text}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _summary(requirements: Sequence[Requirement], tests: Mapping[str, Sequence[str]], record: Record) -> str:
    marked = [item for item in requirements if tests.get(item.identifier)]
    shown = [item for item in marked if _outcomes(item, tests, record) == {"passed"}]
    names = {test for item in marked for test in tests[item.identifier]}
    run = ", ".join(f"{number} {outcome}" for outcome, number in record.cases.items() if number)
    return (
        f"{len(requirements)} requirements: {len(shown)} with every test passed, "
        f"{len(marked) - len(shown)} with a test that failed, was skipped or not run, "
        f"{len(requirements) - len(marked)} without a test. "
        f"{len(names)} tests are marked.\nThe recorded run, all of its cases: {run or 'none'}.\n"
    )


def _outcomes(item: Requirement, tests: Mapping[str, Sequence[str]], record: Record) -> set[str]:
    return {record.outcome(item.identifier, test) for test in tests[item.identifier]}


def _row(item: Requirement, tests: Sequence[str], record: Record) -> str:
    if not tests:
        return f"| {item.identifier} | {item.text} | {item.source} | no test; {item.tested_by} | – |"
    files: defaultdict[str, int] = defaultdict(int)
    for test in tests:
        files[test.partition("::")[0]] += 1
    links = ", ".join(
        f"[{Path(file).relative_to('tests').as_posix()}](../{file}) ({number})"
        for file, number in sorted(files.items())
    )
    anchor = f"[{item.identifier}](#{item.identifier.lower()})"
    return f"| {anchor} | {item.text} | {item.source} | {links} | {_result(item.identifier, tests, record)} |"


def _result(identifier: str, tests: Sequence[str], record: Record) -> str:
    outcomes = [record.outcome(identifier, test) for test in tests]
    said = [f"{outcomes.count(outcome)} {outcome}" for outcome in ("failed", "skipped", NOT_RUN) if outcome in outcomes]
    if said:
        return "**" + ", ".join(said) + f"**, {outcomes.count('passed')} passed"
    return f"{len(tests)} passed ({record.requirements[identifier]['cases']['passed']} cases)"


def main() -> int:
    """Write the document, or with `--check` say whether it is in step."""
    parser = argparse.ArgumentParser(description="Write conformance/TRACEABILITY.md.")
    parser.add_argument("--record", type=Path, default=RECORD, help="what `pytest --requirements-record=FILE` wrote")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the document is not in step")
    arguments = parser.parse_args()
    areas, requirements = read_requirements()
    text = render(areas, requirements, marked_tests(), read_record(arguments.record))
    if not arguments.check:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if text == DOCUMENT.read_text(encoding="utf-8"):
        return 0
    print("TRACEABILITY.md is not in step: run `python -m conformance.traceability`")
    return 1


if __name__ == "__main__":
    sys.exit(main())

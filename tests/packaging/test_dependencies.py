"""What the package imports is what it declares, and its version is told in one place."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dicom_gam import __version__

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dicom_gam"
NOT_IMPORTED = {
    "pydicom-data",  # files, which pydicom finds
    "requests",  # authlib's client for Flask imports it, and does not declare it
}
PART_OF = {"pydantic-core": "pydantic"}  # which asks for one version of it


def imported() -> dict[str, set[str]]:
    """The distributions that the package imports by name, wherever in a file, and the files that do so."""
    owners = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for name in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "dicom_gam"}:
                assert name in owners, f"{path} imports {name}, which is not installed"
                (owner,) = {canonicalize_name(owner) for owner in owners[name]}
                found.setdefault(PART_OF.get(owner, owner), set()).add(str(path.relative_to(ROOT)))
    return found


def declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {canonicalize_name(one.name): one for one in map(Requirement, project["dependencies"])}


@pytest.mark.requirement("PKG-05")
def test_everything_that_is_imported_is_declared_and_everything_declared_is_imported():
    found = imported()
    assert {name: files for name, files in found.items() if name not in declared()} == {}, "declare it"
    assert set(declared()) - set(found) == NOT_IMPORTED, "declared for nothing"


@pytest.mark.requirement("PKG-05")
def test_every_dependency_has_a_lower_bound_that_what_is_installed_here_meets():
    for name, requirement in declared().items():
        assert any(one.operator == ">=" for one in requirement.specifier), f"{name} has no lower bound"
        assert requirement.specifier.contains(version(name)), f"{name} {version(name)} is not {requirement.specifier}"


@pytest.mark.requirement("PKG-06")
def test_the_version_is_written_once_and_the_changes_begin_with_it():
    written = [path for path in PACKAGE.rglob("*.py") if re.search(r"^__version__\s*=", path.read_text(), re.MULTILINE)]
    assert written == [PACKAGE / "__init__.py"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dicom_gam.__version__"}
    headings = re.findall(r"^## (\S+?),? ", (ROOT / "conformance" / "CHANGES.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == __version__

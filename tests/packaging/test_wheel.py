"""The wheel as an administrator gets it: built from the source distribution, installed where nothing else is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata

from dicom_gam import __version__

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
VERDICTS = {
    "RG1_UNCR.dcm": "PASS",
    "RG3_UNCR.dcm": "REJECT",
    "CT_small.dcm": "UNUSABLE",
    "MR_small.dcm": "UNUSABLE",
    "US1_UNCR.dcm": "UNUSABLE",
}
CONSUMER = """\
import dicom_gam
from dicom_gam.errors import DicomGamError

reveal_type(dicom_gam.__version__)
reveal_type(DicomGamError.mro)
"""


def run(command: list[object], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with nothing in its environment that leads to this repository."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=inherited | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def package_files() -> set[str]:
    """Every file of the package, by its path from the repository's root."""
    found = (path for path in (ROOT / "dicom_gam").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What `python -m build` makes of a copy of the sources, and what it says. The wheel comes from the sdist."""
    copy = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "dicom_gam", copy / "dicom_gam", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    # Not isolated: setuptools comes with the extra `test`, so that nothing is downloaded here.
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist"], copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = (built[0] / "dist").glob("*.whl")
    return found


@pytest.mark.requirement("PKG-01")
def test_the_build_is_clean(built):
    folder, said = built
    made = {path.name for path in (folder / "dist").iterdir()}
    assert made == {f"dicom_gam-{__version__}-py3-none-any.whl", f"dicom_gam-{__version__}.tar.gz"}
    assert {path.name for path in folder.iterdir()} - {*SOURCES, "dicom_gam"} == {"dist", "dicom_gam.egg-info"}
    warnings = [line for line in said.splitlines() if re.search(r"warning", line, re.IGNORECASE)]
    assert warnings == []


@pytest.mark.requirement("PKG-01")
def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    names = set(ZipFile(wheel).namelist())
    about = f"dicom_gam-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == package_files()
    assert {name.removeprefix(about) for name in names if name.startswith(about)} == {
        "licenses/LICENSE",
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "top_level.txt",
    }
    assert {"dicom_gam/py.typed", "dicom_gam/bundles/radiograph-anatomy/weights.safetensors"} <= names


@pytest.mark.requirement("PKG-01")
def test_the_source_distribution_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[0] / "dist" / f"dicom_gam-{__version__}.tar.gz") as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made_by_setuptools = {name for name in names if name.startswith("dicom_gam.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made_by_setuptools == package_files() | set(SOURCES)


@pytest.mark.requirement("PKG-02")
def test_the_metadata_are_valid_and_say_what_pyproject_says(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with ZipFile(wheel) as archive:
        text = archive.read(f"dicom_gam-{__version__}.dist-info/METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert (metadata.name, str(metadata.version)) == (project["name"], __version__)
    assert (metadata.license_expression, metadata.license_files) == ("Apache-2.0", ["LICENSE"])
    assert str(metadata.requires_python) == project["requires-python"]
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([one for one in metadata.requires_dist or [] if not one.marker]) == len(project["dependencies"])


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `bin` folder of an environment that held nothing, and then the wheel.

    What it depends on comes in the versions tested here: from uv's cache where it has them, else from the index.
    """
    folder = tmp_path_factory.mktemp("empty")
    uv = [sys.executable, "-m", "uv"]
    assert run([*uv, "venv", "--python", sys.executable, "environment"], folder).returncode == 0
    pins = {f"{one.name}=={one.version}" for one in distributions() if one.name != "dicom-gam"}
    (folder / "pins.txt").write_text("\n".join(sorted(pins)))
    install = ["pip", "install", "--python", "environment", "--constraint", "pins.txt", wheel]
    done = run([*uv, "--offline", *install], folder)
    if done.returncode:
        done = run([*uv, *install], folder)
    assert done.returncode == 0, f"the wheel can't be installed:\n{done.stderr}"
    return folder / "environment" / "bin"


@pytest.mark.requirement("PKG-03")
def test_the_wheel_in_an_empty_environment_gives_the_command_and_runs_the_demo(installed, tmp_path):
    told = run([installed / "dicom-gam", "--version"], tmp_path)
    assert (told.returncode, told.stdout.strip()) == (0, f"dicom-gam {__version__}"), told.stderr

    demo = run([installed / "dicom-gam", "demo", "--output", "out"], tmp_path)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    table = dict(re.findall(r"^│ (\w+\.dcm) +│[^│]+│ (\w+) +│", demo.stdout, re.MULTILINE))
    assert table == VERDICTS
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == 2
    assert "chain unbroken" in demo.stdout
    assert demo.stderr == ""


@pytest.mark.requirement("PKG-03")
def test_the_default_bundle_of_the_installed_wheel_is_whole(installed, tmp_path):
    checked = run([installed / "dicom-gam", "bundle", "check"], tmp_path)
    assert (checked.returncode, "radiograph-anatomy" in checked.stdout) == (0, True), checked.stdout + checked.stderr


@pytest.mark.requirement("PKG-04")
def test_a_program_that_uses_the_installed_package_sees_its_types(installed, tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    python = installed / "python"
    checked = run([sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "consumer.py"], tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert 'Revealed type is "str"' in checked.stdout
    assert "Any" not in checked.stdout

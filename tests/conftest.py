"""What every part of the tests may use."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ("tests.requirements_record",)

# DCMTK's programs before pynetdicom's of the same names, which an activated environment would find first.
_own = str(Path(sys.prefix) / "bin")
_others = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder != _own]
os.environ["PATH"] = os.pathsep.join([*_others, _own])

# Where nothing may be compiled for good, each of the many processes that tests start compiles torch anew: eight seconds
# of its thirteen. Bytecode goes where it is in nobody's way; workers and processes inherit the place.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parents[1] / "build" / "bytecode")
    sys.dont_write_bytecode = False

# A gate gives the same answer twice: its examples are always the same. HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile("gate", derandomize=True, database=None)
hypothesis.settings.register_profile("explore", derandomize=False, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


SHORT = {"bundle", "dicom", "storage"}  # folders in which no file takes long


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put short files last: else a worker has a long one in hand at the end, and the others nothing."""
    items.sort(key=lambda item: item.path.parent.name in SHORT)


def pytest_collection_finish() -> None:
    """Have the collector look only through what the tests make: with torch loaded the rest takes it a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def garbage_collected() -> Iterator[None]:
    """Have the garbage collector complain within the test that made the garbage."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def tiny_bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle on disk, made once a session; copy it before changing anything in it."""
    from tests.tiny_bundle import make_tiny_bundle  # noqa: PLC0415 (torch is loaded only by tests that need it)

    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny-shapes")

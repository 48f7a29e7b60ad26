"""A command that is run by somebody else than the node's user says so, in a sentence."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dicom_gam.config import settings_from
from dicom_gam.errors import StorageError
from dicom_gam.service import doctor
from dicom_gam.service.doctor import examine
from dicom_gam.service.doctor_case import Case, Finding, Level, ok
from dicom_gam.service.doctor_checks import check_folder, check_jobs
from dicom_gam.service.store import DATABASE_FILE, database_of, own

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture
def closed() -> Iterator[Path]:
    """A node's folder that we may see and not look into, in an open one; root is somebody else for as long as that."""
    with tempfile.TemporaryDirectory() as open_folder:  # pytest's own are closed to others all the way up
        folder = Path(open_folder, "data")
        folder.mkdir()
        folder.parent.chmod(0o755)
        (folder / DATABASE_FILE).touch()
        folder.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        yield folder
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_command_beside_a_node_says_whose_folder_it_is_not(closed):
    with pytest.raises(StorageError, match=r"Permission denied.*: run this as the user that the node runs as"):
        database_of(closed)


def test_a_node_over_somebody_elses_folder_says_why_it_does_not_start(closed):
    with pytest.raises(StorageError, match=r"Permission denied.*: run this as the user that the folder belongs to"):
        own(closed)


def test_the_doctor_takes_a_closed_folder_for_no_defect_of_its_own(closed, monkeypatch):
    checks = (("storage folder", check_folder, False), ("jobs", check_jobs, False), ("within", look_within, False))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(doctor, "load_settings", lambda _: settings_from({"node": {"storage": str(closed)}}))
    found = list(examine(closed.parent / "node.toml"))[1:]
    assert [(item.check, item.level) for item in found] == [(name, Level.FAIL) for name, *_ in checks]
    assert all("run" in item.found + item.remedy and "user" in item.found + item.remedy for item in found)
    assert not any("defect" in item.remedy for item in found)


def look_within(case: Case) -> Iterator[Finding]:
    yield ok(str((case.folder / "stray").stat()))

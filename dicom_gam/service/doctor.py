"""What is wrong with a node and what to do about it, in plain words; nothing is changed by looking.

Each check is on its own: whatever one meets, the others are made. The quick ones come first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.config import load_settings
from dicom_gam.errors import DicomGamError
from dicom_gam.service import doctor_checks, doctor_door, doctor_image, doctor_oversight
from dicom_gam.service.doctor_case import Case, Finding, Level
from dicom_gam.service.loop import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    Check = Callable[[Case], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Examined:
    """One finding of one check, and how long the check took up to it."""

    check: str
    level: Level
    found: str
    remedy: str
    seconds: float


# What is looked at, what looks, and whether that needs others to answer.
CHECKS: tuple[tuple[str, Check, bool], ...] = (
    ("storage folder", doctor_checks.check_folder, False),
    ("disk space", doctor_checks.check_space, False),
    ("node", doctor_door.check_running, False),
    ("access", doctor_door.check_access, False),
    ("TLS certificate", doctor_door.check_certificates, False),
    ("clock", doctor_checks.check_clock, False),
    ("open files", doctor_door.check_descriptors, False),
    ("jobs", doctor_checks.check_jobs, False),
    ("deliveries", doctor_checks.check_deliveries, False),
    ("disk writes", doctor_checks.check_writes, False),
    ("bundles", doctor_image.check_bundles, False),
    ("computing device", doctor_image.check_device, False),
    ("other systems", doctor_door.check_peers, True),
    ("audit repository", doctor_oversight.check_repository, True),
    ("notifications", doctor_oversight.check_notifications, True),
    ("database", doctor_checks.check_database, False),
    ("audit log", doctor_checks.check_audit, False),
    ("test image", doctor_image.check_image, False),
)
SENT_IMAGE = ("sent test image", doctor_image.check_sent_image)


def examine(
    config: Path,
    *,
    offline: bool = False,
    send_test_image: bool = False,
    looking: Callable[[str], object] = str,
) -> Iterator[Examined]:
    """Make every check and yield what it finds, as it comes. Never raises for what is wrong with the node.

    `offline` leaves other systems alone. `send_test_image` sends one to the running node, whose results go where the
    rules say. `looking` is told what comes next.
    """
    began = time.monotonic()
    try:
        settings = load_settings(config)
    except DicomGamError as error:
        remedy = "correct the configuration first; nothing else was looked at"
        yield Examined("configuration", Level.FAIL, str(error), remedy, time.monotonic() - began)
        return
    yield Examined("configuration", Level.OK, f"{config} is valid", "", time.monotonic() - began)
    case = Case(settings)
    for what, check, needs_others in CHECKS:
        if offline and needs_others:
            continue
        looking(what)
        yield from _made(what, check, case)
    if send_test_image:
        looking(SENT_IMAGE[0])
        yield from _made(*SENT_IMAGE, case)


def exit_status(levels: Iterable[Level]) -> int:
    """0 when all is well, 1 with warnings, 2 with failures."""
    return max((int(level) for level in levels), default=0)


def _made(what: str, check: Check, case: Case) -> Iterator[Examined]:
    began = time.monotonic()
    try:
        for finding in check(case):
            yield Examined(what, finding.level, finding.found, finding.remedy, time.monotonic() - began)
    except DicomGamError as error:
        yield Examined(what, Level.FAIL, str(error), "", time.monotonic() - began)
    except PermissionError as error:
        found = f"{error.filename} is closed to the user who runs this"
        yield Examined(what, Level.FAIL, found, "run it as the user of the service", time.monotonic() - began)
    except Exception as error:  # the outermost loop of the doctor: no fault may hide the others
        remedy = "this is a defect of `dicom-gam doctor` itself, report it"
        yield Examined(what, Level.FAIL, f"could not be looked at: {describe(error)}", remedy, time.monotonic() - began)

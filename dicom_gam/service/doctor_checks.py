"""The doctor's look at the node's folder: disk, database, queue, deliveries, audit log; and at the clock."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dicom_gam.service.audit_check import check_log, signatures_told
from dicom_gam.service.doctor_case import Level, duration, fail, ok, size, warn
from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.audit_signing import KEY_FILE
from dicom_gam.storage.inspection import destination_reports, faults, job_report, layout, log_bytes
from dicom_gam.storage.layouts import SCHEMA_VERSION
from dicom_gam.storage.states import OPEN_DELIVERY_STATES, DeliveryState, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicom_gam.service.doctor_case import Case, Finding
    from dicom_gam.storage.inspection import DestinationReport

SLOW_WRITE_S = 0.1  # three of them stand between an image and its Success
WRITES = 7
INODES = 10_000
WAITING_LONG_S = 900.0
LATELY_S = 7 * 86400.0
LOG_LARGE_BYTES = 512 * 1024**2
CLOCK_OFF_S = 60.0
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
LATEST = datetime(2060, 1, 1, tzinfo=UTC).timestamp()
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


def check_folder(case: Case) -> Iterator[Finding]:
    """The storage folder: there, ours, closed to others."""
    folder = case.folder
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if os.access(above, os.W_OK | os.X_OK):
            yield ok(f"{folder} does not exist yet: the node makes it when it starts")
        else:
            yield fail(f"{folder} does not exist, and {above} can't be written to", "make it for the service's user")
        return
    if not folder.is_dir():
        yield fail(f"{folder} is not a folder", "set node.storage to a folder")
        return
    status = folder.stat()
    sound = True
    if status.st_uid != os.geteuid():
        sound = False
        found = _of_another(folder, status.st_uid)
        yield found
        if found.level is Level.FAIL:
            return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        sound = False
        yield fail(f"{folder} can't be written to by {_user(os.geteuid())}", "give the service's user the right to")
    if status.st_mode & 0o077:
        sound = False
        yield warn(
            f"{folder} is open to other users of this machine (mode {status.st_mode & 0o777:04o}), it holds images",
            f"chmod 700 {folder}",
        )
    strays = _files_in(folder / "stray")
    if strays:
        sound = False
        yield warn(
            f"{strays} files without a job lie in {folder / 'stray'}: interrupted arrivals, never acknowledged",
            "their senders will have sent them again: delete them once you are sure",
        )
    if sound:
        note = "" if case.database else "; no node has run on it yet"
        yield ok(f"{folder} is there, belongs to {_user(status.st_uid)} and is closed to others{note}")


def _of_another(folder: Path, owner: int) -> Finding:
    closed = not os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
    return (fail if closed else warn)(
        f"{folder} belongs to {_user(owner)}, and this is run by {_user(os.geteuid())}",
        f"run it as the user of the service: runuser -u {_user(owner)} -- dicom-gam doctor ...",
    )


def check_space(case: Case) -> Iterator[Finding]:
    """Free space against the two watermarks, and inodes."""
    folder = _existing(case.folder)
    usage, node, retention = shutil.disk_usage(folder), case.settings.node, case.settings.retention
    found = f"{size(usage.free)} of {size(usage.total)} are free at {folder}"
    space = "free some space: shorten retention.images_days, or give node.storage a larger disk"
    if usage.free < node.minimum_free_bytes:
        limit = size(node.minimum_free_bytes)
        yield fail(f"{found}, less than node.minimum_free_bytes ({limit}): images are refused (A700)", space)
    elif usage.free < retention.make_room_below_bytes:
        limit = size(retention.make_room_below_bytes)
        yield warn(
            f"{found}, less than retention.make_room_below_bytes ({limit}): delivered images go before their time",
            space,
        )
    else:
        yield ok(found)
    if 0 < retention.make_room_below_bytes <= node.minimum_free_bytes:
        yield warn(
            "retention.make_room_below_bytes is not above node.minimum_free_bytes: images are refused before room is "
            "made for them",
            "set it well above, such as to four times as much",
        )
    inodes = os.statvfs(folder)
    if inodes.f_files and inodes.f_favail < INODES:
        yield fail(f"only {inodes.f_favail} inodes are free at {folder}", "delete small files, or use another disk")


def check_writes(case: Case) -> Iterator[Finding]:
    """Whether writing durably works, and how long it takes."""
    if not case.folder.is_dir():
        return
    times = []
    try:
        with tempfile.NamedTemporaryFile(dir=case.folder, prefix="doctor-") as file:
            for _ in range(WRITES):
                began = time.monotonic()
                file.write(b"\0" * 65536)
                file.flush()
                os.fsync(file.fileno())
                times.append(time.monotonic() - began)
    except OSError as error:
        yield fail(f"{case.folder} can't be written to durably ({error.strerror})", "see to the disk and its rights")
        return
    middle = statistics.median(times)
    found = f"64 KiB are written durably in {1000 * middle:.1f} ms (longest {1000 * max(times):.1f} ms)"
    if middle > SLOW_WRITE_S:
        yield warn(f"{found}: every image waits for several such writes", "put node.storage on a faster, local disk")
    else:
        yield ok(found)


def check_database(case: Case) -> Iterator[Finding]:
    """Whether the database file is whole, and of the layout that this version knows."""
    path = case.database
    if path is None:
        return
    version = layout(path)
    if version > SCHEMA_VERSION:
        remedy = "run the version that wrote it, or a newer one"
        yield fail(f"{path} has the layout {version}, this version knows {SCHEMA_VERSION}", remedy)
        return
    wrong = faults(path)
    if wrong:
        remedy = "stop the node, copy the folder away, restore the database from a backup"
        yield fail(f"{path} is damaged: {'; '.join(wrong)}", remedy)
        return
    large = log_bytes(path)
    if large > LOG_LARGE_BYTES:
        yield warn(
            f"{path}-wal has grown to {size(large)}", "end programs that keep the database open; restart the node"
        )
    note = "" if version == SCHEMA_VERSION else f", of layout {version}: the next start brings it to {SCHEMA_VERSION}"
    yield ok(f"{path.name} is whole ({size(path.stat().st_size + large)}{note})")


def check_jobs(case: Case) -> Iterator[Finding]:
    """What waits, what is stuck, what failed."""
    path = _current_database(case)
    if path is None:
        return
    now, runs = time.time(), case.runs
    report = job_report(path, now, LATELY_S)
    waiting, working = report.counts[JobState.RECEIVED], report.counts[JobState.PROCESSING]
    sound = True
    if report.lapsed and runs:
        sound = False
        yield warn(
            f"{report.lapsed} jobs are in work by a worker that has fallen silent",
            "they are taken back within processing.lease_s; if not, see the node's log and restart it",
        )
    age = 0.0 if report.oldest_waiting_at is None else now - report.oldest_waiting_at
    if waiting and (age > WAITING_LONG_S or not runs):
        sound = False
        why = "the node keeps up too slowly, or its worker fails: see its log" if runs else "start the node"
        yield warn(f"{waiting} images wait to be processed, the oldest for {duration(age)}", why)
    failed, quarantined = report.ended_lately[JobState.FAILED], report.ended_lately[JobState.QUARANTINED]
    if failed:
        sound = False
        yield warn(
            f"{failed} jobs have failed within {duration(LATELY_S)}: their images have no result",
            "see job.failed in the audit log, remove the cause, then: dicom-gam reprocess",
        )
    if quarantined:
        sound = False
        yield warn(
            f"{quarantined} images were quarantined within {duration(LATELY_S)}: other bytes came under the same UID",
            "find out at the sender which of the two is right",
        )
    if sound:
        done = sum(report.counts.values()) - waiting - working
        yield ok(f"{waiting} wait, {working} in work, {done} ended; none failed lately, none quarantined")


def check_deliveries(case: Case) -> Iterator[Finding]:
    """What has not arrived where it should, and why."""
    path = _current_database(case)
    if path is None:
        return
    known = {destination.name for destination in case.settings.destinations}
    if not known:
        yield warn("there are no destinations: results stay here", "add [[destinations]] to the configuration")
    reports = destination_reports(path)
    for report in reports:
        yield from _destination(report, known)
    if known and not reports:
        yield ok("nothing had to be delivered yet")


def _destination(report: DestinationReport, known: set[str]) -> Iterator[Finding]:
    waiting = sum(report.counts[state] for state in OPEN_DELIVERY_STATES)
    dead = report.counts[DeliveryState.DEAD]
    if waiting and report.name not in known:
        remedy = "put it back under [[destinations]], or see: dicom-gam destinations dismiss --help"
        yield fail(f"{waiting} results wait for {report.name}, which is no destination any more", remedy)
    elif report.paused is not None:
        why = f" ({report.paused})" if report.paused else ""
        yield warn(
            f"{report.name} is paused{why}: {waiting} results wait",
            f"when it is ready: dicom-gam destinations resume {report.name}",
        )
    elif waiting and time.time() - (report.oldest_open_at or time.time()) > WAITING_LONG_S:
        age = duration(time.time() - (report.oldest_open_at or 0))
        yield warn(
            f"{waiting} results wait for {report.name}, the oldest for {age}: {report.last_cause or 'not tried yet'}",
            "remove the cause; they are sent by themselves then",
        )
    for cause, count in report.causes:
        yield fail(
            f"{count} of {dead} dead letters for {report.name}: {cause}",
            f"remove the cause, then: dicom-gam destinations retry {report.name} (or dismiss them)",
        )
    if not dead:
        yield ok(f"{report.name}: {report.counts[DeliveryState.SENT]} delivered, {waiting} on their way, none given up")


def check_audit(case: Case) -> Iterator[Finding]:
    """Whether no record of the audit log was edited, deleted or cut off, and whether it is signed in time."""
    path = _current_database(case)
    if path is None:
        return
    found = check_log(case.folder)
    told = f"{AUDIT_FILE}: {found.records} records, unbroken, {signatures_told(found)}"
    interval_s = case.settings.audit.checkpoint_interval_s
    late = found.signed_at and time.time() - datetime.fromisoformat(found.signed_at).timestamp() > 2 * interval_s + 60
    if case.runs and late:
        yield warn(told, "it is overdue: see the node's log for `audit.checkpoint failed`")
    else:
        yield ok(told)
    key = case.settings.audit.key or case.folder / KEY_FILE
    if key.exists() and key.stat().st_mode & 0o077:
        yield warn(f"{key} signs the audit log, and others than its owner may read it", f"chmod 600 {key}")


def check_clock(case: Case) -> Iterator[Finding]:
    """The clock: it stands in every result, and deletes images."""
    now, sound = time.time(), True
    remedy = "set the clock and have it kept right (timedatectl set-ntp true)"
    if not EARLIEST < now < LATEST:
        sound = False
        yield fail(f"the clock says {_moment(now)}, which can't be", remedy)
    path = _current_database(case)
    newest = None if path is None else job_report(path, now, LATELY_S).newest_at
    if newest is not None and newest > now + CLOCK_OFF_S:
        sound = False
        yield fail(f"the latest image was received at {_moment(newest)}, and the clock says {_moment(now)}", remedy)
    off = _file_system_ahead_s(case.folder)
    if off is not None and abs(off) > CLOCK_OFF_S:
        sound = False
        yield warn(f"the clock of the file system is {off:+.0f} s from ours", "set the file server's clock")
    kept = _synchronised()
    if kept is False:
        sound = False
        yield warn(f"the clock says {_moment(now)}, but no time server keeps it right", remedy)
    if sound:
        note = "" if kept else "; whether a time server keeps it right can't be seen from here"
        yield ok(f"{_moment(now)}{note}")


def _synchronised() -> bool | None:
    """Whether the kernel's clock is kept right by NTP or the like; None where it can't be asked."""
    try:
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # `modes` 0: only look
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != _UNSYNCHRONISED


def _file_system_ahead_s(folder: Path) -> float | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="doctor-") as file:
            file.write(b"\0")
            file.flush()
            return os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:  # there are checks for that
        return None


def _current_database(case: Case) -> Path | None:
    """The database, if this version can read it; `check_database` says why it can't."""
    path = case.database
    return path if path is not None and layout(path) == SCHEMA_VERSION else None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _files_in(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _moment(time_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(time_s).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    except (OverflowError, OSError, ValueError):
        return f"{time_s:.0f} s"

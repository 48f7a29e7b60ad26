"""`dicom-gam fetch`: studies that an operator names come from a source and are taken in as if they had been sent.

It works beside a running node and without one: what is taken in waits in the queue. The right to write into the inbox
is held for one instance at a time, so that a slow source never keeps a node from starting.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicom_gam.dicom.identity import is_uid
from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES
from dicom_gam.dicom.scu.dicomweb_source import WebSource
from dicom_gam.dicom.scu.dimse_source import DimseSource
from dicom_gam.dicom.scu.retrieve import RetrieveError, Station, Taken, why_not_wanted
from dicom_gam.errors import ConfigError, DicomGamError, StorageError
from dicom_gam.service.intake import Intake
from dicom_gam.service.store import hold_intake, lock, open_store
from dicom_gam.storage.rows import Receipt, ReceiptKind
from dicom_gam.storage.sqlite_instances import SqliteInstances
from dicom_gam.storage.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dicom_gam.config import Settings
    from dicom_gam.dicom.arrival import Arrival, Reception
    from dicom_gam.dicom.scu.retrieve import Listed
    from dicom_gam.sections import Source
    from dicom_gam.service.store import Store

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one study is: `done` of `total` instances have been dealt with."""

    study_instance_uid: str
    done: int
    total: int


@dataclass(slots=True)
class FetchReport:
    """What became of one study. `error` says why it broke off; it is empty when it went through."""

    study_instance_uid: str
    found: list[Listed] = field(default_factory=list)
    skipped: list[Listed] = field(default_factory=list)
    stored: int = 0
    duplicates: int = 0
    quarantined: int = 0
    refused: list[Taken] = field(default_factory=list)
    error: str = ""

    @property
    def wanted(self) -> list[Listed]:
        """What is to be got: all that was found, without what is no radiograph."""
        skipped = {item.sop_instance_uid for item in self.skipped}
        return [item for item in self.found if item.sop_instance_uid not in skipped]

    @property
    def missing(self) -> int:
        """How many wanted instances nothing is known of, because it broke off before."""
        known = self.stored + self.duplicates + self.quarantined + len(self.refused)
        return len(self.found) - len(self.skipped) - known

    @property
    def complete(self) -> bool:
        """Whether all that is wanted of the study is here and will be processed, or has been."""
        return not (self.error or self.refused or self.quarantined or self.missing)

    def add(self, taken: Taken) -> None:
        """Count one instance."""
        if not isinstance(taken.receipt, Receipt):
            self.refused.append(taken)
        elif taken.receipt.kind is ReceiptKind.NEW:
            self.stored += 1
        elif taken.receipt.kind is ReceiptKind.DUPLICATE:
            self.duplicates += 1
        else:
            self.quarantined += 1


def source_named(settings: Settings, name: str | None) -> Source:
    """The source of this name, or the only one there is. Raises ConfigError that names those there are."""
    if name is None and len(settings.sources) == 1:
        return settings.sources[0]
    for source in settings.sources:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in settings.sources) or "none yet"
    if name is None:
        msg = f"which source? Give one of [[sources]] (there are: {known}), such as by --from NAME"
    else:
        msg = f"there is no source {name!r} among [[sources]]: add it there, or give one of these: {known}"
    raise ConfigError(msg)


def survey_studies(settings: Settings, source: Source, study_uids: Sequence[str]) -> Iterator[FetchReport]:
    """See what a source has of studies, without getting or recording anything. Failures are in the reports."""

    def nowhere(_: Arrival) -> Reception:
        raise RetrieveError("nothing was asked for")

    station = _station(settings, source, nowhere)
    for uid in dict.fromkeys(study_uids):
        report = FetchReport(uid)
        try:
            with _opened(source, station) as remote:
                _find(remote, report, settings, source)
        except DicomGamError as error:
            report.error = str(error)
        yield report


def fetch_studies(
    settings: Settings, source: Source, study_uids: Sequence[str], tell: Callable[[Progress], None]
) -> Iterator[FetchReport]:
    """Get studies, one after the other, and yield what became of each; one that fails does not stop the next.

    `tell` must not raise. Raises StorageError or AuditError when our own side can't go on.
    """
    with open_store(settings, create=True) as store:
        for uid in dict.fromkeys(study_uids):
            yield _fetch_one(settings, source, store, uid, tell)


def _fetch_one(
    settings: Settings, source: Source, store: Store, uid: str, tell: Callable[[Progress], None]
) -> FetchReport:
    report = FetchReport(uid)
    keys = {"source": source.name, "study_instance_uid": uid if is_uid(uid) else "invalid"}
    store.audit.append("fetch.started", **keys)
    try:
        station = _station(settings, source, _Door(store).receive)
        with _opened(source, station) as remote:
            _find(remote, report, settings, source)
            if isinstance(remote, DimseSource) and source.retrieve == "c-move":
                _move(remote, report, source, store, settings, tell)
            else:
                _get(remote, report, tell)
    except DicomGamError as error:
        report.error = str(error)
    except BaseException:
        store.audit.append("fetch.failed", **keys, **_counted(report), why="interrupted")
        raise
    if report.error:
        store.audit.append("fetch.failed", **keys, **_counted(report), why=report.error)
    else:
        store.audit.append("fetch.finished", **keys, **_counted(report))
    return report


def _find(remote: DimseSource | WebSource, report: FetchReport, settings: Settings, source: Source) -> None:
    uid = report.study_instance_uid
    if not is_uid(uid):
        raise RetrieveError("it is no UID: a Study Instance UID is digits and dots, at most 64 characters")
    report.found = list({item.sop_instance_uid: item for item in remote.find(uid)}.values())
    if not report.found:
        msg = (
            f"source {source.name} knows no such study: check the Study Instance UID, whether the study has arrived "
            "there yet or was moved to another archive, and whether that archive lets us see it"
        )
        raise RetrieveError(msg)
    extra = settings.intake.extra_sop_classes
    report.skipped = [item for item in report.found if why_not_wanted(item, extra)]


def _get(remote: DimseSource | WebSource, report: FetchReport, tell: Callable[[Progress], None]) -> None:
    wanted = report.wanted

    def done(taken: Taken) -> None:
        report.add(taken)
        tell(Progress(report.study_instance_uid, len(wanted) - report.missing, len(wanted)))

    tell(Progress(report.study_instance_uid, 0, len(wanted)))
    if wanted:
        remote.get(wanted, done)


def _move(
    remote: DimseSource,
    report: FetchReport,
    source: Source,
    store: Store,
    settings: Settings,
    tell: Callable[[Progress], None],
) -> None:
    """Have the archive send to our running node, and look in the job table for what has come."""
    wanted = report.wanted
    if not wanted:
        return
    if not _node_runs(store):
        msg = (
            f"source {source.name} sends to this node (source.retrieve is c-move), and the node does not run: start "
            "dicom-gam serve, or set source.retrieve to c-get"
        )
        raise RetrieveError(msg)
    instances = SqliteInstances(store.database)
    uids = [item.sop_instance_uid for item in wanted]
    before = instances.states(uids)

    def moved(gone: int) -> None:
        tell(Progress(report.study_instance_uid, gone, len(wanted)))

    failures = remote.move(wanted, moved)
    deadline = time.monotonic() + source.timeout_s
    after = instances.states(uids)
    # Some archives answer before they have sent.
    while not all(after[uid] or uid in failures for uid in uids) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        after = instances.states(uids)
    unseen = (
        f"the source says that it was sent, but it has not arrived: check that {settings.node.ae_title} stands in the "
        "source's list of destinations with this node's address and port, and that access.callers lets the source in"
    )
    for uid in uids:
        report.add(_arrived(uid, before[uid], after[uid], failures.get(uid, "" if after[uid] else unseen)))


def _arrived(uid: str, before: list[JobState], after: list[JobState], failure: str) -> Taken:
    """What the job table says of an instance that was moved; a failure counts where nothing new has come."""
    new = after[len(before) :]
    if not new and failure:
        return Taken(uid, why=failure)
    kind = ReceiptKind.DUPLICATE
    if new:
        kind = ReceiptKind.CONFLICT if new[-1] is JobState.QUARANTINED else ReceiptKind.NEW
    return Taken(uid, Receipt(kind, ""))


def _node_runs(store: Store) -> bool:
    try:
        descriptor = lock(store.folder / "node.lock", fcntl.LOCK_SH, 0.0, "a node runs on it")
    except StorageError:
        return True
    os.close(descriptor)
    return False


@contextmanager
def _opened(source: Source, station: Station) -> Iterator[DimseSource | WebSource]:
    if source.url is None:
        yield DimseSource(source, station)
        return
    with closing(WebSource(source, station)) as remote:
        yield remote


def _station(settings: Settings, source: Source, receive: Callable[[Arrival], Reception]) -> Station:
    host = source.host if source.url is None else urlsplit(source.url).hostname
    return Station(
        ae_title=settings.node.ae_title,
        calling_ae_title=source.ae_title or source.name,
        peer_address=host or "",
        sop_classes=tuple(dict.fromkeys((*ACCEPTED_SOP_CLASSES, *settings.intake.extra_sop_classes))),
        maximum_instance_bytes=settings.node.maximum_instance_bytes,
        receive=receive,
    )


def _counted(report: FetchReport) -> dict[str, int]:
    return {
        "found": len(report.found),
        "skipped": len(report.skipped),
        "stored": report.stored,
        "duplicates": report.duplicates,
        "quarantined": report.quarantined,
        "refused": len(report.refused),
        "missing": report.missing,
    }


class _Door:
    """The way into the inbox, for one instance after the other."""

    def __init__(self, store: Store) -> None:
        self._folder = store.folder
        self._intake = Intake(store.inbox, store.jobs, store.audit, lambda: None)

    def receive(self, arrival: Arrival) -> Reception:
        """Start taking an arrival in, with the right to write into the inbox."""
        descriptor = hold_intake(self._folder)
        try:
            return _HeldReception(self._intake.receive(arrival), descriptor)
        except BaseException:
            os.close(descriptor)
            raise


class _HeldReception:
    """`arrival.Reception` that gives the right to write back when it ends; `abandon` always has to follow."""

    def __init__(self, inner: Reception, descriptor: int) -> None:
        self._inner = inner
        self._descriptor = descriptor

    def write(self, part: bytes | memoryview) -> None:
        """Append the next bytes of the data set."""
        self._inner.write(part)

    def commit(self) -> object:
        """Make it durable."""
        return self._inner.commit()

    def abandon(self) -> None:
        """Leave nothing that is not durable, and give the right back."""
        self._inner.abandon()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

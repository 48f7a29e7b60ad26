"""The node's figures for Prometheus, read at each scrape. No label and no value tells anything about a patient.

Counters are counted from the jobs themselves, whose rows are kept for good, so that they go on after a restart.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from dicom_gam import __version__
from dicom_gam.errors import DicomGamError
from dicom_gam.service.readiness import ReadinessReader, loop_title
from dicom_gam.service.store import AUDIT_FILE, database_of
from dicom_gam.storage.audit_reader import latest_checkpoint
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_drift import SqliteDrift
from dicom_gam.storage.sqlite_metrics import MetricsFigures, SqliteMetrics
from dicom_gam.storage.states import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from dicom_gam.service.vitals import Vitals
    from dicom_gam.storage.rows import DriftReading
    from dicom_gam.web.site import Site

MOST_SENDERS = 50  # AE titles come from the network: with more of them, later ones are counted together
OTHER = "other"
_LONGEST_LABEL = 64


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The figures of the database and the drift of every stream at one moment."""

    figures: MetricsFigures
    drift: Sequence[DriftReading]


class SnapshotReader:
    """Reads snapshots over a connection of its own, so that a slow scrape never keeps an image waiting."""

    def __init__(self, site: Site) -> None:
        self._folder = site.settings.node.storage
        self._metrics = SqliteMetrics()

    def read(self) -> Snapshot:
        """Look at the database. Raises StorageError."""
        with closing(Database(database_of(self._folder), busy_timeout_s=1.0)) as database:
            return Snapshot(self._metrics.read(database), SqliteDrift(database).readings())


def make_registry(site: Site, snapshots: SnapshotReader, readiness: ReadinessReader) -> CollectorRegistry:
    """A registry of this application alone: the node's figures and those of its process."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(site, snapshots, readiness))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def label(text: str) -> str:
    """A label value that is safe to show: printable ASCII, and not long."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:_LONGEST_LABEL]


class NodeCollector(Collector):
    """The figures of a node, read when they are collected."""

    def __init__(
        self, site: Site, snapshots: SnapshotReader, readiness: ReadinessReader, clock: Callable[[], float] = time.time
    ) -> None:
        self._site, self._snapshots, self._readiness, self._clock = site, snapshots, readiness, clock

    def collect(self) -> Iterator[Metric]:
        """Read everything once; what the storage can't give is left out, and `dicom_gam_storage_readable` is 0."""
        yield InfoMetricFamily("dicom_gam_build", "The version that runs.", {"version": __version__})
        yield from self._of_readiness()
        if self._site.vitals is not None:
            yield from _of_vitals(self._site.vitals())
        yield from self._of_disk()
        yield from self._of_signatures()
        try:
            snapshot = self._snapshots.read()
        except DicomGamError:
            yield _gauge("storage_readable", "Whether the database could be read.", 0)
            return
        yield _gauge("storage_readable", "Whether the database could be read.", 1)
        senders = _known_senders(snapshot.figures)
        yield from _of_jobs(snapshot.figures, senders, self._clock())
        yield from _of_deliveries(
            snapshot.figures, [destination.name for destination in self._site.settings.destinations]
        )
        yield from _of_drift(snapshot.drift, senders)
        yield _counter("audit_records", "Records of the audit log.", snapshot.figures.audit_records)

    def _of_readiness(self) -> Iterator[Metric]:
        found = self._readiness.read()
        yield _gauge("ready", "Whether /ready says that images can be taken in and worked on.", found.ready)
        parts: dict[tuple[str, ...], float] = {(label(obstacle.part),): 1.0 for obstacle in found.obstacles}
        yield _gauges("obstacle", "A part of the node that keeps it from being ready.", ("part",), parts)

    def _of_signatures(self) -> Iterator[Metric]:
        settings = self._site.settings
        interval_s = settings.audit.checkpoint_interval_s
        yield _gauge("audit_checkpoint_interval_seconds", "How often the audit log should be signed.", interval_s)
        signed_at = latest_checkpoint(settings.node.storage / AUDIT_FILE)
        if signed_at:
            at = datetime.fromisoformat(signed_at).timestamp()
            yield _gauge("audit_checkpoint_timestamp_seconds", "When the audit log was last signed.", at)

    def _of_disk(self) -> Iterator[Metric]:
        minimum = self._site.settings.node.minimum_free_bytes
        yield _gauge("disk_minimum_free_bytes", "With less free space images are refused.", minimum)
        try:
            usage = shutil.disk_usage(self._site.settings.node.storage)
        except OSError:
            return
        yield _gauge("disk_free_bytes", "Free space where the storage folder lies.", usage.free)
        yield _gauge("disk_size_bytes", "Size of the file system that the storage folder lies on.", usage.total)


def _of_vitals(vitals: Vitals) -> Iterator[Metric]:
    yield _gauge("accepting", "Whether the node accepts images.", vitals.accepting)
    yield _gauge("node_start_time_seconds", "When the node was started, as a Unix time.", vitals.started_at)
    yield _gauge("receivers", "Processes that receive images.", vitals.receivers)
    yield _gauge("receivers_wanted", "Processes that should receive images.", vitals.receivers_wanted)
    loops = [((label(loop_title(pulse)),), pulse) for pulse in vitals.loops]
    yield _gauges("loop_alive", "Whether a thread of the node lives.", ("loop",), {k: p.alive for k, p in loops})
    yield _gauges(
        "loop_step_seconds",
        "For how long the step in hand of a thread has been running; 0 between steps.",
        ("loop",),
        {key: pulse.step_s or 0.0 for key, pulse in loops},
    )
    yield _gauges(
        "loop_failing",
        "Whether the last step of a thread failed.",
        ("loop",),
        {key: bool(pulse.failure) for key, pulse in loops},
    )


def _of_jobs(figures: MetricsFigures, known: frozenset[str], now: float) -> Iterator[Metric]:
    yield _gauges(
        "jobs", "Jobs by the state they are in.", ("state",), {(s.value,): n for s, n in figures.job_states.items()}
    )
    oldest = figures.oldest_open_at
    age_s = 0.0 if oldest is None else max(0.0, now - oldest)
    yield _gauge("queue_oldest_age_seconds", "Age of the oldest image that has no result yet; 0 without one.", age_s)
    received: Counter[tuple[str, ...]] = Counter()
    last: dict[tuple[str, ...], float] = {}
    for item in figures.senders:
        key = (_sender(item.sender, known),)
        received[key] += item.jobs
        last[key] = max(item.last_at, last.get(key, 0.0))
    yield _counters("jobs_received", "Jobs made of what came, by sender.", ("sender",), received)
    yield _gauges("last_image_timestamp_seconds", "When a sender's latest image came.", ("sender",), last)
    finished: dict[tuple[str, ...], float] = {(label(outcome),): count for outcome, count in figures.outcomes.items()}
    yield _counters("jobs_finished", "Jobs that have ended, by outcome.", ("outcome",), finished)
    results: Counter[tuple[str, ...]] = Counter()
    for kind, count in figures.results.items():
        sender = _sender(kind.sender, known)
        results[label(kind.outcome), sender, label(kind.bundle_name), label(kind.bundle_version)] += count
    names = ("outcome", "sender", "bundle", "version")
    yield _counters("results", "Results by outcome, sender and bundle.", names, results)


def _of_deliveries(figures: MetricsFigures, configured: Sequence[str]) -> Iterator[Metric]:
    names = list(dict.fromkeys([*configured, *(name for name, _ in figures.deliveries)]))
    counts: Counter[tuple[str, ...]] = Counter()
    for name in names:
        for state in DeliveryState:
            counts[label(name), state.value] += figures.deliveries.get((name, state), 0)
    yield _gauges("deliveries", "Objects by destination and state.", ("destination", "state"), counts)
    dead: dict[tuple[str, ...], float] = {(name,): counts[name, DeliveryState.DEAD.value] for name in map(label, names)}
    yield _gauges("dead_letters", "Objects that were given up and need a person.", ("destination",), dead)
    for key, what, since in (
        ("destination_unreachable", "Whether a destination can't be reached.", figures.unreachable),
        ("destination_paused", "Whether an operator has paused a destination.", figures.paused),
    ):
        yield _gauges(key, what, ("destination",), {(label(name),): float(name in since) for name in names})


def _of_drift(readings: Sequence[DriftReading], known: frozenset[str]) -> Iterator[Metric]:
    evidence: dict[tuple[str, ...], float] = {}
    alarms: dict[tuple[str, ...], float] = {}
    for reading in readings:
        key = (_sender(reading.sender, known), label(reading.bundle_name), label(reading.bundle_version))
        value = reading.log10_evidence if not math.isnan(reading.log10_evidence) else 0.0
        evidence[key] = max(value, evidence.get(key, -math.inf))
        alarms[key] = max(float(reading.alarm_at is not None), alarms.get(key, 0.0))
    names = ("sender", "bundle", "version")
    yield _gauges("drift_log10_evidence", "Evidence for drift, as a decimal logarithm; 3 is 1000 : 1.", names, evidence)
    yield _gauges("drift_alarm", "Whether the drift alarm was raised and not reset.", names, alarms)


def _known_senders(figures: MetricsFigures) -> frozenset[str]:
    """Those that were here first: a newcomer never moves an older one, whose counter would then go down."""
    return frozenset(item.sender for item in figures.senders[:MOST_SENDERS])


def _sender(title: str, known: frozenset[str]) -> str:
    return label(title) if title in known else OTHER


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"dicom_gam_{name}", what, value=float(value))


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"dicom_gam_{name}", what, value=float(value))


def _gauges(name: str, what: str, names: Iterable[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(f"dicom_gam_{name}", what, labels=list(names))
    for key, value in values.items():
        family.add_metric(list(key), float(value))
    return family


def _counters(name: str, what: str, names: Iterable[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(f"dicom_gam_{name}", what, labels=list(names))
    for key, value in values.items():
        family.add_metric(list(key), float(value))
    return family

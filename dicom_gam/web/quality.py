"""The page Quality: how results, p-values, drift and similarities went, day by day. It shows no patient's data."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as clock
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from flask import Blueprint, current_app, render_template, request
from markupsafe import Markup

from dicom_gam.storage.rows import SIMILARITIES
from dicom_gam.storage.sqlite_quality import Count, Day, Figures, Sampled
from dicom_gam.web import charts
from dicom_gam.web.access import Permission, needs
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask.blueprints import BlueprintSetupState

    from dicom_gam.storage.rows import DriftReading

pages = Blueprint("quality", __name__)

SPANS = (7, 30, 90)
USUAL_SPAN = 30
PER_DAY = 100  # results of a day that p-values and similarities are drawn from
BINS = 20
NO_TITLE = "(no AE title)"
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "iou": "IoU (higher: more alike)",
        "dice": "Dice (higher: more alike)",
        "ssim": "SSIM (higher: more alike)",
        "cosine": "Cosine (higher: more alike)",
        "pearson": "Pearson (higher: more alike)",
        "kl": "KL divergence (lower: more alike)",
        "wasserstein": "Wasserstein (lower: more alike)",
    }
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart with its words, and the same figures as a table."""

    panel_id: str
    title: str
    words: str
    chart: Markup
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What the visitor wants to see: a sender, a bundle (by its digest), empty for all; so many days."""

    sender: str
    bundle: str
    days: int

    def matches(self, sender: str, bundle_digest: str) -> bool:
        """Whether a sender and a bundle are meant."""
        return self.sender in ("", sender) and self.bundle in ("", bundle_digest)


@pages.record
def _remember(state: BlueprintSetupState) -> None:
    state.app.extensions["dicom_gam.quality"] = Figures()


def figures() -> Figures:
    """The figures of the current site, of which finished days are kept in memory."""
    return cast("Figures", current_app.extensions["dicom_gam.quality"])


@pages.get("/quality")
@needs(Permission.LOOK)
def page() -> str:
    """Show how results went over the last days, for all or for one sender or bundle."""
    now = time.time()
    known = figures()
    choice = _choice()
    dates = _dates(choice.days, now)
    days = {Day(_midnight(each), _midnight(each + timedelta(days=1))): f"{each:%Y-%m-%d}" for each in dates}
    database = site().store.database
    counts = known.counts(database, list(days), now)
    chosen = [count for count in counts if choice.matches(count.sender, count.bundle_digest)]
    drawn = known.sample(database, chosen, PER_DAY, now, (choice.sender, choice.bundle))
    readings = [r for r in site().store.drift.readings() if choice.matches(r.sender, r.bundle_digest)]
    names = _bundle_names(counts, site().store.drift.readings())
    return render_template(
        "quality.html",
        choice=choice,
        spans=SPANS,
        senders=sorted({count.sender for count in counts}),
        bundles=sorted(names.items(), key=lambda item: item[1]),
        no_title=NO_TITLE,
        images=sum(count.images for count in chosen),
        first=next(iter(days.values())),
        last=f"{dates[-1]:%Y-%m-%d}",
        zone=datetime.now().astimezone().tzname(),
        outcomes=[_by_day(chosen, days), _by_name("sender", chosen, lambda count: count.sender or NO_TITLE),
                  _by_name("bundle", chosen, lambda count: names[count.bundle_digest])],
        p_values=_p_values(drawn),
        drift=_drift(readings, names, site().settings.drift.false_alarm_rate),
        similarities=_similarities(drawn, days),
        sample=_sample_words(chosen, drawn),
        watched=site().settings.drift.enabled,
    )  # fmt: skip


def _choice() -> Choice:
    days = request.args.get("days", USUAL_SPAN, type=int)
    return Choice(request.args.get("sender", ""), request.args.get("bundle", ""), days if days in SPANS else USUAL_SPAN)


def _dates(days: int, now: float) -> list[date]:
    today = datetime.fromtimestamp(now).astimezone().date()
    return [today - timedelta(days=back) for back in range(days - 1, -1, -1)]


def _midnight(day: date) -> float:
    """The local midnight at which a day begins; a day of a change of the clocks has 23 or 25 hours."""
    return datetime.combine(day, clock.min).astimezone().timestamp()


def _bundle_names(counts: Sequence[Count], readings: Sequence[DriftReading]) -> dict[str, str]:
    """What bundles are called, by their digests; with a part of the digest where one name has several."""
    names = {reading.bundle_digest: f"{reading.bundle_name} {reading.bundle_version}" for reading in readings}
    names |= {count.bundle_digest: count.bundle for count in counts}
    often = Counter(names.values())
    return {key: name if often[name] == 1 else f"{name} ({key[:8]})" for key, name in names.items()}


def _series(tallies: Sequence[Counter[str]]) -> list[charts.Series]:
    found = [name for name in charts.PATTERNS if name != "SKIPPED" or any(tally[name] for tally in tallies)]
    return [charts.Series(name, [tally[name] for tally in tallies]) for name in found]


def _by_day(counts: Sequence[Count], days: Mapping[Day, str]) -> Panel:
    tallies = {day: Counter[str]() for day in days}
    for count in counts:
        tallies[count.day][count.outcome] += count.images
    return _outcomes("by-day", "Results by day", "Day", dict(zip(days.values(), tallies.values(), strict=True)))


def _by_name(kind: str, counts: Sequence[Count], name_of: Callable[[Count], str]) -> Panel:
    tallies: dict[str, Counter[str]] = {}
    for count in counts:
        tallies.setdefault(name_of(count), Counter())[count.outcome] += count.images
    ordered = dict(sorted(tallies.items(), key=lambda item: (-sum(item[1].values()), item[0])))
    return _outcomes(f"by-{kind}", f"Results by {kind}", kind.capitalize(), ordered)


def _outcomes(panel_id: str, title: str, column: str, tallies: Mapping[str, Counter[str]]) -> Panel:
    series = _series(list(tallies.values()))
    total = sum((sum(tally.values()) for tally in tallies.values()), 0)
    parts = [f"{item.name} {_share(sum(item.values), total)}" for item in series if any(item.values)]
    gist = f"{title}: {total} images, {', '.join(parts) or 'none'}."
    draw = charts.stacked_columns if panel_id == "by-day" else charts.stacked_rows
    rows = tuple(
        (name, *(str(tally[item.name]) for item in series), _share(tally["PASS"], sum(tally.values())))
        for name, tally in tallies.items()
    )
    chart = draw(f"{panel_id}-chart", gist, list(tallies), series)
    return Panel(panel_id, title, gist, chart, (column, *(item.name for item in series), "share of PASS"), rows)


def _p_values(drawn: Sequence[Sampled]) -> Panel:
    bins = [0.0] * BINS
    for item in drawn:
        if item.p_value is not None:
            bins[min(BINS - 1, int(item.p_value * BINS))] += item.weight
    total = sum(bins)
    shares = [value / total if total else 0.0 for value in bins]
    expected = 1 / BINS
    gist = (
        f"p-values in {BINS} bins: {shares[0]:.1%} of the images lie below {expected:g}, where {expected:.0%} are "
        "expected of images like the calibration images."
        if total
        else "p-values: no image has been verified in this time."
    )
    rows = tuple(
        (f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}", f"{s:.1%}", f"{expected:.1%}") for i, s in enumerate(shares)
    )
    chart = charts.histogram("p-values-chart", gist, shares, expected, f"expected: {expected:.0%} in each")
    return Panel("p-values", "p-values", gist, chart, ("p-value", "share of images", "expected"), rows)


def _drift(readings: Sequence[DriftReading], names: Mapping[str, str], false_alarm_rate: float) -> Panel:
    alarm = -math.log10(false_alarm_rate)
    titles = [f"{reading.sender or NO_TITLE}, {names[reading.bundle_digest]}" for reading in readings]
    streams = [
        charts.Level(title, reading.log10_evidence, reading.log10_maximum)
        for title, reading in zip(titles, readings, strict=True)
    ]
    reached = [stream.name for stream in streams if stream.highest >= alarm]
    gist = (
        f"Evidence of drift, pairs of sender and bundle: {len(streams)}; {len(reached)} reached the alarm level of "
        f"{1 / false_alarm_rate:,.0f} : 1{': ' if reached else ''}{'; '.join(reached)}."
    )
    rows = tuple(
        (title, str(r.images), f"{r.log10_evidence:.2f}", f"{r.log10_maximum:.2f}", f"{alarm:.2f}", _moment(r.alarm_at))
        for title, r in zip(titles, readings, strict=True)
    )
    columns = ("sender, bundle", "images", "evidence now (log10)", "highest (log10)", "alarm level", "alarm since")
    chart = charts.levels("drift-chart", gist, streams, alarm)
    return Panel("drift", "Drift", gist, chart, columns, rows)


def _similarities(drawn: Sequence[Sampled], days: Mapping[Day, str]) -> list[Panel]:
    """One small chart for each similarity."""
    values: dict[Day, list[list[float]]] = {day: [[] for _ in SIMILARITIES] for day in days}
    for item in drawn:
        for place, value in enumerate(item.similarities):
            if value is not None:
                values[item.day][place].append(value)
    panels = []
    for place, name in enumerate(SIMILARITIES):
        spreads = [_spread(values[day][place]) for day in days]
        known = [spread for spread in spreads if spread is not None]
        gist = f"{TITLES[name]}, by day: " + (
            f"the median went from {known[0].middle:.3g} to {known[-1].middle:.3g}." if known else "no figures."
        )
        chart = charts.spread_over_days(f"{name}-chart", gist, TITLES[name], list(days.values()), spreads)
        rows = tuple((label, *_quartiles(spread)) for label, spread in zip(days.values(), spreads, strict=True))
        panels.append(
            Panel(name, TITLES[name], gist, chart, ("Day", "lower quartile", "median", "upper quartile"), rows)
        )
    return panels


def _spread(values: Sequence[float]) -> charts.Spread | None:
    if not values:
        return None
    if len(values) == 1:
        return charts.Spread(values[0], values[0], values[0])
    return charts.Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def _quartiles(spread: charts.Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return "", "", ""
    return f"{spread.lower:.3g}", f"{spread.middle:.3g}", f"{spread.upper:.3g}"


def _sample_words(counts: Sequence[Count], drawn: Sequence[Sampled]) -> str:
    every = sum(count.images for count in counts)
    if len(drawn) == every:
        return f"p-values and similarities are those of all {every} images."
    return (
        f"p-values and similarities are drawn from {len(drawn)} of the {every} images: about {PER_DAY} of each day, "
        "the same at every look; each day counts by how many it had."
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"

"""The evaluation's figures: colour-blind-safe colours (Okabe & Ito 2008), and never colour alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from dicom_gam.dicom.result.attended_region import LEVEL, resized
from dicom_gam.evidence.cases import Case
from dicom_gam.evidence.evaluate import Detection, FalseFail, Point
from dicom_gam.evidence.methods import MethodComparison
from dicom_gam.evidence.report import png

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MARKERS = ("o", "X", "^", "s", "D", "v", "P", "*")
VERDICT_STYLE = {"PASS": (COLOURS[0], "o"), "FAIL": (COLOURS[1], "X"), "REJECT": (COLOURS[4], "^")}
_COLUMNS = 4  # of pictures


def detection_figure(rows: Sequence[Detection]) -> bytes:
    """AUROC of every family with its interval, grouped by kind."""
    figure = Canvas(figsize=(8.5, 0.7 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(row.kind for row in rows))
    for y, row in enumerate(rows):
        style = kinds.index(row.kind)
        low, high = row.separation.auroc_interval
        axes.plot([low, high], [y, y], color=COLOURS[style], linewidth=2)
        axes.plot(row.separation.auroc, y, MARKERS[style], color=COLOURS[style], markersize=7)
    for style, kind in enumerate(kinds):
        axes.plot([], [], MARKERS[style], color=COLOURS[style], label=kind)
    axes.set_yticks(range(len(rows)), [f"{row.family} (n = {row.separation.n})" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(0.5, color="#888888", linestyle=":", linewidth=1)
    axes.set_xlim(right=1.005)
    axes.set_xlabel("AUROC against the expected images, 95 % interval (dotted: chance)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    return png(figure)


def false_fail_figure(rows: Sequence[FalseFail]) -> bytes:
    """Measured false alarms against what the calibration promises, one panel for each level."""
    levels = sorted({row.alpha for row in rows})
    per_level = max(sum(row.alpha == level for row in rows) for level in levels)
    figure = Canvas(figsize=(9.5, 1.1 + 0.32 * per_level), layout="constrained")
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for axes, level in zip(panels, levels, strict=True):
        own = [row for row in rows if row.alpha == level]
        for y, row in enumerate(own):
            if row.promised is not None:
                axes.fill_betweenx([y - 0.35, y + 0.35], *row.promised, color="#BBBBBB", alpha=0.6, linewidth=0)
            axes.plot([row.rate.low, row.rate.high], [y, y], color=COLOURS[0], linewidth=2)
            axes.plot(row.rate.count / row.rate.n, y, "o", color=COLOURS[0])
        axes.axvline(level, color=COLOURS[1], linestyle="--", linewidth=1)
        axes.set_title(f"α = {level:g}", fontsize=10)
        axes.set_xlabel("false alarms")
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(len(own)), [f"{row.label}, {row.source}" for row in own])
        axes.set_ylim(len(own) - 0.4, -0.6)
    return png(figure)


def heat_figure(names: Sequence[str], columns: Sequence[str], values: NDArray[np.float64]) -> bytes:
    """AUROC (rows, columns) as a table of tinted cells with the figures in them; NaN is left empty."""
    figure = Canvas(figsize=(3.6 + 1.0 * len(columns), 0.8 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0.5, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = "black" if value > 0.8 else "white"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label="AUROC")
    return png(figure)


def embedding_figure(points: Sequence[Point]) -> bytes:
    """The plane twice: by verdict, and by what the image is."""
    figure = Canvas(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for verdict, (colour, marker) in VERDICT_STYLE.items():
        _scatter(left, [p for p in points if p.verdict == verdict], colour, marker, verdict)
    left.set_title("by verdict", fontsize=10)
    made = ("covariate", "fabricated")
    group: Callable[[Point], str] = lambda p: p.kind if p.kind in made else p.family  # noqa: E731
    largest = [name for name, _ in Counter(map(group, points)).most_common(len(COLOURS) - 1)]
    for style, name in enumerate(largest):
        _scatter(right, [p for p in points if group(p) == name], COLOURS[style], MARKERS[style], name)
    _scatter(right, [p for p in points if group(p) not in largest], COLOURS[-1], MARKERS[-1], "all others")
    right.set_title("by source or family", fontsize=10)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(fontsize=8, markerscale=1.5)
    return png(figure)


def faithfulness_figure(comparison: MethodComparison) -> bytes:
    """Insertion, deletion and ROAD of every method and control with their intervals."""
    rows = {m.name: m.faithful for m in comparison.methods} | comparison.controls
    figure = Canvas(figsize=(10.5, 0.9 + 0.28 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    titles = ("insertion (right is better)", "deletion (left is better)", "ROAD (right is better)")
    for axes, field, title in zip(panels, ("insertion", "deletion", "road"), titles, strict=True):
        for y, (name, row) in enumerate(rows.items()):
            average = getattr(row, field)
            control = name in comparison.controls
            style = {"color": COLOURS[6 if control else 0], "marker": "s" if control else "o"}
            axes.errorbar(average.mean, y, xerr=average.half_width, linewidth=2, linestyle="", **style)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.4, -0.6)
    return png(figure)


def maps_figure(comparison: MethodComparison) -> bytes:
    """A few images, and below each its map by every method."""
    names = ["image", *comparison.example_maps]
    count = len(comparison.examples)
    height = count + 0.25
    figure = Canvas(figsize=(len(names), height))
    panels = figure.subplots(count, len(names), squeeze=False)
    figure.subplots_adjust(0.003, 0.003, 0.997, 1 - 0.25 / height, 0.04, 0.04)
    for row, image in enumerate(comparison.examples):
        for column, name in enumerate(names):
            axes = panels[row][column]
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            if column:
                enlarged = resized(comparison.example_maps[name][row], *image.shape)
                axes.imshow(enlarged, cmap="viridis", vmin=0, vmax=1, alpha=0.55)
            axes.axis("off")
            if row == 0:
                axes.set_title(name, fontsize=8)
    return png(figure)


def cases_figure(cases: Sequence[Case]) -> bytes:
    """Pictures of wrongly judged images, the attended region outlined, with what came of each."""
    rows = -(-len(cases) // _COLUMNS)
    height = 3.1 * rows
    figure = Canvas(figsize=(2.6 * _COLUMNS, height))
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(0.005, 0.05 / height, 0.995, 1 - 0.5 / height, 0.04, 0.2)
    for axes in panels:
        axes.axis("off")
    for number, (axes, case) in enumerate(zip(panels, cases, strict=False), 1):
        assert case.thumbnail is not None
        axes.imshow(case.thumbnail, cmap="gray", vmin=0, vmax=255)
        attention = resized(case.verification.attention_map, *case.thumbnail.shape)
        if case.verification.attention_status == "ok" and attention.max() >= LEVEL:
            axes.contour(attention, levels=[LEVEL], colors="black", linewidths=2.6)
            axes.contour(attention, levels=[LEVEL], colors=COLOURS[4], linewidths=1.4)
        verdict = case.verification.verdict.value
        shown = f"{number}. {case.family}\n{verdict}: {case.prediction.label}, p = {case.verification.p_value:.2g}"
        axes.set_title(shown, fontsize=8)
    return png(figure)


def _scatter(axes: Axes, points: Sequence[Point], colour: str, marker: str, label: str) -> None:
    if points:
        x, y = [p.x for p in points], [p.y for p in points]
        axes.scatter(x, y, s=14, c=colour, marker=marker, alpha=0.7, linewidths=0, label=f"{label} ({len(points)})")

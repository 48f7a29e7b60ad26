"""The pictures of a suitability report: colour-blind-safe colours (Okabe & Ito 2008), and never colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from PIL import Image
from scipy.special import logit

from dicom_gam.core.measure import MEASUREMENTS, SMALLEST_PROBABILITY
from dicom_gam.dicom.result.attended_region import LEVEL, resized
from dicom_gam.evidence.criteria import Conclusion, Criterion
from dicom_gam.evidence.report import png
from dicom_gam.evidence.site_images import load_site_image
from dicom_gam.evidence.suitability import ClassFindings, Distribution, Examined, Metric

SITE, REFERENCE, LIMIT, OUTLINE = "#0072B2", "#8A8A8A", "#D55E00", "#E69F00"
STYLE = {
    Conclusion.SUITABLE: (SITE, "o"),
    Conclusion.INCONCLUSIVE: (OUTLINE, "D"),
    Conclusion.UNSUITABLE: (LIMIT, "X"),
}
LOGIT = {spec.name for spec in MEASUREMENTS if spec.logit}
_THUMBNAIL = 220
_COLUMNS = 4
_BINS = 24


def effects_figure(metrics: Sequence[Metric], criteria: Mapping[str, Criterion]) -> bytes:
    """Every measurement's effect with its interval and limit; hollow and without one where it has no say."""
    figure = Canvas(figsize=(8.5, 0.9 + 0.26 * len(metrics)), layout="constrained")
    axes = figure.subplots()
    for y, metric in enumerate(metrics):
        criterion = criteria.get(metric.name)
        colour, marker = (REFERENCE, "s") if criterion is None else STYLE[criterion.conclusion]
        axes.plot([metric.low, metric.high], [y, y], color=colour, linewidth=2)
        face = "white" if criterion is None else colour
        axes.plot(metric.auc, y, marker, color=colour, markerfacecolor=face, markersize=7)
        if criterion is not None:
            axes.plot([criterion.limit] * 2, [y - 0.5, y + 0.5], color=LIMIT, linestyle="--", linewidth=1.2)
    for shown, (colour, marker) in STYLE.items():
        axes.plot([], [], marker, color=colour, label=shown.value.lower())
    axes.plot([], [], "s", color=REFERENCE, markerfacecolor="white", label="shown only")
    axes.axvline(0.5, color="#888888", linestyle=":", linewidth=1, label="no difference")
    axes.plot([], [], color=LIMIT, linestyle="--", linewidth=1.2, label="limit")
    axes.set_yticks(range(len(metrics)), [metric.name for metric in metrics])
    axes.set_ylim(len(metrics) - 0.4, -0.6)
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("probability that a site image is odder than a calibration image of its class")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    return png(figure)


def distributions_figure(distributions: Sequence[Distribution]) -> bytes:
    """One panel for each measurement: the calibration's values filled, the site's as a line."""
    rows = -(-len(distributions) // _COLUMNS)
    figure = Canvas(figsize=(11, 1.75 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, values in zip(panels, distributions, strict=False):
        _histograms(axes, values)
    for axes in panels[len(distributions) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=9)
    return png(figure)


def _histograms(axes: Axes, values: Distribution) -> None:
    site, reference = values.site[np.isfinite(values.site)], values.reference
    logarithmic = values.name in LOGIT  # probabilities crowd at 0 and 1
    if logarithmic:
        site, reference = (logit(v.clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)) for v in (site, reference))
    every = np.concatenate([site, reference])
    low, high = np.quantile(every, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1e-6, _BINS + 1).tolist()
    reference_weights = values.weights / values.weights.sum()
    site_weights = np.full(len(site), 1 / max(len(values.site), 1))
    axes.hist(
        reference.clip(low, high), edges, weights=reference_weights, color=REFERENCE, alpha=0.55, label="calibration"
    )
    shown = site.clip(low, high)
    axes.hist(shown, edges, weights=site_weights, histtype="step", color=SITE, linewidth=1.7, label="site")
    axes.set_title(values.name + (", log odds" if logarithmic else ""), fontsize=8.5)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)


def attention_figure(classes: Sequence[ClassFindings]) -> bytes:
    """For each class the site's mean attention map, the bundle's, and the difference."""
    figure = Canvas(figsize=(max(1.9 * len(classes) + 1.2, 4.4), 5.4), layout="constrained")
    panels = figure.subplots(3, len(classes), squeeze=False)
    maps = differences = None
    for column, found in enumerate(classes):
        pictures = (found.site_map, found.reference_map, found.site_map - found.reference_map)
        maps = panels[0][column].imshow(pictures[0], cmap="viridis", vmin=0, vmax=1)
        panels[1][column].imshow(pictures[1], cmap="viridis", vmin=0, vmax=1)
        differences = panels[2][column].imshow(pictures[2], cmap="PuOr_r", vmin=-1, vmax=1)
        panels[0][column].set_title(f"{found.name}\n(n = {found.not_passed.n})", fontsize=9)
    for axes in panels.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, title in zip(panels[:, 0], ("site", "reference", "difference"), strict=True):
        axes.set_ylabel(title, fontsize=9)
    assert maps is not None
    assert differences is not None
    figure.colorbar(maps, ax=panels[:2].ravel().tolist(), label="mean attention ÷ maximum", fraction=0.05)
    figure.colorbar(differences, ax=panels[2].tolist(), label="more at the site →", fraction=0.05)
    return png(figure)


def oddest_figure(images: Sequence[Examined]) -> bytes:
    """Pictures of the images least like the reference, the attended region outlined."""
    rows = -(-len(images) // _COLUMNS)
    figure = Canvas(figsize=(2.7 * _COLUMNS, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for number, (axes, item) in enumerate(zip(panels, images, strict=False), 1):
        pixels = np.rint(np.clip(load_site_image(item.image.path)[0], 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(pixels)
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        shown = np.asarray(picture)
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
        attention = resized(item.verification.attention_map, *shown.shape)
        if item.verification.attention_status == "ok" and attention.max() >= LEVEL:
            axes.contour(attention, levels=[LEVEL], colors="black", linewidths=2.6)
            axes.contour(attention, levels=[LEVEL], colors=OUTLINE, linewidths=1.4)
        told = f"{item.verification.verdict.value}: {item.prediction.label}, p = {item.verification.p_value:.2g}"
        axes.set_title(f"{number}. {told}", fontsize=8.5)
    return png(figure)

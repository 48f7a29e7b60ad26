"""A suitability judgement as one HTML page, its pictures, and everything as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dicom_gam import __version__
from dicom_gam.evidence.criteria import DISTANCES, SIGNIFICANCE, Conclusion, Criterion, Share
from dicom_gam.evidence.report import Emphasis, Figure, Section, Table, html_report
from dicom_gam.evidence.suitability import Examined, Metric, Suitability
from dicom_gam.evidence.suitability_plots import attention_figure, distributions_figure, effects_figure, oddest_figure
from dicom_gam.records import BundleIdentity
from dicom_gam.training.evaluation import share

SHOWN = 12  # oddest images
TONES: Mapping[Conclusion, Emphasis] = {
    Conclusion.SUITABLE: "good",
    Conclusion.UNSUITABLE: "bad",
    Conclusion.INCONCLUSIVE: "warning",
}
_OWN_REFERENCES = (
    "The bundle was judged by its own references. They show whether its network does here what it did where it was "
    "calibrated. A fault that was there already, such as a marker that it goes by instead of the anatomy, they can't "
    "show: compare with a bundle that you trust (--against)."
)
_TRUSTED_REFERENCES = (
    "The network was judged by another bundle's references. They are in that bundle's own channels: a network trained "
    "anew, however good, measures its features otherwise and will not be found suitable by them. Only copies of the "
    "trusted network, altered or fine-tuned, can be judged in this way."
)


def headline(found: Suitability) -> str:
    """The conclusion in one sentence."""
    n = found.not_passed.n
    if found.conclusion is Conclusion.SUITABLE:
        return f"SUITABLE: on {n} images nothing differs from the reference by more than is tolerated"
    if found.conclusion is Conclusion.UNSUITABLE:
        above = [c.name for c in found.criteria if c.conclusion is Conclusion.UNSUITABLE]
        more = f" and {len(above) - 3} more" if len(above) > 3 else ""
        return f"UNSUITABLE: on {n} images more than is tolerated: {', '.join(above[:3])}{more}"
    open_ = sum(c.conclusion is Conclusion.INCONCLUSIVE for c in found.criteria)
    return f"INCONCLUSIVE: {n} images don't settle {open_} of {len(found.criteria)} criteria; {wanted(found)}"


def wanted(found: Suitability) -> str:
    """How many images would bring a conclusion."""
    if found.images_needed is None:
        return "if the figures stay as they are no number of images would, a larger calibration sample might"
    return f"about {max(found.images_needed, found.not_passed.n + 1)} images would, if the figures stay as they are"


def pictures(found: Suitability) -> dict[str, bytes]:
    """PNG pictures by name: effects, distributions, attention, oddest."""
    return {
        "effects": effects_figure(found.metrics, {c.name: c for c in found.criteria}),
        "distributions": distributions_figure(found.distributions),
        "attention": attention_figure(found.classes),
        "oddest": oddest_figure(found.images[:SHOWN]),
    }


def report_html(found: Suitability, shown: Mapping[str, bytes]) -> str:
    """The page, with its `shown` pictures."""
    against = "" if found.against is None else f", judged by the references of {_named(found.against)}"
    lead = (
        f"{_named(found.bundle)}{against}, on {found.not_passed.n} images of different patients, by dicom-gam "
        f"{__version__}. Intervals are 95 % confidence intervals. The page shows images of the site: treat it as you "
        "treat them."
    )
    sections = [
        _criteria(found),
        _metrics(found, shown),
        _verdicts(found),
        _attention(shown),
        _oddest(found, shown),
        _reach(found),
        _method(found),
    ]
    return html_report(
        "Is this network suitable for this site?", lead, headline(found), sections, TONES[found.conclusion]
    )


def _criteria(found: Suitability) -> Section:
    rows, emphasis = [], {}
    for i, c in enumerate(found.criteria):
        needed = "-" if c.conclusion is not Conclusion.INCONCLUSIVE else str(c.images_needed or "can't be settled")
        rows.append([c.name, *_criterion_cells(c), c.conclusion.value.lower(), needed])
        emphasis[i] = TONES[c.conclusion]
    told = (
        "UNSUITABLE if any criterion's interval is above its limit (and, for a measurement, the difference is "
        f"significant at {SIGNIFICANCE:g} after Holm's correction); SUITABLE if every interval is below; INCONCLUSIVE "
        "otherwise. The limits are of size, not of significance: a sound network in a new place differs a little. "
        f"{' and '.join(DISTANCES)} have a wider one: they are taken in the network's own channels, which the lightest "
        "fine-tuning moves.",
    )
    header = ["criterion", "estimate", "95 % interval", "limit", "conclusion", "images that would settle it"]
    return Section(
        "What decides", told, (Table(header, rows, "✓ tolerable, ✗ not tolerable, ! not settled", emphasis),)
    )


def _criterion_cells(c: Criterion) -> list[str]:
    return [f"{c.estimate:.2f}", f"{c.low:.2f} - {c.high:.2f}", f"{c.limit:.2f}"]


def _metrics(found: Suitability, shown: Mapping[str, bytes]) -> Section:
    standing = {c.name: c.conclusion for c in found.criteria}
    rows, emphasis = [], {}
    for i, m in enumerate(found.metrics):
        rows.append(metric_cells(m))
        if standing.get(m.name) not in (None, Conclusion.SUITABLE):
            emphasis[i] = TONES[standing[m.name]]
    told = (
        "Odder is the probability that an image of the site is odder than a calibration image of the class that it was "
        "taken for: 0.5 is no difference, 1 is complete separation. p is one-sided, of Mann and Whitney's test "
        "stratified by class; Holm's p allows for all measurements together. Dice is a function of IoU and is counted "
        "with it.",
    )
    header = [
        "measurement",
        "site, median",
        "calibration, median",
        "odder",
        "95 % interval",
        "p",
        "Holm's p",
        "decides",
    ]
    figures = (
        Figure(shown["effects"], "How much odder the site's images are.", "Dot plot of the column 'odder' above."),
        Figure(
            shown["distributions"],
            "Values of every measurement: calibration images, weighted by class as the site's, and the site's images.",
            "Histograms, one panel for each measurement; medians stand in the table above.",
        ),
    )
    return Section("The measurements", told, (Table(header, rows, "Site against calibration", emphasis),), figures)


def metric_cells(m: Metric) -> list[str]:
    """One row of the table of measurements."""
    values = [f"{m.site_median:.3g}", f"{m.reference_median:.3g}", f"{m.auc:.2f}", f"{m.low:.2f} - {m.high:.2f}"]
    return [m.name, *values, _p(m.p_value), _p(m.holm_p), "yes" if m.deciding else "no"]


def _verdicts(found: Suitability) -> Section:
    rows = [
        [f"not passed (promised: {100 * found.alpha:g} %)", _share(found.not_passed)],
        ["of these taken for garbage", _share(found.garbage)],
    ]
    if found.accuracy is not None:
        rows.append(["given the right class, of labelled images", _share(found.accuracy)])
    by_class = [[c.name, str(c.not_passed.n), _share(c.not_passed), str(c.calibration_size)] for c in found.classes]
    tables = (
        Table(["images", "share (95 % interval)"], rows, "All images"),
        Table(
            ["taken for", "images", "not passed", "calibrated on"], by_class, "By the class that they were taken for"
        ),
    )
    return Section("The verdicts", (), tables)


def _attention(shown: Mapping[str, bytes]) -> Section:
    caption = "Mean attention map of the site's images taken for each class, the bundle's reference, the difference."
    figure = Figure(shown["attention"], caption, "Rows of small heat maps, one column for each class.")
    return Section("Where the network looks", (), (), (figure,))


def _oddest(found: Suitability, shown: Mapping[str, bytes]) -> Section:
    images = found.images[:SHOWN]
    rows = [_image_cells(i, item) for i, item in enumerate(images, 1)]
    header = ["no.", "file", "verdict", "network says", "p", "reasons"]
    picture = Figure(
        shown["oddest"], "Outlined: where the network looked.", f"{len(images)} pictures, listed in the table above."
    )
    title = "The images least like the reference"
    return Section(title, (), (Table(header, rows, "Oddest first"),), (picture,))


def _image_cells(number: int, item: Examined) -> list[str]:
    found = item.verification
    told = "; ".join(found.reasons) or "-"
    return [str(number), item.image.path.name, found.verdict.value, item.prediction.label, f"{found.p_value:.2g}", told]


def _reach(found: Suitability) -> Section:
    told = [*power_words(found), _OWN_REFERENCES if found.against is None else _TRUSTED_REFERENCES]
    return Section("What this sample can and can't show", told)


def power_words(found: Suitability) -> list[str]:
    """The smallest effects that such a sample shows, in plain sentences."""
    power, n = found.power, found.not_passed.n
    if power.detected_auc is None:
        noticed = f"With {n} images not even a complete shift of one measurement is noticed with 80 % probability."
    else:
        noticed = (
            f"With {n} images a shift of one measurement is noticed at all with 80 % probability from "
            f"{power.detected_auc:.2f} on (0.5 is none, 1 complete); a smaller one is easily missed."
        )
    large = []
    if power.unsuitable_auc is not None:
        large.append(f"one measurement is shifted to {power.unsuitable_auc:.2f}")
    if power.unsuitable_share is not None:
        large.append(f"{100 * power.unsuitable_share:.0f} % of all images would not be passed")
    reached = f"is found with 80 % probability from where {' or '.join(large)}" if large else "is out of its reach"
    return [
        noticed,
        f"UNSUITABLE {reached}.",
        "What concerns few images, such as one scanner or one rare projection, can stay hidden in a sample that is "
        "found SUITABLE: look at the oddest images above, and judge a suspected group by itself.",
    ]


def _method(found: Suitability) -> Section:
    told = [
        f"Digest of the bundle: {found.bundle.digest}."
        + ("" if found.against is None else f" Digest of the trusted bundle: {found.against.digest}."),
        "Shares have exact binomial intervals (Clopper-Pearson); AUC has DeLong's, stratified by class, on the logit "
        "scale. One image of each patient is used; a picture without a known patient counts as a patient of its own. "
        f"{found.further_images} further images of the same patients were left aside.",
        "This is dicom_gam's own protocol. It makes no statement about the unpublished protocol of arXiv 2504.21227.",
    ]
    tables = []
    if found.left_out:
        rows = [[item.path.name, item.reason] for item in found.left_out]
        tables.append(Table(["file", "reason"], rows, "Files that could not be used and are counted nowhere"))
    return Section("How this was measured", told, tables)


def report_json(found: Suitability) -> dict[str, Any]:
    """Everything but the pictures, in types that JSON has; what could not be measured is null."""
    summary: dict[str, Any] = {"format": 1, "dicom_gam": __version__, "headline": headline(found)}
    for field in dataclasses.fields(found):
        if field.name not in ("distributions", "images", "classes"):
            summary[field.name] = _plain(getattr(found, field.name))
    summary["classes"] = [
        {"name": c.name, "not_passed": _plain(c.not_passed), "calibration_size": c.calibration_size}
        for c in found.classes
    ]
    summary["left_out"] = [{"path": str(item.path), "reason": item.reason} for item in found.left_out]
    summary["images"] = [_plain_image(item) for item in found.images]
    return summary


def _plain_image(item: Examined) -> dict[str, Any]:
    found = item.verification
    return {
        "path": str(item.image.path),
        "label": item.image.label or None,
        "predicted": item.prediction.label,
        "verdict": found.verdict.value,
        "p_value": found.p_value,
        "score": _plain(found.score),
        "measurements": {m.name: _plain(m.value) for m in found.measurements},
        "reasons": list(found.reasons),
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _named(identity: BundleIdentity) -> str:
    return f"{identity.name} {identity.version}"


def _share(value: Share) -> str:
    return share(value.count, value.n)


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-3 else "<0.001"

"""An evaluation as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dicom_gam import __version__
from dicom_gam.evidence.cases import KINDS, ODD_KINDS, Case
from dicom_gam.evidence.detection import Separation
from dicom_gam.evidence.evaluate import MADE, PROVENANCE, Contribution, Evaluation, FalseFail, Rate
from dicom_gam.evidence.evaluate_summary import accepted_accuracy, foreign_not_passed, own_false_alarms, wrongly_passed
from dicom_gam.evidence.faithfulness import STAGES
from dicom_gam.evidence.methods import EXPENSIVE, FEW, PROBED, TIMED, Average, Faithful, MethodComparison
from dicom_gam.evidence.plots import (
    cases_figure,
    detection_figure,
    embedding_figure,
    faithfulness_figure,
    false_fail_figure,
    heat_figure,
    maps_figure,
)
from dicom_gam.evidence.report import Emphasis, Figure, Section, Table, html_report
from dicom_gam.evidence.scores import ALL
from dicom_gam.training.evaluation import share

SHOWN = 24  # wrongly judged images of either sort that are shown as pictures
MANY, SOME = 0.5, 0.05  # shares of a family wrongly passed from which a row is marked

KIND_MEANS = {
    "expected": "what the bundle is for",
    "unseen source": "what the bundle is for, from a source never used to make it",
    "far": "nothing like it: photographs, documents, CT, MR, ultrasound",
    "near": "radiographs of other anatomy",
    "covariate": "expected images spoiled: exposure, orientation, cropping, blur, noise, labels",
    "fabricated": "expected images turned into what was never exposed: screenshots, photographs, synthetic",
}


def report_html(evaluation: Evaluation) -> str:
    """The page: figures, tables, and the worst cases with where the network looked."""
    identity = evaluation.bundle
    lead = (
        f"{identity.intended_use} Measured by dicom-gam {__version__} on {sum(evaluation.counts.values())} images; the "
        "intervals are 95 % confidence intervals. The pictures below show the images that were evaluated: treat this "
        "page as you treat them."
    )
    sections = [
        _key_figures(evaluation),
        _sources(evaluation),
        _false_alarms(evaluation),
        _odd_images(evaluation),
        _checks(evaluation),
        *_attention(evaluation.methods),
        _plane(evaluation),
        _worst("Expected images that were not passed, oddest first", evaluation.worst_expected),
        _worst("Odd images that were passed, most dangerous first", evaluation.worst_odd),
        _method(evaluation),
    ]
    title = f"Evaluation of {identity.name} {identity.version}"
    return html_report(title, lead, headline(evaluation), [s for s in sections if s is not None])


def headline(evaluation: Evaluation) -> str:
    """The most important figures in one sentence."""
    accepted, alarms, passed = accepted_accuracy(evaluation), own_false_alarms(evaluation), wrongly_passed(evaluation)
    foreign = foreign_not_passed(evaluation)
    told = [f"right on {_rate(accepted)} of what it passed"]
    if alarms.n:
        told.append(f"false alarms {_rate(alarms)} where {100 * evaluation.alpha:g} % are allowed")
    if foreign.n:
        told.append(f"did not pass {_rate(foreign)} of the expected images from sources never used")
    told += [f"passed {_rate(rate)} of the {kind} images" for kind, rate in passed.items()]
    return "; ".join(told)


def _key_figures(evaluation: Evaluation) -> Section:
    rows = [["accuracy on passed images, all sources", _rate(accepted_accuracy(evaluation)), "", ""]]
    for alpha in sorted({row.alpha for row in evaluation.false_fails}):
        rate = own_false_alarms(evaluation, alpha)
        rows.append([f"false alarms at α = {alpha:g}, sources of the calibration", _rate(rate), "", ""])
    foreign = foreign_not_passed(evaluation)
    rows.append(["not passed, expected images of sources never used", _rate(foreign), "", ""])
    passed = wrongly_passed(evaluation)
    for row in evaluation.contributions:
        if row.name == ALL:
            found = row.separation
            area, fpr = _area(found), share(round(found.fpr_at_95_tpr * found.n), found.n)
            rows.append([f"{row.kind}: wrongly passed", _rate(passed[row.kind]), area, fpr])
    counts = [[kind, KIND_MEANS[kind], str(evaluation.counts[kind])] for kind in KINDS if kind in evaluation.counts]
    tables = (
        Table(["figure", "value", "AUROC", "FPR at 95 % TPR"], rows, "Key figures"),
        Table(["kind", "what it is", "images"], counts, "What was measured on"),
    )
    return Section("Key figures", (), tables)


def _sources(evaluation: Evaluation) -> Section:
    rows = [
        [r.label, r.source, r.provenance, str(r.accuracy.n), _rate(r.accuracy), _rate(r.accuracy_accepted)]
        + [str(n) for n in r.verdicts.values()]
        for r in evaluation.sources
    ]
    header = ["class", "source", "source was", "n", "right class", "right class, passed images", *_VERDICTS]
    return Section("Expected images, by source", (), (Table(header, rows, "Accuracy and verdicts"),))


_VERDICTS = ("PASS", "FAIL", "REJECT")


def _false_alarms(evaluation: Evaluation) -> Section:
    rows, emphasis = [], {}
    for i, r in enumerate(evaluation.false_fails):
        promised = "not supported" if r.promised is None else f"{_percent(r.promised[0])} - {_percent(r.promised[1])}"
        likely = "-" if r.likely is None else f"{r.likely[0]} - {r.likely[1]}"
        size = str(r.calibration_size)
        rows.append([r.label, r.source, f"{r.alpha:g}", str(r.rate.count), likely, _rate(r.rate), promised, size])
        emphasis[i] = _alarm_mark(r)
    header = ["class", "source", "α", "alarms", "likely", "rate", "promised", "calibrated on"]
    caption = (
        "✓ the number of alarms is no larger than is likely for images like those of the calibration; ✗ it is larger; "
        "! the same for a source never used, to which no promise extends, or a level that the calibration can't support"
    )
    told = (
        "A false alarm is an expected image whose class the network would report rightly and that is not passed. The "
        "promise holds for images exchangeable with the calibration's. One calibration of n images realises a rate "
        "that is itself distributed, as Beta(k, n + 1 - k) with k = ⌊α(n + 1)⌋: its central 95 % are the column "
        "'promised'; 'likely' is the central 95 % of the number of alarms among as many images (Beta-binomial).",
    )
    picture = Figure(
        false_fail_figure(evaluation.false_fails),
        "Measured false alarms with their intervals; grey: where the realised rate may lie; dashed: the level.",
        "Dot plot of the rates in the table above, one panel for each level.",
    )
    return Section("False alarms", told, (Table(header, rows, caption, emphasis),), (picture,))


def _alarm_mark(row: FalseFail) -> Emphasis:
    if row.likely is None:
        return "warning"
    if row.rate.count <= row.likely[1]:
        return "good"
    return "warning" if row.provenance == PROVENANCE["unseen"] else "bad"


def _odd_images(evaluation: Evaluation) -> Section | None:
    if not evaluation.detections:
        return None
    rows, emphasis = [], {}
    for i, r in enumerate(evaluation.detections):
        found = r.separation
        fpr = share(round(found.fpr_at_95_tpr * found.n), found.n)
        provenance = "" if r.provenance == MADE else r.provenance
        verdicts = [str(n) for n in r.verdicts.values()]
        rows.append([r.family, r.kind, provenance, str(found.n), _area(found), fpr, *verdicts, _rate(r.wrongly_passed)])
        passed = r.wrongly_passed.count / r.wrongly_passed.n
        if passed > SOME:
            emphasis[i] = _passed_mark(passed)
    header = ["family", "kind", "family was", "n", "AUROC", "FPR at 95 % TPR", *_VERDICTS, "wrongly passed"]
    caption = f"✗ more than {_percent(MANY)} wrongly passed; ! more than {_percent(SOME)}"
    told = (
        "AUROC is the probability that such an image scores odder than an expected one (of a source that the "
        "calibration knows). FPR at 95 % TPR is the share "
        "of the family that a threshold accepting 95 % of the expected images accepts too. The verdict's own threshold "
        "is another one: it is set on the calibration's images before any of these was seen.",
        "Covariate and fabricated images are made from held-out expected ones at their own resolution; they are "
        "imitations of what goes wrong, and no sample of what really arrives.",
    )
    picture = Figure(
        detection_figure(evaluation.detections),
        "How well each family is told from the expected images, with intervals.",
        "Dot plot of the AUROC column of the table above.",
    )
    return Section("Odd images, by family", told, (Table(header, rows, caption, emphasis),), (picture,))


def _passed_mark(passed: float) -> Emphasis:
    return "bad" if passed > MANY else "warning"


def _checks(evaluation: Evaluation) -> Section | None:
    if not evaluation.contributions:
        return None
    scores = [row for row in evaluation.contributions if row.what == "score"]
    single = [row for row in evaluation.contributions if row.what == "measurement"]
    columns = [kind for kind in ODD_KINDS if any(row.kind == kind for row in scores)]
    cells = {(row.name, row.kind): _area(row.separation) for row in scores}
    names = list(dict.fromkeys(row.name for row in scores))
    rows = [[name, *(cells[name, kind] for kind in columns)] for name in names]
    deciding = ", ".join(evaluation.deciding)
    told = (
        f"The checks that decide in this bundle: {deciding}; the others are shown only. A check's score is how rare "
        "the image is among usual images of its class; the rarest counts. Where a row 'without' a check is no worse "
        "than 'all checks together', the check adds nothing against that kind of image in this sample.",
    )
    pictures = (
        _heat(
            scores, columns, "AUROC by all checks, by each alone, without each, and by the network's own probability."
        ),
        _heat(single, columns, "AUROC by every single measurement."),
    )
    table = Table(["score", *columns], rows, "AUROC with intervals")
    return Section("What each check adds", told, (table,), pictures)


def _heat(rows: Sequence[Contribution], columns: Sequence[str], caption: str) -> Figure:
    names = list(dict.fromkeys(row.name for row in rows))
    values = np.full((len(names), len(columns)), np.nan)
    for row in rows:
        values[names.index(row.name), columns.index(row.kind)] = row.separation.auroc
    return Figure(heat_figure(names, columns, values), caption, f"Tinted table. {caption}")


def _attention(comparison: MethodComparison) -> list[Section]:
    rows = [
        [m.name, *_faithful_cells(m.faithful), _average(m.class_likeness), f"{m.cost:.2f}×", str(m.degenerate)]
        for m in comparison.methods
    ]
    rows += [[name, *_faithful_cells(faithful), "-", "-", "-"] for name, faithful in comparison.controls.items()]
    header = ["method", "insertion ↑", "deletion ↓", "ROAD ↑", "likeness across classes", "cost", "degenerate"]
    told = [
        f"Every method on the same {comparison.n} expected images. Insertion and deletion (RISE): the class "
        "probability's area while pixels appear or vanish in the map's order. ROAD: what removing the least salient "
        "pixels leaves over removing the most salient, with removed pixels imputed. A method no better than the "
        "controls, which know nothing of the network, has shown nothing. Cost: time of classification with the map "
        f"over the bare classification of {min(TIMED, comparison.n)} images, where this report was made.",
        "Likeness across classes is the correlation between one image's maps for different classes: near 1, the map "
        "does not depend on what it is said to explain." + _cluster_filter_words(comparison),
    ]
    maps = Figure(
        maps_figure(comparison),
        "Maps of the same images by every method (bright: most salient), over the images as the network gets them.",
        "Grid of small pictures: one row for each image, one column for each attention method.",
    )
    plot = Figure(
        faithfulness_figure(comparison),
        "Means and their 95 % intervals over images; grey squares: controls.",
        "Dot plots of insertion, deletion and ROAD from the table above.",
    )
    table = Table(header, rows, "Faithfulness, class sensitivity and cost; means over images ± half a 95 % interval")
    return [
        Section("Attention methods side by side", told, (table,), (plot, maps)),
        Section("Attention methods: parameter randomisation", _SANITY_WORDS, (_sanity_table(comparison),)),
    ]


_SANITY_WORDS = (
    f"On at most {PROBED} images, {FEW} where a map costs more than {EXPENSIVE:g} classifications, as is the likeness. "
    "Layers get new random parameters, from the head towards the input; the maps before and after are compared "
    "(Adebayo et al. 2018). A map that stays alike does not show what the network learned. The head alone is a mild "
    "change; a method that takes no class into account stays the same there by its definition.",
)


def _sanity_table(comparison: MethodComparison) -> Table:
    rows = []
    for method in comparison.methods:
        cells = [f"{s.spearman:.2f} / {s.ssim:.2f}" if s.n else "-" for s in method.sanity]
        rows.append([method.name, *cells])
    caption = "Spearman correlation / SSIM with the trained network's maps, by what was randomised; low is good"
    return Table(["method", *(stage for stage, _ in STAGES)], rows, caption)


def _cluster_filter_words(comparison: MethodComparison) -> str:
    found = {m.name: m.class_likeness.mean for m in comparison.methods}
    if not {"cfcam", "cfcam-softmax"} <= found.keys():
        return ""
    return (
        f" For CF-CAM it is {found['cfcam-softmax']:.2f} with the published softmax over the channel weights and "
        f"{found['cfcam']:.2f} with linear weights, the default here."
    )


def _plane(evaluation: Evaluation) -> Section | None:
    if not evaluation.points:
        return None
    told = (
        "Each dot is an image; images that the network sees alike lie together (t-SNE of the attention layer's mean "
        "features). Neighbourhood means something here, the distance between far groups does not.",
    )
    picture = Figure(
        embedding_figure(evaluation.points),
        f"{len(evaluation.points)} images.",
        "Two scatter plots of the same dots: coloured by verdict, and by source or family.",
    )
    return Section("The images in the network's eyes", told, (), (picture,))


def _worst(title: str, cases: Sequence[Case]) -> Section:
    if not cases:
        return Section(title, ("There is none.",))
    shown = cases[:SHOWN]
    rows = [_case_cells(i, c) for i, c in enumerate(shown, 1)]
    header = ["no.", "source or family", "file", "verdict", "network says", "p", "reasons"]
    told = (f"{len(cases)} images; {len(shown)} are shown. Outlined: where the network looked.",)
    picture = Figure(cases_figure(shown), title, f"{len(shown)} pictures, listed in the table above.")
    return Section(title, told, (Table(header, rows, "What was found"),), (picture,))


def _case_cells(number: int, case: Case) -> list[str]:
    found = case.verification
    cells = [str(number), case.family, case.image.path.name, found.verdict.value, case.prediction.label]
    return [*cells, f"{found.p_value:.2g}", "; ".join(found.reasons) or "-"]


def _method(evaluation: Evaluation) -> Section:
    extent = evaluation.extent
    told = [
        f"Bundle {evaluation.bundle.name} {evaluation.bundle.version}, digest {evaluation.bundle.digest}; seed "
        f"{evaluation.seed}; at most {extent.manipulated} images were manipulated, {extent.explained} explained by "
        f"every method, {extent.embedded} embedded.",
        "Proportions have exact binomial intervals (Clopper-Pearson); AUROC has DeLong's on the logit scale, never "
        "narrower than what perfect separation of as many images would prove. Images of one patient are counted as if "
        "they were independent.",
        "This is dicom_gam's own protocol. It makes no statement about the unpublished protocol of arXiv 2504.21227.",
    ]
    tables = []
    if evaluation.unusable:
        rows = [[item.path.name, item.reason] for item in evaluation.unusable]
        tables.append(Table(["file", "reason"], rows, "Images that could not be read and are counted nowhere"))
    return Section("How this was measured", told, tables)


def _faithful_cells(faithful: Faithful) -> list[str]:
    return [_average(faithful.insertion), _average(faithful.deletion), _average(faithful.road)]


def _average(average: Average) -> str:
    if math.isnan(average.mean):
        return "-"
    return f"{average.mean:.3f}" + ("" if math.isnan(average.half_width) else f" ± {average.half_width:.3f}")


def _area(found: Separation) -> str:
    low, high = found.auroc_interval
    return f"{found.auroc:.3f} ({low:.3f}-{high:.3f})"


def _rate(rate: Rate) -> str:
    return share(rate.count, rate.n)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"

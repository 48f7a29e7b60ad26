"""Judge a bundle on images it has never seen: by source for real classes, by family for negatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import Prepared, verify_batch
from dicom_gam.records import Verdict

BATCH = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one image: the label the network gave, and the verdict."""

    label: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: images of one class and source (or one negative family).

    `right` counts images given their own label; verdicts are counted over all `n`.
    """

    group: str
    label: str
    n: int
    right: int
    verdicts: Counter[Verdict]


def outcomes(bundle: Bundle, prepared: Prepared) -> list[Outcome]:
    """Verify a batch of any size."""
    found = []
    for batch in prepared.split(BATCH):
        for prediction, verification in verify_batch(bundle, batch):
            found.append(Outcome(prediction.label, verification.verdict))
    return found


def tabulate(groups: Sequence[str], labels: Sequence[str], results: Sequence[Outcome]) -> list[Row]:
    """One row for each (label, group), in order of label and group."""
    rows = []
    for key in sorted({(label, group) for label, group in zip(labels, groups, strict=True)}):
        own = [r for r, label, group in zip(results, labels, groups, strict=True) if (label, group) == key]
        rows.append(Row(key[1], key[0], len(own), sum(r.label == key[0] for r in own), Counter(r.verdict for r in own)))
    return rows


def interval(count: int, n: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of a proportion (Clopper & Pearson 1934)."""
    bounds = binomtest(count, n).proportion_ci(confidence_level=0.95, method="exact")
    return float(bounds.low), float(bounds.high)


def share(count: int, n: int) -> str:
    """A proportion with its interval, for a table: "97 % (91-100)"."""
    if n == 0:
        return "-"
    low, high = interval(count, n)
    return f"{100 * count / n:.1f} % ({100 * low:.0f}-{100 * high:.0f})"


def class_table(rows: Sequence[Row]) -> str:
    """Markdown: accuracy and verdicts of images of real classes. Not PASS is a false alarm."""
    lines = [
        "| class | source | n | right class | PASS | FAIL | REJECT | false alarms, 95 % CI |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        v = row.verdicts
        lines.append(
            f"| {row.label} | {row.group} | {row.n} | {share(row.right, row.n)} | {v[Verdict.PASS]} "
            f"| {v[Verdict.FAIL]} | {v[Verdict.REJECT]} | {share(row.n - v[Verdict.PASS], row.n)} |"
        )
    return "\n".join(lines)


def negative_table(rows: Sequence[Row]) -> str:
    """Markdown: verdicts of negatives by family. PASS is the harmful outcome."""
    lines = ["| family | n | REJECT | FAIL | PASS | wrongly passed, 95 % CI |", "|---|---|---|---|---|---|"]
    for row in rows:
        v = row.verdicts
        lines.append(
            f"| {row.group} | {row.n} | {v[Verdict.REJECT]} | {v[Verdict.FAIL]} | {v[Verdict.PASS]} "
            f"| {share(v[Verdict.PASS], row.n)} |"
        )
    return "\n".join(lines)


def total(rows: Sequence[Row], group: str, label: str) -> Row:
    """The sum of rows."""
    verdicts: Counter[Verdict] = Counter()
    for row in rows:
        verdicts.update(row.verdicts)
    return Row(group, label, sum(r.n for r in rows), sum(r.right for r in rows), verdicts)

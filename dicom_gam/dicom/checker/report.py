"""What a report says: its figures, its outline, its verdict, and what it must not say without a PASS."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_gam.dicom.checker.concepts import code_of
from dicom_gam.dicom.checker.defects import Complaints
from dicom_gam.dicom.checker.reading import ResultFile
from dicom_gam.dicom.checker.templates import (
    CHECK_CONCEPTS,
    KEY_OBJECT_SELECTION,
    MEASUREMENT_REPORT,
    NO_UNITS,
    SHARES,
    VERDICT_CODES,
)
from dicom_gam.dicom.checker.tree import Node, check_tree, groups_of, tree_of
from dicom_gam.dicom.result.codes import PRIVATE_SCHEME, QUALITY, UNDETERMINED, VERDICT_WORDS
from dicom_gam.records import Verdict

_QUALIFIED = {"114000": math.nan, "114001": -math.inf, "114002": math.inf}  # CID 42
_UNDETERMINED = f"{UNDETERMINED.value}/{UNDETERMINED.scheme}"
_CLOSE = 1e-8  # a decimal string of 16 characters holds at least 9 digits


@dataclass(frozen=True, slots=True)
class ImageSize:
    """The source image, where it is known."""

    rows: int
    columns: int


def _own(value: str) -> str:
    return f"{value}/{PRIVATE_SCHEME}"


def check_report(file: ResultFile, size: ImageSize | None) -> None:
    """The content tree of a report. `size` is of the source image, None when it is not at hand."""
    complaints, root = file.complaints, tree_of(file.dataset)
    if root.key not in MEASUREMENT_REPORT.concepts:
        complaints.add("wrong-document-title", "root", "it is no Imaging Measurement Report")
    check_tree(root, MEASUREMENT_REPORT, complaints)
    for node in root.walk():
        if node.value_type == "NUM":
            _check_number(node, complaints)
        elif node.value_type == "SCOORD":
            _check_outline(node, size, complaints)
        if node.children:
            _check_threshold(node, complaints)
    tracking = Counter(node.item.text("UID") for node in root.walk() if node.key == "112040/DCM")
    for uid, count in tracking.items():
        if count > 1:
            complaints.add("duplicate-tracking-uid", "112040", f"{uid} stands {count} times")
    _check_verdict(file, root)


def check_note(file: ResultFile) -> None:
    """The content tree of a rejection note."""
    complaints, root = file.complaints, tree_of(file.dataset)
    if root.key not in KEY_OBJECT_SELECTION.concepts:
        complaints.add("wrong-document-title", "root", f"its title is {root.key or 'missing'}")
    if root.named("113011/DCM") is None:
        complaints.add("missing-title-modifier", "root")
    check_tree(root, KEY_OBJECT_SELECTION, complaints)
    verdict = described_verdict(file)
    if verdict is not Verdict.REJECT:
        complaints.add("rejection-without-reject", "SeriesDescription")
    words = root.named("113012/DCM")
    if words is not None:
        check_words(words.item.text("TextValue"), verdict, words.place, complaints)


def described_verdict(file: ResultFile) -> Verdict | None:
    """The verdict in the series' description, which every object has; None where it says none."""
    last = file.dataset.text("SeriesDescription").rpartition(" - ")[2]
    return Verdict(last) if last in set(Verdict) else None


def check_words(text: str, verdict: Verdict | None, place: str, complaints: Complaints) -> None:
    """A text for the reader begins with its verdict's words, and with those only."""
    words = None if verdict is None else VERDICT_WORDS[verdict]
    begins = words is not None and text.startswith(words)
    longer = any(w != words and len(w) > len(words or "") and text.startswith(w) for w in VERDICT_WORDS.values())
    if not begins or longer:
        complaints.add("wrong-verdict-words", place)


def check_title(text: str, verdict: Verdict | None, place: str, complaints: Complaints) -> None:
    """A text that may be in the hospital's language has its verdict's own word in its title, and no other verdict's."""
    title = text.partition(". ")[0]
    said = {word for word in Verdict if re.search(rf"\b{word}", title, re.IGNORECASE)}
    if verdict is None or said != {verdict} or re.search(rf"\b{verdict}(ED)?\b", title) is None:
        complaints.add("wrong-verdict-words", place)


def value_of(node: Node) -> float | None:
    """A number: infinite or no number where its qualifier says so, None where there is none at all."""
    measured = node.item.item("MeasuredValueSequence")
    for keyword in ("FloatingPointValue", "NumericValue"):
        found = measured.number(keyword)
        if found is not None:
            return found
    qualifier = code_of(node.item.item("NumericValueQualifierCodeSequence"))
    return _QUALIFIED.get(qualifier.value) if qualifier.scheme == "DCM" else None


def _check_number(node: Node, complaints: Complaints) -> None:
    value = value_of(node)
    if value is None:
        complaints.add("number-without-value", node.place)
        return
    measured = node.item.item("MeasuredValueSequence")
    decimal, exact = measured.number("NumericValue"), measured.number("FloatingPointValue")
    if measured.elements:
        if decimal is None:
            complaints.add("missing-type-1", f"{node.place}.NumericValue")
        if code_of(measured.item("MeasurementUnitsCodeSequence")).key != NO_UNITS:
            complaints.add("wrong-units", node.place)
    if decimal is not None and exact is not None and not math.isclose(decimal, exact, rel_tol=_CLOSE, abs_tol=1e-300):
        complaints.add("number-disagrees", node.place)
    if node.key in SHARES and math.isfinite(value) and not 0 <= value <= 1:
        complaints.add("probability-out-of-range", node.place)


def _check_threshold(node: Node, complaints: Complaints) -> None:
    """A score beside its threshold and PASS or FAIL; a check's score beside the check's outcome in the same group."""
    if node.value_type == "NUM":
        result = node.named(_own("RESULT"))
        if result is not None:
            _compare(node, result, complaints)
        return
    scores = [child for child in node.children if child.key == _own("CHECK_SCORE")]
    outcomes = [child for child in node.children if child.key in CHECK_CONCEPTS]
    if len(scores) == 1 and len(outcomes) == 1:
        _compare(scores[0], outcomes[0], complaints)


def _compare(score: Node, outcome: Node, complaints: Complaints) -> None:
    value = value_of(score)
    low, high = score.named(_own("THR_MIN")), score.named(_own("THR_MAX"))
    if value is None or (low is None) == (high is None):
        return  # has a defect of its own
    limit = value_of(low or high)  # type: ignore[arg-type]
    if limit is None:
        return
    passed = value >= limit if low is not None else value <= limit
    if outcome.value.key != _own("PASS" if passed else "FAIL"):
        complaints.add("threshold-contradiction", outcome.place, f"{value:.6g} against {limit:.6g}")


def _check_outline(node: Node, size: ImageSize | None, complaints: Complaints) -> None:
    """PS3.3 C.18.6: pairs of column and row, (0, 0) the top left corner of the first pixel."""
    numbers = node.item.numbers("GraphicData")
    points = list(zip(numbers[::2], numbers[1::2], strict=False))
    if node.item.text("GraphicType") != "POLYLINE" or len(numbers) % 2 or len(set(points)) < 3:
        complaints.add("degenerate-outline", node.place)
    elif points[0] != points[-1]:
        complaints.add("open-outline", node.place)
    right, bottom = (math.inf, math.inf) if size is None else (size.columns, size.rows)
    if not all(0 <= x <= right and 0 <= y <= bottom for x, y in points):
        complaints.add("outline-outside-image", node.place)


def _check_verdict(file: ResultFile, root: Node) -> None:
    complaints, groups = file.complaints, groups_of(root)
    overall = groups.get("overall verdict")
    stated = None if overall is None else overall.named(_own("VERDICT"))
    described = described_verdict(file)
    if described is None:
        complaints.add("no-verdict", "SeriesDescription")
    if overall is None or stated is None or stated.value.key not in VERDICT_CODES:
        complaints.add("no-verdict", "overall verdict")
        _check_findings(root, None, complaints)
        return
    verdict = Verdict(stated.value.value)
    if described is not None and described is not verdict:
        complaints.add("verdict-contradiction", "SeriesDescription", f"it says {described}, the tree {verdict}")
    quality = overall.named("111050/DCM")
    if quality is not None and quality.value.value != QUALITY[verdict].value:
        complaints.add("verdict-contradiction", quality.place, f"it is not that of {verdict}")
    comment = overall.named("121106/DCM")
    if comment is not None:
        check_words(comment.item.text("TextValue"), verdict, comment.place, complaints)
    if verdict is Verdict.PASS:
        _check_pass(overall, groups.values(), complaints)
    _check_findings(root, verdict, complaints)


def _check_pass(overall: Node, groups: Sequence[Node] | object, complaints: Complaints) -> None:
    """PASS means that the combined p-value is above the false-alarm rate, and that no deciding check failed."""
    p_value, alpha = overall.named(_own("P_COMBINED")), overall.named(_own("ALPHA"))
    if p_value is not None and alpha is not None:
        p, bound = value_of(p_value), value_of(alpha)
        if p is None or bound is None or not p > bound:
            complaints.add("verdict-contradiction", p_value.place, "PASS although it is not above the false-alarm rate")
    for group in groups if isinstance(groups, Sequence) else tuple(groups):  # type: ignore[arg-type]
        advisory = any(child.value.key == _own("ADVISORY") for child in group.children if child.value_type == "CODE")
        for child in group.children:
            if child.key in CHECK_CONCEPTS and child.value.key == _own("FAIL") and not advisory:
                complaints.add("verdict-contradiction", child.place, "PASS although this check failed")


def _check_findings(root: Node, verdict: Verdict | None, complaints: Complaints) -> None:
    """No class leaves without a PASS, not even in a report whose verdict can't be told."""
    nodes = list(root.walk())
    classification = groups_of(root).get("classification")
    finding = None if classification is None else classification.named("121071/DCM")
    predicted = [node for node in nodes if node.key == _own("PRED_CLASS")]
    if verdict is not Verdict.PASS:
        if finding is not None and finding.value.key != _UNDETERMINED:
            complaints.add("finding-without-pass", finding.place)
        for node in predicted:
            complaints.add("class-without-pass", node.place)
        return
    said = {node.value.key for node in (*predicted, *(() if finding is None else (finding,)))}
    if not predicted or finding is None or len(said) != 1 or _UNDETERMINED in said:
        complaints.add("pass-without-class", "classification")

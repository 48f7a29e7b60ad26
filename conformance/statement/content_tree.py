"""The content tree of the report, drawn from encoded examples that are laid over one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydicom.dataset import Dataset

from conformance.statement.examples import CLASS, Example, report, verification
from conformance.statement.markdown import listed
from dicom_gam.records import Measurement, Verdict

TRACKING_IDENTIFIER = "112039"
_BRANCHES = ("├─ ", "└─ ", "│  ", "   ")
_MANY = 3  # measurements that differ in nothing but their name are drawn as one from this number on


@dataclass
class Node:
    """One kind of content item: `counts` by example, how many of it one parent has; `values` by verdict."""

    relationship: str
    value_type: str
    concept: str
    template: str = ""
    counts: dict[str, set[int]] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def multiplicity(self) -> str:
        """`1`, `0..1`, `1..n`: what one parent has."""
        counts = {count for some in self.counts.values() for count in some}
        low, high = min(counts), max(counts)
        return str(low) if low == high else f"{low}..{'n' if high > 1 else high}"

    @property
    def verdicts(self) -> list[str]:
        """The verdicts with which it can be there."""
        return list(dict.fromkeys(name.split(",")[0] for name, counts in self.counts.items() if max(counts)))

    @property
    def shape(self) -> tuple[object, ...]:
        """All but its name and values."""
        shapes = tuple((child.concept, child.shape) for child in self.children)
        return self.relationship, self.value_type, self.multiplicity, shapes


def examples() -> dict[str, Example]:
    """Reports of every verdict, and reports with as little, or as much amiss, as a bundle may bring about."""
    shown = {str(verdict): report(verification(verdict, full=True)) for verdict in Verdict}
    plain = shown["PASS"].verification
    turned = tuple(
        replace(check, measurements=tuple(map(_turned, check.measurements)), advisory=False) for check in plain.checks
    )
    failed = tuple(
        replace(check, measurements=tuple(replace(_turned(m), value=9.0) for m in check.measurements), passed=False)
        for check in plain.checks
    )
    nowhere = np.zeros((8, 8), np.float32)
    odd = {
        "PASS, turned": replace(plain, checks=turned, notes=()),
        "PASS, least": replace(
            plain,
            checks=tuple(replace(check, measurements=()) for check in plain.checks if check.name != "authenticity"),
            attention_map=nowhere,
            attention_status="degenerate",
        ),
        **{
            f"{verdict}, all": replace(
                shown[verdict].verification,
                checks=failed,
                reasons=("one", "two"),
            )
            for verdict in ("FAIL", "REJECT")
        },
    }
    return shown | {name: report(one) for name, one in odd.items()}


def _turned(measurement: Measurement) -> Measurement:
    """The other side of the threshold is the acceptable one, and there is no p-value."""
    return replace(measurement, bound="max" if measurement.bound == "min" else "min", p_value=None)


def tree(reports: Mapping[str, Dataset], images: Mapping[str, str]) -> Node:
    """Lay reports over one another; `images` names what the SOP Instance UIDs of images stand for."""
    root = _node(next(iter(reports.values())))
    root.counts = {name: {1} for name in reports}
    root.children = _children({name: [one] for name, one in reports.items()}, images)
    return root


def _children(parents: Mapping[str, Sequence[Dataset]], images: Mapping[str, str]) -> list[Node]:
    found: dict[tuple[str, ...], dict[str, list[list[Dataset]]]] = {}
    for name, items in parents.items():
        for place, parent in enumerate(items):
            for item in parent.get("ContentSequence", ()):
                per_parent = found.setdefault(_key(item), {n: [[] for _ in parents[n]] for n in parents})
                per_parent[name][place].append(item)
    nodes = []
    for groups in found.values():
        by_name = {name: [item for items in per_parent for item in items] for name, per_parent in groups.items()}
        sample = next(item for items in by_name.values() for item in items)
        node = _node(sample)
        node.counts = {name: {len(items) for items in per_parent} for name, per_parent in groups.items() if per_parent}
        for name, items in by_name.items():
            texts = node.values.setdefault(name.split(",")[0], [])
            texts.extend(text for text in (_value(item, images) for item in items) if text not in texts)
        node.children = _children(by_name, images)
        nodes.append(node)
    return _gathered(nodes)


def _key(item: Dataset) -> tuple[str, ...]:
    groups = [i.TextValue for i in item.get("ContentSequence", ()) if _code_value(i) == TRACKING_IDENTIFIER]
    return (item.RelationshipType, item.ValueType, _concept(item), *groups)


def _code_value(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def _node(item: Dataset) -> Node:
    return Node(item.get("RelationshipType", ""), item.ValueType, _concept(item), _template(item))


def _template(item: Dataset) -> str:
    templates = item.get("ContentTemplateSequence")
    return f"TID {templates[0].TemplateIdentifier}" if templates else ""


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return _coded(names[0]) if names else ""


def _coded(code: Dataset) -> str:
    return f'({code.CodeValue}, {code.CodingSchemeDesignator}, "{code.CodeMeaning}")'


def _value(item: Dataset, images: Mapping[str, str]) -> str:
    if item.ValueType == "CODE":
        concept = item.ConceptCodeSequence[0]
        return "the predicted class" if concept.CodeValue == CLASS.value else _coded(concept)
    if item.ValueType == "NUM":
        measured = item.get("MeasuredValueSequence")
        return f"number, {_coded(measured[0].MeasurementUnitsCodeSequence[0])}" if measured else "no number"
    if item.ValueType == "IMAGE":
        return images.get(str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID), "an image")
    if item.ValueType == "SCOORD":
        points = list(item.GraphicData)
        return item.GraphicType + (", closed" if points[:2] == points[-2:] else "")
    if item.ValueType == "TEXT":
        return f'"{item.TextValue}"' if _code_value(item) == TRACKING_IDENTIFIER else "text"
    return {"UIDREF": "UID"}.get(item.ValueType, "")


def _gathered(nodes: list[Node]) -> list[Node]:
    """Measurements that differ in nothing but their name as one."""
    left: list[Node] = []
    for node in nodes:
        same = [one for one in left if _alike(one, node)]
        if same and _gatherable(node, nodes):
            same[0].others.append(node.concept)
            for verdict, values in node.values.items():
                same[0].values[verdict] += [value for value in values if value not in same[0].values[verdict]]
            _join(same[0].children, node.children)
        else:
            left.append(node)
    return left


def _gatherable(node: Node, nodes: Sequence[Node]) -> bool:
    return sum(_alike(one, node) for one in nodes) >= _MANY


def _alike(one: Node, other: Node) -> bool:
    contained = one.value_type == "NUM" and one.relationship == "CONTAINS"
    return contained and one.shape == other.shape


def _join(into: Sequence[Node], more: Sequence[Node]) -> None:
    for one, other in zip(into, more, strict=True):
        for verdict, values in other.values.items():
            mine = one.values.setdefault(verdict, [])
            mine += [value for value in values if value not in mine]
        _join(one.children, other.children)


def drawn(root: Node) -> str:
    """The tree as lines of text."""
    return "\n".join([_line(root, root), *_lines(root, root.children, "")])


def _lines(root: Node, children: Sequence[Node], before: str) -> Iterator[str]:
    for child in children:
        last = child is children[-1]
        yield f"{before}{_BRANCHES[last]}{_line(root, child)}"
        yield from _lines(root, child.children, before + _BRANCHES[2 + last])


def _line(root: Node, node: Node) -> str:
    concept = node.concept
    if node.others:
        codes = [one.split(",")[0].lstrip("(") for one in (node.concept, *node.others)]
        concept = f"each of {', '.join(codes)}"
    words = [node.multiplicity, node.relationship, node.value_type, concept, node.template]
    value = _shown_value(node)
    return (
        " ".join(word for word in words if word)
        + (f" = {value}" if value else "")
        + (f"  [{listed(node.verdicts)} only]" if node.verdicts != root.verdicts else "")
    )


def _shown_value(node: Node) -> str:
    """The values; by verdict where each verdict has its own."""
    by_value: dict[str, list[str]] = {}
    for verdict, values in node.values.items():
        if values and values != [""]:
            by_value.setdefault(listed(sorted(values), "or"), []).append(verdict)
    everything = {value for values in node.values.values() for value in values}
    by_verdict = sum(len(values) for values in {tuple(sorted(v)) for v in node.values.values()}) == len(everything)
    if len(by_value) <= 1 or not by_verdict:
        return listed(sorted(everything - {""}), "or")
    return "; ".join(f"{', '.join(verdicts)}: {value}" for value, verdicts in by_value.items())

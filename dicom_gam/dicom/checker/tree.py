"""A content tree held against its template's rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dicom_gam.dicom.checker.concepts import NO_CODE, Code, code_of
from dicom_gam.dicom.checker.defects import Complaints
from dicom_gam.dicom.checker.reading import Item
from dicom_gam.dicom.checker.templates import GROUP_CONCEPT, GROUPS, Row


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A content item with what is asked of it again and again."""

    item: Item
    concept: Code
    value_type: str
    relationship: str
    place: str
    children: tuple[Node, ...]

    @property
    def key(self) -> str:
        """The concept name as "value/scheme", empty without one."""
        return self.concept.key if self.concept != NO_CODE else ""

    @property
    def value(self) -> Code:
        """The coded value."""
        return code_of(self.item.item("ConceptCodeSequence"))

    def named(self, key: str) -> Node | None:
        """The first child of a concept name."""
        return next((child for child in self.children if child.key == key), None)

    def walk(self) -> Iterator[Node]:
        """This item and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def tree_of(item: Item, place: str = "") -> Node:
    """The content tree below a data set or a content item. Places are of concept names, as in `126010[1].125007[2]`."""
    seen: Counter[str] = Counter()
    children = []
    for child in item.items("ContentSequence"):
        name = code_of(child.item("ConceptNameCodeSequence")).value or child.text("ValueType")
        seen[name] += 1
        children.append(tree_of(child, f"{place}.{name}[{seen[name]}]".lstrip(".")))
    concept = code_of(item.item("ConceptNameCodeSequence"))
    value_type, relationship = item.text("ValueType"), item.text("RelationshipType")
    return Node(item, concept, value_type, relationship, place, tuple(children))


_FURTHER_PART = re.compile(r"(?<=^attended region) [2-9]$")  # an attended region may be in several parts


def group_name(group: Node) -> str:
    """The tracking identifier of a measurement group."""
    tracking = group.named("112039/DCM")
    return "" if tracking is None else tracking.item.text("TextValue")


def groups_of(root: Node) -> dict[str, Node]:
    """The measurement groups by tracking identifier."""
    return {group_name(node): node for node in root.walk() if node.key == GROUP_CONCEPT}


def check_tree(root: Node, template: Row, complaints: Complaints) -> None:
    """Hold a whole tree against its template; the title is for the caller to judge."""
    if root.value_type != template.value_type:
        complaints.add("wrong-value-type", "root", f"the root is no {template.value_type}")
    _check_template(root, template.where.removeprefix("TID "), complaints)
    _check_children(root, template.children, complaints)


def _check_children(parent: Node, rows: Sequence[Row], complaints: Complaints) -> None:
    counts: Counter[int] = Counter()
    for child in parent.children:
        fitting = [place for place, row in enumerate(rows) if child.key in row.concepts]
        if not fitting:
            complaints.add("unknown-content-item", child.place)
            continue
        counts[fitting[0]] += 1
        _check_item(child, rows[fitting[0]], complaints)
    for place, row in enumerate(rows):
        what = f"{row.where}: {' or '.join(sorted(row.concepts))}"
        if counts[place] < row.least:
            complaints.add("missing-content-item", parent.place or "root", f"{what} is missing")
        elif row.most and counts[place] > row.most:
            complaints.add("too-many-content-items", parent.place or "root", f"{what} stands {counts[place]} times")


def _check_item(node: Node, row: Row, complaints: Complaints) -> None:
    if node.value_type != row.value_type:
        complaints.add("wrong-value-type", node.place, f"{row.where}: it is no {row.value_type}")
    if node.relationship not in row.relationships:
        complaints.add("wrong-relationship", node.place, f"{row.where}: not {' or '.join(sorted(row.relationships))}")
    if not _has_value(node):
        complaints.add("missing-item-value", node.place)
    elif row.values is not None and node.value_type == "CODE" and node.value.key not in row.values:
        complaints.add("wrong-coded-value", node.place, f"{row.where}: not one of {', '.join(sorted(row.values))}")
    if node.key == GROUP_CONCEPT:
        _check_group(node, complaints)
        return
    _check_children(node, row.children, complaints)
    if node.key == "126010/DCM":
        names = Counter(map(group_name, node.children))
        for name, group in GROUPS.items():
            if group.required and not names[name]:
                complaints.add("missing-content-item", node.place, f"the measurement group {name!r} is missing")
            elif names[name] > 1:
                complaints.add("too-many-content-items", node.place, f"the measurement group {name!r} stands twice")


def _check_group(node: Node, complaints: Complaints) -> None:
    group = GROUPS.get(_FURTHER_PART.sub("", group_name(node)))
    if group is None:
        complaints.add("unknown-group", node.place)
        return
    _check_template(node, group.template, complaints)
    _check_children(node, group.rows, complaints)


def _check_template(node: Node, template: str, complaints: Complaints) -> None:
    stated = node.item.item("ContentTemplateSequence")
    if (stated.text("MappingResource"), stated.text("TemplateIdentifier")) != ("DCMR", template):
        complaints.add("wrong-template", node.place or "root", f"it is not TID {template} of DCMR")


def _has_value(node: Node) -> bool:
    """Whether a content item has the value of its type (PS3.3 C.17.3.2). Numbers are looked at elsewhere."""
    item = node.item
    match node.value_type:
        case "TEXT":
            return not item.is_empty("TextValue")
        case "CODE":
            return len(item.items("ConceptCodeSequence")) == 1
        case "UIDREF":
            return not item.is_empty("UID")
        case "CONTAINER":
            return item.text("ContinuityOfContent") == "SEPARATE"
        case "IMAGE":
            return len(item.items("ReferencedSOPSequence")) == 1
        case "SCOORD":
            return not item.is_empty("GraphicData") and not item.is_empty("GraphicType")
    return True

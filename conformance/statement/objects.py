"""The tables of created objects, the report's tree, and the codes that stand in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cached_property

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID

from conformance.statement import content_tree, names
from conformance.statement.examples import ROLES
from conformance.statement.markdown import code, listed, table
from conformance.statement.provenance import Attribute, Origins
from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result import codes
from dicom_gam.records import CodedConcept, ResultRole, Verdict

_HEADS = ("module", "attribute", "tag", "VR", "type", "presence", "value, and where it comes from")
_ALWAYS = ("sr", "overlay")


class Objects:
    """Every kind of created object, by example."""

    def __init__(self) -> None:
        self.origins = Origins()
        self._attributes = {role: self.origins.attributes(role) for role in ROLES}

    @cached_property
    def files(self) -> dict[ResultRole, bytes]:
        """One example of each, as a file."""
        return {role: _file(self.origins.created(role)) for role in ROLES}

    def overview(self) -> str:
        """What is created, and when."""
        rows = []
        for role in ROLES:
            made = self.origins.created(role)
            with_it = [str(v) for v, example in self.origins.firsts.items() if role in example.encoded()]
            series = (made.Modality, made.SeriesNumber)
            verdicts = "every" if len(with_it) == len(Verdict) else listed(with_it)
            default = "always" if role in _ALWAYS else "yes" if role in OutputSettings().objects else "no"
            uid = made.SOPClassUID
            rows.append((names.OBJECTS[role], code(role), default, UID(uid).name, code(uid), *series, verdicts))
        heads = (
            "object",
            "in `output.objects`",
            "by default",
            "SOP class",
            "UID",
            "Modality",
            "Series Number",
            "on verdict",
        )
        return table(heads, rows)

    def common(self) -> str:
        """What stands in all objects alike."""
        return self._table("overlay", [one for one in self._attributes["sr"] if self._is_common(one)])

    def own(self, role: ResultRole) -> str:
        """What stands in one kind of object, but for what all have."""
        return self._table(role, [one for one in self._attributes[role] if not self._is_common(one)])

    def _is_common(self, attribute: Attribute) -> bool:
        """Whether all objects have it, with a sequence as a whole."""
        return all(self._below(role, attribute.path[0]) == self._below("sr", attribute.path[0]) for role in ROLES)

    def _below(self, role: ResultRole, tag: int) -> list[tuple[str, str, str]]:
        return [(one.name, one.presence, one.origin) for one in self._attributes[role] if one.path[0] == tag]

    def _table(self, role: ResultRole, attributes: list[Attribute]) -> str:
        known = names.modules(self.origins.created(role).SOPClassUID)
        order = {module: place for place, module in enumerate(dict.fromkeys(module for module, _ in known.values()))}
        rows = []
        for one in attributes:
            kind = known.get(one.keywords, ("", ""))[1]
            top = known.get(one.keywords[:1], ("", ""))[0] or "other"
            place = order.get(top, len(order))
            rows.append((place, one.path, (top, one.name, one.tag, one.vr, kind, one.presence, one.origin)))
        rows.sort(key=lambda row: row[:2])
        return table(_HEADS, [cells for _, _, cells in rows])

    @cached_property
    def _tree(self) -> content_tree.Node:
        examples = content_tree.examples()
        images = {}
        for example in examples.values():
            made = example.encoded()
            images[str(example.source.SOPInstanceUID)] = "the source image"
            images[str(made["overlay"].SOPInstanceUID)] = "the overlay"
        return content_tree.tree({name: example.encoded()["sr"] for name, example in examples.items()}, images)

    def tree(self) -> str:
        """The report's content tree, which is the same in both SOP classes."""
        trees = [content_tree.drawn(content_tree.tree({"PASS": one}, {})) for one in self.origins.both_reports()]
        assert trees[0] == trees[1], "the content trees of the two SOP classes differ"
        return content_tree.drawn(self._tree)

    def rejection_tree(self) -> str:
        """The rejection note's content tree."""
        example = self.origins.firsts[Verdict.REJECT]
        images = {str(example.source.SOPInstanceUID): "the source image"}
        made = example.encoded()
        images |= {str(made[role].SOPInstanceUID): f"the {names.OBJECTS[role]}" for role in ("sr", "overlay")}
        return content_tree.drawn(content_tree.tree({"REJECT": made["rejection"]}, images))

    @property
    def language(self) -> str:
        """The language that the report states."""
        return next(listed(node.values["PASS"]) for node in self._tree.children if "(121049," in node.concept)

    def syntax(self, role: ResultRole) -> str:
        """The transfer syntax in which an object is kept."""
        uid = UID(self.origins.created(role).file_meta.TransferSyntaxUID)
        return f"{uid.name} {code(uid)}"

    def extensions(self) -> str:
        """What the objects hold beyond their IODs, by the tables of PS3.3 that are used here."""
        beyond: dict[str, list[str]] = {}
        for role in ROLES:
            known = names.modules(self.origins.created(role).SOPClassUID)
            for one in self._attributes[role]:
                if len(one.path) == 1 and one.keywords not in known:
                    beyond.setdefault(f"{one.name} {one.tag}", []).append(names.OBJECTS[role])
        if not beyond:
            return "The objects hold no attribute beyond their IODs."
        words = [f"{name} in {'all objects' if len(w) == len(ROLES) else listed(w)}" for name, w in beyond.items()]
        return f"Standard Extended SOP classes, by optional attributes beyond the IOD's own: {listed(words)}."

    def standard_codes(self) -> str:
        """Every code of the standard that stands in an example, and in which objects."""
        where: dict[tuple[str, str, str], list[str]] = {}
        for concept in codes.STANDARD_CODES:
            where.setdefault((concept.scheme, concept.value, concept.meaning), [])
        for name, dataset in self._all():
            for scheme, value, meaning in _codes(dataset):
                if scheme != codes.PRIVATE_SCHEME and not scheme.startswith("99") and meaning != "Thoracic structure":
                    places = where.setdefault((scheme, value, meaning), [])
                    places += [name] if name not in places else []
        rows = [
            (scheme, code(value), meaning, listed(places) or "only where it is needed; no example has it")
            for (scheme, value, meaning), places in sorted(where.items())
        ]
        return table(("scheme", "code", "meaning", "stands in"), rows)

    def _all(self) -> Iterator[tuple[str, Dataset]]:
        for example in self.origins.firsts.values():
            yield from ((names.OBJECTS[role], dataset) for role, dataset in example.encoded().items())

    def schemes(self) -> str:
        """The coding schemes in use."""
        used = {
            scheme for _, dataset in self._all() for scheme, _, _ in _codes(dataset) if not scheme.startswith("99S")
        }
        known = {
            "DCM": "DICOM Controlled Terminology (PS3.16 annex D)",
            "SCT": "SNOMED CT",
            "UCUM": "units of measurement",
            "RFC5646": "languages",
            codes.PRIVATE_SCHEME: f"private: {codes.PRIVATE_SCHEME_NAME}; no UID is registered or claimed",
        }
        return table(("designator", "scheme"), [(code(scheme), known[scheme]) for scheme in sorted(used)])


def private_codes() -> str:
    """Our own table, with what each code is used for."""
    checks = {entry.concept.value: name.partition(".")[0] for name, entry in codes.MEASUREMENTS.items()}
    labels = {entry.concept.value: entry.label for entry in codes.MEASUREMENTS.values()}
    rows = [
        (code(concept.value), concept.meaning, _use(concept, checks), labels.get(concept.value, ""))
        for concept in codes.PRIVATE_CODES
    ]
    return table(("code", "meaning", "use in the report", "on the overlay"), rows)


def _use(concept: CodedConcept, checks: Mapping[str, str]) -> str:
    if concept.value in checks:
        return f"NUM, a measurement of the {checks[concept.value]} check"
    if concept in codes.CHECKS.values():
        return "CODE, what a check came to"
    if concept in codes.VERDICTS.values():
        return "value of a CODE"
    return {
        "VERDICT": "CODE, the conclusion",
        "RESULT": "CODE, property of a measurement or of a check",
        "ADVISORY": "value of a CODE",
        "PRED_CLASS": "CODE, on PASS only",
    }.get(concept.value, "NUM")


def _file(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _codes(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    if "CodeValue" in dataset and "CodingSchemeDesignator" in dataset:
        yield dataset.CodingSchemeDesignator, dataset.CodeValue, dataset.get("CodeMeaning", "")
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _codes(item)

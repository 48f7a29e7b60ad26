"""Where each attribute of a created object comes from, found out by making it anew with one thing changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_description, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from conformance.statement import names
from conformance.statement.examples import Example, first, variants
from conformance.statement.markdown import code, listed
from dicom_gam.records import ResultRole, Verdict

Path = tuple[int, ...]  # tags, from the data set's own element down into sequences
Flat = dict[Path, tuple[str, ...]]

FACTORS = {
    "source": "the source image",
    "settings": "the settings",
    "bundle": "the bundle",
    "time": "the job's time",
    "figures": "the figures of the verification",
    "verdict": "the verdict",
    "superseded": "the superseded report",
}
_CODE = ["CodeValue", "CodingSchemeDesignator", "CodeMeaning"]
_BUNDLE = ("name", "version", "digest", "intended_use", "manufacturer")
_PIXEL_DATA = 0x7FE00010
_CONTENT_SEQUENCE = 0x0040A730  # the SR tree, which is drawn instead
FIRST_VERDICT: Mapping[ResultRole, Verdict] = {"rejection": Verdict.REJECT}


@dataclass(frozen=True)
class Attribute:
    """One attribute of one kind of object: `presence` as in PS3.2, `origin` in words."""

    path: Path
    presence: str
    origin: str

    @property
    def keywords(self) -> tuple[str, ...]:
        return tuple(keyword_for_tag(tag) for tag in self.path)

    @property
    def name(self) -> str:
        return f"{'>' * (len(self.path) - 1)} {dictionary_description(self.path[-1])}".strip()

    @property
    def tag(self) -> str:
        return f"({self.path[-1] >> 16:04X},{self.path[-1] & 0xFFFF:04X})"

    @property
    def vr(self) -> str:
        return dictionary_VR(self.path[-1])


def flat(dataset: Dataset) -> Flat:
    """Every attribute with all values that it has in whatever items; sequences of plain codes are values."""
    found: Flat = {}
    _flatten(dataset, (), found)
    return found


def _flatten(dataset: Dataset, above: Path, found: Flat) -> None:
    for element in dataset:
        path = (*above, int(element.tag))
        if path == (_CONTENT_SEQUENCE,):
            continue
        if element.VR != "SQ":
            found[path] = (*found.get(path, ()), _shown(element.value))
            continue
        if element.value and all([e.keyword for e in item] == _CODE for item in element.value):
            codes = tuple(f'({i.CodeValue}, {i.CodingSchemeDesignator}, "{i.CodeMeaning}")' for i in element.value)
            found[path] = (*found.get(path, ()), *codes)
            continue
        found.setdefault(path, ("items" if element.value else "",))
        for item in element.value:
            _flatten(item, path, found)


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, MultiValue | list):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


class Origins:
    """The examples of every kind of object, encoded once."""

    def __init__(self) -> None:
        self.firsts = {verdict: first(verdict) for verdict in Verdict}
        self._variants = {verdict: variants(self.firsts[verdict]) for verdict in (Verdict.PASS, Verdict.REJECT)}

    def created(self, role: ResultRole, verdict: Verdict | None = None) -> Dataset:
        """The first example of an object."""
        return self.firsts[verdict or FIRST_VERDICT.get(role, Verdict.PASS)].encoded()[role]

    def both_reports(self) -> list[Dataset]:
        """The report in either SOP class."""
        return [one.encoded()["sr"] for one in (self.firsts[Verdict.PASS], self._variants[Verdict.PASS]["settings"])]

    def attributes(self, role: ResultRole) -> list[Attribute]:
        """Every attribute that is in any example of the object, in the order of tags."""
        verdict = FIRST_VERDICT.get(role, Verdict.PASS)
        verdicts = {str(name): example for name, example in self.firsts.items()}
        judge = _Judge(role, {"first": self.firsts[verdict], **self._variants[verdict]}, verdicts)
        return [Attribute(path, judge.presence(path), judge.origin(path)) for path in judge.paths]


class _Judge:
    """What follows from comparing the examples of one object."""

    def __init__(self, role: ResultRole, examples: Mapping[str, Example], verdicts: Mapping[str, Example]) -> None:
        self._base = flat(examples["first"].encoded()[role])
        others = {name: example.encoded() for name, example in examples.items() if name != "first"}
        self._others = {name: flat(made[role]) for name, made in others.items() if role in made}
        self._verdicts = {name: flat(one.encoded()[role]) for name, one in verdicts.items() if role in one.encoded()}
        self._examples = {**examples, **{f"verdict {name}": verdicts[name] for name in self._verdicts}}
        self._all = {"first": self._base, **self._others}
        self._all |= {f"verdict {name}": one for name, one in self._verdicts.items()}
        self._sources = {name: flat(examples[name].source) for name in ("first", "source")}
        self._siblings = {
            str(made[keyword].value): f"the {names.OBJECTS[sibling]}'s {dictionary_description(tag_of(keyword))}"
            for sibling, made in examples["first"].encoded().items()
            for keyword in ("SOPInstanceUID", "SeriesInstanceUID")
            if sibling != role
        }

    @property
    def paths(self) -> list[Path]:
        """Every attribute of any example, in the order of tags."""
        return sorted({path for one in self._all.values() for path in one})

    def presence(self, path: Path) -> str:
        """In PS3.2's words: ALWAYS, VNAP (the value not always), ANAP (the attribute not always), and when."""
        with_it = [name for name, one in self._verdicts.items() if path in one]
        if not with_it:  # only in a variant
            return "ANAP: where the source says too little"
        if len(with_it) < len(self._verdicts):
            return f"ANAP: {listed(with_it)} only"
        if path not in self._others["first time"]:
            return "ANAP: on reprocessing"
        if path not in self._others["default settings"]:
            return "ANAP: when it is set"
        if path not in self._others.get("nowhere", self._base):
            return "ANAP: when there is an attended region"
        bare = self._others["bare source"].get(path)
        if bare is None:
            return "ANAP: when the source has it"
        if self._base[path] == ("",):
            return "EMPTY"
        return "VNAP: empty when the source has none" if bare == ("",) else "ALWAYS"

    def origin(self, path: Path) -> str:
        """A fixed value, a copy, a setting, or what it is worked out from; empty for a sequence, whose items tell."""
        values = {
            name: one[path] for name, one in self._all.items() if path in one and name not in ("bare source", "nowhere")
        }
        if not values or all(set(value) <= {"items", ""} for value in values.values()):
            return ""
        lengths = {len(value) for value in values.values()}
        if lengths == {1}:
            split = {name: value[0].split("\\") for name, value in values.items()}
            if len(set(map(len, split.values()))) == 1 and self._causes(values) not in ([], ["source"]):
                values, lengths = {name: tuple(parts) for name, parts in split.items()}, {len(split["first"])}
        if lengths == {1} or len(lengths) > 1 or not self._causes(values):
            return self._explained({name: _joined(value) for name, value in values.items()}, path)
        parts = [
            self._explained({name: value[place] for name, value in values.items()}, path)
            for place in range(lengths.pop())
        ]
        return "; ".join(dict.fromkeys(parts))

    def _causes(self, values: Mapping[str, object]) -> list[str]:
        def changes(cause: str) -> bool:
            same = [value for name, value in values.items() if name == cause or name.startswith(f"{cause} ")]
            return any(value != values["first"] for value in same) if "first" in values else False

        return [cause for cause in FACTORS if changes(cause)]

    def _explained(self, values: Mapping[str, str], path: Path) -> str:
        """What one value comes from, by its examples."""
        causes = self._causes(values)
        if not causes:
            return f"fixed: {_named(next(iter(values.values())))}"
        if causes == ["source"]:
            return self._copied(values, path)
        if causes == ["superseded"]:
            return "the superseded report's"
        if values["first"] in self._siblings:
            return self._siblings[values["first"]]
        templates = {self._template(value, self._examples[name]) for name, value in values.items()}
        if len(templates) == 1 and causes != ["time"]:
            return f"`{templates.pop()}`"
        vr = dictionary_VR(path[-1])
        words = listed([FACTORS[cause] for cause in causes])
        if causes in (["settings"], ["verdict"]) and path[-1] != _PIXEL_DATA:
            return " or ".join(dict.fromkeys(map(_named, values.values()))) + f", by {words}"
        if vr == "UI":
            return f"derived UID (UUIDv5) of {words}"
        if set(causes) <= {"time", "source"} and vr in ("DA", "TM", "DT"):
            return "the job's time, on the clock of the source image where that states its time zone"
        return f"worked out from {words}"

    def _copied(self, values: Mapping[str, str], path: Path) -> str:
        sources = {name: {p: _joined(v) for p, v in one.items()} for name, one in self._sources.items()}
        equal = [one for one in sources["first"] if all(sources[n].get(one) == values.get(n) for n in sources)]
        if path in equal:
            return "copied from the source image"
        return (
            f"the source image's {dictionary_description(equal[0][-1])}"
            if equal
            else "worked out from the source image"
        )

    def _template(self, value: str, example: Example) -> str:
        """The value with names in place of what the bundle, the settings and the verdict gave."""
        known = {getattr(example.bundle, name): f"the bundle's {name.replace('_', ' ')}" for name in _BUNDLE}
        known |= {one: f"output.{name}" for name, one in example.settings if isinstance(one, str) and one}
        known[str(example.verification.verdict)] = "verdict"
        numbers = {str(one): f"<output.{name}>" for name, one in example.settings if isinstance(one, int)}
        if value in numbers:
            return numbers[value]
        for text in sorted(known, key=len, reverse=True):
            value = value.replace(text, f"<{known[text]}>")
        return value


def _named(value: str) -> str:
    name = UID(value).name if value.startswith("1.2.840.10008.") else value
    if name != value:
        return f"{code(value)} ({name})"
    return code(value if len(value) <= 100 else f"{value[:97]}...") if value else "empty"


def _joined(values: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(values))


def tag_of(keyword: str) -> int:
    """The tag of a keyword of the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag

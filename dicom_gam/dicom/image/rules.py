"""Rules: which images are processed, by which bundle, and where their results go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_gam.dicom.image.part10 import PYDICOM_ERRORS
from dicom_gam.records import Decision, ReceivedInstance
from dicom_gam.sections import Condition, Rule

# The attributes that the keys of a condition look at; the other keys are about the association.
ATTRIBUTES: Mapping[str, str] = MappingProxyType(
    {
        "modality": "Modality",
        "body_part_examined": "BodyPartExamined",
        "station_name": "StationName",
        "institution_name": "InstitutionName",
        "manufacturer": "Manufacturer",
        "study_description": "StudyDescription",
        "series_description": "SeriesDescription",
        "protocol_name": "ProtocolName",
        "view_position": "ViewPosition",
        "sop_class_uid": "SOPClassUID",
    }
)
ANY = "*"
_LONGEST_VALUE = 1024  # characters that are looked at; the attributes above have at most 64 (PS3.5 6.2)
_MOST_VALUES = 64


@dataclass(frozen=True, slots=True)
class KeyExplanation:
    """How one key of a condition fared. `values` are what was found, empty for an absent or empty attribute."""

    key: str
    values: tuple[str, ...]
    patterns: tuple[str, ...]
    matched: bool


@dataclass(frozen=True, slots=True)
class RuleExplanation:
    """How one rule fared; it matched when all its keys did. Keys that its condition leaves out are not listed."""

    rule: Rule
    keys: tuple[KeyExplanation, ...]

    @property
    def matched(self) -> bool:
        """Whether every key matched; a rule without keys matches every image."""
        return all(key.matched for key in self.keys)


def decide(
    rules: Sequence[Rule], dataset: Dataset, instance: ReceivedInstance, asked_bundle: str, default_bundle: str
) -> Decision:
    """Return what the first rule that matches says; never raises, whatever the data set holds.

    Without rules every image is processed by the default bundle. `asked_bundle`, of a reprocessing, goes before the
    rule's; whether there is a result at all and where it goes stays with the rules, which may guard patients.
    """
    first = next((found for found in explain(rules, dataset, instance) if found.matched), None)
    if first is None:
        skipped = "no rule matches this image: `dicom-gam rules test` shows why" if rules else None
        return Decision(bundle=asked_bundle or default_bundle, skipped=skipped)
    rule = first.rule
    skipped = None if rule.process else f"the rule {rule.name!r} says that images like this one are not processed"
    return Decision(rule.name, asked_bundle or rule.bundle or default_bundle, rule.destinations, skipped)


def explain(rules: Sequence[Rule], dataset: Dataset, instance: ReceivedInstance) -> list[RuleExplanation]:
    """Say of every rule whether it matches, key by key, in the rules' order. The first that matches counts."""
    return [RuleExplanation(rule, tuple(_keys(rule.when, dataset, instance))) for rule in rules]


def _keys(condition: Condition, dataset: Dataset, instance: ReceivedInstance) -> Iterable[KeyExplanation]:
    for key in Condition.model_fields:
        patterns: tuple[str, ...] = getattr(condition, key)
        if patterns:
            values = found_values(key, dataset, instance)
            yield KeyExplanation(key, values, patterns, any(_matches(pattern, values) for pattern in patterns))


def found_values(key: str, dataset: Dataset, instance: ReceivedInstance) -> tuple[str, ...]:
    """The values that a condition's key looks at, without padding; empty where there are none that can be read."""
    if key == "calling_ae_title":
        value: object = instance.calling_ae_title
    elif key == "called_ae_title":
        value = instance.called_ae_title
    else:
        try:
            value = dataset.get(ATTRIBUTES[key])
        except PYDICOM_ERRORS:
            return ()
    several = list(value[:_MOST_VALUES]) if isinstance(value, MultiValue | list | tuple) else [value]
    texts = (item[:_LONGEST_VALUE].strip(" \0\t\r\n") for item in several if isinstance(item, str))
    return tuple(text for text in texts if text)


def _matches(pattern: str, values: Sequence[str]) -> bool:
    wanted = pattern.strip().casefold()
    if wanted == ANY:
        return True
    literal = wanted.replace("[", "[[]")  # only `*` and `?` are special in ours
    return any(fnmatchcase(value.casefold(), literal) for value in values)

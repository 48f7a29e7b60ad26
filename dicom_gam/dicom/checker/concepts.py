"""Codes and their meanings, held against the standard's dictionaries and our own table.

- Our own scheme (99DGAM): the code must be in our table, with its meaning.
- DCM: pydicom's dictionary holds the whole of PS3.16 Annex D (table D-1), so an unknown code is a defect.
- SCT, UCUM and the other schemes of the standard: pydicom knows the codes that PS3.16 uses, which are a part. A known
  code must have one of its meanings; an unknown one can't be judged, and is let pass.
- A class of a bundle (the value of Finding or Predicted class) is the site's to name, in its own language. Its meaning
  is a defect only where the standard gives it to another code of the scheme: then code and words contradict each other.
- Any other scheme must be named in Coding Scheme Identification Sequence.

The meaning is compared without regard to case and to SNOMED's semantic tag, as in "Source (attribute)".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from pydicom.sr._concepts_dict import concepts

from dicom_gam.dicom.checker.reading import Item, ResultFile, tag_of
from dicom_gam.dicom.result.codes import PRIVATE_CODES, PRIVATE_SCHEME

_COMPLETE = "DCM"
_OWN = {concept.value: concept.meaning for concept in PRIVATE_CODES}
# Of PS3.16 table 8-1, those that a class of a radiograph may come from and that pydicom has no dictionary for.
_OTHER_STANDARD_SCHEMES = frozenset({"RFC5646", "SRT", "SNM3", "I10C", "I10P", "ICD10", "ICD11", "I11", "LN", "NCIt"})
_OWN_LANGUAGE = {("RFC5646", "en-US"): frozenset({"english (united states)"})}
# Words for a class that the standard now gives to another code: this one was Chest in CID 4031 until 2022.
_TOLERATED = {("SCT", "51185008"): frozenset({"chest", "thorax"})}
# The source's own codes, which are not ours to judge (PATIENT_AND_STUDY of the reference).
_INHERITED_SEQUENCES = frozenset({"ProcedureCodeSequence"})
_CODE_VALUE, _LONG_CODE, _URN_CODE = map(tag_of, ("CodeValue", "LongCodeValue", "URNCodeValue"))
_SCHEME, _MEANING = tag_of("CodingSchemeDesignator"), tag_of("CodeMeaning")
CLASS_CONCEPTS = frozenset({"121071/DCM", f"PRED_CLASS/{PRIVATE_SCHEME}"})


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept as it stands in an object."""

    value: str
    scheme: str
    meaning: str

    @property
    def key(self) -> str:
        """Value and scheme, which are what counts."""
        return f"{self.value}/{self.scheme}"


NO_CODE = Code("", "", "")


def code_of(item: Item) -> Code:
    """The code of a code sequence's item (PS3.3 8.8); texts as Latin-1, which tells ASCII apart from the rest."""
    found = (item.elements.get(tag) for tag in (_CODE_VALUE, _LONG_CODE, _URN_CODE))
    value = next((element[1] for element in found if element is not None), b"")
    return Code(_text(value), _text_of(item, _SCHEME), _text_of(item, _MEANING))


def _text_of(item: Item, tag: int) -> str:
    element = item.elements.get(tag)
    return "" if element is None else _text(element[1])


def _text(value: bytes | list[Item]) -> str:
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def plain(meaning: str) -> str:
    """A meaning as it is compared."""
    text = meaning.replace("\u200b", "").casefold().strip()
    return text.rpartition(" (")[0] if text.endswith(")") and " (" in text else text


@cache
def _meanings() -> Mapping[tuple[str, str], frozenset[str]]:
    """By scheme and code every meaning that the standard gives it, plain and with its tag."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    dictionary: Any = concepts  # pydicom has no types for it
    for scheme, keywords in dictionary.items():
        for entries in keywords.values():
            for value, (meaning, _) in entries.items():
                found[scheme, value] |= {meaning.replace("\u200b", "").casefold(), plain(meaning)}
    for key, words in (*_OWN_LANGUAGE.items(), *_TOLERATED.items()):
        found[key] |= words
    return MappingProxyType({key: frozenset(words) for key, words in found.items()})


@cache
def _taken(scheme: str) -> frozenset[str]:
    """Every plain meaning that a code of the scheme has."""
    return frozenset(word for (of, _), words in _meanings().items() if of == scheme for word in words)


def check_codes(file: ResultFile) -> None:
    """Every coded concept of an object."""
    dataset, complaints = file.dataset, file.complaints
    named = {item.text("CodingSchemeDesignator") for item in dataset.items("CodingSchemeIdentificationSequence")}
    named.discard("")
    used: set[str] = set()
    classes = _class_values(dataset)
    for place, keyword, item in dataset.walk():
        if place.split("[", 1)[0] in _INHERITED_SEQUENCES or keyword == "CodingSchemeIdentificationSequence":
            continue
        if not (_CODE_VALUE in item.elements or _SCHEME in item.elements or _MEANING in item.elements):
            continue
        code = code_of(item)
        used.add(code.scheme)
        defect = _judged(code, named, id(item) in classes)
        if defect:
            complaints.add(defect, place, _told(defect, code))
    if PRIVATE_SCHEME in used and PRIVATE_SCHEME not in named:
        complaints.add("scheme-not-identified", "CodingSchemeIdentificationSequence")
    for item in dataset.items("CodingSchemeIdentificationSequence"):
        if item.text("CodingSchemeDesignator") == PRIVATE_SCHEME and "CodingSchemeUID" in item:
            complaints.add("scheme-uid-claimed", "CodingSchemeIdentificationSequence.CodingSchemeUID")


def class_defect(value: str, scheme: str, meaning: str) -> str:
    """What is wrong with a class's concept in a bundle, by name; empty for nothing. A private scheme is named."""
    return _judged(Code(value, scheme, meaning), {scheme} if scheme.startswith("99") else set(), is_class=True)


def _judged(code: Code, named: set[str], is_class: bool) -> str:
    if not (code.value and code.scheme and code.meaning):
        return "incomplete-code"
    if code.scheme == PRIVATE_SCHEME:
        if code.value not in _OWN:
            return "unknown-code"
        return "" if code.meaning == _OWN[code.value] else "wrong-meaning"
    known = _meanings().get((code.scheme, code.value))
    if known is not None:
        words = plain(code.meaning)
        if code.meaning.casefold() in known or words in known:
            return ""
        tolerated = is_class and code.scheme != _COMPLETE and words not in _taken(code.scheme)
        return "" if tolerated else "wrong-meaning"
    if code.scheme == _COMPLETE:
        return "unknown-code"
    if code.scheme in concepts or code.scheme in _OTHER_STANDARD_SCHEMES or code.scheme in named:
        return ""
    return "unknown-scheme"


def _told(defect: str, code: Code) -> str:
    """Say it without the meaning, which may be text of any kind."""
    if defect == "unknown-scheme":
        return f"scheme {code.scheme} of code {code.value} is not named in Coding Scheme Identification Sequence"
    return f"code ({code.value}, {code.scheme})"


def _class_values(dataset: Item) -> set[int]:
    """The items that hold a class of the bundle, by identity: the values of Finding and of Predicted class."""
    found = set()
    for _, keyword, item in dataset.walk():
        if keyword == "ContentSequence" and code_of(item.item("ConceptNameCodeSequence")).key in CLASS_CONCEPTS:
            found |= {id(value) for value in item.items("ConceptCodeSequence")}
    return found

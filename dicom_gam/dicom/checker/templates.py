"""The content trees as rows: PS3.16 TID 1500 with what it includes, and TID 2010, as far as our objects use them.

The templates are extensible (but for TID 1204); our own codes are the extension, and what neither the template nor our
table has is a defect. A row of the standard that we never use (TID 1600 Image Library, say) has no row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dicom_gam.dicom.result.codes import MEASUREMENTS, PRIVATE_SCHEME

ANY = 0  # as `most`: any number
MODIFIER, CONTEXT, CONTAINS = "HAS CONCEPT MOD", "HAS OBS CONTEXT", "CONTAINS"
PROPERTIES, SELECTED = "HAS PROPERTIES", "SELECTED FROM"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a template.

    `concepts` are the concept names that it stands for, as "value/scheme"; the empty one is an item without a name.
    `least` and `most` count the items under one parent. `values` are what a coded value may be, None for any.
    """

    where: str
    concepts: frozenset[str]
    value_type: str
    relationships: frozenset[str]
    least: int = 0
    most: int = 1
    values: frozenset[str] | None = None
    children: tuple[Row, ...] = ()


def _row(
    where: str,
    concept: str | frozenset[str],
    value_type: str,
    relationship: str | tuple[str, ...],
    count: tuple[int, int] = (0, 1),
    values: frozenset[str] | None = None,
    children: tuple[Row, ...] = (),
) -> Row:
    concepts = frozenset({concept}) if isinstance(concept, str) else concept
    relationships = frozenset({relationship} if isinstance(relationship, str) else relationship)
    return Row(where, concepts, value_type, relationships, *count, values, children)


def _own(*values: str) -> frozenset[str]:
    return frozenset(f"{value}/{PRIVATE_SCHEME}" for value in values)


ONCE, PERHAPS, SOME, MANY = (1, 1), (0, 1), (1, ANY), (0, ANY)
OUTCOMES = _own("PASS", "FAIL")
VERDICT_CODES = _own("PASS", "FAIL", "REJECT")
QUALITY_CODES = frozenset({"111235/DCM", "111236/DCM", "111237/DCM"})  # CID 6044
NO_UNITS = "1/UCUM"

_LANGUAGE = _row("TID 1204", "121049/DCM", "CODE", MODIFIER, PERHAPS, None, (
    _row("TID 1204", "121046/DCM", "CODE", MODIFIER),
))  # fmt: skip
_OBSERVER = (
    _row("TID 1002", "121005/DCM", "CODE", CONTEXT, ONCE, frozenset({"121007/DCM"})),
    _row("TID 1004", "121012/DCM", "UIDREF", CONTEXT, ONCE),
    _row("TID 1004", "121013/DCM", "TEXT", CONTEXT),
    _row("TID 1004", "121014/DCM", "TEXT", CONTEXT),
    _row("TID 1004", "121015/DCM", "TEXT", CONTEXT),
    _row("TID 1004", "121016/DCM", "TEXT", CONTEXT),
)
_TRACKING = (
    _row("TID 4108", "112039/DCM", "TEXT", CONTEXT, ONCE),
    _row("TID 4108", "112040/DCM", "UIDREF", CONTEXT, ONCE),
)
_ALGORITHM = (
    _row("TID 4019", "111000/DCM", "CODE", MODIFIER, PERHAPS, frozenset({"123110/DCM"})),
    _row("TID 4019", "111001/DCM", "TEXT", MODIFIER, ONCE),
    _row("TID 4019", "111003/DCM", "TEXT", MODIFIER, ONCE),
    _row("TID 4019", "122405/DCM", "TEXT", MODIFIER),
    _row("TID 4019", "111002/DCM", "TEXT", MODIFIER, MANY),
)
_SOURCE = _row("TID 1501", "121112/DCM", "IMAGE", CONTAINS, ONCE)
_EXPLANATION = _row("CID 7452", "130401/DCM", "IMAGE", CONTAINS, ONCE)
# TID 310 lists no thresholds and p-values: these are properties of our own.
_SCORE_PROPERTIES = (
    _row("TID 310", _own("THR_MIN", "THR_MAX"), "NUM", PROPERTIES, ONCE),
    _row("TID 310", _own("P_VALUE"), "NUM", PROPERTIES, PERHAPS),
    _row("TID 310", _own("RESULT"), "CODE", PROPERTIES, ONCE, OUTCOMES),
)
_CHECK_PROPERTIES = (
    _row("TID 310", _own("THR_MAX"), "NUM", PROPERTIES, ONCE),
    _row("TID 310", _own("P_VALUE"), "NUM", PROPERTIES, ONCE),
)


def _scores(check: str) -> tuple[Row, ...]:
    """TID 300 for every measurement of a check, once at most, and for what they come to."""
    concepts = [entry.concept for name, entry in MEASUREMENTS.items() if name.startswith(f"{check}.")]
    rows = [
        _row("TID 300", f"{c.value}/{c.scheme}", "NUM", CONTAINS, PERHAPS, None, _SCORE_PROPERTIES) for c in concepts
    ]
    return (*rows, _row("TID 300", _own("CHECK_SCORE"), "NUM", CONTAINS, PERHAPS, None, _CHECK_PROPERTIES))


def _outcome(concept: str) -> tuple[Row, ...]:
    return (
        _row("TID 1501", _own(concept), "CODE", CONTAINS, PERHAPS, OUTCOMES),
        _row("TID 1501", _own("RESULT"), "CODE", CONTAINS, PERHAPS, _own("ADVISORY")),
    )


def _finding(count: tuple[int, int], values: frozenset[str] | None) -> Row:
    return _row("TID 1501", "121071/DCM", "CODE", CONTAINS, count, values)


_ACTIVATION = frozenset({"130403/DCM"})
_COMMON = (*_TRACKING, *_ALGORITHM)
_REGION_CHILDREN = (_row("TID 1410", "260753009/SCT", "IMAGE", SELECTED, ONCE),)


@dataclass(frozen=True, slots=True)
class Group:
    """A measurement group, told by its tracking identifier."""

    template: str
    required: bool
    rows: tuple[Row, ...]


GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        "classification": Group("1501", True, (
            *_COMMON,
            _SOURCE,
            _finding(ONCE, None),
            _row("TID 300", _own("CLS_PROB"), "NUM", CONTAINS, ONCE),
            *_scores("input"),
            *_outcome("INPUT_CHECK"),
            _row("TID 1501", _own("PRED_CLASS"), "CODE", CONTAINS),
        )),
        "attention verification": Group("1501", True, (
            *_COMMON, _SOURCE, _finding(ONCE, _ACTIVATION), *_scores("attention"), *_outcome("ATT_CHECK"), _EXPLANATION,
        )),
        "attended region": Group("1410", False, (
            *_COMMON,
            _finding(ONCE, _ACTIVATION),
            _row("TID 300", _own("ATT_AREA_FRAC"), "NUM", CONTAINS, ONCE),
            _row("TID 1410", "130400/DCM", "CODE", (CONTAINS, MODIFIER), PERHAPS, frozenset({"111041/DCM"})),
            _row("TID 1410", "111030/DCM", "SCOORD", CONTAINS, ONCE, None, _REGION_CHILDREN),
            _EXPLANATION,
        )),
        "early feature verification": Group("1501", True, (
            *_COMMON, _SOURCE, _finding(ONCE, _own("EARLY_CHECK")), *_scores("early"), *_outcome("EARLY_CHECK"),
        )),
        "authenticity verification": Group("1501", False, (
            *_COMMON,
            _SOURCE,
            _finding(ONCE, _own("AUTH_CHECK")),
            *_scores("authenticity"),
            *_outcome("AUTH_CHECK"),
        )),
        "overall verdict": Group("1501", True, (
            *_COMMON,
            _SOURCE,
            _row("TID 300", _own("P_COMBINED"), "NUM", CONTAINS, ONCE),
            _row("TID 300", _own("ALPHA"), "NUM", CONTAINS, ONCE),
            _row("TID 1501", _own("VERDICT"), "CODE", CONTAINS, ONCE, VERDICT_CODES),
            _row("TID 1501", "111050/DCM", "CODE", CONTAINS, ONCE, QUALITY_CODES),
            _row("TID 1501", "121106/DCM", "TEXT", CONTAINS, SOME),
        )),
    }
)  # fmt: skip
GROUP_CONCEPT = "125007/DCM"
MEASUREMENT_REPORT = _row("TID 1500", "126000/DCM", "CONTAINER", "", ONCE, None, (
    _LANGUAGE,
    *_OBSERVER,
    _row("TID 1500", "121058/DCM", "CODE", MODIFIER, SOME),
    _row("TID 1500", "126010/DCM", "CONTAINER", CONTAINS, ONCE, None, (
        _row("TID 1501", GROUP_CONCEPT, "CONTAINER", CONTAINS, SOME),
    )),
))  # fmt: skip
KEY_OBJECT_SELECTION = _row("TID 2010", "113010/DCM", "CONTAINER", "", ONCE, None, (
    _row("TID 2010", "113011/DCM", "CODE", MODIFIER, MANY),  # its absence has a defect of its own
    _LANGUAGE,
    *_OBSERVER,
    _row("TID 2010", frozenset({"", "260753009/SCT"}), "IMAGE", CONTAINS, SOME),  # the template leaves its name open
    _row("TID 2010", "113012/DCM", "TEXT", CONTAINS, PERHAPS),
))  # fmt: skip

# Values between 0 and 1 by what they are.
SHARES = _own("CLS_PROB", "PROB_GARBAGE", "INPUT_CLS_PROB", "P_VALUE", "P_COMBINED", "ALPHA", "ATT_AREA_FRAC")
CHECK_CONCEPTS = _own("INPUT_CHECK", "ATT_CHECK", "EARLY_CHECK", "AUTH_CHECK")

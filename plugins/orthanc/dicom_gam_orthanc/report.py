"""The node's Structured Report: verdict and figures, read from its coded content and never from a description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .rules import SECONDARY_CAPTURE

SCHEME = "99DGAM"
VERDICTS = ("PASS", "FAIL", "REJECT")
CHECKS = {
    "INPUT_CHECK": "Input",
    "ATT_CHECK": "Attention",
    "EARLY_CHECK": "Early features",
    "AUTH_CHECK": "Authenticity",
}
_LIMITS = {"THR_MIN": "at least", "THR_MAX": "at most"}

Tags = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """One figure, with its limit where it has one. `result` is PASS or FAIL against the limit, or empty."""

    name: str
    value: str
    limit_kind: str = ""
    limit: str = ""
    p_value: str = ""
    result: str = ""


@dataclass(frozen=True)
class Check:
    """What one check came to, and on which figures; `advisory`: it is not part of the verdict."""

    name: str
    result: str
    advisory: bool
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Report:
    """What a report says of one image. `moment` is its content date and time, ISO 8601, in UTC where it says how."""

    sop_instance_uid: str
    source_uid: str
    verdict: str
    moment: str
    bundle: str
    finding: str
    comments: tuple[str, ...]
    overlay_uid: str
    supersedes: frozenset[str]
    checks: tuple[Check, ...] = field(default=())


def read_report(tags: Tags) -> Report | None:
    """The report in Orthanc's short tags; None when there is not exactly one verdict of ours, on exactly one image."""
    groups = [group for group in _containers(tags) if _coded(group, "VERDICT")]
    if len(groups) != 1:
        return None
    verdicts, sources = _coded(groups[0], "VERDICT"), _images(groups[0], "121112", "DCM")
    if len(verdicts) != 1 or verdicts[0] not in VERDICTS or len(sources) != 1:
        return None
    overlays = [uid for uid in _evidence(tags, SECONDARY_CAPTURE) if uid != sources[0]]
    return Report(
        sop_instance_uid=_text(tags, "0008,0018"),
        source_uid=sources[0],
        verdict=verdicts[0],
        moment=_moment(tags),
        bundle=next((_text(item, "0040,a160") for item in _content(tags) if _code(item) == ("121013", "DCM")), ""),
        finding=_finding(tags) if verdicts[0] == "PASS" else "",
        comments=tuple(_text(item, "0040,a160") for item in _content(groups[0]) if _code(item) == ("121106", "DCM")),
        overlay_uid=overlays[0] if overlays else "",
        supersedes=frozenset(_evidence(tags, "", "0040,a360")),
        checks=tuple(_checks(tags)),
    )


def _moment(tags: Tags) -> str:
    said = _text(tags, "0008,0023") + _text(tags, "0008,0033").partition(".")[0]
    offset = _text(tags, "0008,0201")
    try:
        if offset:
            return datetime.strptime(said + offset, "%Y%m%d%H%M%S%z").astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return datetime.strptime(said, "%Y%m%d%H%M%S").strftime("%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return said


def _finding(tags: Tags) -> str:
    found = [
        _meaning(item) for group in _containers(tags) for item in _content(group) if _code(item) == _ours("PRED_CLASS")
    ]
    return found[0] if len(found) == 1 else ""


def _checks(tags: Tags) -> Iterator[Check]:
    for group in _containers(tags):
        results = [(item, CHECKS[_code(item)[0]]) for item in _content(group)
                   if _code(item)[1] == SCHEME and _code(item)[0] in CHECKS]  # fmt: skip
        scores = tuple(_score(item) for item in _content(group) if _text(item, "0040,a040") == "NUM")
        for item, name in results:
            advisory = any(_value(part) == _ours("ADVISORY") for part in (*_content(item), *_content(group)))
            yield Check(name, _value(item)[0], advisory, scores)


def _score(item: Tags) -> Score:
    limits = [(_LIMITS[_code(part)[0]], _number(part)) for part in _content(item) if _code(part)[0] in _LIMITS]
    kind, limit = limits[0] if len(limits) == 1 else ("", "")
    if len(limits) > 1:
        kind, limit = "between", " and ".join(value for _, value in limits)
    p_values = [_number(part) for part in _content(item) if _code(part) == _ours("P_VALUE")]
    results = _coded(item, "RESULT")
    return Score(_named(item), _number(item), kind, limit, *(p_values[:1] or [""]), *(results[:1] or [""]))


def _containers(tags: Tags) -> Iterator[Tags]:
    """Every container below this one, itself not included."""
    for item in _content(tags):
        if _text(item, "0040,a040") == "CONTAINER":
            yield item
            yield from _containers(item)


def _content(item: Tags) -> list[Tags]:
    return _items(item, "0040,a730")


def _items(item: Tags, tag: str) -> list[Tags]:
    found = item.get(tag)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def _text(item: Tags, tag: str) -> str:
    value = item.get(tag)
    return value.strip(" \0") if isinstance(value, str) else ""


def _ours(code: str) -> tuple[str, str]:
    return (code, SCHEME)


def _coding(item: Tags, tag: str) -> tuple[str, str]:
    (found, *_) = _items(item, tag) or [{}]
    return (_text(found, "0008,0100"), _text(found, "0008,0102"))


def _code(item: Tags) -> tuple[str, str]:
    return _coding(item, "0040,a043")


def _value(item: Tags) -> tuple[str, str]:
    return _coding(item, "0040,a168")


def _named(item: Tags) -> str:
    (found, *_) = _items(item, "0040,a043") or [{}]
    return _text(found, "0008,0104")


def _meaning(item: Tags) -> str:
    (found, *_) = _items(item, "0040,a168") or [{}]
    return _text(found, "0008,0104")


def _coded(item: Tags, concept: str) -> list[str]:
    """The codes of our scheme that stand under a concept of our scheme, directly below `item`."""
    values = [_value(part) for part in _content(item) if _code(part) == _ours(concept)]
    return [code if scheme == SCHEME else "" for code, scheme in values]


def _number(item: Tags) -> str:
    (measured, *_) = _items(item, "0040,a300") or [{}]
    return _text(measured, "0040,a30a")


def _images(item: Tags, concept: str, scheme: str) -> list[str]:
    parts = [part for part in _content(item) if _code(part) == (concept, scheme)]
    return [_text(ref, "0008,1155") for part in parts for ref in _items(part, "0008,1199")]


def _evidence(tags: Tags, sop_class: str, sequence: str = "0040,a375") -> list[str]:
    """SOP Instance UIDs that a reference sequence of the report names, of one SOP class or of any."""
    return [
        _text(ref, "0008,1155")
        for study in _items(tags, sequence)
        for series in _items(study, "0008,1115")
        for ref in _items(series, "0008,1199")
        if sop_class in ("", _text(ref, "0008,1150"))
    ]

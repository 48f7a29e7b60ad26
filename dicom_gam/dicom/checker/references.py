"""Where references lead: within the set, to its source image, under the right class, series and study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dicom_gam.dicom.checker.modules import NOTE, PRESENTATION, REGION, REPORT, kind_of
from dicom_gam.dicom.checker.reading import Item, ResultFile, name_of, tag_of

_CLASS, _INSTANCE = tag_of("ReferencedSOPClassUID"), tag_of("ReferencedSOPInstanceUID")
_SERIES, _STUDY = tag_of("SeriesInstanceUID"), tag_of("StudyInstanceUID")
PREDECESSORS = "PredecessorDocumentsSequence"
# Where each kind of object lists all that it refers to (PS3.3 C.17.2, C.12.2, C.11.11).
_EVIDENCE = {
    REPORT: "CurrentRequestedProcedureEvidenceSequence",
    NOTE: "CurrentRequestedProcedureEvidenceSequence",
    REGION: "ReferencedSeriesSequence",
    PRESENTATION: "ReferencedSeriesSequence",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference to an instance; `series` and `study` are those it is listed under, empty where it is not.

    `root` is the sequence of the data set in which it stands.
    """

    place: str
    root: str
    sop_class: str
    uid: str
    series: str
    study: str


@dataclass(frozen=True, slots=True)
class Target:
    """Something that a reference may lead to; what is not known of it is empty."""

    sop_class: str
    series: str = ""
    study: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the references of a set may lead to.

    `results` are the objects of the set, `sources` the images at hand, `absent` SOP Instance UID and SOP Class UID of
    objects of the set that are not at hand.
    """

    results: Mapping[str, Target]
    sources: Mapping[str, Target] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


def references_of(file: ResultFile) -> tuple[Reference, ...]:
    """Every reference to an instance, in the order of the data set."""
    return tuple(_references(file.dataset, "", "", "", ""))


def _references(item: Item, place: str, root: str, series: str, study: str) -> Iterator[Reference]:
    for tag, (_, value) in item.elements.items():
        if not isinstance(value, list):
            continue
        keyword = name_of(tag)
        for number, child in enumerate(value, 1):
            here = f"{place}{keyword}[{number}]"
            top = root or keyword
            within = child.text("SeriesInstanceUID") if _SERIES in child.elements else series
            inside = child.text("StudyInstanceUID") if _STUDY in child.elements else study
            if _INSTANCE in child.elements or _CLASS in child.elements:
                uids = child.text("ReferencedSOPClassUID"), child.text("ReferencedSOPInstanceUID")
                yield Reference(here, top, *uids, within, inside)
            yield from _references(child, f"{here}.", top, within, inside)


def source_of(files: Sequence[ResultFile], around: Surroundings) -> str:
    """The image that a set is about: what its objects refer to most and is not one of them; empty when nothing is."""
    counted: Counter[str] = Counter()
    for file in files:
        uids = [r.uid for r in references_of(file) if _is_foreign(r, around)]
        counted.update(uids)
        counted.update(dict.fromkeys(uids, 1000))  # the number of objects counts more than that of mentions
    known = [uid for uid in counted if uid in around.sources]
    return max(known or counted, key=counted.__getitem__, default="")


def _is_foreign(reference: Reference, around: Surroundings) -> bool:
    uid = reference.uid
    return reference.root != PREDECESSORS and uid != "" and uid not in around.results and uid not in around.absent


def check_references(files: Sequence[ResultFile], around: Surroundings) -> None:
    """The references of a set."""
    source = source_of(files, around)
    target = around.sources.get(source) or _agreed(files, source)
    for file in files:
        references = references_of(file)
        foreign = {r.uid for r in references if _is_foreign(r, around)}
        if not foreign:
            file.complaints.add("no-source", "SOPInstanceUID")
        elif source not in foreign:
            file.complaints.add("several-sources", "SOPInstanceUID", f"the others are about {source}, this one is not")
        for reference in references:
            _check_one(file, reference, around, source, target)
        _check_evidence(file, references)


def _agreed(files: Sequence[ResultFile], source: str) -> Target:
    """What most references say of a source image that is not at hand."""
    said = [r for file in files for r in references_of(file) if r.uid == source]
    classes = Counter(r.sop_class for r in said).most_common(1)
    series = Counter(r.series for r in said if r.series).most_common(1)
    studies = Counter(file.dataset.text("StudyInstanceUID") for file in files).most_common(1)
    return Target(*(found[0][0] if found else "" for found in (classes, series, studies)))


def _check_one(file: ResultFile, reference: Reference, around: Surroundings, source: str, target: Target) -> None:
    complaints, uid = file.complaints, reference.uid
    if uid == file.uid:
        complaints.add("self-reference", reference.place)
        return
    if reference.root == PREDECESSORS:
        return  # they may have been sent long ago
    if uid in around.results:
        found = around.results[uid]
    elif uid in around.absent:
        found = Target(around.absent[uid])
    elif uid == source:
        found = target
    else:
        complaints.add("unresolved-reference", reference.place, f"{uid or 'no instance'} is not of the set")
        return
    if reference.sop_class != found.sop_class:
        complaints.add("wrong-reference-class", reference.place, f"{uid} is not of class {reference.sop_class}")
    if reference.series and found.series and reference.series != found.series:
        complaints.add("wrong-reference-series", reference.place, f"{uid} is not in series {reference.series}")
    if reference.study and found.study and reference.study != found.study:
        complaints.add("wrong-reference-study", reference.place, f"{uid} is not in study {reference.study}")


def _check_evidence(file: ResultFile, references: Sequence[Reference]) -> None:
    kind = kind_of(file)
    if kind not in _EVIDENCE:
        return
    listed = {r.uid for r in references if r.root == _EVIDENCE[kind]}
    used = {r.uid for r in references if r.root not in (_EVIDENCE[kind], PREDECESSORS)}
    for uid in sorted(used - listed):
        file.complaints.add("missing-evidence", _EVIDENCE[kind], f"{uid} is not listed")
    if kind in (REPORT, NOTE):
        for uid in sorted(listed - used):
            file.complaints.add("superfluous-evidence", _EVIDENCE[kind], f"{uid} is not referred to")

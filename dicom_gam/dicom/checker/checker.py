"""The checker: whether the objects of one result set may leave the node.

It looks for what the installed validators miss: templates, meanings, references, figures that contradict each other,
and a class that leaves without a PASS. It is an oracle for the encoders and shares nothing with them but the table of
codes; an import contract keeps it so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dicom_gam.dicom.checker.concepts import check_codes
from dicom_gam.dicom.checker.defects import DEFECTS, Defect
from dicom_gam.dicom.checker.modules import NOTE, OVERLAY, PRESENTATION, REGION, REPORT, check_modules, kind_of
from dicom_gam.dicom.checker.pictures import check_overlay, check_presentation, check_region
from dicom_gam.dicom.checker.reading import ResultFile, UnreadableError, read_result
from dicom_gam.dicom.checker.references import Surroundings, Target, check_references, source_of
from dicom_gam.dicom.checker.report import ImageSize, check_note, check_report, described_verdict
from dicom_gam.dicom.checker.sources import PATIENT, Source, differing_patient, read_source
from dicom_gam.dicom.checker.values import check_values, is_own_uid

__all__ = ["DEFECTS", "Defect", "check_results"]


def check_results(
    files: Sequence[bytes], sources: Sequence[bytes] = (), *, absent: Mapping[str, str] | None = None
) -> tuple[Defect, ...]:
    """Check the objects that one source image gave, together; an empty answer means that they may leave.

    `files` are complete Part 10 files. With `sources`, every image referred to must be among them; without, all objects
    must be about one image, whatever it is. `absent` gives SOP Instance UID and SOP Class UID of further objects of the
    set that can no longer be read. Never raises, whatever the bytes.
    """
    defects: list[Defect] = []
    read: list[ResultFile] = []
    for number, content in enumerate(files, 1):
        try:
            read.append(read_result(content))
        except UnreadableError as error:
            defects.append(Defect("unreadable", "", f"file {number}", str(error)))
    known: dict[str, Source] = {}
    for number, content in enumerate(sources, 1):
        source = read_source(content)
        if source is None:
            defects.append(Defect("unreadable-source", "", f"source {number}", DEFECTS["unreadable-source"]))
        else:
            known[source.uid] = source
    whole = [file for file in read if file.dataset.elements]
    around = _surroundings(whole, known, absent or {})
    about = known.get(source_of(whole, around))
    for file in whole:
        _check_alone(file, about.size if about is not None else None)
    _check_together(whole, around, about)
    defects += [defect for file in read for defect in file.complaints.found]
    return tuple(dict.fromkeys(defects))


def _surroundings(files: Sequence[ResultFile], known: Mapping[str, Source], absent: Mapping[str, str]) -> Surroundings:
    targets = {
        file.uid: Target(file.sop_class, file.dataset.text("SeriesInstanceUID"), file.dataset.text("StudyInstanceUID"))
        for file in files
        if file.uid
    }
    return Surroundings(targets, {uid: source.target for uid, source in known.items()}, absent)


def _check_alone(file: ResultFile, size: ImageSize | None) -> None:
    check_modules(file)
    check_values(file)
    check_codes(file)
    _check_own_uids(file)
    match kind_of(file):
        case kind if kind == REPORT:
            check_report(file, size)
        case kind if kind == NOTE:
            check_note(file)
        case kind if kind == OVERLAY:
            check_overlay(file)
        case kind if kind == REGION:
            check_region(file, size)
        case kind if kind == PRESENTATION:
            check_presentation(file, size)


def _check_own_uids(file: ResultFile) -> None:
    dataset = file.dataset
    own = [("SOPInstanceUID", file.uid), ("SeriesInstanceUID", dataset.text("SeriesInstanceUID"))]
    for place, _, item in dataset.walk():
        own += [(f"{place}.{keyword}", item.text(keyword)) for keyword in _OWN_IN_ITEMS if keyword in item]
    for place, uid in own:
        if uid and not is_own_uid(uid):
            file.complaints.add("foreign-uid-root", place, f"{uid} is not derived from what the result was made of")


_OWN_IN_ITEMS = ("UID", "DimensionOrganizationUID")


def _check_together(files: Sequence[ResultFile], around: Surroundings, source: Source | None) -> None:
    check_references(files, around)
    counted = Counter(file.uid for file in files)
    studies = Counter(file.dataset.text("StudyInstanceUID") for file in files).most_common(1)
    study = source.target.study if source is not None else studies[0][0] if studies else ""
    for file in files:
        if counted[file.uid] > 1 and file.uid:
            file.complaints.add("duplicate-instance", "SOPInstanceUID")
        if file.dataset.text("StudyInstanceUID") != study:
            file.complaints.add("two-studies", "StudyInstanceUID", f"the others are in {study}")
        for keyword in differing_patient(file, source) if source is not None else ():
            file.complaints.add("two-patients", keyword)
    _check_patient(files)
    _check_series(files, source)
    _check_verdicts(files)


def _check_patient(files: Sequence[ResultFile]) -> None:
    for keyword in PATIENT:
        values = [file.dataset.raw(keyword).strip(b" \0") for file in files]
        for file, value in zip(files, values, strict=True):
            if value != values[0]:
                file.complaints.add("two-patients", keyword)


def _check_series(files: Sequence[ResultFile], source: Source | None) -> None:
    """A series holds objects of one kind by one piece of equipment (PS3.3 A.1.2.3), so never the source's too."""
    taken = {} if source is None else {source.target.series: ""}
    for file in files:
        if taken.setdefault(file.dataset.text("SeriesInstanceUID"), file.sop_class) != file.sop_class:
            file.complaints.add("series-shared", "SeriesInstanceUID")


def _check_verdicts(files: Sequence[ResultFile]) -> None:
    """The report's verdict is the set's; without a report, the first object's is."""
    known = [file for file in files if kind_of(file)]
    reports = [file for file in known if kind_of(file) == REPORT]
    verdicts = [described_verdict(file) for file in (*reports, *known)]
    leading = next((verdict for verdict in verdicts if verdict is not None), None)
    for file in known:
        found = described_verdict(file)
        if found is None and kind_of(file) != REPORT:
            file.complaints.add("no-verdict", "SeriesDescription")
        elif found is not None and found is not leading:
            file.complaints.add("two-verdicts", "SeriesDescription", f"it says {found}, the report {leading}")

"""What the validators say of a case: dciodvfy and dcentvfy of dicom3tools, and our own checker."""

from __future__ import annotations

import io
import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom.uid as uids
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_gam.dicom.checker.checker import check_results
from dicom_gam.dicom.result.reference import PATIENT_AND_STUDY
from dicom_gam.records import Rejection, ResultObject
from tests.conformance.cases import IDENTITY, Case, Identity, results_of, source_file
from tests.end_to_end.peers import program

PRIVATE_SCHEME = "Unrecognized defined term = <99DGAM>"  # the designator of our own codes
UNAVOIDABLE = (
    # Where the source names neither body part nor side, both are "actually unknown" and this is the right encoding.
    "Laterality(0020,0060)> - is only permitted to be empty when actually unknown",
)
# dicom3tools files this one under Series for images and under Study for reports, whoever wrote them.
_OF_THE_TOOL = "Different information entities for attribute - Element=<AccessionNumber>"
# Kept as they are, so that what is held against the source's value is held against the results' too.
_COPIED = (*IDENTITY, "StudyDescription")
_NEEDED = "Missing attribute or value that would be needed to build DICOMDIR"


@dataclass(frozen=True, slots=True)
class Complaint:
    """A line that someone says against a result; `role` is "study" where it is about all of them."""

    check: str
    role: str
    line: str


@dataclass(slots=True)
class Outcome:
    """What came of a case. All but `complaints` are lines that are none, kept to be shown.

    `scheme`: the designator of our codes. `inherited`: the same complaint about the same value in the source.
    `mended`: the source's value is missing or can't be repeated, and the tool notices just that.
    """

    case: Case
    roles: tuple[str, ...] = ()
    refused: str = ""
    complaints: list[Complaint] = field(default_factory=list)
    scheme: list[Complaint] = field(default_factory=list)
    inherited: list[Complaint] = field(default_factory=list)
    unavoidable: list[Complaint] = field(default_factory=list)
    mended: list[Complaint] = field(default_factory=list)
    source_lines: int = 0  # what dciodvfy holds against the source itself


def say(name: str, *arguments: str) -> list[str]:
    """The lines that a command-line tool says; its exit status is not looked at."""
    made = subprocess.run([program(name), *arguments], capture_output=True, timeout=120, check=False)
    return (made.stdout + made.stderr).decode("utf-8", "replace").splitlines()


def complaints(path: Path) -> list[str]:
    """The errors and warnings of dciodvfy about one file."""
    return [line for line in say("dciodvfy", "-new", str(path)) if line.startswith(("Error", "Warning"))]


def validated(case: Case, folder: Path) -> tuple[Outcome, tuple[ResultObject, ...]]:
    """Make a case's source and results in `folder` and ask everybody about them."""
    outcome = Outcome(case)
    source = source_file(case)
    (folder / "source.dcm").write_bytes(source)
    with _heard(outcome):
        results = results_of(case, folder / "source.dcm")
    if isinstance(results, Rejection):
        return _refused(outcome, results), ()
    outcome.roles = tuple(item.role for item in results)
    if outcome.roles != case.roles:
        outcome.complaints.append(Complaint("made", "study", f"made {outcome.roles} where {case.roles} is expected"))
    identity = Identity(case, source)
    faults = [(item.role, fault) for item in results for fault in identity.faults(item.content)]
    outcome.complaints += [Complaint("identity", role, fault) for role, fault in faults]
    _dciodvfy(outcome, results, _readable(case, source, folder), identity)
    _dcentvfy(outcome, results, folder, identity)
    _check(outcome, results, source)
    return outcome, results


@contextmanager
def _heard(outcome: Outcome) -> Iterator[None]:
    """Complain of Python's warnings, which quote values; not of pydicom's on a UID, which is nobody's."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    said = [str(warning.message) for warning in heard]
    outcome.complaints += [
        Complaint("quiet", "study", s) for s in said if not s.startswith("Invalid value for VR UI: ")
    ]


def _check(outcome: Outcome, results: Sequence[ResultObject], source: bytes) -> None:
    with _heard(outcome):
        defects = check_results([item.content for item in results], [source])
    for defect in defects:
        role = next((item.role for item in results if item.sop_instance_uid == defect.sop_instance_uid), "study")
        line = f"{defect.name}: {defect.place}: {defect.message}"
        outcome.complaints.append(Complaint("checker", role, line))


def _refused(outcome: Outcome, rejection: Rejection) -> Outcome:
    outcome.refused = str(rejection.reason)
    if rejection.reason is not outcome.case.rule.refused:
        line = f"refused as {rejection.reason}: {rejection.message}"
        outcome.complaints.append(Complaint("made", "study", line))
    return outcome


def _readable(case: Case, source: bytes, folder: Path) -> Path:
    """The source as dicom3tools can read it: the Debian package knows no deflate."""
    path = folder / "source.dcm"
    if case.rule.syntax != uids.DeflatedExplicitVRLittleEndian:
        return path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(io.BytesIO(source))
        ds.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
        ds.save_as(path)
    return path


def _dciodvfy(outcome: Outcome, results: Sequence[ResultObject], source: Path, identity: Identity) -> None:
    of_source = complaints(source)
    outcome.source_lines = len(of_source)
    for item in results:
        path = source.with_name(f"{item.role}.dcm")
        path.write_bytes(item.content)
        for line in complaints(path):
            entry = Complaint("dciodvfy", item.role, line)
            if PRIVATE_SCHEME in line:
                outcome.scheme.append(entry)
            elif any(known in line for known in UNAVOIDABLE):
                outcome.unavoidable.append(entry)
            elif _is_inherited(line, of_source, identity):
                outcome.inherited.append(entry)
            elif _NEEDED in line and identity.is_unknown(_keyword(line)):
                outcome.mended.append(entry)
            else:
                outcome.complaints.append(entry)


def _keyword(line: str) -> str:
    """The attribute that a line of dciodvfy is about: the last one of its path."""
    found = re.search(r"<([^>]*)>", line)
    return "" if found is None else re.sub(r"\(.*", "", found[1].rpartition("/")[2])


def _is_inherited(line: str, of_source: Iterable[str], identity: Identity) -> bool:
    """Whether the source has the very same line about an identifying attribute that results may not change.

    A result refers to its source by UID in other places than the source itself, so of a UID only the value counts.
    """
    same = line in of_source
    if _NEEDED in line:
        return same and identity.is_unknown(_keyword(line))
    if _keyword(line) in _COPIED:
        return same and not identity.is_mended(_keyword(line))
    found = re.search(r"\[UI\] = <([0-9.]+)>", line)
    if found is None or found[1] not in identity.uids:
        return _sequence_of_source(line) and same
    return any(line.partition("> - ")[2] == other.partition("> - ")[2] for other in of_source)


def _sequence_of_source(line: str) -> bool:
    """A code or identifier in a sequence that is copied whole."""
    return line.partition("</")[2].startswith(("ProcedureCodeSequence", "OtherPatientIDsSequence"))


def opened(outcome: Outcome, results: Sequence[ResultObject], folder: Path) -> None:
    """Have DCMTK read each object for what it is, after `validated` has written them into `folder`.

    DCMTK gives up on a report about an image whose UID has leading zeros, which the report can't help: inherited.
    """
    odd = any(re.search(r"(^|\.)0\d", uid) for uid in Identity(outcome.case, source_file(outcome.case)).uids)
    for item in results:
        path = folder / f"{item.role}.dcm"
        wrong = _state_faults(path) if item.role == "presentation" else _reading_faults(item.role, path)
        lines = [Complaint("dcmtk", item.role, line.replace(f"{folder}/", "")) for line in wrong]
        (outcome.inherited if odd else outcome.complaints).extend(lines)


def _reading_faults(role: str, path: Path) -> list[str]:
    commands = {
        "overlay": ("dcmj2pnm", "+op", str(path), str(path.with_suffix(".ppm"))),
        "region": ("dcmdump", str(path)),
    }
    return [line for line in say(*commands.get(role, ("dsrdump", str(path)))) if line.startswith(("E: ", "F: "))]


def _state_faults(path: Path) -> list[str]:
    """What DCMTK's validator of presentation states says, of another patient's: it wants a name, and a short one."""
    plain = path.with_suffix(".plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(path, force=True)
        for keyword in (*PATIENT_AND_STUDY, "SpecificCharacterSet"):
            if keyword != "StudyInstanceUID":
                ds.pop(keyword, None)
        ds.update(_nobody())
        ds.save_as(plain)
    said = say("dcmpschk", str(plain))
    return [] if any("Test passed." in line for line in said) else said


def _nobody() -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "1", "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20250101", "12", "1", "1"
    ds.ReferringPhysicianName = "Roe^Richard"
    return ds


def _dcentvfy(outcome: Outcome, results: Sequence[ResultObject], folder: Path, identity: Identity) -> None:
    names = [str(folder / f"{name}.dcm") for name in ("source", *(item.role for item in results))]
    for line in say("dcentvfy", *names):
        entry = Complaint("dcentvfy", "study", line.replace(f"{folder}/", ""))
        found = re.search(r"Element=<(\w+)>", line)
        if _OF_THE_TOOL in line:
            outcome.unavoidable.append(entry)
        elif found is not None and identity.is_mended(found[1]):
            outcome.mended.append(entry)
        else:
            outcome.complaints.append(entry)

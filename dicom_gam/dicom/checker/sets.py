"""Which files belong together: results of one study about one image, made at one time; and which are no results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicom_gam.dicom.checker.modules import OWN_MODEL_NAME
from dicom_gam.dicom.checker.reading import ResultFile, UnreadableError, read_result
from dicom_gam.dicom.checker.references import PREDECESSORS, references_of
from dicom_gam.dicom.checker.sources import Source, read_source


@dataclass(frozen=True, slots=True)
class Sorted:
    """Files by what they are; the numbers are places in what was given. `uids` has the results' SOP Instance UIDs."""

    sets: tuple[tuple[int, ...], ...]
    uids: Mapping[int, str]
    sources: tuple[int, ...]
    unreadable: tuple[int, ...]


def sort_files(files: Sequence[bytes]) -> Sorted:
    """Part results from other DICOM files, and results into sets."""
    results: dict[int, ResultFile] = {}
    sources: dict[int, Source] = {}
    for number, content in enumerate(files):
        found = _result(content)
        if found is not None:
            results[number] = found
            continue
        source = read_source(content)
        if source is not None:
            sources[number] = source
    unreadable = [number for number in range(len(files)) if number not in results and number not in sources]
    uids = {source.uid for source in sources.values()}
    named = {number: file.complaints.sop_instance_uid for number, file in results.items()}
    return Sorted(_sets(results, uids), named, tuple(sources), tuple(unreadable))


def _result(content: bytes) -> ResultFile | None:
    """The file as a result; None when it is none of ours, or none at all."""
    try:
        file = read_result(content)
    except UnreadableError:
        return None
    if not file.dataset.elements:  # in another transfer syntax, which is a defect of a result only
        source = read_source(content)
        equipment = source.dataset.get("ContributingEquipmentSequence", []) if source is not None else []
        return file if any(item.get("ManufacturerModelName") == OWN_MODEL_NAME for item in equipment) else None
    marked = (file.dataset, *file.dataset.items("ContributingEquipmentSequence"))
    return file if any(item.text("ManufacturerModelName") == OWN_MODEL_NAME for item in marked) else None


def _sets(results: dict[int, ResultFile], sources: set[str]) -> tuple[tuple[int, ...], ...]:
    """Objects that refer to the same image belong together, unless they were made at another time (reprocessing)."""
    own = {file.uid for file in results.values()}
    sets: dict[tuple[str, ...], list[int]] = {}
    for number, file in results.items():
        outside = [r.uid for r in references_of(file) if r.root != PREDECESSORS and r.uid not in own]
        about = next((uid for uid in outside if uid in sources), outside[0] if outside else "")
        study = file.dataset.text("StudyInstanceUID")
        sets.setdefault((study, about, *_made_at(file)), []).append(number)
    return tuple(tuple(numbers) for numbers in sets.values())


def _made_at(file: ResultFile) -> tuple[str, str]:
    dataset = file.dataset
    return dataset.text("InstanceCreationDate"), dataset.text("InstanceCreationTime")

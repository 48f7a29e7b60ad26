"""A slice of the matrix in the suite: every oddity once, kinds and verdicts in turns; one study through an archive."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_gam.config import IntakeSettings
from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES
from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from tests.conformance import archive as archives
from tests.conformance.archive import Archive
from tests.conformance.cases import ROLES, Case, every_case, every_oddity_once, results_of, source_file
from tests.conformance.matrix import chosen
from tests.conformance.oddities import ODDITIES, VERDICTS
from tests.conformance.sources import KINDS
from tests.conformance.validators import complaints, opened, say, validated
from tests.end_to_end.peers import Orthanc, free_port

SLICE = tuple(every_oddity_once())
IN_CHARACTER_SETS = tuple(  # of those that Debian's DCMTK, which has no ISO 2022 IR 87, can convert
    case
    for case in SLICE
    if case.rule.kept.get("PatientName") and not re.search("IR 87|IR 13 and|not declared", case.oddity)
)


def of_case(case):
    return f"{case.kind}-{case.oddity}-{case.verdict}"


def lines(found):
    return [f"{c.check} {c.role}: {c.line}" for c in found]


@pytest.mark.requirement("RES-25", "RES-16")
@pytest.mark.parametrize("case", SLICE, ids=of_case)
def test_everybody_accepts_the_results_of_an_odd_source(case, tmp_path):
    outcome, results = validated(case, tmp_path)
    assert lines(outcome.complaints) == []
    assert tuple(item.role for item in results) == case.roles


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_of_the_matrix_is_valid_itself(kind, tmp_path):
    path = tmp_path / "source.dcm"
    path.write_bytes(source_file(Case(kind, "plain", "PASS")))
    assert complaints(path) == []


@pytest.mark.requirement("RES-15")
@pytest.mark.parametrize("case", IN_CHARACTER_SETS, ids=of_case)
def test_dcmtk_reads_the_name_that_pydicom_reads(case, tmp_path):
    source = tmp_path / "source.dcm"
    source.write_bytes(source_file(case))
    for item in results_of(case, source):
        path = tmp_path / f"{item.role}.dcm"
        path.write_bytes(item.content)
        said = " ".join(say("dcmdump", "+U8", "--search", "PatientName", str(path)))
        assert f"[{case.rule.kept['PatientName']}]" in said


@pytest.mark.requirement("RES-25")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_dcmtk_opens_every_object_for_what_it_is(verdict, tmp_path):
    outcome, results = validated(Case("DX", "plain", verdict), tmp_path)
    opened(outcome, results, tmp_path)
    assert lines(outcome.complaints) == []


def test_an_object_that_dcmtk_can_not_open_is_a_complaint(tmp_path):
    outcome, results = validated(Case("DX", "plain", "REJECT"), tmp_path)
    tags = {"sr": b"\x40\x00\x40\xa0", "presentation": b"\x70\x00\x5a\x00", "overlay": b"\xe0\x7f\x10\x00"}
    for item in results:  # value type, displayed area or pixels become a private attribute
        tag = tags.get(item.role, tags["sr"])
        (tmp_path / f"{item.role}.dcm").write_bytes(item.content.replace(tag, b"\x09\x00\x31\x10", 1))
    opened(outcome, results, tmp_path)
    assert {c.role for c in outcome.complaints} == set(ROLES) - {"region"}


GREY_SCALES = (
    ("CR", "plain"),
    ("CR", "signed"),
    ("SC", "rescaled"),
    ("SC", "modality LUT"),
    ("DX", "MONOCHROME1"),
    ("DX", "VOI LUTs"),
    ("MG", "for processing"),
    ("IO", "8 bits"),
    ("PX", "an invalid window"),
)


@pytest.mark.parametrize(("kind", "oddity"), GREY_SCALES)
def test_a_viewer_shows_by_the_presentation_state_what_the_network_saw(kind, oddity, tmp_path):
    source, state, shown = (tmp_path / name for name in ("source.dcm", "state.dcm", "shown.pgm"))
    case = Case(kind, oddity, "PASS")
    source.write_bytes(source_file(case))
    state.write_bytes(next(item.content for item in results_of(case, source) if item.role == "presentation"))
    say("dcmp2pgm", "-p", str(state), str(source), str(shown))
    seen = 255 * decode_radiograph(read_instance(source), IntakeSettings()).pixels
    # DCMTK rounds a window to whole input values and its output down: three or four of 255 grey levels
    np.testing.assert_allclose(np.asarray(Image.open(shown), np.float32), seen, atol=4)


def test_the_whole_matrix_has_every_kind_verdict_and_class():
    cases = tuple(every_case())
    plain = {(case.kind, case.verdict) for case in cases if case.oddity == "plain"}
    assert plain == {(kind, verdict) for kind in KINDS for verdict in VERDICTS}
    assert {case.oddity for case in cases} == set(ODDITIES) == {case.oddity for case in SLICE}
    assert {case.kind for case in SLICE} == set(KINDS)
    assert {case.verdict for case in SLICE} == set(VERDICTS)


def test_every_accepted_class_is_among_the_sources(tmp_path):
    found = set()
    for case in every_case():
        if (
            case.verdict == "PASS" and case.oddity in ("plain", "for processing")
        ) or "multi-frame class" in case.oddity:
            path = tmp_path / "source.dcm"
            path.write_bytes(source_file(case))
            found.add(str(dcmread(path, stop_before_pixels=True).SOPClassUID))
    assert found == set(ACCEPTED_SOP_CLASSES)


def test_a_part_of_the_matrix_can_be_chosen():
    assert {case.kind for case in chosen(quick=False, only="MG")} == {"MG"}
    assert [case.verdict for case in chosen(quick=False, only="MG/plain")] == list(VERDICTS)
    assert {case.oddity for case in chosen(quick=True, only="/UTF-8")} == {"UTF-8"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    orthanc = Orthanc(tmp_path_factory.mktemp("archive") / "orthanc", free_port(), **archives.SETTINGS)
    yield Archive(orthanc.http, orthanc.dicom)
    orthanc.stop()


@pytest.fixture(scope="module")
def odd_study(tmp_path_factory):
    case = Case("DX", "Japanese, ISO 2022 IR 87", "REJECT")
    path = tmp_path_factory.mktemp("study") / "source.dcm"
    path.write_bytes(source_file(case))
    return path.read_bytes(), results_of(case, path)


@pytest.mark.requirement("RES-26")
def test_an_archive_gives_every_object_back_as_it_was_sent_either_way(archive, odd_study):
    source, results = odd_study
    assert tuple(item.role for item in results) == ROLES
    assert archive.faults(results, source) == []
    assert archive.faults(results) == []  # nothing was left behind that would have come back instead


def test_an_object_that_comes_back_changed_is_noticed(archive, odd_study, monkeypatch):
    _, (report, *_) = odd_study
    for module in (archives.sender, archives.stow):
        monkeypatch.setattr(module, "send", _spoiling(module.send))
    found = archive.faults([report])
    assert {(check, role) for check, role, _ in found} == {("c-store", "sr"), ("stow-rs", "sr")}
    assert all("whose data set is not the one sent" in line for _, _, line in found)


def _spoiling(send):
    return lambda destination, title, files: send(destination, title, [f.replace(b"99DGAM", b"99DGAN") for f in files])


def test_what_the_validators_hold_against_a_result_is_a_complaint(tmp_path, monkeypatch):
    case = Case("CR", "plain", "PASS")

    def spoiled(case, path):
        report, *others = results_of(case, path)
        content = report.content.replace(b"\x10\x00\x40\x00CS\x02\x00F ", b"\x10\x00\x40\x00CS\x02\x00X ")
        content = content.replace(b"ID-1", b"ID-2")
        assert content != report.content
        return dataclasses.replace(report, content=content), *others

    monkeypatch.setattr("tests.conformance.validators.results_of", spoiled)
    outcome, _ = validated(case, tmp_path)
    found = {(c.check, c.role) for c in outcome.complaints}
    assert {("dciodvfy", "sr"), ("identity", "sr"), ("dcentvfy", "study"), ("checker", "sr")} <= found

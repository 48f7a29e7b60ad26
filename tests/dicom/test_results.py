from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_gam import __version__
from dicom_gam.config import IntakeSettings, OutputSettings
from dicom_gam.dicom.image.acceptance import Refused, refuse_unaccepted
from dicom_gam.records import BundleIdentity, Reason, ResultObject
from tests.dicom.example_results import (
    BUNDLE,
    CREATED,
    ODD_VERIFICATIONS,
    bare_source,
    dx_source,
    encoded,
    mg_source,
    radiograph,
    real_source,
    sc_source,
)

VERDICTS = ("PASS", "FAIL", "REJECT")
SOURCES = {
    "CR chest": lambda: real_source("RG1_UNCR.dcm"),
    "CR lower leg": lambda: real_source("RG3_UNCR.dcm"),
    "DX": dx_source,
    "MG": mg_source,
    "SC": sc_source,
}
UNAVOIDABLE = (
    "Unrecognized defined term = <99DGAM>",  # the designator of our own codes
    # Where the source names neither body part nor side, both are "actually unknown" and this is the right encoding.
    "Laterality(0020,0060)> - is only permitted to be empty when actually unknown",
)


def tool(name: str, package: str, *arguments: str) -> str:
    """Everything a command-line tool says; its exit status is not looked at."""
    program = shutil.which(name)
    assert program is not None, f"{name} is missing: install the Debian package {package}"
    made = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return made.stdout + made.stderr


def complaints(path: Path) -> set[str]:
    lines = tool("dciodvfy", "dicom3tools", "-new", str(path)).splitlines()
    return {line for line in lines if line.startswith(("Error", "Warning"))}


def objections(item: ResultObject, folder: Path, inherited: set[str] = frozenset()) -> set[str]:
    """What dciodvfy holds against a result, but for what it holds against the source's very same value."""
    path = folder / f"{item.role}.dcm"
    path.write_bytes(item.content)
    found = complaints(path)
    return {line for line in found - inherited if not any(known in line for known in UNAVOIDABLE)}


def of_source(name: str) -> set[str]:
    """What dciodvfy holds against a source; the made-up ones are valid in what results inherit."""
    files = {"CR chest": "RG1_UNCR.dcm", "CR lower leg": "RG3_UNCR.dcm"}
    return complaints(Path(get_testdata_file(files[name], download=False))) if name in files else set()


def parsed(items: tuple[ResultObject, ...]) -> list[Dataset]:
    return [dcmread(io.BytesIO(item.content)) for item in items]


@pytest.mark.requirement("RES-02")
@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("sr", ["comprehensive-3d", "comprehensive"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_results_are_valid_dicom(source, sr, verdict, tmp_path):
    settings = OutputSettings(overlay_long_side=256, sr=sr)
    notes = ("BodyPartExamined says HAND, but the image looks like chest",)
    inherited = of_source(source)
    for item in encoded(SOURCES[source](), verdict, settings=settings, notes=notes):
        assert objections(item, tmp_path, inherited) == set()


@pytest.mark.requirement("RES-02")
@pytest.mark.parametrize("oddity", ODD_VERIFICATIONS)
def test_odd_verifications_give_valid_dicom(oddity, tmp_path):
    for item in encoded(dx_source(), "FAIL", **ODD_VERIFICATIONS[oddity]):
        assert objections(item, tmp_path) == set()


@pytest.mark.requirement("RES-16")
def test_a_source_with_bad_dates_and_sex_gives_valid_dicom(tmp_path):
    source = dx_source()
    source.PatientBirthDate = source.StudyDate = ""
    del source.AccessionNumber
    for item in encoded(source):
        found = {line for line in objections(item, tmp_path) if "needed to build DICOMDIR" not in line}
        assert found == set()


@pytest.mark.requirement("RES-03")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_source_and_results_agree_with_each_other(verdict, tmp_path):
    source = get_testdata_file("RG3_UNCR.dcm", download=False)
    paths = [source]
    for item in encoded(real_source("RG3_UNCR.dcm"), verdict):
        paths.append(str(tmp_path / f"{item.role}.dcm"))
        Path(paths[-1]).write_bytes(item.content)
    said = tool("dcentvfy", "dicom3tools", *paths).splitlines()
    # dicom3tools files this one under Series for images and under Study for reports, whoever wrote them.
    known = "Different information entities for attribute - Element=<AccessionNumber>"
    assert [line for line in said if known not in line] == []


@pytest.mark.requirement("RES-29")
@pytest.mark.parametrize(("verdict", "line"), [("PASS", '"PASS"'), ("FAIL", '"FAIL"'), ("REJECT", '"REJECT"')])
def test_a_report_reader_prints_the_verdict_and_objects_to_nothing(verdict, line, tmp_path):
    path = tmp_path / "sr.dcm"
    path.write_bytes(encoded(real_source("RG1_UNCR.dcm"), verdict)[0].content)
    said = tool("dsrdump", "dcmtk", "+Pc", str(path))
    assert re.search(rf'CODE:\(VERDICT,99DGAM,"Verification verdict"\)=\({verdict},99DGAM,{line}\)', said), said
    assert not re.search("^[EW]: ", said, re.MULTILINE), said


@pytest.mark.requirement("RES-18")
def test_equal_arguments_give_equal_bytes():
    assert encoded(real_source("RG1_UNCR.dcm"), "FAIL") == encoded(real_source("RG1_UNCR.dcm"), "FAIL")


def test_every_date_of_a_result_is_the_sources_or_the_jobs():
    created = datetime(1999, 12, 31, 23, 59, 58, tzinfo=UTC)
    for result in parsed(encoded(dx_source(), created=created)):
        moments = {str(e.value) for e in result.iterall() if e.VR in ("DA", "TM", "DT")}
        assert moments <= {"19700102", "20250303", "101112", "19991231", "235958", "19991231235958"}


def test_the_time_is_moved_to_the_sources_offset():
    source = dx_source()
    source.TimezoneOffsetFromUTC = "-0430"
    for result in parsed(encoded(source, created=CREATED)):  # 05:06:07 UTC
        assert (result.ContentDate, result.ContentTime) == ("20250304", "003607")
        assert result.TimezoneOffsetFromUTC == "-0430"


def test_a_time_without_a_zone_claims_none():
    source = dx_source()
    source.TimezoneOffsetFromUTC = "-0430"
    for result in parsed(encoded(source, created=CREATED.replace(tzinfo=None))):
        assert result.ContentTime == "050607"
        assert "TimezoneOffsetFromUTC" not in result


@pytest.mark.requirement("RES-17")
def test_a_retry_at_another_time_has_the_same_uids():
    first, second = encoded(dx_source()), encoded(dx_source(), created=CREATED + timedelta(days=1))
    assert [item.sop_instance_uid for item in first] == [item.sop_instance_uid for item in second]


@pytest.mark.requirement("RES-17")
@pytest.mark.parametrize(
    "changes",
    [
        {"bundle": BundleIdentity(BUNDLE.name, BUNDLE.version, "cd" * 32, BUNDLE.intended_use, BUNDLE.manufacturer)},
        {"settings_digest": "00" * 32},
    ],
    ids=["bundle", "settings"],
)
def test_another_bundle_or_other_settings_have_other_uids(changes):
    def uids(items: tuple[ResultObject, ...]) -> set[str]:
        own = re.compile(r"2\.25\.\d+")
        return {str(e.value) for r in parsed(items) for e in r.iterall() if e.VR == "UI" and own.match(str(e.value))}

    shared = uids(encoded(dx_source())) & uids(encoded(dx_source(), **changes))
    device = {e for e in shared if "settings_digest" in changes}  # the device is the bundle
    assert len(shared) == len(device) <= 1


def test_images_of_one_series_share_the_result_series_and_keep_their_numbers():
    other = dx_source()
    other.SOPInstanceUID += "9"
    other.InstanceNumber = 8
    for one, two in zip(parsed(encoded(dx_source())), parsed(encoded(other)), strict=True):
        assert one.SeriesInstanceUID == two.SeriesInstanceUID
        assert one.SOPInstanceUID != two.SOPInstanceUID
        assert (one.InstanceNumber, two.InstanceNumber) == (7, 8)


def test_results_that_differ_on_series_level_have_series_of_their_own():
    left, right = mg_source(), mg_source()
    right.ImageLaterality = "R"
    uids = {r.SeriesInstanceUID for s in (left, right) for v in VERDICTS for r in parsed(encoded(s, v))}
    assert len(uids) == 2 * (2 + 2 + 3)  # sides; the roles of each verdict


def test_a_result_says_what_it_is_outside_as_inside():
    for item in encoded(dx_source()):
        result = dcmread(io.BytesIO(item.content))
        assert (item.sop_class_uid, item.sop_instance_uid) == (result.SOPClassUID, result.SOPInstanceUID)
        assert item.transfer_syntax_uid == result.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert result.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid


@pytest.mark.requirement("RES-01")
@pytest.mark.parametrize(
    ("verdict", "roles"),
    [("PASS", ["sr", "overlay"]), ("FAIL", ["sr", "overlay"]), ("REJECT", ["sr", "overlay", "rejection"])],
)
def test_by_default_come_the_report_then_the_overlay_then_the_note_of_a_rejection(verdict, roles):
    assert [item.role for item in encoded(dx_source(), verdict)] == roles


def test_a_file_names_us_as_its_writer():
    for result in parsed(encoded(dx_source())):
        assert result.file_meta.ImplementationClassUID.startswith("2.25.")
        assert result.file_meta.ImplementationVersionName == f"DICOM_GAM_{__version__}"[:16]


@pytest.mark.requirement("DEC-10")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_our_own_results_are_known_as_such(verdict):
    for result in parsed(encoded(dx_source(), verdict)):
        with pytest.raises(Refused) as refused:
            refuse_unaccepted(result, ExplicitVRLittleEndian, IntakeSettings())
        assert refused.value.rejection.reason is Reason.OWN_RESULT


def test_the_settings_name_maker_and_institution():
    settings = OutputSettings(overlay_long_side=256, manufacturer="Site Lab", institution_name="Hospital")
    for result in parsed(encoded(dx_source(), settings=settings)):
        assert (result.Manufacturer, result.InstitutionName) == ("Site Lab", "Hospital")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's, about the UID that we may not change
def test_a_uid_with_leading_zeros_is_referred_to_as_it_is():
    source = radiograph(bare_source())
    source = replace(source, instance=replace(source.instance, sop_instance_uid="1.2.003"))
    report, overlay = parsed(encoded(source))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.003"
    assert overlay.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.003"

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

import highdicom as hd
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SegmentationStorage,
)
from skimage.draw import polygon2mask

from dicom_gam.config import IntakeSettings, OutputSettings
from dicom_gam.dicom.image.acceptance import Refused, refuse_unaccepted
from dicom_gam.dicom.result.attended_region import attended_parts
from dicom_gam.dicom.result.region import build_region
from dicom_gam.dicom.result.result_file import result_file_bytes
from dicom_gam.records import Radiograph, Reason
from tests.dicom.example_results import (
    BUNDLE,
    CREATED,
    bare_source,
    blob,
    dx_source,
    encoded,
    mg_source,
    origin,
    radiograph,
    real_source,
    sc_source,
    verification,
)
from tests.dicom.test_results import SOURCES, UNAVOIDABLE, complaints, of_source, tool

VERDICTS = ("PASS", "FAIL", "REJECT")


def region_bytes(
    source: Radiograph | Dataset | None = None, verdict: str = "PASS", created=CREATED, **changes: object
) -> bytes:
    made_from = origin(dx_source() if source is None else source, verdict, created=created)
    region = build_region(made_from, verification(verdict, **changes))
    assert region is not None
    return result_file_bytes(region)


def region(source: Radiograph | Dataset | None = None, verdict: str = "PASS", **changes: object) -> Dataset:
    return dcmread(io.BytesIO(region_bytes(source, verdict, **changes)))


def sized(rows: int, columns: int) -> Radiograph:
    return radiograph(dx_source(), np.zeros((rows, columns), np.float32))


def multi_frame(sop_class_uid: str) -> Dataset:
    source = sc_source()
    source.SOPClassUID, source.NumberOfFrames = sop_class_uid, 1
    return source


KINDS = SOURCES | {
    "byte": lambda: multi_frame(MultiFrameGrayscaleByteSecondaryCaptureImageStorage),
    "word": lambda: multi_frame(MultiFrameGrayscaleWordSecondaryCaptureImageStorage),
}


@pytest.mark.requirement("RES-22", "RES-02")
@pytest.mark.parametrize(
    ("kind", "verdict"), [*((kind, "PASS") for kind in KINDS), ("DX", "FAIL"), ("SC", "REJECT"), ("CR chest", "REJECT")]
)
def test_the_region_is_valid_dicom_from_every_kind_of_source(kind, verdict, tmp_path):
    path = tmp_path / "region.dcm"
    path.write_bytes(region_bytes(KINDS[kind](), verdict))
    found = complaints(path) - of_source(kind)
    assert {line for line in found if not any(known in line for known in UNAVOIDABLE)} == set()


@pytest.mark.parametrize("side", ["", "L"])
def test_a_paired_part_with_or_without_its_side_is_valid(side, tmp_path):
    source = dx_source()
    source.BodyPartExamined, source.ImageLaterality = "HAND", side
    path = tmp_path / "region.dcm"
    path.write_bytes(region_bytes(source))
    assert {line for line in complaints(path) if "Laterality" in line} == set()


@pytest.mark.requirement("RES-22")
def test_a_block_of_the_map_covers_the_pixels_that_it_lies_on():
    attention = np.zeros((4, 4), np.float32)
    attention[1:3, 1:3] = 1
    # Interpolated, the map falls from 1 to 0 between the centres of two cells and is 0.5 on their border: the mask is
    # columns 80 to 239 of 320 and rows 50 to 149 of 200, but for what bilinear interpolation takes off the corners.
    mask = region(sized(200, 320), attention_map=attention).pixel_array
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 149, 80, 239)
    assert mask[100, 80] == mask[50, 160] == 1
    assert mask[50, 80] == 0  # the corner: 0.5 * 0.5 is less than a half


@pytest.mark.requirement("RES-22")
@pytest.mark.parametrize(("rows", "columns"), [(300, 260), (32, 32), (500, 80), (33, 501)])
def test_the_mask_is_what_the_report_outlines(rows, columns):
    ds = region(sized(rows, columns))
    outline = attended_parts(blob(), rows, columns)[0].outline
    enclosed = polygon2mask((rows, columns), outline[:, ::-1] - 0.5)
    assert ds.pixel_array.shape == (rows, columns)
    assert np.mean(ds.pixel_array.astype(bool) != enclosed) < 0.01


@pytest.mark.requirement("RES-22")
def test_another_reader_unpacks_the_same_bits(tmp_path):
    path, picture = tmp_path / "region.dcm", tmp_path / "region.pgm"
    path.write_bytes(region_bytes(sized(33, 50)))  # 1650 bits: the last byte isn't full
    tool("dcm2pnm", "dcmtk", "+Wm", "+opw", str(path), str(picture))
    np.testing.assert_array_equal(np.asarray(Image.open(picture)) > 127, dcmread(path).pixel_array > 0)
    assert len(dcmread(path).PixelData) == 208


def test_highdicom_reads_the_region_as_a_segmentation(tmp_path):
    path = tmp_path / "region.dcm"
    path.write_bytes(region_bytes())
    read = hd.seg.segread(path)
    assert read.segmentation_type is hd.seg.SegmentationTypeValues.BINARY
    mask = read.get_pixels_by_source_instance([dx_source().SOPInstanceUID])
    np.testing.assert_array_equal(mask[0, :, :, 0], region().pixel_array)


def test_a_map_that_is_a_half_or_more_everywhere_gives_a_full_mask():
    assert region(attention_map=np.ones((7, 7), np.float32)).pixel_array.all()


@pytest.mark.parametrize("value", [0.0, 0.49, np.nan])
def test_where_nothing_is_attended_to_there_is_no_object(value):
    flat = np.full((7, 7), value, np.float32)
    assert build_region(origin(dx_source()), verification(attention_map=flat)) is None


def test_where_attention_is_degenerate_there_is_no_object():
    assert build_region(origin(dx_source(), "FAIL"), verification("FAIL", attention_status="degenerate")) is None


@pytest.mark.requirement("RES-01")
def test_the_region_is_sent_when_the_settings_ask_for_it():
    settings = OutputSettings(overlay_long_side=256, objects=("sr", "overlay", "region"))
    assert [item.role for item in encoded(dx_source(), settings=settings)] == ["sr", "overlay", "region"]
    flat = np.zeros((7, 7), np.float32)
    assert [item.role for item in encoded(dx_source(), settings=settings, attention_map=flat)] == ["sr", "overlay"]


def test_the_region_has_a_series_of_segmentations():
    ds = region(verdict="FAIL")
    assert (ds.SOPClassUID, ds.Modality, ds.SeriesNumber) == (SegmentationStorage, "SEG", 9804)
    assert ds.SeriesDescription == "AI attended region - FAIL"
    assert (ds.SegmentationType, ds.ContentLabel) == ("BINARY", "ATTENDED_REGION")


def test_the_region_comes_from_the_source_image_and_lies_on_its_pixels():
    source, ds = mg_source(), region(mg_source())
    (series,) = ds.ReferencedSeriesSequence
    (derivation,) = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    for (reference,) in (series.ReferencedInstanceSequence, derivation.SourceImageSequence):
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert "ReferencedFrameNumber" not in reference
    assert derivation.SourceImageSequence[0].SpatialLocationsPreserved == "YES"
    assert "FrameOfReferenceUID" not in ds


def test_the_segment_says_which_network_made_it():
    (segment,) = region().SegmentSequence
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("attended region", "AUTOMATIC")
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (BUNDLE.name, BUNDLE.version)
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert BUNDLE.digest in algorithm.AlgorithmParameters


def test_a_bundle_without_a_maker_gets_a_region():
    made = build_region(origin(dx_source(), bundle=replace(BUNDLE, manufacturer="")), verification())
    assert "AlgorithmSource" not in made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]


def test_the_segment_is_tracked_as_the_reports_attended_region():
    report = dcmread(io.BytesIO(encoded(dx_source())[0].content))
    uids = [str(e.value) for e in report.iterall() if e.keyword == "UID"]
    assert region().SegmentSequence[0].TrackingUID in uids


def test_several_parts_together_are_tracked_as_what_they_are():
    attention = np.zeros((8, 8), np.float32)
    attention[0, 0] = attention[4, 4] = 1
    report = dcmread(io.BytesIO(encoded(dx_source(), attention_map=attention)[0].content))
    uids = [str(e.value) for e in report.iterall() if e.keyword == "UID"]
    (segment,) = region(attention_map=attention).SegmentSequence
    assert segment.TrackingID == "attended region, all parts"
    assert segment.TrackingUID not in uids


def test_what_is_segmented_is_class_activation_and_no_anatomy():
    (segment,) = region().SegmentSequence
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "309825002"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "130403"
    assert "AnatomicRegionSequence" not in segment


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_no_attribute_names_a_class(verdict):
    ds = region(bare_source(), verdict, reasons=("looks like chest",), notes=("BodyPartExamined says CHEST",))
    del ds.PixelData
    assert "chest" not in str(ds).lower()


def test_lossy_compression_is_inherited_and_none_is_claimed_where_the_source_says_nothing():
    ds = region()
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12.5)
    assert region(bare_source()).LossyImageCompression == "00"


def test_the_sources_private_attributes_stay_behind_and_its_names_stay_as_they_are():
    source = dx_source()
    source.SpecificCharacterSet = "GB18030"
    source.PatientName = "Wang^XiaoDong=王^小东"
    source.add_new(0x00091001, "LO", "private")
    ds = region(source)
    assert (ds.SpecificCharacterSet, str(ds.PatientName)) == ("GB18030", "Wang^XiaoDong=王^小东")
    assert 0x00091001 not in ds


@pytest.mark.requirement("DEC-10")
def test_the_region_is_known_as_our_own():
    with pytest.raises(Refused) as refused:
        refuse_unaccepted(region(), ExplicitVRLittleEndian, IntakeSettings())
    assert refused.value.rejection.reason is Reason.OWN_RESULT


@pytest.mark.requirement("RES-18")
def test_equal_arguments_give_an_equal_region_and_a_retry_the_same_uids():
    assert region_bytes() == region_bytes()
    later = region(created=CREATED + timedelta(days=1))
    uids = [[str(e.value) for e in ds.iterall() if e.VR == "UI"] for ds in (region(), later)]
    assert uids[0] == uids[1]


def test_dcmtk_finds_nothing_wrong_with_a_region_of_a_real_image(tmp_path):
    path = tmp_path / "region.dcm"
    path.write_bytes(region_bytes(radiograph(real_source("RG3_UNCR.dcm"), np.zeros((176, 176), np.float32))))
    said = tool("dcmpschk", "dcmtk", str(path))
    assert "E: " not in said, said

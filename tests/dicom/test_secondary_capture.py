from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_gam.config import OutputSettings
from dicom_gam.dicom.result.overlay import render_overlay
from dicom_gam.dicom.result.secondary_capture import overlay_png
from tests.dicom.example_results import (
    BUNDLE,
    bare_source,
    dx_source,
    encoded,
    mg_source,
    prediction,
    thorax,
    verification,
)

SETTINGS = OutputSettings(overlay_long_side=257)  # odd: rows x columns x 3 bytes may be odd too


def capture(source: Dataset | None = None, verdict: str = "PASS", **changes: object) -> Dataset:
    source = dx_source() if source is None else source
    return dcmread(io.BytesIO(encoded(source, verdict, settings=SETTINGS, **changes)[1].content))


def drawn(verdict: str = "PASS") -> np.ndarray:
    return render_overlay(thorax(), prediction(), verification(verdict), BUNDLE, SETTINGS)


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
def test_the_pixels_are_the_rendered_overlay(verdict):
    np.testing.assert_array_equal(capture(verdict=verdict).pixel_array, drawn(verdict))


def test_the_pixels_take_an_even_number_of_bytes():
    assert len(capture().PixelData) % 2 == 0


def test_the_overlay_comes_out_as_the_same_png():
    png = overlay_png(encoded(dx_source(), settings=SETTINGS)[1].content)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), drawn())


@pytest.mark.requirement("RES-14")
def test_the_overlay_is_described_as_a_derived_workstation_image():
    ds = capture()
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "GRADCAM"]
    assert (ds.ConversionType, ds.Modality, ds.SeriesNumber) == ("WSD", "OT", 9802)
    assert ds.DerivationCodeSequence[0].CodeValue == "113085"


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "REJECT"])
def test_the_series_description_says_the_verdict(verdict):
    assert capture(verdict=verdict).SeriesDescription == f"AI Grad-CAM overlay - {verdict}"


def test_the_comments_say_what_the_banner_says():
    comments = capture(verdict="FAIL").ImageComments
    assert comments.startswith("AI VERIFICATION: FAIL - DO NOT USE AI RESULT. Failed: attention IoU 0.31 < 0.50")


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", ["FAIL", "REJECT"])
def test_no_attribute_names_the_predicted_class_without_a_pass(verdict):
    ds = capture(bare_source(), verdict)
    del ds.PixelData
    assert "chest" not in str(ds).lower()


@pytest.mark.requirement("RES-14")
def test_the_source_image_is_referenced_with_its_purpose():
    (item,) = capture().SourceImageSequence
    assert item.ReferencedSOPInstanceUID == dx_source().SOPInstanceUID
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


@pytest.mark.requirement("RES-14")
def test_the_equipment_that_made_it_is_named():
    ds = capture()
    (item,) = ds.ContributingEquipmentSequence
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (item.ManufacturerModelName, ds.ManufacturerModelName) == ("dicom_gam", "dicom_gam")
    assert BUNDLE.digest in item.ContributionDescription


@pytest.mark.requirement("RES-14")
def test_the_overlay_has_no_pixel_spacing():
    source = dx_source()
    source.PixelSpacing = source.ImagerPixelSpacing = [0.1, 0.1]
    ds = capture(source)
    assert not [k for k in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing") if k in ds]


def test_lossy_compression_and_burned_in_annotation_are_inherited():
    ds = capture()
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12.5)
    assert (ds.LossyImageCompressionMethod, ds.BurnedInAnnotation) == ("ISO_10918_1", "NO")


def test_what_the_source_does_not_say_the_overlay_does_not_say():
    ds = capture(bare_source())
    assert not [k for k in ("LossyImageCompression", "BurnedInAnnotation", "BodyPartExamined") if k in ds]


def test_the_side_of_the_body_is_inherited():
    ds = capture(mg_source())
    assert (ds.ImageLaterality, ds.BodyPartExamined, "Laterality" in ds) == ("L", "BREAST", False)


def test_a_side_that_only_the_series_states_is_inherited():
    source = bare_source()
    source.BodyPartExamined, source.Laterality = "HAND", "R"
    assert capture(source).ImageLaterality == "R"


def test_a_paired_part_without_a_side_says_that_the_side_is_unknown():
    source = bare_source()
    source.BodyPartExamined = "HAND"
    assert capture(source).Laterality == ""


def test_an_unpaired_part_has_no_side():
    source = bare_source()
    source.BodyPartExamined = "CHEST"
    ds = capture(source)
    assert "Laterality" not in ds
    assert "ImageLaterality" not in ds

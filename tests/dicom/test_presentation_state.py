from __future__ import annotations

import io
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DigitalIntraOralXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
)

from dicom_gam.config import IntakeSettings, OutputSettings
from dicom_gam.dicom.image.acceptance import Refused, refuse_unaccepted
from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from dicom_gam.dicom.result.attended_region import attended_parts
from dicom_gam.dicom.result.presentation_state import build_presentation_state
from dicom_gam.dicom.result.result_file import result_file_bytes
from dicom_gam.records import Radiograph, Reason
from tests.dicom.example_results import (
    CREATED,
    bare_source,
    blob,
    dx_source,
    encoded,
    mg_source,
    origin,
    radiograph,
    sc_source,
    verification,
)
from tests.dicom.radiograph_files import INTAKE, write
from tests.dicom.test_reference import put, received
from tests.dicom.test_results import SOURCES, UNAVOIDABLE, complaints, of_source, tool

VERDICTS = ("PASS", "FAIL", "REJECT")
WORDS = {
    "PASS": "AI VERIFICATION: PASS",
    "FAIL": "AI VERIFICATION: FAIL - DO NOT USE AI RESULT",
    "REJECT": "AI VERIFICATION: INPUT REJECTED",
}
NO_MAP = {"attention_map": np.zeros((8, 8), np.float32)}
RAMP = (np.arange(64 * 48, dtype=np.uint16) % 4096).reshape(64, 48)


def state_bytes(
    source: Radiograph | Dataset | None = None, verdict: str = "PASS", created: datetime = CREATED, **changes: object
) -> bytes:
    source = dx_source() if source is None else source
    image = source if isinstance(source, Radiograph) else radiograph(source)
    made_from = origin(image, verdict, created=created)
    return result_file_bytes(build_presentation_state(made_from, image, verification(verdict, **changes)))


def state(source: Radiograph | Dataset | None = None, verdict: str = "PASS", **changes: object) -> Dataset:
    return dcmread(io.BytesIO(state_bytes(source, verdict, **changes)))


def made(
    path: Path, stored: np.ndarray = RAMP, syntax: str = ExplicitVRLittleEndian, **attributes: object
) -> Radiograph:
    """A radiograph that came out of a file."""
    image = decode_radiograph(read_instance(write(path, stored, syntax, **attributes)), INTAKE)
    assert isinstance(image, Radiograph), image
    return image


def sized(rows: int, columns: int) -> Radiograph:
    return radiograph(dx_source(), np.zeros((rows, columns), np.float32))


def lut(descriptor: list[int], data: list[int] | bytes) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    item.ModalityLUTType = "US"
    return Sequence([item])


def voi(ds: Dataset) -> Dataset:
    (transformation,) = ds.SoftcopyVOILUTSequence
    return transformation


def text_object(ds: Dataset) -> Dataset:
    return ds.GraphicAnnotationSequence[0].TextObjectSequence[0]


def intra_oral() -> Dataset:
    source = dx_source()
    source.SOPClassUID, source.Modality = DigitalIntraOralXRayImageStorageForPresentation, "IO"
    source.BodyPartExamined, source.ImageLaterality = "JAW", "B"
    return source


def one_frame() -> Dataset:
    source = sc_source()
    source.SOPClassUID, source.NumberOfFrames = MultiFrameGrayscaleByteSecondaryCaptureImageStorage, 1
    return source


KINDS = SOURCES | {"IO": intra_oral, "one frame": one_frame}


@pytest.mark.requirement("RES-23", "RES-02")
@pytest.mark.parametrize(
    ("kind", "verdict"), [*((kind, "FAIL") for kind in KINDS), ("DX", "PASS"), ("SC", "REJECT"), ("CR chest", "REJECT")]
)
def test_the_state_is_valid_dicom_from_every_kind_of_source(kind, verdict, tmp_path):
    path = tmp_path / "state.dcm"
    path.write_bytes(state_bytes(KINDS[kind](), verdict))
    found = complaints(path) - of_source(kind)
    assert {line for line in found if not any(known in line for known in UNAVOIDABLE)} == set()
    assert "E: " not in (said := tool("dcmpschk", "dcmtk", str(path))), said
    assert "Test passed" in said


@pytest.mark.parametrize(
    ("part", "side", "laterality"),
    [("HAND", "L", "L"), ("HAND", "B", ""), ("HAND", "", ""), ("CHEST", "R", None), ("SKULL", "", None)],
)
def test_the_side_is_stated_for_paired_parts_alone(part, side, laterality, tmp_path):
    source = dx_source()
    source.BodyPartExamined, source.ImageLaterality = part, side
    path = tmp_path / "state.dcm"
    path.write_bytes(state_bytes(source))
    assert dcmread(path).get("Laterality") == laterality
    assert not [line for line in complaints(path) if "Laterality" in line and "actually unknown" not in line]


GREY_SCALES = {
    "window": {"WindowCenter": 1500, "WindowWidth": 2000},
    "first window of two": {"WindowCenter": [1500, 9], "WindowWidth": [2000, 9]},
    "MONOCHROME1": {"WindowCenter": 1500, "WindowWidth": 2000, "PhotometricInterpretation": "MONOCHROME1"},
    "inverse shape": {"WindowCenter": 1500, "WindowWidth": 2000, "PresentationLUTShape": "INVERSE"},
    "rescale": {"RescaleSlope": "0.5", "RescaleIntercept": "-100", "WindowCenter": 500, "WindowWidth": 900},
    "slope of nothing": {"RescaleSlope": "0", "RescaleIntercept": "-100", "WindowCenter": 1500, "WindowWidth": 2000},
    "intercept alone": {"RescaleIntercept": "-100", "WindowCenter": 1500, "WindowWidth": 2000},
    "VOI LUT": {"VOILUTSequence": lut([1024, 1000, 12], [4 * i for i in range(1024)])},
    "VOI LUT and window": {
        "VOILUTSequence": lut([1024, 1000, 12], [4 * i for i in range(1024)]),
        "WindowCenter": 100,
        "WindowWidth": 50,
    },
    "VOI LUT of negative values": {
        "VOILUTSequence": lut([1024, -500, 12], [4 * i for i in range(1024)]),
        "RescaleSlope": "1",
        "RescaleIntercept": "-1000",
    },
    "broken VOI LUT": {"VOILUTSequence": lut([1024, 0, 12], [1, 2, 3]), "WindowCenter": 1500, "WindowWidth": 2000},
    "8-bit entries in words": {"VOILUTSequence": lut([4096, 0, 8], bytes(i // 16 for i in range(4096)))},
    "entries of few bits": {"VOILUTSequence": lut([4096, 0, 6], [i // 64 for i in range(4096)])},
    "no window": {},
    "no window, rescaled and turned": {
        "RescaleSlope": "-0.5",
        "RescaleIntercept": "100",
        "PhotometricInterpretation": "MONOCHROME1",
    },
    "a window that shows nothing": {"WindowCenter": 30000, "WindowWidth": 10},
    "modality LUT": {
        "ModalityLUTSequence": lut([4096, 0, 16], [60000 - 10 * i for i in range(4096)]),
        "WindowCenter": 40000,
        "WindowWidth": 30000,
    },
}


@pytest.mark.requirement("RES-23")
@pytest.mark.parametrize("case", GREY_SCALES)
def test_dcmtk_shows_with_the_state_what_the_network_saw(case, tmp_path):
    image = made(tmp_path / "image.dcm", **GREY_SCALES[case])
    path, picture = tmp_path / "state.dcm", tmp_path / "picture.pgm"
    path.write_bytes(state_bytes(image))
    said = tool("dcmp2pgm", "dcmtk", "-p", str(path), str(tmp_path / "image.dcm"), str(picture))
    assert picture.exists(), said
    shown = np.asarray(Image.open(picture)) / 255
    assert np.abs(shown - image.pixels).max() < 2.5 / 255
    assert np.ptp(shown) > 0.5
    assert "Test passed" in tool("dcmpschk", "dcmtk", str(path))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_keeps_its_entries_whatever_the_sources_transfer_syntax(syntax, tmp_path):
    table = lut([4096, 0, 12], list(range(4095, -1, -1)))
    ds = state(made(tmp_path / "image.dcm", syntax=syntax, VOILUTSequence=table))
    (item,) = voi(ds).VOILUTSequence
    assert list(item.LUTDescriptor) == [4096, 0, 12]
    assert np.frombuffer(item.LUTData, "<u2").tolist() == list(range(4095, -1, -1))


@pytest.mark.parametrize("function", ["SIGMOID", "LINEAR_EXACT"])
def test_the_function_of_a_window_goes_with_it(function, tmp_path):
    window = voi(state(made(tmp_path / "a", WindowCenter=1500, WindowWidth=0.5, VOILUTFunction=function)))
    assert (window.WindowCenter, window.WindowWidth, window.VOILUTFunction) == (1500, 0.5, function)


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [
        ("1500", "0.5", ""),
        ("1500", "0", "SIGMOID"),
        ("1500", "-5", "LINEAR_EXACT"),
        ("1500", "", ""),
        ("", "2000", ""),
        ("abc", "2000", ""),
        ("1500", "NaN", ""),
        ("1e300", "2000", ""),
        ("1500", "2000", "CUBIC"),
    ],
)
def test_an_unusable_window_is_left_out(center, width, function, tmp_path):
    source = received(dx_source())
    for keyword, value in (("WindowCenter", center), ("WindowWidth", width), ("VOILUTFunction", function)):
        put(source, keyword, value)
    assert "SoftcopyVOILUTSequence" not in state(source)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept", "PhotometricInterpretation", "PixelSpacing"])
@pytest.mark.parametrize("value", ["", "NaN", "1\\2\\3", "Doe^Jane", "1e999"])
def test_whatever_stands_in_the_header_the_state_is_built(keyword, value, tmp_path):
    source = received(dx_source())
    put(source, keyword, value)
    path = tmp_path / "state.dcm"
    path.write_bytes(state_bytes(source))
    assert "Test passed" in tool("dcmpschk", "dcmtk", str(path))


def test_the_identity_is_not_spelled_out():
    ds = state(bare_source())
    assert ds.PresentationLUTShape == "IDENTITY"
    assert not [k for k in ("RescaleSlope", "ModalityLUTSequence", "SoftcopyVOILUTSequence") if k in ds]


@pytest.mark.parametrize(
    ("keyword", "value", "ratio"),
    [
        ("PixelSpacing", ["0.2", "0.1"], [2, 1]),  # rows twice as far apart as columns
        ("ImagerPixelSpacing", ["0.1", "0.15"], [2, 3]),
        ("PixelAspectRatio", ["4", "3"], [4, 3]),
        ("PixelSpacing", ["0.143", "0.143"], [1, 1]),
        ("PixelSpacing", ["0", "0"], [1, 1]),
    ],
)
def test_the_whole_image_is_displayed_with_its_pixels_in_proportion(keyword, value, ratio):
    source = dx_source()
    setattr(source, keyword, value)
    (area,) = state(source).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == ratio
    assert (list(area.DisplayedAreaTopLeftHandCorner), area.PresentationSizeMode) == ([1, 1], "SCALE TO FIT")
    assert list(area.DisplayedAreaBottomRightHandCorner) == [260, 300]


@pytest.mark.requirement("RES-23")
def test_the_outline_counts_from_the_outer_corner_of_the_first_pixel():
    # The left half of 4 x 4 cells on 50 rows x 80 columns: from the corner 0, 0 to 40, 50 in PIXEL units (C.10.5.1.2).
    attention = np.zeros((4, 4), np.float32)
    attention[:, :2] = 1
    (graphic,) = state(sized(50, 80), attention_map=attention).GraphicAnnotationSequence[0].GraphicObjectSequence
    points = np.reshape(graphic.GraphicData, (-1, 2))
    assert [*points.min(0), *points.max(0)] == pytest.approx([0, 0, 40, 50], abs=0.5)
    assert (points[0] == points[-1]).all()
    assert (graphic.GraphicType, graphic.GraphicAnnotationUnits, graphic.GraphicFilled) == ("POLYLINE", "PIXEL", "N")
    assert graphic.NumberOfGraphicPoints == len(points)


@pytest.mark.requirement("RES-23")
def test_every_attended_part_is_outlined():
    attention = np.zeros((8, 8), np.float32)
    attention[0, 0] = 1
    attention[4:, 4:] = 1
    objects = state(sized(80, 80), attention_map=attention).GraphicAnnotationSequence[0].GraphicObjectSequence
    centres = [np.reshape(graphic.GraphicData, (-1, 2)).mean(0) for graphic in objects]
    assert len(centres) == 2
    assert (centres[0] > 40).all()  # the largest first
    assert (centres[1] < 10).all()


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (300, 260), (64, 3000), (3000, 64), (5000, 4000)])
def test_outline_and_words_stay_inside_the_image(rows, columns):
    ds = state(sized(rows, columns), "FAIL")
    (graphic,) = ds.GraphicAnnotationSequence[0].GraphicObjectSequence
    words = text_object(ds)
    (left, top), (right, bottom) = words.BoundingBoxTopLeftHandCorner, words.BoundingBoxBottomRightHandCorner
    assert 0 < left < right < columns
    assert 0 < top < bottom < rows / 4
    points = np.reshape(graphic.GraphicData, (-1, 2))
    assert points.min() >= 0
    assert (points.max(0) <= (columns, rows)).all()
    expected = attended_parts(blob(), rows, columns)[0].outline
    np.testing.assert_allclose(points, expected, rtol=1e-6)


@pytest.mark.requirement("SAF-01")
@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_words_are_the_verdict_and_no_attribute_names_a_class(verdict):
    ds = state(bare_source(), verdict, reasons=("looks like chest",), notes=("BodyPartExamined says CHEST",))
    assert text_object(ds).UnformattedTextValue == WORDS[verdict]
    assert ds.ContentDescription == WORDS[verdict]
    assert ds.SeriesDescription == f"AI presentation state - {verdict}"
    assert "chest" not in str(ds).lower()


@pytest.mark.parametrize("changes", [NO_MAP, {"attention_status": "degenerate"}])
def test_without_a_region_there_are_only_the_words(changes, tmp_path):
    path = tmp_path / "state.dcm"
    path.write_bytes(state_bytes(None, "FAIL", **changes))
    (annotation,) = dcmread(path).GraphicAnnotationSequence
    assert "GraphicObjectSequence" not in annotation
    assert annotation.TextObjectSequence[0].UnformattedTextValue == WORDS["FAIL"]
    assert complaints(path) == set()


def test_every_annotation_has_its_layer():
    ds = state()
    (layer,) = ds.GraphicLayerSequence
    assert {a.GraphicLayer for a in ds.GraphicAnnotationSequence} == {layer.GraphicLayer} == {"AI_VERIFICATION"}


@pytest.mark.requirement("RES-23")
def test_the_state_refers_to_the_source_image_as_a_whole():
    source, ds = mg_source(), state(mg_source())
    assert (ds.SOPClassUID, ds.Modality) == (GrayscaleSoftcopyPresentationStateStorage, "PR")
    assert ds.SeriesNumber == 9805
    (series,) = ds.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "ReferencedFrameNumber" not in image


def test_the_state_was_created_when_the_job_was_on_the_sources_clock():
    source = dx_source()
    source.TimezoneOffsetFromUTC = "-0430"
    ds = state(source, created=CREATED)  # 05:06:07 UTC
    assert (ds.PresentationCreationDate, ds.PresentationCreationTime) == ("20250304", "003607")
    assert str(ds.ContentCreatorName) == "dicom_gam^AI"


@pytest.mark.requirement("RES-01")
def test_the_state_is_sent_when_the_settings_ask_for_it():
    settings = OutputSettings(overlay_long_side=256, objects=("sr", "overlay", "presentation"))
    assert [item.role for item in encoded(dx_source(), settings=settings)] == ["sr", "overlay", "presentation"]


def test_the_sources_private_attributes_stay_behind_and_its_names_stay_as_they_are():
    source = dx_source()
    source.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    source.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    source.add_new(0x00091001, "LO", "private")
    ds = state(source)
    assert str(ds.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert 0x00091001 not in ds


@pytest.mark.requirement("DEC-10")
def test_the_state_is_known_as_our_own():
    with pytest.raises(Refused) as refused:
        refuse_unaccepted(state(), ExplicitVRLittleEndian, IntakeSettings())
    assert refused.value.rejection.reason is Reason.OWN_RESULT


@pytest.mark.requirement("RES-18")
def test_equal_arguments_give_an_equal_state_and_a_retry_the_same_uids():
    assert state_bytes() == state_bytes()
    later = state(created=CREATED + timedelta(days=1))
    uids = [[str(e.value) for e in ds.iterall() if e.VR == "UI"] for ds in (state(), later)]
    assert uids[0] == uids[1]

"""What a viewer would show: tables and windows worked out by hand."""

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_gam.records import Reason
from tests.dicom.radiograph_files import header, pixels_of, reason_of, save, write

RAMP = np.array([[0, 100], [200, 400]], np.uint16)


def lut(descriptor: list[int], data: list[int]) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", "US", data)
    return Sequence([item])


@pytest.mark.requirement("DEC-12")
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        # ((x - (c - 0.5)) / (w - 1) + 0.5: (x - 200) / 400 + 0.5
        ({"WindowCenter": 200.5, "WindowWidth": 401}, [[0, 0.25], [0.5, 1]]),
        ({"WindowCenter": [200.5, 9], "WindowWidth": [401, 9]}, [[0, 0.25], [0.5, 1]]),
        ({"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, [[0, 0.25], [0.5, 1]]),
        # 1 / (1 + exp(-4 (x - 200) / 400)): exp(2) = 7.3890561, exp(1) = 2.7182818
        (
            {"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
            [[1 / 8.3890561, 1 / 3.7182818], [0.5, 7.3890561 / 8.3890561]],
        ),
        ({"WindowCenter": 150.5, "WindowWidth": 1}, [[0, 0], [1, 1]]),
        # x = 2 s - 100: -100, 100, 300, 700; (x - 300) / 800 + 0.5
        (
            {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 300.5, "WindowWidth": 801},
            [[0, 0.25], [0.5, 1]],
        ),
        # a negative slope turns the image: x = 400 - s
        (
            {"RescaleSlope": -1, "RescaleIntercept": 400, "WindowCenter": 200.5, "WindowWidth": 401},
            [[1, 0.75], [0.5, 0]],
        ),
    ],
    ids=["linear", "first of several", "linear exact", "sigmoid", "width one", "rescale", "negative slope"],
)
def test_a_window_is_applied_as_the_standard_defines_it(tmp_path, attributes, expected):
    assert np.allclose(pixels_of(write(tmp_path / "a", RAMP, **attributes)), expected, atol=1e-6)


@pytest.mark.requirement("DEC-12")
def test_monochrome1_is_turned_so_that_its_low_values_are_bright(tmp_path):
    path = write(tmp_path / "a", RAMP, PhotometricInterpretation="MONOCHROME1", WindowCenter=200.5, WindowWidth=401)
    assert np.allclose(pixels_of(path), [[1, 0.75], [0.5, 0]], atol=1e-6)


@pytest.mark.requirement("DEC-12")
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_an_inverse_presentation_shape_turns_the_image_once_and_not_twice(tmp_path, photometric):
    path = write(
        tmp_path / "a",
        RAMP,
        PhotometricInterpretation=photometric,
        PresentationLUTShape="INVERSE",
        WindowCenter=200.5,
        WindowWidth=401,
    )
    assert np.allclose(pixels_of(path), [[1, 0.75], [0.5, 0]], atol=1e-6)


@pytest.mark.requirement("DEC-12")
def test_a_modality_lut_maps_each_value_and_extends_its_ends(tmp_path):
    table = lut([3, 100, 16], [1000, 2000, 3000])  # 100, 101, 102; below and above the ends hold
    stored = np.array([[0, 100], [101, 4000]], np.uint16)
    path = write(
        tmp_path / "a",
        stored,
        ModalityLUTSequence=table,
        WindowCenter=2000,
        WindowWidth=2000,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert np.allclose(pixels_of(path), [[0, 0], [0.5, 1]])


@pytest.mark.requirement("DEC-12")
def test_a_voi_lut_wins_over_the_window_and_its_bits_give_white(tmp_path):
    table = lut([4, 0, 8], [0, 51, 102, 255])
    stored = np.array([[0, 1], [2, 3]], np.uint16)
    path = write(tmp_path / "a", stored, VOILUTSequence=table, WindowCenter=1, WindowWidth=2)
    assert np.allclose(pixels_of(path), [[0, 0.2], [0.4, 1]])


def test_a_voi_lut_that_uses_more_bits_than_it_says_is_scaled_by_what_it_uses(tmp_path):
    table = lut([4, 0, 8], [0, 819, 1638, 4095])
    path = write(tmp_path / "a", np.array([[0, 1], [2, 3]], np.uint16), VOILUTSequence=table)
    assert np.allclose(pixels_of(path), [[0, 0.2], [0.4, 1]])


def test_a_voi_lut_may_begin_at_a_negative_value(tmp_path):
    table = lut([4, -2, 8], [0, 51, 102, 255])
    stored = np.array([[-2, -1], [0, 1]], np.int16)
    assert np.allclose(pixels_of(write(tmp_path / "a", stored, VOILUTSequence=table)), [[0, 0.2], [0.4, 1]])


def test_luts_are_read_from_implicit_files_where_they_are_bytes(tmp_path):
    stored = np.array([[0, 1], [2, 3]], np.uint16)
    path = write(tmp_path / "a", stored, uids.ImplicitVRLittleEndian, VOILUTSequence=lut([4, 0, 8], [0, 51, 102, 255]))
    assert np.allclose(pixels_of(path), [[0, 0.2], [0.4, 1]])


def test_a_modality_lut_shorter_than_its_descriptor_is_refused(tmp_path):
    path = write(tmp_path / "a", RAMP, ModalityLUTSequence=lut([9, 0, 16], [1, 2]))
    assert reason_of(path) is Reason.INVALID_ATTRIBUTES


def test_a_voi_lut_shorter_than_its_descriptor_gives_way_to_the_window(tmp_path):
    path = write(tmp_path / "a", RAMP, VOILUTSequence=lut([9, 0, 16], [1, 2]), WindowCenter=200.5, WindowWidth=401)
    assert np.allclose(pixels_of(path), [[0, 0.25], [0.5, 1]], atol=1e-6)


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 100000, "WindowWidth": 10},
        {"WindowCenter": -5000, "WindowWidth": 1},
        {"WindowCenter": 200, "WindowWidth": 10**9},
        {"WindowCenter": 200, "WindowWidth": 0},
        {"WindowCenter": 200, "WindowWidth": -400},
        {"WindowCenter": 200},
        {"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "CURVE"},
    ],
    ids=["none", "all black", "all white", "all grey", "zero", "negative", "half a window", "unknown function"],
)
def test_without_a_usable_window_the_image_is_stretched_between_its_quantiles(tmp_path, window):
    stored = np.arange(1000, dtype=np.uint16).reshape(40, 25)
    pixels = pixels_of(write(tmp_path / "a", stored, **window))
    # 0.5 % of 1000 pixels are 5 (value 4 is the fifth), 99.5 % are 995 (value 994 is the 995th)
    assert np.allclose(pixels, np.clip((stored.astype(float) - 4) / 990, 0, 1), atol=1e-6)


def test_one_bright_spot_on_an_even_ground_is_stretched_between_the_extremes(tmp_path):
    stored = np.full((40, 40), 7, np.uint16)
    stored[3, 3] = 9
    pixels = pixels_of(write(tmp_path / "a", stored))
    assert pixels[3, 3] == 1
    assert pixels.sum() == 1


@pytest.mark.requirement("DEC-12")
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_whatever_the_photometric_interpretation(tmp_path, photometric):
    path = write(
        tmp_path / "a",
        RAMP,
        PhotometricInterpretation=photometric,
        WindowCenter=200.5,
        WindowWidth=401,
        PixelPaddingValue=400,
        PixelPaddingRangeLimit=150,
    )
    pixels = pixels_of(path)
    assert pixels[1].tolist() == [0, 0]
    assert np.allclose(pixels[0], [1, 0.75] if photometric == "MONOCHROME1" else [0, 0.25], atol=1e-6)


def test_padding_does_not_count_for_the_stretch(tmp_path):
    stored = np.array([[0, 0, 0], [100, 200, 300]], np.uint16)
    assert np.allclose(pixels_of(write(tmp_path / "a", stored, PixelPaddingValue=0))[1], [0, 0.5, 1])


def test_negative_padding_written_as_an_unsigned_value_is_understood(tmp_path):
    stored = np.array([[-2000, -2000], [0, 100]], np.int16)
    dataset = header(stored, BitsStored=16)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    assert pixels_of(save(tmp_path / "a", dataset)).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("slope", [0, 1e300])
def test_a_rescale_slope_that_destroys_the_image_is_left_out(tmp_path, slope):
    path = write(tmp_path / "a", RAMP, RescaleSlope=slope, RescaleIntercept=7, WindowCenter=200.5, WindowWidth=401)
    assert np.allclose(pixels_of(path), [[0, 0.25], [0.5, 1]], atol=1e-6)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 100, "WindowWidth": 50}])
def test_an_even_image_is_refused_as_blank(tmp_path, window):
    assert reason_of(write(tmp_path / "a", np.full((9, 9), 100, np.uint16), **window)) is Reason.BLANK_IMAGE


def test_an_image_of_nothing_but_padding_is_refused_as_blank(tmp_path):
    path = write(tmp_path / "a", RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
    assert reason_of(path) is Reason.BLANK_IMAGE


def test_the_pixels_are_contiguous_float32(tmp_path):
    pixels = pixels_of(write(tmp_path / "a", RAMP))
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.shape == (2, 2)

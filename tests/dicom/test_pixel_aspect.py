"""How tall a pixel is for its width: hand-computed, and whatever headers hold."""

from __future__ import annotations

import io
import warnings

import pytest
from pydicom import config as pydicom_config
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_gam.dicom.result.pixel_aspect import pixel_aspect


def header(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=pydicom_config.IGNORE))
    return dataset


def as_received(**values: str) -> Dataset:
    """The same after a journey through a file: values are read when they are asked for."""
    dataset, file = Dataset(), io.BytesIO()
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        dataset.add(DataElement(tag, "UT", value))
    dcmwrite(file, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    received = dcmread(io.BytesIO(file.getvalue()), force=True)
    received.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return received


@pytest.mark.parametrize(
    ("values", "aspect"),
    [
        ({}, 1.0),
        ({"PixelSpacing": [0.15, 0.15]}, 1.0),
        ({"PixelSpacing": [0.2, 0.1]}, 2.0),  # rows twice as far apart as columns: tall pixels
        ({"ImagerPixelSpacing": ["0.1", "0.4"]}, 0.25),
        ({"NominalScannedPixelSpacing": [0.3, 0.2]}, 1.5),
        ({"PixelAspectRatio": ["4", "3"]}, 4 / 3),  # vertical \ horizontal
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}, 1.0),
        ({"PixelSpacing": [0.0, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}, 2.0),
        ({"PixelSpacing": None, "PixelAspectRatio": ["1", "2"]}, 0.5),
        ({"PixelSpacing": [0.1, 1.0], "PixelAspectRatio": ["2", "1"]}, 2.0),  # ten to one is a wrong header
    ],
)
def test_the_first_usable_attribute_says_how_tall_a_pixel_is(values, aspect):
    assert pixel_aspect(header(**values)) == pytest.approx(aspect)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0.1", "0.1\\0.1\\0.1", "-0.1\\0.1", "nan\\0.1", "inf\\inf", "1e999\\1", "0.1 mm\\0.2 mm"),
        *("0,1\\0,2", "x\\1", "1e-200\\1e-300", "0\\0", "\\", "_1\\1"),
    ],
)
@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"])
def test_rubbish_counts_for_nothing_and_nobody_is_warned(keyword, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixel_aspect(as_received(**{keyword: text})) == 1.0


def test_a_received_spacing_is_read():
    assert pixel_aspect(as_received(PixelSpacing="0.20\\0.10 ")) == 2.0


def test_reading_leaves_the_data_set_as_it_came():
    received = as_received(PixelSpacing="0.2\\0.1")
    pixel_aspect(received)
    assert received.get_item("PixelSpacing").value == b"0.2\\0.1 "

"""What is taken as a radiograph, and that every refusal names its reason and its remedy."""

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_gam.config import IntakeSettings
from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES, ACCEPTED_TRANSFER_SYNTAXES, RADIOGRAPHIC_MODALITIES
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.scp.listener import OTHER_CLASSES
from dicom_gam.records import Radiograph, Reason, Rejection
from tests.dicom.radiograph_files import INTAKE, STUDY, decode, header, pixels_of, reason_of, save, write

RAMP = np.array([[0, 100], [200, 400]], np.uint16)
SECONDARY_CAPTURES = (
    uids.SecondaryCaptureImageStorage,
    uids.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)
OTHERS = (
    uids.CTImageStorage,
    uids.MRImageStorage,
    uids.UltrasoundImageStorage,
    uids.NuclearMedicineImageStorage,
    uids.XRayAngiographicImageStorage,
    uids.XRayRadiofluoroscopicImageStorage,
    uids.BreastTomosynthesisImageStorage,
    uids.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uids.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uids.EncapsulatedPDFStorage,
    uids.ComprehensiveSRStorage,
    uids.GrayscaleSoftcopyPresentationStateStorage,
)


def file(folder, **attributes):
    return write(folder / "a.dcm", RAMP, **attributes)


def message_of(path, intake=INTAKE):
    result = decode(path, intake)
    assert isinstance(result, Rejection)
    return result.message


# ---------------------------------------------------------------- SOP classes


@pytest.mark.requirement("DEC-08")
@pytest.mark.parametrize("sop_class", [c for c in ACCEPTED_SOP_CLASSES if c not in SECONDARY_CAPTURES])
@pytest.mark.parametrize("modality", ["DX", "PX", None])
def test_radiographic_classes_are_accepted_whatever_their_modality(tmp_path, sop_class, modality):
    assert isinstance(decode(file(tmp_path, SOPClassUID=sop_class, Modality=modality)), Radiograph)


def test_no_class_the_listener_takes_only_to_refuse_it_by_name_is_accepted_here():
    assert not set(OTHER_CLASSES) & set(ACCEPTED_SOP_CLASSES)


@pytest.mark.requirement("DEC-08")
@pytest.mark.parametrize("sop_class", OTHERS)
def test_other_classes_are_refused(tmp_path, sop_class):
    path = file(tmp_path, SOPClassUID=sop_class, Modality="DX")
    assert reason_of(path) is Reason.NOT_ACCEPTED_SOP_CLASS
    assert "intake.extra_sop_classes" in message_of(path)


@pytest.mark.requirement("DEC-08")
def test_a_class_that_the_administrator_lists_is_accepted(tmp_path):
    intake = IntakeSettings(minimum_side=2, extra_sop_classes=(uids.RTImageStorage,))
    path = file(tmp_path, SOPClassUID=uids.RTImageStorage, Modality="RTIMAGE")
    assert isinstance(decode(path, intake), Radiograph)


@pytest.mark.parametrize("sop_class", SECONDARY_CAPTURES)
@pytest.mark.parametrize("modality", RADIOGRAPHIC_MODALITIES)
def test_a_secondary_capture_of_a_radiographic_modality_is_accepted(tmp_path, sop_class, modality):
    assert isinstance(decode(file(tmp_path, SOPClassUID=sop_class, Modality=modality)), Radiograph)


@pytest.mark.requirement("DEC-08")
@pytest.mark.parametrize("modality", ["OT", "SC", "CT", "XC", "", None])
def test_any_other_secondary_capture_is_refused_with_the_way_to_configure_it(tmp_path, modality):
    path = file(tmp_path, SOPClassUID=uids.SecondaryCaptureImageStorage, Modality=modality)
    assert reason_of(path) is Reason.NOT_ACCEPTED_SOP_CLASS
    message = message_of(path)
    assert "CR, DX, RG, MG, IO, PX" in message
    assert f"list {uids.SecondaryCaptureImageStorage} in intake.extra_sop_classes" in message


def test_a_secondary_capture_of_any_modality_is_accepted_when_its_class_is_listed(tmp_path):
    intake = IntakeSettings(minimum_side=2, extra_sop_classes=(uids.SecondaryCaptureImageStorage,))
    path = file(tmp_path, SOPClassUID=uids.SecondaryCaptureImageStorage, Modality="OT")
    assert isinstance(decode(path, intake), Radiograph)


def test_a_modality_that_is_no_code_is_not_quoted(tmp_path):
    path = file(tmp_path, SOPClassUID=uids.SecondaryCaptureImageStorage, Modality="OT")
    path.write_bytes(path.read_bytes().replace(b"CS\x02\x00OT", b"CS\x0c\x00Secret^Jones"))
    assert reason_of(path) is Reason.NOT_ACCEPTED_SOP_CLASS
    assert "Jones" not in message_of(path)


# ---------------------------------------------------------------- own results


def equipment(model_name):
    item = Dataset()
    item.Manufacturer = "somebody"
    item.ManufacturerModelName = model_name
    return Sequence([item])


@pytest.mark.requirement("DEC-10")
@pytest.mark.parametrize("sop_class", [uids.SecondaryCaptureImageStorage, uids.Comprehensive3DSRStorage])
def test_a_result_of_this_software_is_named_as_such_whatever_its_class(tmp_path, sop_class):
    path = file(tmp_path, SOPClassUID=sop_class, ContributingEquipmentSequence=equipment("dicom_gam"))
    assert reason_of(path) is Reason.OWN_RESULT


@pytest.mark.requirement("DEC-10")
def test_an_image_type_of_gradcam_marks_a_result_of_this_software(tmp_path):
    path = file(tmp_path, ImageType=["DERIVED", "SECONDARY", "", "GRADCAM"])
    assert reason_of(path) is Reason.OWN_RESULT


@pytest.mark.parametrize(
    "attributes",
    [
        {"ContributingEquipmentSequence": equipment("Another Gateway")},
        {"ImageType": ["DERIVED", "SECONDARY", "GRADCAM"]},
        {"ImageType": "ORIGINAL"},
    ],
)
def test_contributions_of_others_are_no_reason_to_refuse(tmp_path, attributes):
    assert isinstance(decode(file(tmp_path, **attributes)), Radiograph)


# ---------------------------------------------------------------- transfer syntax and identity


@pytest.mark.requirement("DEC-02")
@pytest.mark.parametrize("syntax", [uids.MPEG2MPML, "1.2.840.10008.1.2.4.94", "1.2.840.113619.5.2", "1.2.3.4"])
def test_a_transfer_syntax_without_a_strict_decoder_is_refused(tmp_path, syntax):
    path = write(tmp_path / "a", RAMP)
    old = b"UI\x14\x001.2.840.10008.1.2.1\0"
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, b"UI" + len(new).to_bytes(2, "little") + new))
    assert syntax not in ACCEPTED_TRANSFER_SYNTAXES
    assert reason_of(path) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_image_that_no_result_could_refer_to_is_refused(tmp_path, keyword):
    path = file(tmp_path, **{keyword: None})
    assert reason_of(path) is Reason.INVALID_ATTRIBUTES
    assert message_of(path).startswith(keyword)


def test_an_object_without_any_uid_of_its_own_is_refused_at_the_door(tmp_path):
    path = file(tmp_path)
    content = path.read_bytes()
    for name, element in ((b"\x08\x00\x16\x00", b"\x02\x00\x02\x00"), (b"\x08\x00\x18\x00", b"\x02\x00\x03\x00")):
        content = content.replace(name, b"\x08\x00\x17\x01").replace(element, b"\x02\x00\x20\x01")
    path.write_bytes(content)
    result = read_instance(path)
    assert isinstance(result, Rejection)
    assert result.reason is Reason.INVALID_ATTRIBUTES


# ---------------------------------------------------------------- pixels: colour, frames, size, bits


@pytest.mark.requirement("DEC-09")
@pytest.mark.parametrize(
    ("samples", "photometric"),
    [(3, "RGB"), (3, "YBR_FULL_422"), (1, "PALETTE COLOR"), (3, "MONOCHROME2")],
)
def test_colour_is_refused_where_grey_is_expected(tmp_path, samples, photometric):
    path = file(tmp_path, SamplesPerPixel=samples, PhotometricInterpretation=photometric)
    assert reason_of(path) is Reason.UNSUPPORTED_PHOTOMETRIC_INTERPRETATION
    assert "colour where grey is expected" in message_of(path)


@pytest.mark.requirement("DEC-09")
@pytest.mark.parametrize("frames", [2, 100_000, 2**31 - 1])
def test_more_than_one_frame_is_refused(tmp_path, frames):
    assert reason_of(file(tmp_path, NumberOfFrames=frames)) is Reason.MULTI_FRAME


def test_one_frame_said_in_so_many_words_is_accepted(tmp_path):
    assert isinstance(decode(file(tmp_path, NumberOfFrames=1)), Radiograph)


@pytest.mark.requirement("DEC-05")
@pytest.mark.parametrize(("rows", "columns"), [(65535, 65535), (2, 65535)])
def test_an_image_above_the_cap_is_refused_before_its_pixels_are_looked_at(tmp_path, rows, columns):
    intake = IntakeSettings(minimum_side=2, maximum_pixels=100_000)
    path = file(tmp_path, Rows=rows, Columns=columns)
    assert reason_of(path, intake) is Reason.ABSURD_DIMENSIONS


@pytest.mark.parametrize("shape", [(31, 64), (64, 31)])
def test_an_image_with_a_side_below_the_minimum_is_refused(tmp_path, shape):
    path = write(tmp_path / "a", np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape))
    assert reason_of(path, IntakeSettings()) is Reason.ABSURD_DIMENSIONS


@pytest.mark.requirement("DEC-09")
@pytest.mark.parametrize(
    "attributes",
    [
        {"Rows": None},
        {"Rows": 0},
        {"Rows": [2, 2]},
        {"Columns": None},
        {"Columns": 0},
        {"SamplesPerPixel": None},
        {"PhotometricInterpretation": None},
        {"BitsAllocated": None},
        {"BitsAllocated": 1},
        {"BitsAllocated": 12},
        {"BitsAllocated": 32},
        {"BitsStored": 1},
        {"BitsStored": 17},
        {"HighBit": 15},
        {"PixelRepresentation": None},
        {"PixelRepresentation": 7},
        {"NumberOfFrames": 0},
    ],
    ids=str,
)
def test_missing_or_impossible_attributes_are_refused_by_name(tmp_path, attributes):
    path = file(tmp_path, **attributes)
    assert reason_of(path) is Reason.INVALID_ATTRIBUTES
    first_word = next(iter(attributes)).split("Allocated")[0][:4]
    assert first_word in message_of(path)


def test_bits_stored_may_not_be_missing(tmp_path):
    dataset = header(RAMP)
    del dataset.BitsStored
    dataset.PixelData = RAMP.tobytes()
    dataset["PixelData"].VR = "OW"
    assert reason_of(save(tmp_path / "a", dataset)) is Reason.INVALID_ATTRIBUTES


# ---------------------------------------------------------------- no pixels


@pytest.mark.requirement("DEC-09")
def test_an_image_without_pixel_data_is_refused(tmp_path):
    assert reason_of(save(tmp_path / "a", header(RAMP))) is Reason.NO_PIXELS


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_an_image_of_floating_point_pixels_is_refused(tmp_path, keyword):
    dataset = header(RAMP)
    setattr(dataset, keyword, bytes(32))
    assert reason_of(save(tmp_path / "a", dataset)) is Reason.NO_PIXELS


def test_empty_pixel_data_are_no_pixels(tmp_path):
    dataset = header(RAMP)
    dataset.PixelData = b""
    dataset["PixelData"].VR = "OW"
    assert reason_of(save(tmp_path / "a", dataset)) is Reason.NO_PIXELS


@pytest.mark.requirement("DEC-03")
@pytest.mark.parametrize("length", [1, 2, 6])
def test_pixel_data_shorter_than_rows_by_columns_are_truncated(tmp_path, length):
    dataset = header(RAMP)
    dataset.PixelData = RAMP.tobytes()[:length]
    dataset["PixelData"].VR = "OW"
    assert reason_of(save(tmp_path / "a", dataset)) is Reason.TRUNCATED_PIXELS


# ---------------------------------------------------------------- malformed but harmless


def test_the_data_set_comes_without_pixels_and_with_everything_else(tmp_path):
    result = decode(file(tmp_path, PatientName="Some^One", BodyPartExamined="HAND"))
    assert isinstance(result, Radiograph)
    assert "PixelData" not in result.dataset
    assert str(result.dataset.PatientName) == "Some^One"
    assert result.dataset.BodyPartExamined == "HAND"
    assert result.dataset.StudyInstanceUID == STUDY


def test_elements_that_can_not_be_read_are_left_out_and_break_nothing(tmp_path):
    dataset = header(RAMP, WindowCenter="100", PatientWeight="70")
    dataset.PixelData = RAMP.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.add_new(0x60000010, "US", 2)
    path = save(tmp_path / "a", dataset)
    content = path.read_bytes()
    for good, bad in ((b"DS\x04\x00100 ", b"DS\x04\x00ab\\c"), (b"DS\x02\x0070", b"DS\x02\x00x?")):
        assert good in content
        content = content.replace(good, bad)
    path.write_bytes(content.replace(b"\x00\x60\x10\x00US\x02\x00\x02\x00", b"\x00\x60\x10\x00FD\x02\x00\x02\x00"))
    result = decode(path)
    assert isinstance(result, Radiograph)
    assert result.pixels.tolist() == pixels_of(file(tmp_path)).tolist()  # as if there were no window
    assert 0x60000010 not in result.dataset
    assert result.dataset.Modality == "CR"


@pytest.mark.parametrize("charset", ["ISO 2022 IR 87", "ISO-IR 100", "ISO IR 192", "\\ISO 2022-IR 87", ""])
def test_a_character_set_that_fits_badly_or_is_misspelt_does_not_break_the_image(tmp_path, charset):
    assert isinstance(decode(with_character_set(tmp_path, charset)), Radiograph)


@pytest.mark.requirement("DEC-11")
@pytest.mark.parametrize("charset", ["ISO_IR 999", "nonsense", "utf-8", "ISO_IR 100\\latin_1"])
def test_an_image_in_an_unknown_character_set_is_refused_as_its_patient_can_not_be_named(tmp_path, charset):
    refused = decode(with_character_set(tmp_path, charset))
    assert refused.reason is Reason.INVALID_ATTRIBUTES
    assert "Specific Character Set" in refused.message


def with_character_set(tmp_path, charset):
    path = file(tmp_path, SpecificCharacterSet="ISO_IR 100", PatientName="M\u00fcller^Otto")
    content = path.read_bytes()
    old = b"CS\x0a\x00ISO_IR 100"
    assert old in content
    value = charset.encode() + b" " * (len(charset) % 2)
    path.write_bytes(content.replace(old, b"CS" + len(value).to_bytes(2, "little") + value))
    return path

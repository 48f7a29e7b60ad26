"""Small radiographs in any transfer syntax, made by encoders other than our decoders where there are any."""

import base64
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pydicom.uid as uids
from imagecodecs import htj2k_encode
from jpeg_ls import encode_array as encode_jpeg_ls
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder

from dicom_gam.config import IntakeSettings
from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from dicom_gam.records import Radiograph, Reason, Rejection

STUDY, SERIES, INSTANCE = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"
NATIVE = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
)
DCMTK_OPTIONS = {
    uids.JPEGBaseline8Bit: "+eb",
    uids.JPEGExtended12Bit: "+ee",
    uids.JPEGLossless: "+el",
    uids.JPEGLosslessSV1: "+e1",
}
COMPRESSED = (
    uids.RLELossless,
    *DCMTK_OPTIONS,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000Lossless,
    uids.JPEG2000,
    uids.HTJ2KLossless,
    uids.HTJ2KLosslessRPCL,
    uids.HTJ2K,
)
LOSSY = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEGLSNearLossless)
INTAKE = IntakeSettings(minimum_side=2)

# 40 x 36 pixels of value (row * column * 3 + row * 7) % 4096, made with OpenJPH (reversible); no encoder is installed.
HTJ2K_STREAM = base64.b85decode(
    "|4;u>04YEK0000a0000e00000000000000a0000e0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&"
    "kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001G5`VplfVEg00jU){x1Nt<pRL80KfnfKmZd!01|+y{s7B#"
    "0FUwjA~XQ=0LOFyzyK4#02MF*1c2b@0Lt@K0EYqS{s83XRRH%h(*VE#6)*q=d;kG3%?F&YW|7m@0Qk^IpFc~`fU*n?Yo7@KY~%tF"
    "#Q?wn7Q_GnY`_2(fPiI-upNl>Iw*iEitn%!GNt;yOW+H903b>Mv}X}}fb{@p{QoctAB<p2&LDy8y#N3||9%ku@2SRO5%*nn8UVlm"
    "E~WqhbkG0_(6Yj5L-JI+z@ah8d`f`-0C@6@`~H9c001yv+ikTyJv|<tPfn53)&UF&<Pi#FaRP*cq5=OC=KhWR|9gr#h(LSxAc61L"
    "LI=FyiR`oi|9Ag?{{+DQd_dvW0RPz"
)


def standard_pixels() -> np.ndarray:
    """The image that HTJ2K_STREAM holds, which all other syntaxes are made of too."""
    row, column = np.mgrid[0:40, 0:36]
    return ((row * column * 3 + row * 7) % 4096).astype(np.uint16)


def header(stored: np.ndarray, **attributes) -> Dataset:
    """The attributes of a CR image with 12 of 16 bits stored, or all of 8; `None` takes an attribute away."""
    bits = 12 if stored.dtype.itemsize == 2 else 8
    values = {
        "SOPClassUID": uids.ComputedRadiographyImageStorage,
        "SOPInstanceUID": INSTANCE,
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "Modality": "CR",
        "PatientName": "Secret^Name",
        "PatientID": "SECRET-ID",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": stored.dtype.itemsize * 8,
        "BitsStored": bits,
        "HighBit": attributes.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
    } | attributes
    dataset = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def write(path: Path, stored: np.ndarray, syntax: str = uids.ExplicitVRLittleEndian, **attributes) -> Path:
    """Write a radiograph in the given transfer syntax."""
    if syntax in DCMTK_OPTIONS:
        if syntax == uids.JPEGBaseline8Bit:
            stored = (stored >> 4).astype(np.uint8)
        native = write(path.with_suffix(".native"), stored, **attributes)
        _run("dcmcjpeg", DCMTK_OPTIONS[syntax], str(native), str(path))
        return path
    dataset = header(stored, **attributes)
    if syntax in NATIVE:
        big = syntax == uids.ExplicitVRBigEndian
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">" if big else "<")).tobytes()
    else:
        dataset.PixelData = encapsulate([_encode(stored, syntax)])
    dataset["PixelData"].VR = "OB" if syntax not in NATIVE else "OW"
    return save(path, dataset, syntax)


def save(path: Path, dataset: Dataset, syntax: str = uids.ExplicitVRLittleEndian) -> Path:
    """Write a data set as a Part 10 file, whatever its values are."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    dataset.save_as(path, enforce_file_format=True)
    return path


def frame_of(path: Path) -> bytes:
    """The compressed frame of a file."""
    return next(generate_frames(dcmread(path).PixelData, number_of_frames=1))


def with_frame(path: Path, stream: bytes) -> Path:
    """The same file with another compressed frame."""
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([stream])
    dataset.save_as(path)
    return path


def deflated(path: Path, content: bytes) -> Path:
    """A Part 10 file whose deflated data set inflates to `content`."""
    write(path, standard_pixels(), uids.DeflatedExplicitVRLittleEndian)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(path.read_bytes()[: data_set_start(path)] + deflater.compress(content) + deflater.flush())
    return path


def data_set_start(path: Path) -> int:
    """Where the file meta information ends."""
    return 144 + int.from_bytes(path.read_bytes()[140:144], "little")


def inflated(path: Path) -> bytes:
    """The data set of an explicit little endian file."""
    return path.read_bytes()[data_set_start(path) :]


def decode(path: Path, intake: IntakeSettings = INTAKE) -> Radiograph | Rejection:
    """The whole way of one file."""
    instance = read_instance(path)
    return instance if isinstance(instance, Rejection) else decode_radiograph(instance, intake)


def pixels_of(path: Path) -> np.ndarray:
    """The decoded pixels of a file that must be accepted."""
    result = decode(path)
    assert isinstance(result, Radiograph), result
    return result.pixels


def reason_of(path: Path, intake: IntakeSettings = INTAKE) -> Reason:
    """Why a file that must be refused is refused; a message never quotes the patient."""
    result = decode(path, intake)
    assert isinstance(result, Rejection), "the file was accepted"
    assert "secret" not in result.message.lower()
    assert result.message.count(".") >= 1
    return result.reason


def _encode(stored: np.ndarray, syntax: str) -> bytes:
    if syntax == uids.RLELossless:
        layout = header(stored)
        return get_encoder(syntax).encode(
            stored,
            rows=layout.Rows,
            columns=layout.Columns,
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=layout.BitsAllocated,
            bits_stored=layout.BitsAllocated,
            pixel_representation=layout.PixelRepresentation,
            photometric_interpretation="MONOCHROME2",
            encoding_plugin="pydicom",
        )
    if syntax in (uids.JPEGLSLossless, uids.JPEGLSNearLossless):
        return bytes(encode_jpeg_ls(stored, lossy_error=2 if syntax == uids.JPEGLSNearLossless else 0))
    if syntax in (uids.JPEG2000Lossless, uids.JPEG2000):
        return bytes(encode_jpeg_2000(stored, photometric_interpretation=2, use_mct=False))
    if np.array_equal(stored, standard_pixels()):
        return HTJ2K_STREAM
    return bytes(htj2k_encode(stored))  # OpenJPH, reversible


def _run(program: str, *arguments: str) -> None:
    assert shutil.which(program), f"{program} is not installed: apt-get install dcmtk"
    subprocess.run([program, *arguments], check=True, capture_output=True, timeout=60)

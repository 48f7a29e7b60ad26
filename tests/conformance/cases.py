"""Every kind of source, with every oddity, through the real road: file, decoder, radiograph, encoder, result files."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom.uid as uids
from imagecodecs import jpeg8_encode
from jpeg_ls import encode_array as encode_jpeg_ls
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from dicom_gam.config import IntakeSettings, OutputSettings
from dicom_gam.dicom.image.decode import decode_radiograph, read_instance
from dicom_gam.dicom.result.reference import PATIENT_AND_STUDY
from dicom_gam.dicom.result.results import encode_results
from dicom_gam.records import Rejection, ResultObject, ResultRole
from tests.conformance.oddities import ODDITIES, SECRET, Oddity
from tests.conformance.sources import KINDS, uid
from tests.dicom.example_results import BUNDLE, CONCEPTS, CREATED, SETTINGS_DIGEST, prediction, thorax, verification
from tests.dicom.radiograph_files import NATIVE

IDENTITY = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName")  # never edited
ROLES: tuple[ResultRole, ...] = ("sr", "overlay", "region", "presentation", "rejection")
_LARGE = 10**6  # pixels; a smaller image is drawn, a larger one enlarged, which is faster


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One source and one verdict on it."""

    kind: str
    oddity: str
    verdict: str

    @property
    def name(self) -> str:
        return f"{self.kind} / {self.oddity} / {self.verdict}"

    @property
    def rule(self) -> Oddity:
        return ODDITIES[self.oddity]

    @property
    def roles(self) -> tuple[ResultRole, ...]:
        """The objects that there must be, by the design."""
        if self.rule.refused is not None:
            return ()
        wanted = ROLES if self.verdict == "REJECT" else ROLES[:-1]
        return tuple(role for role in wanted if role not in self.rule.absent)


def every_case() -> Iterator[Case]:
    """The whole matrix, oddity by oddity."""
    for name, oddity in ODDITIES.items():
        for kind in oddity.kinds:
            for verdict in oddity.verdicts:
                yield Case(kind, name, verdict)


def every_oddity_once() -> Iterator[Case]:
    """A slice in which every oddity occurs, and kinds and verdicts take turns."""
    for i, (name, oddity) in enumerate(ODDITIES.items()):
        yield Case(oddity.kinds[i % len(oddity.kinds)], name, oddity.verdicts[(i // 2) % len(oddity.verdicts)])


def source_file(case: Case) -> bytes:
    """The source as its sender would have written it."""
    rule = case.rule
    ds = KINDS[case.kind](uid(case.kind, case.oddity, case.verdict))
    allocated, stored = rule.bits
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rule.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored, stored - 1
    ds.PixelRepresentation = int(rule.signed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a value is odd is the point
        rule.change(ds)
        pixels = _stored(rule)
        frame = np.repeat(pixels, int(ds.SamplesPerPixel)).tobytes() if rule.syntax in NATIVE else b""
        frame *= int(ds.get("NumberOfFrames", 1))
        ds.PixelData = frame if frame else encapsulate([_encoded(pixels, rule.syntax)])
        ds["PixelData"].VR = "OB" if allocated == 8 or not frame else "OW"
        return _part10(ds, rule.syntax)


def _stored(rule: Oddity) -> np.ndarray:
    rows, columns = rule.shape
    small = rows * columns <= _LARGE
    picture = _thorax(*rule.shape) if small else _thorax(rows // 10, columns // 10).repeat(10, 0).repeat(10, 1)
    allocated, stored = rule.bits
    values = np.rint(picture * (2**stored - 1)).astype(np.int64) - (2 ** (stored - 1) if rule.signed else 0)
    order = ">" if rule.syntax == uids.ExplicitVRBigEndian else "="
    return values.astype(f"{order}{'i' if rule.signed else 'u'}{allocated // 8}")


@functools.cache
def _thorax(rows: int, columns: int) -> np.ndarray:
    return thorax(rows, columns)


def _encoded(pixels: np.ndarray, syntax: str) -> bytes:
    if syntax == uids.JPEGBaseline8Bit:
        return bytes(jpeg8_encode(pixels, level=90))
    if syntax == uids.JPEGLSLossless:
        return bytes(encode_jpeg_ls(pixels))
    return bytes(encode_jpeg_2000(pixels, photometric_interpretation=2, use_mct=False, compression_ratios=[10]))


def _part10(ds: Dataset, syntax: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    ds.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def results_of(case: Case, path: Path) -> tuple[ResultObject, ...] | Rejection:
    """What goes back for the source in `path`, or why nothing does. Raises EncodingError where the encoder gives up."""
    instance = read_instance(path)
    if isinstance(instance, Rejection):
        return instance
    radiograph = decode_radiograph(instance, IntakeSettings())
    if isinstance(radiograph, Rejection):
        return radiograph
    rule = case.rule
    long_side = 1024 if radiograph.pixels.size > _LARGE else 256
    return encode_results(
        radiograph,
        prediction(),
        verification(case.verdict, **rule.found),
        bundle=BUNDLE,
        class_concepts=CONCEPTS,
        settings=OutputSettings(**{"objects": ROLES, "overlay_long_side": long_side, **rule.output}),
        settings_digest=SETTINGS_DIGEST,
        created=CREATED,
        predecessors=rule.predecessors,
    )


class Identity:
    """Whose and which study a source is, and whether results say the same."""

    def __init__(self, case: Case, source: bytes) -> None:
        self._rule = case.rule
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(io.BytesIO(source), stop_before_pixels=True)
            self._bytes = {keyword: _raw(ds, keyword) for keyword in IDENTITY}
            self._original = {keyword: _text(ds, keyword) for keyword in PATIENT_AND_STUDY}
            self._terms = _terms(ds) if self._rule.character_set is None else list(self._rule.character_set)
            self.uids = frozenset(str(ds[k].value) for k in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
        self._expected = self._original | self._rule.kept

    def is_unknown(self, keyword: str) -> bool:
        """Whether there is no value that results could have."""
        return self._expected.get(keyword, "-") == ""

    def is_mended(self, keyword: str) -> bool:
        """Whether results can't say what the source says: it says nothing, or something invalid."""
        return self.is_unknown(keyword) or self._expected.get(keyword) != self._original.get(keyword)

    def faults(self, result: bytes) -> list[str]:
        """Where a result file differs from what it must say."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(self._faults(dcmread(io.BytesIO(result), stop_before_pixels=True)))
        return [*found, "the text of a private attribute"] if SECRET.encode() in result else found

    def _faults(self, ds: Dataset) -> Iterator[str]:
        for keyword, value in self._bytes.items():
            if _raw(ds, keyword) != value:
                yield f"{keyword} has the bytes {_raw(ds, keyword)!r} where {value!r} are the source's"
        for keyword, text in self._expected.items():
            found = _text(ds, keyword)
            if found != text:
                yield f"{keyword} is {found!r} where {text!r} is expected"
        if _terms(ds) != self._terms:
            yield f"SpecificCharacterSet is {_terms(ds)} where {self._terms} is expected"
        inherited = [ds, *(item for keyword in PATIENT_AND_STUDY for item in _items(ds, keyword))]
        yield from (f"private attribute {tag}" for one in inherited for tag in list(one.keys()) if tag.is_private)


def _raw(ds: Dataset, keyword: str) -> bytes:
    """The encoded value of an attribute that was not looked at yet, without the padding."""
    return bytes(ds.get_item(keyword).value or b"").rstrip(b" \0") if keyword in ds else b""


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = ds.get(keyword)
    return list(value) if isinstance(value, DicomSequence) else []


def _terms(ds: Dataset) -> list[str]:
    value = ds.get("SpecificCharacterSet") or []
    return [value] if isinstance(value, str) else [str(term or "") for term in value]


def _text(ds: Dataset, keyword: str) -> str:
    """An attribute as one comparable text, items and all; empty when it is empty or absent."""
    value = ds.get(keyword)
    if isinstance(value, DicomSequence):
        items = [{e.keyword: _text(item, e.keyword) for e in item if not e.tag.is_private} for item in value]
        return str(items) if items else ""
    values = value if isinstance(value, (MultiValue, list)) else [value]
    return "\\".join("" if one is None else str(one) for one in values).strip(" \0")

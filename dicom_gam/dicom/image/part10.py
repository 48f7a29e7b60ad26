"""Part 10 files: the header as pydicom reads it, and the Pixel Data element as our own strict reading.

pydicom is lenient on purpose: it hands out what there is of a file that ends too early. That is right for headers and
wrong for pixels, so it reads up to the Pixel Data element and no further.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_gam.dicom.image.acceptance import Refused
from dicom_gam.records import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.tag import BaseTag

# Everything that pydicom was seen to raise for a damaged header, or may raise by its source.
# LookupError covers KeyError, IndexError and unknown codecs; ValueError covers UnicodeDecodeError.
PYDICOM_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,  # "no tag to read": a sequence that is cut short
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
HEADER_LIMIT = 64 * 1024**2  # a data set with more than this before its pixels is no radiograph
_DATASET_START = 132
_MAXIMUM_NESTING = 16  # the deepest sequences of the image classes have 5 levels
_MAXIMUM_ELEMENTS = 100_000  # a radiograph has a few hundred; each takes 400 times the memory of its shortest coding
_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset({_PIXEL_DATA, 0x7FE00008, 0x7FE00009})  # and Float, Double Float
_LOCK = threading.RLock()


@dataclass(frozen=True, slots=True, eq=False)
class Part10:
    """A file read up to its pixels.

    `content` holds the encoded data set (inflated where it was deflated) and `pixel_offset` is where in it the Pixel
    Data element begins, None without one. `finished` is False when inflating stopped at its limit.
    """

    dataset: Dataset
    transfer_syntax_uid: str
    content: bytes
    pixel_offset: int | None
    finished: bool


def read_meta(head: bytes) -> tuple[FileMetaDataset, int]:
    """Read the file meta information, and where the data set begins. Raises Refused (UNREADABLE)."""
    if head[128:_DATASET_START] != b"DICM":
        raise Refused(
            Reason.UNREADABLE,
            "The file is not a DICOM file (no DICM prefix after 128 bytes, PS3.10 7.1). "
            "Give a DICOM Part 10 file; older files without that header must be converted first.",
        )
    stream = BytesIO(head)
    stream.seek(_DATASET_START)
    try:
        with _quiet_pydicom():
            meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=_after_meta))
            _settle(meta)
            syntax, length = meta.get("TransferSyntaxUID"), meta.get("FileMetaInformationGroupLength")
    except PYDICOM_ERRORS as error:
        raise _unreadable("The file meta information", error) from error
    if not isinstance(syntax, str) or not syntax:
        raise Refused(
            Reason.UNREADABLE,
            "The file meta information: names no transfer syntax, so the file can't be read with certainty. "
            "Have the sending system write a complete header (PS3.10 7.1).",
        )
    start = stream.tell()
    if syntax == DeflatedExplicitVRLittleEndian and isinstance(length, int):
        start = _DATASET_START + 12 + length  # deflated bytes may look like one more element of group 2
    return meta, start


def read_part10(file: bytes) -> Part10:
    """Read a whole file's header. Raises Refused (UNREADABLE, or TRUNCATED_PIXELS when a deflated set is cut)."""
    meta, start = read_meta(file)
    syntax = str(meta.TransferSyntaxUID)
    finished = True
    if syntax == DeflatedExplicitVRLittleEndian:
        file, finished = _inflate(file[start:], HEADER_LIMIT)
        start = 0
    dataset, offset = _read_dataset(file, start, meta)
    if len(file) - offset >= 8:
        return Part10(dataset, syntax, file, offset, finished)
    if not finished:
        raise _inflates_too_far()
    return Part10(dataset, syntax, file, None, finished)


def encoded_header(file: bytes, part10: Part10) -> bytes:
    """The file's bytes up to its pixels, the data set inflated: what `read_header` makes the same data set of."""
    content = part10.content[: part10.pixel_offset]
    if part10.transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        return content
    _, start = read_meta(file)
    return file[:start] + content


def read_header(encoded: bytes) -> Dataset:
    """Read what `encoded_header` gave. Raises Refused (UNREADABLE) for anything else."""
    meta, start = read_meta(encoded)
    return _read_dataset(encoded, start, meta)[0]


def inflate_pixels(file: bytes, part10: Part10, length: int) -> Part10:
    """Inflate again, as far as the `length` bytes of pixels that the header promises, when the header did not do."""
    if part10.finished or part10.pixel_offset is None:
        return part10
    _, start = read_meta(file)
    content, finished = _inflate(file[start:], part10.pixel_offset + length + 1024**2)
    if not finished:
        raise _inflates_too_far()
    return Part10(part10.dataset, part10.transfer_syntax_uid, content, part10.pixel_offset, True)


def native_pixels(part10: Part10, length: int, row_length: int) -> memoryview:
    """The `length` bytes of an uncompressed frame. Raises Refused when they are not exactly what is there."""
    _, start, declared = _pixel_element(part10)
    if declared == 0xFFFFFFFF:
        raise _undecodable("is compressed although the transfer syntax says that it is not")
    value = memoryview(part10.content)[start : start + declared]
    if len(value) < min(declared, length) or declared < length:
        raise _truncated(f"{len(value)} bytes are there and {length} are needed")
    if len(value) < declared:
        raise _truncated("the file ends inside them")
    excess = value[length:]
    if len(excess) > 1 and (len(excess) >= row_length or any(excess)):
        raise _undecodable(f"are {len(value)} bytes and Rows x Columns make {length}, so the two contradict each other")
    return value[:length]


def pixel_value_representation(part10: Part10) -> str:
    """The VR of the Pixel Data element, OW where the transfer syntax is implicit."""
    return _pixel_element(part10)[0]


def pixel_fragments(part10: Part10) -> list[memoryview]:
    """The fragments of the one encapsulated frame (PS3.5 A.4). Raises Refused for a broken encapsulation."""
    _, position, declared = _pixel_element(part10)
    if declared != 0xFFFFFFFF:
        raise _undecodable("are not encapsulated although the transfer syntax is a compressed one")
    content = memoryview(part10.content)
    found: list[memoryview] = []
    while True:
        if len(content) - position < 8:
            raise _truncated("the file ends before their end marker")
        group, element, length = struct.unpack_from("<HHI", content, position)
        position += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000) or length % 2:
            raise _undecodable("have a broken fragment (PS3.5 A.4)")
        if len(content) - position < length:
            raise _truncated("the file ends inside a fragment")
        found.append(content[position : position + length])
        position += length
    if not found or bytes(found[0]) not in (b"", bytes(4)):
        raise _undecodable("have an offset table that does not fit one frame (PS3.5 A.4)")
    if not any(len(fragment) for fragment in found[1:]):
        raise no_pixels()
    return found[1:]


def no_pixels() -> Refused:
    """The refusal of a data set that has no usable Pixel Data element."""
    return Refused(
        Reason.NO_PIXELS,
        "Pixel Data (7FE0,0010) is missing or empty, or the file ends before it. "
        "Send the image again, complete and with integer pixels.",
    )


def _pixel_element(part10: Part10) -> tuple[str, int, int]:
    """VR, where the value begins, and its declared length."""
    if part10.pixel_offset is None:
        raise no_pixels()
    implicit, little = part10.dataset.original_encoding
    order, content, at = "<" if little else ">", part10.content, part10.pixel_offset
    group, element = struct.unpack_from(f"{order}HH", content, at)
    if group << 16 | element != _PIXEL_DATA:
        raise no_pixels()
    if implicit:
        representation, start = "OW", at + 8
    else:
        representation, start = content[at + 4 : at + 6].decode("latin-1"), at + 12
        if representation not in ("OB", "OW", "UN"):
            raise _undecodable("have a value representation that pixels can't have")
    if len(content) < start:
        raise _truncated("the file ends before them")
    declared = int(struct.unpack_from(f"{order}I", content, start - 4)[0])
    if declared == 0:
        raise no_pixels()
    return representation, start, declared


def _inflate(deflated: bytes, limit: int) -> tuple[bytes, bool]:
    """Inflate at most `limit` bytes; False when there would be more. Raises Refused."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # without a zlib header, PS3.5 A.5
    try:
        content = inflater.decompress(deflated, limit)
    except zlib.error as error:
        raise _unreadable("The deflated data set", error) from error
    if not inflater.eof and len(content) < limit:
        raise _truncated("the deflated data set ends before its end marker")
    return content, inflater.eof


def _read_dataset(content: bytes, start: int, meta: FileMetaDataset) -> tuple[Dataset, int]:
    """The data set up to its pixels, and where it ends. Raises Refused (UNREADABLE)."""
    syntax = str(meta.TransferSyntaxUID)
    stream = BytesIO(content)
    stream.seek(start)
    try:
        with _quiet_pydicom():
            dataset = read_dataset(
                stream, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian, stop_when=_at_pixels
            )
            offset = stream.tell()
            dataset.file_meta = meta
            _settle(dataset)
    except PYDICOM_ERRORS as error:
        raise _unreadable("The data set", error) from error
    return dataset, offset


def _settle(dataset: Dataset) -> None:
    """Convert every element now and drop those that can't be, so that no later access raises or warns."""
    level = [dataset]
    count = 0
    for depth in range(_MAXIMUM_NESTING + 1):
        deeper: list[Dataset] = []
        for item in level:
            count += len(item)
            if count > _MAXIMUM_ELEMENTS:
                raise _too_many_elements()
            for tag in list(item.keys()):
                try:
                    value = item[tag].value
                except PYDICOM_ERRORS:
                    del item[tag]
                    continue
                if isinstance(value, Sequence):
                    if depth == _MAXIMUM_NESTING:
                        raise _nested_too_deep()
                    deeper.extend(value)
        level = deeper


def _nested_too_deep() -> Refused:
    return Refused(
        Reason.UNREADABLE,
        f"The data set: has sequences within each other, more than {_MAXIMUM_NESTING} deep, which no radiograph needs. "
        "Have the sending system write the object correctly.",
    )


@contextmanager
def _quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings and log lines to itself: they quote values, and values are patient data."""
    logger = logging.getLogger("pydicom")
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def _after_meta(tag: BaseTag, _representation: str | None, _length: int) -> bool:
    return tag >> 16 != 2


def _at_pixels(tag: BaseTag, _representation: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _unreadable(thing: str, error: Exception) -> Refused:
    return Refused(
        Reason.UNREADABLE,
        f"{thing} can't be read ({type(error).__name__}), the file is damaged. Send it again from its source.",
    )


def _too_many_elements() -> Refused:
    return Refused(
        Reason.TOO_COSTLY,
        f"The data set: has more than {_MAXIMUM_ELEMENTS} elements, where a radiograph has a few hundred. "
        "Check the sending system, which must not put other data into the image's header.",
    )


def _inflates_too_far() -> Refused:
    return Refused(
        Reason.ABSURD_DIMENSIONS,
        "The deflated data set: inflates to far more than its Rows x Columns need. "
        "Send the image uncompressed, or check the sending system.",
    )


def _truncated(detail: str) -> Refused:
    return Refused(
        Reason.TRUNCATED_PIXELS, f"The pixels are cut short, {detail}. Send the image again from its source."
    )


def _undecodable(detail: str) -> Refused:
    return Refused(
        Reason.UNDECODABLE_PIXELS,
        f"The pixels: {detail}. Send the image again, uncompressed or from another source.",
    )

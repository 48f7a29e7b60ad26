"""Structural checks of compressed frames, made before any decoder sees them.

Decoders are made to show what they can of a damaged stream: half a JPEG Lossless image decodes without an error in
libjpeg. So every stream is walked first, from marker to marker: it must be one image, whole to its end marker, and of
the size that the data set says, so that nothing is allocated on a lie.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_gam.dicom.image.acceptance import PixelLayout, Refused
from dicom_gam.records import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_NO_SEGMENT = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length, none of which belongs between segments
# What ends a scan. In JPEG a data byte FF is followed by 00 (ISO 10918-1 B.1.1.5), in JPEG-LS by a byte below 80
# (ISO 14495-1 A.1); restart markers D0-D7 and fill bytes FF go on.
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_LS_SCAN_END = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_PADDING = b"\x00\xff"  # both are seen after the end marker, to make the length even


@dataclass(frozen=True, slots=True)
class Codestream:
    """What the stream says of its samples: bits, and whether it keeps a sign itself.

    `scan_end` is where the entropy-coded data of a JPEG stream end.
    """

    precision: int
    signed: bool = False
    scan_end: int = 0


def check_jpeg_baseline(stream: bytes, layout: PixelLayout) -> Codestream:
    """Check one JPEG process 1 image (ISO 10918-1). Raises Refused."""
    return _check_jpeg(stream, layout, _JPEG_SCAN_END, {0xC0: range(8, 9)}, _sequential_scan, _blocks(layout))


def check_jpeg_extended(stream: bytes, layout: PixelLayout) -> Codestream:
    """Check one JPEG process 2 or 4 image (ISO 10918-1). Raises Refused."""
    frames = {0xC0: range(8, 9), 0xC1: range(8, 13)}
    return _check_jpeg(stream, layout, _JPEG_SCAN_END, frames, _sequential_scan, _blocks(layout))


def check_jpeg_lossless(stream: bytes, layout: PixelLayout) -> Codestream:
    """Check one JPEG process 14 image (ISO 10918-1 annex H). Raises Refused."""
    return _check_jpeg(stream, layout, _JPEG_SCAN_END, {0xC3: range(2, 17)}, _lossless_scan, layout.pixels)


def check_jpeg_ls(stream: bytes, layout: PixelLayout) -> Codestream:
    """Check one JPEG-LS image (ISO 14495-1). Raises Refused."""
    return _check_jpeg(stream, layout, _JPEG_LS_SCAN_END, {0xF7: range(2, 17)}, _jpeg_ls_scan)


def check_rle(stream: bytes, layout: PixelLayout) -> Codestream:
    """Check the header of one RLE frame (PS3.5 annex G): a segment for each byte of a pixel. Raises Refused.

    Whether each segment decodes to exactly Rows x Columns bytes is checked by its decoder.
    """
    if len(stream) < 64:
        raise truncated("the RLE header is not complete")
    count, *offsets = struct.unpack_from("<16I", stream)
    expected = layout.bits_allocated // 8
    if count != expected or offsets[0] != 64 or any(offsets[expected:]):
        raise undecodable(f"have an RLE header of {count} segments where {expected} are needed")
    ends = [*offsets[1:expected], len(stream)]
    if any(end <= start for start, end in zip(offsets, ends, strict=False)):
        raise truncated("an RLE segment begins after the end of the data")
    if len(stream) > 64 + 2 * (layout.length + expected):  # RLE at its worst doubles the data
        raise undecodable("have more RLE data than Rows x Columns can need")
    return Codestream(layout.bits_allocated)


def check_jpeg_2000(stream: bytes, layout: PixelLayout) -> Codestream:
    """Check one JPEG 2000 or HTJ2K codestream (ISO 15444-1 annex A), tile-part by tile-part. Raises Refused."""
    if not stream.startswith(b"\xff\x4f\xff\x51"):
        raise undecodable("are not a JPEG 2000 codestream (no SOC and SIZ marker; JP2 boxes are not allowed in DICOM)")
    if len(stream) < 45:
        raise truncated("the JPEG 2000 header is not complete")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top = struct.unpack_from(">8I", stream, 8)
    components, depth, x_step, y_step = struct.unpack_from(">H3B", stream, 40)
    if components != 1 or (x_step, y_step) != (1, 1):
        raise undecodable(f"have a JPEG 2000 stream of {components} components where one is needed")
    if width < left or height < top or not tile_width or not tile_height or tile_left > left or tile_top > top:
        raise undecodable("have a JPEG 2000 stream whose image and tile areas contradict each other")
    _check_size(height - top, width - left, layout)
    precision = (depth & 0x7F) + 1
    _check_precision(precision, range(1, 17), layout)
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    found = set(_tiles(stream))
    if len(found) != tiles:
        raise truncated(f"{len(found)} of {tiles} JPEG 2000 tiles are there")
    return Codestream(precision, signed=bool(depth & 0x80))


def truncated(detail: str) -> Refused:
    """The refusal of pixels that end too early."""
    return Refused(
        Reason.TRUNCATED_PIXELS,
        f"The compressed pixels are cut short, {detail}. Send the image again from its source.",
    )


def undecodable(detail: str) -> Refused:
    """The refusal of pixels that no strict decoder takes."""
    return Refused(
        Reason.UNDECODABLE_PIXELS,
        f"The compressed pixels: {detail}. Send the image again, uncompressed or from another source.",
    )


def _check_jpeg(
    stream: bytes,
    layout: PixelLayout,
    scan_end: re.Pattern[bytes],
    frames: dict[int, range],
    check_scan: Callable[[int, int, int], bool],
    units: int | None = None,
) -> Codestream:
    """Check a stream of one frame and one scan. `units`: how many a restart interval counts, None for JPEG-LS."""
    frame: Codestream | None = None
    scan: tuple[int, int] | None = None
    interval = 0
    for marker, segment, end in _segments(stream, scan_end):
        if marker in _START_OF_FRAME:
            if frame is not None or marker not in frames or len(segment) < 6:
                raise undecodable(f"have a frame header (FF{marker:02X}) that their transfer syntax does not have")
            precision, rows, columns, components = struct.unpack_from(">BHHB", segment)
            if components != 1:
                raise undecodable(f"have {components} components where one is needed")
            _check_size(rows, columns, layout)
            _check_precision(precision, frames[marker], layout)
            frame = Codestream(precision)
        elif marker == _DRI and len(segment) == 2 and scan is None:
            (interval,) = struct.unpack(">H", segment)
        elif marker == _SOS:
            if frame is None or scan or len(segment) != 6 or segment[0] != 1 or not check_scan(*segment[3:6]):
                raise undecodable("have a malformed scan header, and what it means is not guessed")
            scan = end
    if frame is None or scan is None:
        raise undecodable("hold no image between their start and end marker")
    if units is not None:
        _check_restarts(stream, scan, interval, units)
    return Codestream(frame.precision, scan_end=scan[1])


def _check_restarts(stream: bytes, scan: tuple[int, int], interval: int, units: int) -> None:
    """Every restart marker must be there, in its order: over a missing one decoders go on, with the rest displaced."""
    expected = -(-units // interval) - 1 if interval else 0
    found = 0
    for match in _RESTART.finditer(stream, *scan):
        if match[1][0] != 0xD0 + found % 8:
            raise undecodable("have a restart marker out of its order, so a part is missing or doubled")
        found += 1
    if found != expected:
        raise truncated(f"{found} of {expected} restart markers are there")


def _blocks(layout: PixelLayout) -> int:
    return -(-layout.rows // 8) * -(-layout.columns // 8)


def _sequential_scan(spectral_start: int, spectral_end: int, approximation: int) -> bool:
    return (spectral_start, spectral_end, approximation) == (0, 63, 0)  # ISO 10918-1 table B.3


def _lossless_scan(predictor: int, spectral_end: int, point_transform: int) -> bool:
    return 1 <= predictor <= 7 and (spectral_end, point_transform) == (0, 0)


def _jpeg_ls_scan(_near: int, interleave: int, point_transform: int) -> bool:
    return (interleave, point_transform) == (0, 0)


def _segments(stream: bytes, scan_end: re.Pattern[bytes]) -> Iterator[tuple[int, bytes, tuple[int, int]]]:
    """Marker and content of each segment up to the end marker, behind which there may only be padding.

    Third, for a scan header: where the entropy-coded data begin and end.
    """
    if not stream.startswith(b"\xff\xd8"):
        raise undecodable("are not a JPEG stream (no SOI marker)")
    position = 2
    while True:
        begin = position
        while stream[position : position + 1] == b"\xff":  # any number of fill bytes, ISO 10918-1 B.1.1.2
            position += 1
        if position >= len(stream):
            raise truncated("there is no end marker")
        marker = stream[position]
        position += 1
        if position < begin + 2 or marker in _NO_SEGMENT:
            raise undecodable("have something other than a marker segment where one is needed")
        if marker == _EOI:
            if stream[position:].strip(_PADDING):
                raise undecodable("go on after their end marker")
            return
        if len(stream) < position + 2:
            raise truncated("a marker segment is not complete")
        (length,) = struct.unpack_from(">H", stream, position)
        segment = stream[position + 2 : position + length]
        position += length
        if length < 2 or position > len(stream):
            raise truncated("a marker segment is not complete")
        begin = position
        if marker == _SOS:
            end = scan_end.search(stream, position)
            if end is None:
                raise truncated("there is no end marker")
            position = end.start()
        yield marker, segment, (begin, position)


def _tiles(stream: bytes) -> Iterator[int]:
    """The tile index of every tile-part, from the main header to the end marker."""
    position = 2
    while stream[position : position + 2] != b"\xff\x90":  # SOT
        if len(stream) < position + 4:
            raise truncated("the JPEG 2000 header is not complete")
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker < 0xFF50 or length < 2:
            raise undecodable("have a broken JPEG 2000 header")
        position += 2 + length
    while stream[position : position + 2] != b"\xff\xd9":  # EOC
        if len(stream) < position + 12:
            raise truncated("there is no end marker")
        marker, length, tile, part_length = struct.unpack_from(">HHHI", stream, position)
        if marker != 0xFF90 or length != 10 or 0 < part_length < 14:
            raise undecodable("have a broken JPEG 2000 tile-part header")
        yield tile
        if part_length == 0:  # goes on to the end marker, ISO 15444-1 A.4.2
            if not stream.rstrip(_PADDING).endswith(b"\xff\xd9"):
                raise truncated("there is no end marker")
            return
        position += part_length
    if stream[position + 2 :].strip(_PADDING):
        raise undecodable("go on after their end marker")


def _check_size(rows: int, columns: int, layout: PixelLayout) -> None:
    if (rows, columns) != (layout.rows, layout.columns):
        raise undecodable(
            f"are {rows} x {columns} and Rows x Columns say {layout.rows} x {layout.columns}: one of them is wrong"
        )


def _check_precision(precision: int, allowed: range, layout: PixelLayout) -> None:
    if precision not in allowed or precision > layout.bits_allocated:
        raise undecodable(f"have {precision} bits per sample, which do not go with {layout.bits_allocated} allocated")

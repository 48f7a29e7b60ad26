"""From the Pixel Data element to the stored values, by one strict decoder per transfer syntax and no other.

A second decoder that takes over when the first one refuses is what turns a truncated image into a wrong one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom.uid as uids
from imagecodecs import jpeg2k_decode, jpeg8_decode, jpegls_decode

from dicom_gam.dicom.image.acceptance import NATIVE_TRANSFER_SYNTAXES, PixelLayout
from dicom_gam.dicom.image.codestream import (
    Codestream,
    check_jpeg_2000,
    check_jpeg_baseline,
    check_jpeg_extended,
    check_jpeg_lossless,
    check_jpeg_ls,
    check_rle,
    truncated,
    undecodable,
)
from dicom_gam.dicom.image.part10 import Part10, native_pixels, pixel_fragments, pixel_value_representation

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Everything the three libraries raise for a stream that they refuse (imagecodecs' own errors are RuntimeErrors).
DECODER_ERRORS = (RuntimeError, ValueError, TypeError, OverflowError)
_BITS_BEHIND = b"\xaa" * 64  # libjpeg fills up with zeros; these begin with a one, and look like no marker


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one compressed transfer syntax is read.

    `keeps_sign`: the codestream's own precision says where the sign bit is; otherwise Bits Stored does.
    """

    check: Callable[[bytes, PixelLayout], Codestream]
    decode: Callable[[bytes, PixelLayout, Codestream], NDArray[Any]]
    lossy: bool = False
    keeps_sign: bool = False


def read_stored_pixels(part10: Part10, layout: PixelLayout) -> NDArray[Any]:
    """The stored values as a (rows, columns) array of the layout's own type. Raises Refused."""
    if part10.transfer_syntax_uid in NATIVE_TRANSFER_SYNTAXES:
        return _native(part10, layout)
    codec = CODECS[part10.transfer_syntax_uid]
    fragments = pixel_fragments(part10)
    if codec.check is check_rle and len(fragments) != 1:
        raise undecodable(f"are {len(fragments)} fragments and RLE has one for each frame (PS3.5 A.4.2)")
    stream = b"".join(fragments)
    info = codec.check(stream, layout)
    try:
        decoded = codec.decode(stream, layout, info)
    except DECODER_ERRORS as error:
        raise undecodable(f"are refused by the decoder ({type(error).__name__})") from error
    size = 1 if info.precision <= 8 else 2
    if decoded.shape != (layout.rows, layout.columns) or decoded.dtype.kind not in "iu" or decoded.itemsize != size:
        raise undecodable("are refused by the decoder (not the pixels that its header promised)")
    codes = np.ascontiguousarray(decoded).view(f"u{size}")
    return _stored(codes, layout, info, codec)


def pixel_digest(stored: NDArray[Any]) -> str:
    """SHA-256 over shape, type and little-endian bytes: the same for the same image in any lossless syntax."""
    little = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{stored.shape[0]} {stored.shape[1]} {little.dtype.str}\n".encode())
    digest.update(little.data)
    return digest.hexdigest()


def _native(part10: Part10, layout: PixelLayout) -> NDArray[Any]:
    big = part10.transfer_syntax_uid == uids.ExplicitVRBigEndian
    order, size = ">" if big else "<", layout.bits_allocated // 8
    # In big endian, 8-bit pixels of VR OW lie in swapped pairs (PS3.5 7.3), so an odd number of them needs its padding.
    swapped = big and size == 1 and pixel_value_representation(part10) == "OW"
    length = layout.length + (layout.length % 2 if swapped else 0)
    value = native_pixels(part10, length, layout.columns * size)
    codes = np.frombuffer(value, f"{order}u{size}")
    if swapped:
        codes = codes.reshape(-1, 2)[:, ::-1].reshape(-1)[: layout.pixels]
    return _masked(codes.reshape(layout.rows, layout.columns), layout.bits_stored, layout)


def _stored(codes: NDArray[Any], layout: PixelLayout, info: Codestream, codec: _Codec) -> NDArray[Any]:
    """Bring decoded samples to the layout's type; what a lossy codec overshot is clipped, never wrapped round."""
    width = info.precision if codec.keeps_sign or codec.lossy else layout.bits_stored
    if width <= layout.bits_stored:
        return _masked(codes, width, layout)
    if not codec.lossy:
        return _masked(codes, layout.bits_stored, layout)
    wide = _masked(codes, width, layout)
    low, high = (
        (-(1 << layout.bits_stored - 1), (1 << layout.bits_stored - 1) - 1)
        if layout.signed
        else (0, (1 << layout.bits_stored) - 1)
    )
    clipped: NDArray[Any] = np.clip(wide, low, high)
    return clipped


def _masked(codes: NDArray[Any], width: int, layout: PixelLayout) -> NDArray[Any]:
    """Keep the low `width` bits (the others have no meaning, PS3.5 8.1.1), and extend the sign."""
    wide = codes.astype(f"u{layout.bits_allocated // 8}", copy=False)
    unused = layout.bits_allocated - width
    if layout.signed:
        shifted = np.left_shift(wide, unused).view(f"i{layout.bits_allocated // 8}")
        extended: NDArray[Any] = np.right_shift(shifted, unused)
        return extended
    return np.bitwise_and(wide, (1 << width) - 1) if unused else wide


def _with_libjpeg_turbo(stream: bytes, _layout: PixelLayout, info: Codestream) -> NDArray[Any]:
    """Decode twice, the second time with bits behind the last one: a whole stream doesn't need them.

    libjpeg only warns where data end before the last pixel, and makes up the rest; the warning doesn't reach us.
    """
    end = info.scan_end
    while stream[end - 1] == 0xFF:  # fill bytes belong to the end marker
        end -= 1
    pixels: NDArray[Any] = jpeg8_decode(stream)
    if not np.array_equal(pixels, jpeg8_decode(stream[:end] + _BITS_BEHIND + stream[end:])):
        raise truncated("the coded data end before the last pixel")
    return pixels


def _with_charls(stream: bytes, _layout: PixelLayout, _info: Codestream) -> NDArray[Any]:
    return jpegls_decode(stream)


def _with_openjpeg(stream: bytes, _layout: PixelLayout, _info: Codestream) -> NDArray[Any]:
    return jpeg2k_decode(stream)


def _with_own_rle(stream: bytes, layout: PixelLayout, _info: Codestream) -> NDArray[Any]:
    """PS3.5 annex G: a segment for each byte of a pixel, the most significant first."""
    size = layout.bits_allocated // 8
    bounds = [*struct.unpack_from(f"<{size}I", stream, 4), len(stream)]
    planes = [_unpacked(stream[start:end], layout.pixels) for start, end in pairwise(bounds)]
    bytes_of_pixels = np.stack([np.frombuffer(plane, np.uint8) for plane in reversed(planes)], axis=-1)
    return bytes_of_pixels.view(f"<u{size}").reshape(layout.rows, layout.columns)


def _unpacked(segment: bytes, length: int) -> bytearray:
    """Undo PackBits (PS3.5 G.3): exactly `length` bytes, and behind them at most one of padding. Raises Refused."""
    out, position, end = bytearray(), 0, len(segment)
    while len(out) < length:
        if position >= end:
            raise truncated("an RLE segment ends before its last pixel")
        count = segment[position]
        if count < 128:
            out += segment[position + 1 : position + 2 + count]
            position += 2 + count
        elif count > 128:
            out += segment[position + 1 : position + 2] * (257 - count)
            position += 2
        else:
            position += 1
    if len(out) > length or end - position > 1:
        raise undecodable("have an RLE segment with more pixels than Rows x Columns")
    return out


# None of these is trusted with a stream that ends too early: libjpeg-turbo shows it as if it were whole, which is why
# every stream is checked first. Not taken: GDCM, which aborts the whole process over some malformed JPEG streams;
# libjpeg (pylibjpeg-libjpeg), which decodes half a stream without a word; pydicom's own RLE, which pads missing data;
# pylibjpeg-rle, which panics (a BaseException) where a segment is too long.
CODECS: dict[str, _Codec] = {
    uids.RLELossless: _Codec(check_rle, _with_own_rle),
    uids.JPEGBaseline8Bit: _Codec(check_jpeg_baseline, _with_libjpeg_turbo, lossy=True),
    uids.JPEGExtended12Bit: _Codec(check_jpeg_extended, _with_libjpeg_turbo, lossy=True),
    uids.JPEGLossless: _Codec(check_jpeg_lossless, _with_libjpeg_turbo),
    uids.JPEGLosslessSV1: _Codec(check_jpeg_lossless, _with_libjpeg_turbo),
    uids.JPEGLSLossless: _Codec(check_jpeg_ls, _with_charls, keeps_sign=True),
    uids.JPEGLSNearLossless: _Codec(check_jpeg_ls, _with_charls, lossy=True, keeps_sign=True),
    uids.JPEG2000Lossless: _Codec(check_jpeg_2000, _with_openjpeg, keeps_sign=True),
    uids.JPEG2000: _Codec(check_jpeg_2000, _with_openjpeg, lossy=True, keeps_sign=True),
    uids.HTJ2KLossless: _Codec(check_jpeg_2000, _with_openjpeg, keeps_sign=True),
    uids.HTJ2KLosslessRPCL: _Codec(check_jpeg_2000, _with_openjpeg, keeps_sign=True),
    uids.HTJ2K: _Codec(check_jpeg_2000, _with_openjpeg, lossy=True, keeps_sign=True),
}

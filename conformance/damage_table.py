"""Damage images of every transfer syntax and write conformance/DAMAGE.md: python -m conformance.damage_table."""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom.uid as uids

from dicom_gam.dicom.image.acceptance import ACCEPTED_TRANSFER_SYNTAXES, NATIVE_TRANSFER_SYNTAXES
from dicom_gam.records import Radiograph
from tests.dicom.radiograph_files import data_set_start, decode, frame_of, with_frame, write

DOCUMENT = Path(__file__).parent / "DAMAGE.md"
FLIPS, CUTS = 400, 40
END_MARKER = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
WINDOW = {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"}
REFUSED, SAME, CHANGED = "refused", "same", "changed"

JPEG_2000 = {uids.JPEG2000Lossless, uids.JPEG2000, uids.HTJ2KLossless, uids.HTJ2KLosslessRPCL, uids.HTJ2K}
CHANGED_BYTES = """\
- **Uncompressed**: bare samples. Every value is a possible one, and nothing says which it was.
- **Deflated**: raw deflate (PS3.5 A.5) leaves out zlib's check sum. Noticed: codes that do not exist, and a length that
  is not that of Rows x Columns.
- **RLE**: no check code. Noticed: run lengths that do not add up to Rows x Columns in each segment, to the byte.
- **JPEG**: no check code, and Huffman codes fall into step again after a wrong one. Noticed: broken markers and
  headers, restart markers that are missing or out of order, and data that end before the last pixel (libjpeg makes up
  the rest and only warns, so every stream is decoded twice, the second time with other bits behind its end).
- **JPEG-LS**: no check code, but an adaptive coder: after a wrong bit it hardly ever ends just where the data end, and
  the decoder demands that.
- **JPEG 2000**: an arithmetic coder, which makes something of any bits. The standard's means against errors
  (segmentation symbols, predictable termination) are left to the sender's choice. Noticed: broken markers, packet
  headers and lengths."""


@dataclass
class Outcome:
    """What came of one transfer syntax's damaged files."""

    flips: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    share: list[float] = field(default_factory=list)


def picture() -> np.ndarray:
    """Something like a radiograph: smooth, noisy, 12 bits."""
    row, column = np.mgrid[0:128, 0:128]
    noise = np.random.default_rng(4).normal(0, 12, row.shape)
    return np.clip(2000 + 1200 * np.sin(column / 20) * np.cos(row / 30) + noise, 0, 4095).astype(np.uint16)


def measure(syntax: str, folder: Path, flips: int = FLIPS, cuts: int = CUTS) -> Outcome:
    """Damage one image of a transfer syntax in every way."""
    path = write(folder / "image.dcm", picture(), syntax, **WINDOW)
    file = path.read_bytes()
    start, end = coded_span(path, syntax)
    original = decode(path)
    assert isinstance(original, Radiograph), original
    outcome = Outcome()

    def judge(damaged: bytes) -> str:
        path.write_bytes(damaged)
        return _judge(path, original, outcome)

    generator = random.Random(f"dicom_gam {syntax}")
    for _ in range(flips):
        damaged = bytearray(file)
        damaged[generator.randrange(start, end)] ^= generator.randrange(1, 256)
        outcome.flips[judge(bytes(damaged))] += 1
    for place in np.linspace(start, end - 3, cuts).astype(int):
        outcome.cuts[judge(file[:place])] += 1
    if syntax in NATIVE_TRANSFER_SYNTAXES:
        return outcome
    path.write_bytes(file)
    stream = file[start:end]
    for shortened in _shortened(stream, syntax, cuts):
        path.write_bytes(file)
        outcome.mended[_judge(with_frame(path, shortened), original, outcome)] += 1
    return outcome


def coded_span(path: Path, syntax: str) -> tuple[int, int]:
    """Where a file's pixels begin and end; of a deflated file, the part in which the pixels are."""
    file = path.read_bytes()
    if syntax == uids.DeflatedExplicitVRLittleEndian:
        begin = data_set_start(path)
        return begin + (len(file) - begin) // 10, len(file) - 2
    if syntax in NATIVE_TRANSFER_SYNTAXES:
        return len(file) - picture().nbytes, len(file)
    stream = frame_of(path).rstrip(b"\0")
    begin = file.find(stream)
    return begin, begin + len(stream)


def _shortened(stream: bytes, syntax: str, cuts: int) -> Iterator[bytes]:
    """The frame cut short, and put in order as well as can be."""
    tile_part = stream.find(b"\xff\x90\x00\x0a")
    for place in np.linspace(len(stream) // 10, len(stream) - 3, cuts).astype(int):
        short = bytearray(stream[:place])
        if syntax != uids.RLELossless:
            short += END_MARKER
        if syntax in JPEG_2000:
            short[tile_part + 6 : tile_part + 10] = int(place - tile_part).to_bytes(4, "big")
        yield bytes(short)


def _judge(path: Path, original: Radiograph, outcome: Outcome) -> str:
    result = decode(path)
    if not isinstance(result, Radiograph):
        return REFUSED
    if result.pixel_sha256 == original.pixel_sha256:
        return SAME
    outcome.share.append(float(np.mean(result.pixels != original.pixels)))
    return CHANGED


def document(measured: dict[str, Outcome], flips: int, cuts: int) -> str:
    """DAMAGE.md."""
    flipped = "\n".join(_flips_row(syntax, outcome) for syntax, outcome in measured.items())
    cut = "\n".join(_cuts_row(syntax, outcome) for syntax, outcome in measured.items())
    return f"""<!-- Written by `python -m conformance.damage_table`; do not edit. -->
# What becomes of damaged images

One image of 128 x 128 pixels in every accepted transfer syntax, damaged in its pixel data alone (all of the compressed
frame, its own headers included). Refused: quarantined with a reason, no result. Changed: decoded to other pixels
without anything to be noticed.

## One byte changed, {flips} times each

| transfer syntax | refused | no difference | **changed, unnoticed** | pixels that then differ, median |
|---|---|---|---|---|
{flipped}

Why not all are noticed:

{CHANGED_BYTES}

## Cut short, at {cuts} places each

First the file as a whole. Then the frame inside an encapsulation that is in order, its end marker put back and, in
JPEG 2000, the length of its tile-part corrected: as a gateway may write it that noticed nothing.

| transfer syntax | file cut: refused | pixels given | frame cut and mended: refused | pixels given |
|---|---|---|---|---|
{cut}

## What protects where the syntax can't

None of these transfer syntaxes has a check code over its pixels, so no decoder can promise to notice a changed byte.
What does, on the way and at rest:

- **On the wire**: TCP's check sum, which is weak (16 bits), and TLS, which is not: under TLS a changed byte ends the
  connection. Use it wherever the network is not your own.
- **On our disk**: the BLAKE3 digest of each file is taken while it is received, kept in the job, and checked before
  every decoding. A file that has changed since is not used: its job is tried again and then failed, with that reason.
- **Before us**: an image that was damaged at its sender arrives as what it has become. Digital signatures (PS3.15
  annex C) would tell where a sender makes them; they are not looked at.
"""


def _flips_row(syntax: str, outcome: Outcome) -> str:
    count = outcome.flips
    total = count.total()
    shares = [f"{count[key] / total:.1%}" for key in (REFUSED, SAME)]
    median = f"{np.median(outcome.share):.2%}" if outcome.share else "-"
    name = uids.UID(syntax).name
    return f"| {name} | {shares[0]} | {shares[1]} | **{count[CHANGED] / total:.1%}** | {median} |"


def _cuts_row(syntax: str, outcome: Outcome) -> str:
    def cells(count: Counter[str]) -> str:
        return f"{count[REFUSED]} | {count[SAME] + count[CHANGED]}" if count else "- | -"

    return f"| {uids.UID(syntax).name} | {cells(outcome.cuts)} | {cells(outcome.mended)} |"


def main() -> None:
    """Measure every transfer syntax and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=FLIPS)
    parser.add_argument("--cuts", type=int, default=CUTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = {s: measure(s, Path(folder), given.flips, given.cuts) for s in ACCEPTED_TRANSFER_SYNTAXES}
    DOCUMENT.write_text(document(measured, given.flips, given.cuts), encoding="utf-8")


if __name__ == "__main__":
    main()

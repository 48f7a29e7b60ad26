"""What the fuzzer starts from, and how it breaks it. Every case is made of nothing but a seed and a number."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache

from dicom_gam.dicom.arrival import part_10_header
from tests.faults.wire import (
    A_DATA_SET,
    ABORTED,
    CR,
    ECHO,
    EVENT_RQ,
    EXPLICIT,
    IMPLICIT,
    RELEASE,
    associate_request,
    command_set,
    echo_command,
    element,
    fragment,
    item,
    message,
    padded,
    pdu,
    small_image,
    store_command,
)

BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
COMMITMENT = "1.2.840.10008.1.20.1"
PDU_HEADER = 6
INTERESTING = (0, 1, 2, 3, 4, 7, 0x10, 0x20, 0x30, 0x40, 0x50, 0x7F, 0x80, 0xFE, 0xFF)
LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x1FFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)

Stream = tuple[bytes, ...]
"""What one sender says, PDU by PDU."""


def split(stream: bytes) -> Stream:
    """A sound stream as its PDUs."""
    found, place = [], 0
    while place < len(stream):
        end = place + PDU_HEADER + int.from_bytes(stream[place + 2 : place + 6], "big")
        found.append(stream[place:end])
        place = end
    return tuple(found)


@cache
def requests() -> tuple[bytes, ...]:
    """Association requests as they are in the field."""
    role = item(0x54, struct.pack(">H", len(COMMITMENT)) + COMMITMENT.encode() + b"\0\1")
    window = item(0x53, struct.pack(">HH", 0, 0))
    extended = item(0x56, struct.pack(">H", len(CR)) + CR.encode() + b"\2\0\0\0\0\0")
    identity = item(0x58, b"\1\0" + struct.pack(">H", 4) + b"user" + b"\0\0")
    version = item(0x55, b"DCMTK_367")
    many = [(f"1.2.840.10008.5.1.4.1.1.{number}", EXPLICIT) for number in range(1, 60)]
    return (
        associate_request(),
        associate_request([(CR, IMPLICIT), (CR, EXPLICIT), (ECHO, IMPLICIT)], more=version),
        associate_request([(COMMITMENT, IMPLICIT), (ECHO, IMPLICIT)], more=role + version),
        associate_request([(CR, DEFLATED), (CR, BIG_ENDIAN)], more=window + extended + identity, maximum_length=0),
        associate_request(many, more=version, maximum_length=131072),
        associate_request([("1.2.3", EXPLICIT)]),
        associate_request(called="SOMEBODY"),
        associate_request(calling=""),
        associate_request([(ECHO, IMPLICIT)], maximum_length=7),
    )


@cache
def commands() -> tuple[bytes, ...]:
    """Command sets that a storage SCP may meet."""
    report = command_set(
        EVENT_RQ,
        (0x0002, padded(COMMITMENT)),
        (0x1000, padded("1.2.840.10008.1.20.1.1")),
        (0x1002, struct.pack("<H", 1)),
        data=A_DATA_SET,
    )
    moved = command_set(
        0x0001, (0x0002, padded(CR)), (0x0700, struct.pack("<H", 2)), (0x1000, padded("1.2.3.4")),
        (0x1030, b"MOVER "), (0x1031, struct.pack("<H", 9)), data=A_DATA_SET,
    )  # fmt: skip
    return (
        store_command("1.2.3.4"),
        store_command("1.2.3." + "4" * 58, message_id=65535),
        echo_command(),
        report,
        moved,
        command_set(0x8030, (0x0002, padded(ECHO)), (0x0120, b"\1\0"), (0x0900, b"\0\0")),
        command_set(0x0FFF, (0x0120, b"\1\0")),
        command_set(0x0020, (0x0002, padded("1.2.840.10008.5.1.4.1.2.2.1")), (0x0700, b"\0\0"), data=A_DATA_SET),
    )


@cache
def datasets() -> tuple[bytes, ...]:
    """Data sets, explicit little endian: plain, with sequences, without pixels, compressed."""
    plain = small_image("1.2.3.4", side=8)
    cut = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    inner = element(0x00081150, b"UI", b"1.2.3") + element(0x00081155, b"UI", b"1.2.4")
    one = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    open_item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    closed = element(0x00081140, b"SQ", one * 2)
    opened = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + open_item
    opened += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    private = element(0x00091001, b"UN", b"\0" * 40) + element(0x00091002, b"UT", b"text " * 20)
    pixels = plain.index(struct.pack("<HH", 0x7FE0, 0x0010))
    frame = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, 64) + bytes(64)
    compressed = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + frame
    return (
        plain,
        plain[:cut] + closed + private + plain[cut:],
        plain[:cut] + opened + plain[cut:],
        plain[:pixels],
        plain[:pixels] + compressed + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
        element(0x00080005, b"CS", b"ISO_IR 192") + plain,
    )


@cache
def files() -> tuple[bytes, ...]:
    """Part 10 files of those data sets, one of them deflated."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflater.compress(datasets()[0]) + deflater.flush()
    plain = [part_10_header(CR, "1.2.3.4", EXPLICIT) + dataset for dataset in datasets()]
    wrong = [part_10_header(CR, "1.2.3.4", syntax) + datasets()[0] for syntax in (IMPLICIT, BIG_ENDIAN)]
    return (*plain, *wrong, part_10_header(CR, "1.2.3.4", DEFLATED) + deflated)


@cache
def streams() -> tuple[Stream, ...]:
    """Whole connections."""
    store = [message(store_command(f"1.2.3.{number}", message_id=number + 1), small_image(f"1.2.3.{number}"))
             for number in range(3)]  # fmt: skip
    fragmented = message(store_command("1.2.3.9"), small_image("1.2.3.9", side=40), size=100)
    large = message(store_command("1.2.3.10"), small_image("1.2.3.10", side=120), size=2500)
    command = store_command("1.2.3.8")
    halves = b"".join(
        pdu(4, fragment(part, context=1, command=True, last=last))
        for part, last in ((command[:40], False), (command[40:], True))
    )
    one_pdu = pdu(
        4,
        fragment(command, context=1, command=True, last=True)
        + fragment(small_image("1.2.3.8"), context=1, command=False, last=True),
    )
    data = pdu(4, fragment(small_image("1.2.3.8"), context=1, command=False, last=True))
    echo = message(echo_command(), context=3)
    report = message(commands()[3], element(0x00081195, b"UI", b"1.2.3.5"), context=1)
    first = requests()[0]
    whole = [
        first + store[0] + RELEASE,
        first + b"".join(store) + RELEASE,
        first + fragmented + RELEASE,
        first + large + store[0] + RELEASE,
        first + large + large + ABORTED,
        first + halves + data + RELEASE,
        first + one_pdu + RELEASE,
        first + echo + store[1] + echo + RELEASE,
        first + store[0] + ABORTED,
        first + store[0] + store[0] + RELEASE,
        first + message(store_command("../../x"), small_image("../../x")) + RELEASE,
        first + message(store_command("1.2.3.7"), small_image("1.2.3.6")) + RELEASE,
        requests()[2] + report + RELEASE,
        requests()[1] + message(store_command("1.2.3.5"), small_image("1.2.3.5"), context=3) + RELEASE,
        first + RELEASE,
        first + first,
        RELEASE,
        ABORTED,
        *requests()[3:],
    ]
    return tuple(split(stream) for stream in whole)


def flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def put(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] = rng.choice(INTERESTING)


def insert(content: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.randbytes(rng.randrange(1, 17))


def delete(content: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(content))
    del content[place : place + rng.randrange(1, 33)]


def duplicate(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    part = content[start : start + rng.randrange(1, 65)]
    place = rng.randrange(len(content) + 1)
    content[place:place] = part


def edit_length(content: bytearray, rng: random.Random) -> None:
    form = rng.choice((">L", "<L", ">H", "<H", "B"))
    size = struct.calcsize(form)
    if len(content) < size:
        return
    place = rng.randrange(len(content) - size + 1)
    now = struct.unpack_from(form, content, place)[0]
    value = rng.choice((*LENGTHS, now + 1, now - 1, now * 2)) % (1 << 8 * size)
    struct.pack_into(form, content, place, value)


def truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


CHANGES: Sequence[Callable[[bytearray, random.Random], None]] = (
    flip, flip, put, put, insert, delete, duplicate, edit_length, edit_length, truncate,
)  # fmt: skip


def broken(content: bytes, rng: random.Random) -> bytes:
    """The bytes after one to six changes, mostly few."""
    changed = bytearray(content)
    for _ in range(min(rng.randrange(1, 7), rng.randrange(1, 7))):
        if not changed:
            break
        rng.choice(CHANGES)(changed, rng)
    return bytes(changed)


def broken_stream(rng: random.Random) -> bytes:
    """A connection whose PDUs, or whose bytes, or both, were tampered with."""
    pdus = list(rng.choice(streams()))
    if rng.random() < 0.4:
        rearrange(pdus, rng)
    if pdus and rng.random() < 0.6:  # one PDU with a true length: what is wrong lies deeper
        place = rng.randrange(len(pdus))
        body = broken(pdus[place][PDU_HEADER:] or b"\0", rng)
        pdus[place] = pdu(pdus[place][0], body)
    stream = b"".join(pdus)
    return broken(stream, rng) if stream and rng.random() < 0.4 else stream


def rearrange(pdus: list[bytes], rng: random.Random) -> None:
    """Drop, double, swap, shuffle, splice, or mix in."""
    how = rng.randrange(6)
    place = rng.randrange(len(pdus))
    if how == 0:
        del pdus[place]
    elif how == 1:
        pdus.insert(rng.randrange(len(pdus) + 1), pdus[place])
    elif how == 2:
        other = rng.randrange(len(pdus))
        pdus[place], pdus[other] = pdus[other], pdus[place]
    elif how == 3:
        rng.shuffle(pdus)
    elif how == 4:
        other_stream = rng.choice(streams())
        pdus[place:] = other_stream[rng.randrange(len(other_stream)) :]
    else:
        pdus.insert(place, rng.choice(rng.choice(streams())))

"""Broken bytes at the front door: every case that ever failed, a few thousand fresh ones, and drawn command sets.

The long run is `python -m tests.benchmarks.fuzz_front_door`.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_gam.dicom.scp.command_set import CommandError, decode_request, encode_response
from tests.benchmarks import fuzz_corpus as corpus
from tests.benchmarks.fuzz_front_door import SEEDS, attempt, descriptors
from tests.benchmarks.fuzz_targets import make, targets
from tests.faults.wire import pdu

CASES = 3000
KEPT = sorted(SEEDS.glob("*.bin"))


@pytest.fixture(scope="module")
def by_name():
    before = Path.cwd()
    logging.disable(logging.CRITICAL)
    made = targets()
    yield made
    made["connection"].real.close()
    logging.disable(logging.NOTSET)
    os.chdir(before)


@pytest.mark.requirement("DOOR-16")
@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_what_once_failed_does_no_more(by_name, path):
    assert attempt(by_name[path.name.split("-")[0]], path.read_bytes()) is None


@pytest.mark.requirement("DOOR-16")
def test_thousands_of_broken_connections_requests_commands_and_data_sets_do_no_harm(by_name):
    before = descriptors()
    counts: Counter[str] = Counter()
    for number in range(CASES):
        target, content = make(number, seed=0)
        counts[target] += 1
        assert attempt(by_name[target], content) is None, f"case {number} ({target})"
    by_name["connection"].real.check()
    assert descriptors() == before
    assert set(counts) == set(by_name)


def test_the_corpus_itself_is_sound(by_name):
    for stream in corpus.streams():
        assert attempt(by_name["connection"], b"".join(stream)) is None
        assert b"".join(stream) == b"".join(pdu(one[0], one[6:]) for one in stream)
    for encoded in corpus.commands():
        assert attempt(by_name["command"], encoded) is None
    for file in corpus.files():
        assert attempt(by_name["part10"], file) is None


def test_a_target_that_raises_or_complains_is_noticed():
    def raises(content):
        raise ZeroDivisionError(content)

    assert "ZeroDivisionError" in attempt(raises, b"x")
    assert attempt(lambda content: "wrong", b"x") == "wrong"


ELEMENTS = st.lists(
    st.tuples(
        st.sampled_from([0x0000, 0x0002, 0x0003, 0x0100, 0x0110, 0x0120, 0x0700, 0x0800, 0x0900, 0x1000, 0x1002])
        | st.integers(0, 0xFFFF),
        st.binary(max_size=80) | st.integers(0, 0xFFFF).map(lambda number: struct.pack("<H", number)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(ELEMENTS, st.booleans())
def test_any_elements_are_a_request_that_can_be_answered_or_no_command_set(elements, ordered):
    chosen = sorted(dict(elements).items()) if ordered else elements
    encoded = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in chosen)
    try:
        request = decode_request(encoded)
    except CommandError:
        return
    response = encode_response(request, 0x0000)
    found, place = {}, 0
    while place < len(response):
        group, number, length = struct.unpack_from("<HHL", response, place)
        assert group == 0
        found[number] = response[place + 8 : place + 8 + length]
        place += 8 + length
    assert place == len(response)
    assert list(found) == sorted(found)
    assert found[0x0100] == struct.pack("<H", request.command_field | 0x8000)
    assert found[0x0120] == struct.pack("<H", request.message_id)
    assert found[0x0800] == b"\x01\x01"


@pytest.mark.requirement("DOOR-16")
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_no_command_set(encoded):
    try:
        decode_request(encoded)
    except CommandError:
        return

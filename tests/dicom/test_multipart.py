"""The splitter of multipart bodies: every byte of each part comes out, wherever the network cuts."""

from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dicom_gam.dicom.scu.multipart import MAXIMUM_HEAD_BYTES, Multipart
from dicom_gam.dicom.scu.retrieve import RetrieveError

BOUNDARY = b"boundary"
BODY = b"--boundary\r\nContent-Type: application/dicom\r\n\r\nDATA\r\n--boundary--\r\n"
boundaries = st.from_regex(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]", fullmatch=True)
# Bytes that look like delimiters are the ones that matter.
parts_of = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n", b"--", b"\r\n--", b"b", b"bo"])), max_size=8
)


def split(chunks, boundary=BOUNDARY):
    parts = Multipart(chunks, boundary)
    found = []
    while (headers := parts.next_part()) is not None:
        found.append((dict(headers), b"".join(parts.body())))
    return found


def cut(body, places):
    ends = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[a:b] for a, b in pairwise(ends)]


@given(
    boundaries,
    st.lists(parts_of.map(b"".join), max_size=4),
    st.lists(st.integers(0, 2000), max_size=12),
    st.booleans(),
    st.binary(max_size=30),
)
@example(b"b", [b"", b"\r", b"\r\n--"], [1, 2, 3], False, b"")
def test_every_part_comes_out_byte_for_byte_wherever_the_body_is_cut(boundary, contents, places, headed, epilogue):
    delimiter = b"\r\n--" + boundary
    head = b"Content-Type: application/dicom\r\nX-More: 1\r\n" if headed else b""
    assume(all(delimiter not in content + delimiter[:-1] for content in contents))
    body = (
        b"".join(delimiter + b"\r\n" + head + b"\r\n" + content for content in contents) + delimiter + b"--" + epilogue
    )
    headers = {"content-type": "application/dicom", "x-more": "1"} if headed else {}
    expected = [(headers, content) for content in contents]
    assert split(cut(body, places), boundary) == expected
    assert split(cut(body[2:], places), boundary) == expected  # the very first one needs no new line before it


@pytest.mark.requirement("PUL-04")
@given(st.integers(0, len(BODY) - 5))
def test_a_body_that_is_cut_short_never_passes_for_a_whole_one(end):
    with pytest.raises(RetrieveError, match="cut short"):
        split([BODY[:end]])


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([BODY, b"\r\n--boundary", b"\r\n\r\n", b"--"]))))
def test_arbitrary_bytes_are_split_or_refused_and_nothing_else(chunks):
    try:
        found = split(chunks)
    except RetrieveError:
        return
    assert sum(len(content) for _, content in found) <= sum(map(len, chunks))


@given(
    st.lists(st.integers(1, 40_000), max_size=20), st.sampled_from([b"x" * 40_000, b"--boundary\r\n" + b"y" * 40_000])
)
def test_what_has_no_end_of_its_headers_is_refused_wherever_it_is_cut(places, body):
    with pytest.raises(RetrieveError, match=f"{MAXIMUM_HEAD_BYTES} bytes without"):
        split(cut(body, places))


@pytest.mark.parametrize("boundary", [b"", b"x" * 71, b"ends in a space ", b"new\r\nline", "ü".encode()])
def test_a_boundary_that_the_standard_does_not_allow_is_refused(boundary):
    with pytest.raises(RetrieveError, match="no boundary that RFC 2046 allows"):
        Multipart([], boundary)


@pytest.mark.parametrize(
    "body",
    [
        b"--boundaryX\r\n\r\nDATA\r\n--boundary--",  # another, longer boundary
        b"--boundary\nContent-Type: a/b\n\nDATA\n--boundary--",  # bare line feeds
        b"--boundary\r\nno header\r\n\r\nDATA\r\n--boundary--",
    ],
)
def test_a_malformed_body_is_refused(body):
    with pytest.raises(RetrieveError, match="malformed"):
        split([body])


def test_padding_after_a_boundary_and_a_preamble_are_as_the_standard_allows():
    assert split([b"preamble\r\n--boundary \t\r\nA: b\r\n\r\nDATA\r\n--boundary--"]) == [({"a": "b"}, b"DATA")]

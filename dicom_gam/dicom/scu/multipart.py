"""A streaming splitter of multipart bodies (RFC 2046 5.1.1), strict and bounded; the parts' bytes come as they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dicom_gam.dicom.scu.retrieve import RetrieveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAXIMUM_HEAD_BYTES = 16384  # of the headers of one part, and of what stands before the first one
_BOUNDARY = re.compile(rb"[ -~]{0,69}[!-~]")
_PADDING = re.compile(rb"[ \t]*")
_NEWLINE = b"\r\n"
_END_OF_HEADERS = b"\r\n\r\n"


class Multipart:
    """The parts of one body, in turn: `next_part`, then all of `body`, until `next_part` says None.

    A body that ends before its closing delimiter, or is malformed, raises RetrieveError.
    """

    def __init__(self, chunks: Iterable[bytes], boundary: bytes) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            msg = "the multipart answer names no boundary that RFC 2046 allows: the source is no DICOMweb server"
            raise RetrieveError(msg)
        self._chunks = iter(chunks)
        self._delimiter = _NEWLINE + b"--" + boundary
        self._buffer = bytearray(_NEWLINE)  # the first delimiter may stand at the very beginning
        self._started = self._closed = False
        self._inside = False

    def next_part(self) -> Mapping[str, str] | None:
        """The headers of the next part by lower-case name, None after the last part."""
        if self._inside:
            msg = "the body of a part must be read before the next part"
            raise ValueError(msg)
        if not self._started:
            self._take_until(self._delimiter)  # a preamble is allowed, and to be ignored
            self._started = True
        if self._closed or self._at_close():
            self._closed = True
            return None
        headers = self._take_until(_END_OF_HEADERS)
        padding = _PADDING.match(headers)
        start = padding.end() if padding else 0
        if headers[start : start + 2] not in (b"", _NEWLINE):
            raise _malformed("a boundary is followed by something else than a new line")
        self._inside = True
        return _headers(headers[start:])

    def body(self) -> Iterator[bytes]:
        """The bytes of the part whose headers were read last."""
        keep = len(self._delimiter) - 1
        while (at := self._buffer.find(self._delimiter)) < 0:
            if len(self._buffer) > keep:
                yield self._cut(len(self._buffer) - keep)
            self._more()
        if at:
            yield self._cut(at)
        del self._buffer[: len(self._delimiter)]
        self._inside = False

    def _at_close(self) -> bool:
        while len(self._buffer) < 2:
            self._more()
        return self._buffer.startswith(b"--")

    def _take_until(self, mark: bytes) -> bytes:
        """What stands before `mark`, which is taken away too."""
        limit = MAXIMUM_HEAD_BYTES + len(mark)
        while (at := self._buffer.find(mark, 0, limit)) < 0:
            if len(self._buffer) >= limit:
                raise _malformed(f"{MAXIMUM_HEAD_BYTES} bytes without a boundary or an end of the headers")
            self._more()
        head = self._cut(at)
        del self._buffer[: len(mark)]
        return head

    def _cut(self, length: int) -> bytes:
        part = bytes(self._buffer[:length])
        del self._buffer[:length]
        return part

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise _malformed("it ends before its closing boundary, so it is cut short")
        self._buffer += chunk


def _headers(block: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in block.split(_NEWLINE):
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise _malformed("a line of a part's headers is no header")
        found[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
    return found


def _malformed(detail: str) -> RetrieveError:
    return RetrieveError(f"the multipart answer is malformed ({detail}): try again, else look at the source's log")

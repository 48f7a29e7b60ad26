"""The other way out: STOW-RS (PS3.18 10.5), which stores finished Part 10 files by HTTP.

Each object goes in a request of its own, over one connection, so that each has its own answer whatever the server makes
of many, and the objects of a study keep their order.
"""

from __future__ import annotations

import json
import time
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import httpx

from dicom_gam.dicom.scu.dicomweb import open_client, root_url
from dicom_gam.dicom.scu.requestor import describe
from dicom_gam.dicom.scu.sender import UNREADABLE, Answer, read_file
from dicom_gam.dicom.statuses import explain, is_stored
from dicom_gam.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dicom_gam.sections import Destination

MAXIMUM_ANSWER_BYTES = 1024**2
_PART_BYTES = 256 * 1024
_JSON = "application/dicom+json"
_ANSWERED = frozenset({200, 202, 409})  # PS3.18 10.5.3.1: all stored, some or with warnings, none

# What concerns the destination as a whole: nothing else is worth sending before it is put right.
_CLOSED: Mapping[int, str] = MappingProxyType(
    {
        401: "wants us to authenticate (401): see to authorization_file, or certificate and key",
        403: "does not allow us to store (403): ask its administrator to allow it",
        404: "has no STOW-RS there (404): check url, it ends before `/studies`",
        405: "does not store by STOW-RS there (405): check url, and whether its DICOMweb is read-only",
        407: "is behind a proxy that wants us to authenticate (407): give a url that needs none",
        429: "gets too much at once (429)",
        502: "is not reached by the gateway before it (502): see to both logs",
        503: "is unavailable just now (503): see to its log",
        504: "does not answer the gateway before it (504): see to both logs",
    }
)
# What concerns the one object.
_REFUSED: Mapping[int, str] = MappingProxyType(
    {
        400: "finds the request malformed (400): see to its log",
        406: "can't answer in DICOM JSON (406): see to its version",
        413: "finds the object too large (413): ask its administrator to raise the limit",
        415: "does not accept such objects (415): ask its administrator to allow SOP class and transfer syntax",
        500: "failed while storing (500): see to its log",
        507: "is out of space (507): look at its disk",
    }
)


def send(destination: Destination, calling_ae_title: str, files: Sequence[bytes]) -> Iterator[Answer]:
    """Send complete Part 10 files and yield the answers, in order, as they come; the calling AE title plays no part.

    Raises DeliveryError when the destination can't be reached or refuses us as a whole. The iterator ends early after a
    `broken` answer: what has no answer then is to be sent again.
    """
    del calling_ae_title
    with _client(destination) as client:
        for content in files:
            ds = read_file(content)
            answer = UNREADABLE if ds is None else _send_one(client, destination, str(ds.SOPInstanceUID), content)
            yield answer
            if answer.broken:
                return


def probe(destination: Destination, calling_ae_title: str) -> None:
    """Ask the server for a study that does not exist (QIDO-RS). Raises DeliveryError that says what is wrong.

    A server that only stores refuses this in its own way, which is no fault.
    """
    del calling_ae_title
    with _client(destination) as client:
        query = {"StudyInstanceUID": f"2.25.{uuid.uuid4().int}", "limit": "1"}
        try:
            with client.stream("GET", f"{root_url(destination)}/studies", params=query) as response:
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(destination, error) from error
    if status in _CLOSED and status not in (405, 429):
        raise DeliveryError(f"{describe(destination)} {_CLOSED[status]}")
    if 300 <= status < 400:
        raise DeliveryError(f"{describe(destination)} {_redirected(status)}")


def _client(destination: Destination) -> httpx.Client:
    return open_client(destination, {"Accept": _JSON, "User-Agent": "dicom_gam"})


def _send_one(client: httpx.Client, destination: Destination, sop_instance_uid: str, content: bytes) -> Answer:
    boundary = uuid.uuid4().hex
    while boundary.encode() in content:
        boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Content-Length": str(len(head) + len(content) + len(tail)),
    }

    def body() -> Iterator[bytes]:
        yield head
        for start in range(0, len(content), _PART_BYTES):
            yield content[start : start + _PART_BYTES]
        yield tail

    try:
        with client.stream("POST", f"{root_url(destination)}/studies", content=body(), headers=headers) as response:
            text = _bounded(response, time.monotonic() + destination.timeout_s)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise _unreachable(destination, error) from error
    except httpx.HTTPError as error:
        words = f"{describe(destination)} broke off or fell silent ({type(error).__name__}): see to its log"
        return Answer(stored=False, status=None, words=words, broken=True)
    return _outcome(destination, response, text, sop_instance_uid)


def _bounded(response: httpx.Response, deadline: float) -> bytes | None:
    """The answer's body; None when it is longer, or takes longer, than any honest one."""
    text = bytearray()
    for part in response.iter_raw(_PART_BYTES):
        text += part
        if len(text) > MAXIMUM_ANSWER_BYTES or time.monotonic() > deadline:
            return None
    return bytes(text)


def _outcome(destination: Destination, response: httpx.Response, text: bytes | None, sop_instance_uid: str) -> Answer:
    status = response.status_code
    if status in _CLOSED:
        raise DeliveryError(f"{describe(destination)} {_CLOSED[status]}")
    if 300 <= status < 400:
        raise DeliveryError(f"{describe(destination)} {_redirected(status)}")
    said = None if text is None else _read(text, sop_instance_uid)
    if status in _ANSWERED and said is not None:
        return said
    if status == 409:
        return _no("stores none of it (409), and does not say why: see to its log")
    if status in _ANSWERED:
        return _no(f"answers {status}, but not in DICOM JSON that names the object: check url, and its log")
    return _no(_REFUSED.get(status, f"answers with HTTP status {status}: see to its log"))


def _read(text: bytes, sop_instance_uid: str) -> Answer | None:
    """Find the object in the answer (PS3.18 10.5.3.2, DICOM JSON); None when it is not there or makes no sense."""
    try:
        answer = json.loads(text)
        failed = _items(answer, "00081198", sop_instance_uid)
        stored = _items(answer, "00081199", sop_instance_uid)
        if failed:
            reason = int(_value(failed[0], "00081197", 0x0110))
            return Answer(is_stored(reason), reason, explain(reason))
        if stored:
            warning = int(_value(stored[0], "00081196", 0x0000))
            return Answer(stored=True, status=warning, words=explain(warning))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return None


def _items(answer: Any, tag: str, sop_instance_uid: str) -> list[Any]:
    answers = answer if isinstance(answer, list) else [answer]
    items = [item for one in answers for item in one.get(tag, {}).get("Value", [])]
    return [item for item in items if _value(item, "00081155", "") == sop_instance_uid]


def _value(item: Any, tag: str, default: Any) -> Any:
    values = item.get(tag, {}).get("Value", [])
    return values[0] if values else default


def _no(words: str) -> Answer:
    return Answer(stored=False, status=None, words=f"the destination {words}")


def _redirected(status: int) -> str:
    return f"sends us elsewhere ({status}), which is not followed: give the url that it is really at"


def _unreachable(destination: Destination, error: Exception) -> DeliveryError:
    cause = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        msg = f"{describe(destination)} shows a certificate that is not trusted ({cause}): check url and ca"
    else:
        msg = f"{describe(destination)} can't be reached ({cause}): check that it runs, and url and firewall"
    return DeliveryError(msg)

"""Getting studies by DICOMweb: QIDO-RS to see what there is, then WADO-RS, one instance at a time (PS3.18 10)."""

from __future__ import annotations

import json
import ssl
from contextlib import contextmanager
from email.message import Message
from itertools import chain
from typing import TYPE_CHECKING, Any

import httpx

from dicom_gam.dicom.identity import is_uid
from dicom_gam.dicom.image.part10 import read_meta
from dicom_gam.dicom.scu.dicomweb import open_client, root_url
from dicom_gam.dicom.scu.multipart import Multipart
from dicom_gam.dicom.scu.retrieve import Listed, RetrieveError, Taken, take
from dicom_gam.errors import DeliveryError, DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dicom_gam.dicom.scu.retrieve import Station
    from dicom_gam.sections import Source

PAGE = 1000
MAXIMUM_PAGES = 20
MAXIMUM_ANSWER_BYTES = 64 * 1024**2
HEAD_BYTES = 65536  # a file meta information that is longer than this is refused
_CHUNK_BYTES = 1024**2
_JSON = ("application/dicom+json", "application/json")
# The originals as they are stored; a server that can't do that (406) is asked for what it gives by default.
_ACCEPTS = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
)
_STUDY, _SERIES, _INSTANCE, _CLASS, _MODALITY = "0020000D", "0020000E", "00080018", "00080016", "00080060"

_WORDS = {
    400: "finds the request wrong: check that url is the root of its DICOMweb service",
    401: "wants to know who we are: give source.authorization_file, or put right what is in it",
    403: "does not allow it: ask its administrator to give our account the right to query and retrieve",
    404: "does not have it, or url is not the root of its DICOMweb service",
    406: "can't give what we ask for: it may be no DICOMweb server, check url",
    410: "had it once and has it no more",
    413: "finds the answer too large for itself: look at its log",
    429: "is asked too often: try again later",
}


class _FailedError(RetrieveError):
    """An answer that is no success; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _UnreachableError(RetrieveError):
    """There is nobody to ask for the next instance either."""


class WebSource:
    """An archive that speaks DICOMweb; `retrieve.RemoteArchive`. It has to be closed."""

    def __init__(self, source: Source, station: Station) -> None:
        self._station = station
        self._root = root_url(source)
        self._title = f"source {source.name} ({self._root})"
        try:
            self._client = open_client(source, {})
        except DeliveryError as error:
            raise RetrieveError(str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def find(self, study_instance_uid: str) -> list[Listed]:
        """Every instance that it has of a study, none when it knows no such study. Raises RetrieveError."""
        found: dict[str, Listed] = {}
        for page in range(MAXIMUM_PAGES):
            query = {"limit": str(PAGE), "offset": str(page * PAGE), "includefield": _MODALITY}
            if page:
                query["offset"] = str(len(found))  # a server may give less than the limit
            try:
                items = self._json(f"/studies/{study_instance_uid}/instances", query)
            except _FailedError as error:
                if error.status == 404 and self._is_dicomweb():
                    return []
                raise
            before = len(found)
            for listed in (_listed(item, study_instance_uid) for item in items):
                if listed is not None:
                    found.setdefault(listed.sop_instance_uid, listed)
            if len(found) == before:  # the end, or a server that knows no offset
                return list(found.values())
        msg = f"{self._title} lists more instances than a study of radiographs has: check the Study Instance UID"
        raise RetrieveError(msg)

    def get(self, listed: Sequence[Listed], done: Callable[[Taken], None]) -> None:
        """WADO-RS the instances. `done` is told of each of them once. Raises RetrieveError when it all breaks off."""
        for item in listed:
            try:
                taken = Taken(item.sop_instance_uid, self._get(item))
            except _FailedError as error:
                if error.status in (401, 403):
                    raise
                taken = Taken(item.sop_instance_uid, why=str(error))
            except _UnreachableError:
                raise
            except DicomGamError as error:
                taken = Taken(item.sop_instance_uid, why=str(error))
            done(taken)

    def _get(self, item: Listed) -> object:
        place = (
            f"/studies/{item.study_instance_uid}/series/{item.series_instance_uid}/instances/{item.sop_instance_uid}"
        )
        for accept in _ACCEPTS:
            with self._request(place, accept) as response:
                if response.status_code == 406 and accept != _ACCEPTS[-1]:
                    continue
                self._check(response)
                return self._take(item, self._file(response))
        raise AssertionError  # the last one returns or raises

    def _take(self, item: Listed, file: Iterator[bytes]) -> object:
        head = bytearray()
        for part in file:
            head += part
            if len(head) >= 2 * HEAD_BYTES:
                break
        meta, start = read_meta(bytes(head))
        if start > HEAD_BYTES or start >= len(head):
            msg = "the file that came has no data set, or too much before it: look at the instance at the source"
            raise RetrieveError(msg)
        said = (
            str(meta.get("MediaStorageSOPClassUID", "")),
            str(meta.get("MediaStorageSOPInstanceUID", "")),
            str(meta.get("TransferSyntaxUID", "")),
        )
        return take(self._station, item, said, chain((memoryview(head)[start:],), file))

    def _file(self, response: httpx.Response) -> Iterator[bytes]:
        """The one Part 10 file of an answer; it raises at its end when the answer is not whole."""
        kind = Message()
        kind["Content-Type"] = response.headers.get("Content-Type", "")
        media = kind.get_content_type()
        chunks = self._raw(response)
        if media == "application/dicom":
            yield from chunks
            return
        boundary = kind.get_param("boundary")
        if media != "multipart/related" or not isinstance(boundary, str):
            msg = f"{self._title} answers WADO-RS with something else than multipart/related: check url"
            raise RetrieveError(msg)
        parts = Multipart(chunks, boundary.encode("ascii", "replace"))
        headers = parts.next_part()
        if headers is None:
            raise RetrieveError(f"{self._title} answers WADO-RS with nothing in it: look at the instance there")
        inner = headers.get("content-type", "application/dicom").partition(";")[0].strip().lower()
        if inner != "application/dicom":
            raise RetrieveError(f"{self._title} answers WADO-RS with something else than DICOM files: check url")
        yield from parts.body()
        if parts.next_part() is not None:
            raise RetrieveError(f"{self._title} sends more than the one instance that was asked for: look at its log")

    def _json(self, place: str, query: dict[str, str]) -> list[Any]:
        with self._request(place, _JSON[0], query) as response:
            self._check(response)
            if response.status_code == 204:
                return []
            media = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if media not in _JSON:
                raise RetrieveError(f"{self._title} does not answer QIDO-RS with DICOM JSON: it is no DICOMweb service")
            content = bytearray()
            for chunk in self._raw(response):
                content += chunk
                if len(content) > MAXIMUM_ANSWER_BYTES:
                    raise RetrieveError(f"{self._title} answers QIDO-RS with more than {MAXIMUM_ANSWER_BYTES} bytes")
        try:
            items = json.loads(content) if content.strip() else []
        except (ValueError, RecursionError) as error:
            raise RetrieveError(f"{self._title} answers QIDO-RS with what is no JSON: look at its log") from error
        if not isinstance(items, list):
            raise RetrieveError(f"{self._title} answers QIDO-RS with JSON that is no list: it is no DICOMweb service")
        return items

    def _is_dicomweb(self) -> bool:
        try:
            self._json("/studies", {"limit": "1"})
        except RetrieveError:
            return False
        return True

    @contextmanager
    def _request(self, place: str, accept: str, query: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        url = self._root + place
        try:
            with self._client.stream("GET", url, params=query, headers={"Accept": accept}) as response:
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            msg = f"{self._title} can't be reached ({_cause(error)}): check that it runs, url, ca and firewall"
            raise _UnreachableError(msg) from error
        except httpx.HTTPError as error:
            msg = f"{self._title} broke off or fell silent ({type(error).__name__}): look at its log"
            raise RetrieveError(msg) from error

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if 200 <= status < 300 and status != 206:
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise RetrieveError(
                    f"{self._title} answers with Content-Encoding {encoding!r}, which was not asked for"
                )
            return
        words = _WORDS.get(status)
        if words is None and 300 <= status < 400:
            words = "sends us elsewhere, which is not followed: give the final address as url"
        elif words is None and status >= 500:
            words = "has a fault of its own: look at its log, then try again"
        raise _FailedError(f"{self._title} {words or 'answers what it should not'} (HTTP status {status})", status)

    def _raw(self, response: httpx.Response) -> Iterator[bytes]:
        return response.iter_raw(_CHUNK_BYTES)


def _listed(item: Any, study_instance_uid: str) -> Listed | None:
    """One instance of a QIDO-RS answer, None for what is none of this study."""
    uids = _text(item, _SERIES), _text(item, _INSTANCE)
    if not all(map(is_uid, uids)) or _text(item, _STUDY) not in ("", study_instance_uid):
        return None
    return Listed(study_instance_uid, *uids, sop_class_uid=_text(item, _CLASS), modality=_text(item, _MODALITY))


def _text(item: Any, tag: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18 F.2), empty when there is none."""
    attribute = item.get(tag) if isinstance(item, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    value = values[0] if isinstance(values, list) and values else None
    return value.strip() if isinstance(value, str) else ""


def _cause(error: Exception) -> str:
    """What lies behind a failed connection: the certificate's fault, or the system's words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__

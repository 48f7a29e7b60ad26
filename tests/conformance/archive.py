"""A round trip through Orthanc: results go in by C-STORE or STOW-RS, and must come out by WADO as they went in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from dicom_gam.dicom.scu import sender, stow
from dicom_gam.records import ResultObject
from dicom_gam.sections import Destination
from tests.end_to_end.peers import DICOMWEB

SETTINGS = DICOMWEB | {"OverwriteInstances": False}  # what came first stays, so nothing may be there before
_AE = "GAM_MATRIX"


@dataclass(frozen=True, slots=True)
class Archive:
    """Where a running Orthanc listens; what the processes of the matrix need to know of it."""

    http: int
    dicom: int

    def faults(self, results: Sequence[ResultObject], source: bytes | None = None) -> list[tuple[str, str, str]]:
        """Check, role and line of everything that does not come back as it went in; `source` is stored with them."""
        found: list[tuple[str, str, str]] = []
        with httpx.Client(base_url=f"http://127.0.0.1:{self.http}", timeout=60) as client:
            for check, destination, send in (
                ("c-store", self._by_dimse(), sender.send),
                ("stow-rs", self._by_web(), stow.send),
            ):
                if source is not None:
                    client.post("/instances", content=source).raise_for_status()
                answers = list(send(destination, _AE, [item.content for item in results]))
                for item, answer in zip(results, answers, strict=True):
                    lines = self._differences(client, item) if answer.stored else [f"not stored: {answer.words}"]
                    found += [(check, item.role, line) for line in lines]
                _forget(client, results)
        return found

    def _by_dimse(self) -> Destination:
        return Destination(name="orthanc", ae_title="ORTHANC", host="127.0.0.1", port=self.dicom, timeout_s=60)

    def _by_web(self) -> Destination:
        return Destination(name="orthanc", url=f"http://127.0.0.1:{self.http}/dicom-web", timeout_s=60)

    def _differences(self, client: httpx.Client, item: ResultObject) -> list[str]:
        """What is wrong with what comes back: by Orthanc's own interface, and by WADO-RS."""
        own = _one(client, item.sop_instance_uid)
        if own is None:
            return ["can't be found again"]
        tags = client.get(f"/instances/{own}/simplified-tags").json()
        place = f"studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}/instances"
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        files = {
            "/instances/{id}/file": client.get(f"/instances/{own}/file").content,
            "WADO-RS": _part(client.get(f"/dicom-web/{place}/{item.sop_instance_uid}", headers=accept)),
        }
        ours = data_set(item.content)
        return [
            f"{name} gives {len(content)} bytes whose data set is not the one sent"
            for name, content in files.items()
            if data_set(content) != ours
        ]


def data_set(file: bytes) -> bytes:
    """The bytes of a Part 10 file after its file meta information, which an archive may write anew."""
    if file[128:132] != b"DICM":
        return b""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def _one(client: httpx.Client, sop_instance_uid: str) -> str | None:
    found = client.post("/tools/lookup", content=sop_instance_uid).json()
    return next((entry["ID"] for entry in found if entry["Type"] == "Instance"), None)


def _forget(client: httpx.Client, results: Sequence[ResultObject]) -> None:
    """Delete the results' studies, and what else is in them."""
    found = [_one(client, item.sop_instance_uid) for item in results]
    studies = {client.get(f"/instances/{own}/study").json()["ID"] for own in found if own is not None}
    for study in studies:
        client.delete(f"/studies/{study}").raise_for_status()


def _part(response: httpx.Response) -> bytes:
    """The only part of a multipart answer; nothing when it is another answer."""
    boundary = re.search(r'boundary="?([^";]+)', response.headers.get("content-type", ""))
    if response.status_code != 200 or boundary is None:
        return b""
    mark = b"--" + boundary[1].encode()
    start = response.content.index(b"\r\n\r\n", response.content.index(mark)) + 4
    return response.content[start : response.content.rindex(b"\r\n" + mark + b"--")]

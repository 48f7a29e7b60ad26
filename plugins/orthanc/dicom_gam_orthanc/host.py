"""Orthanc as the plugin sees it: its REST API from within. The only door to the module `orthanc`."""

from __future__ import annotations

import json
from typing import Any

import orthanc

_UNKNOWN = {7, 17}  # inexistent item, unknown resource


class HostError(Exception):
    """Orthanc refused a request."""


class GoneError(HostError):
    """What was asked for is not, or no longer, in Orthanc."""


class Host:
    """Calls of Orthanc's REST API. Each must be short: until it is answered, no other Python of Orthanc runs."""

    def get(self, path: str) -> Any:
        """GET; the answer is JSON."""
        return json.loads(self._call(orthanc.RestApiGet, path))

    def post(self, path: str, body: object) -> Any:
        """POST a value as JSON; the answer is JSON."""
        return json.loads(self._call(orthanc.RestApiPost, path, json.dumps(body)))

    def find_uid(self, uid: str) -> Any:
        """What Orthanc holds under a DICOM UID: a list of objects with Type and ID."""
        return json.loads(self._call(orthanc.RestApiPost, "/tools/lookup", uid))

    def put(self, path: str, text: str) -> None:
        """PUT a text."""
        self._call(orthanc.RestApiPut, path, text)

    def delete(self, path: str) -> None:
        """DELETE; what is gone already is fine."""
        try:
            self._call(orthanc.RestApiDelete, path)
        except GoneError:
            return

    def property(self, number: int) -> str:
        """A value that outlives a restart; empty when there is none."""
        return str(orthanc.GetGlobalProperty(number, ""))

    def set_property(self, number: int, value: str) -> None:
        """Keep a value beyond a restart."""
        orthanc.SetGlobalProperty(number, value)

    def inform(self, text: str) -> None:
        """A line that is seen with --verbose. No message holds a patient's data: resources go by Orthanc's own IDs."""
        orthanc.LogInfo(f"dicom_gam: {text}")

    def warn(self, text: str) -> None:
        """A line that is always seen."""
        orthanc.LogWarning(f"dicom_gam: {text}")

    @staticmethod
    def _call(function: Any, *given: str) -> Any:
        try:
            return function(*given)
        except orthanc.OrthancException as error:
            code, said = (*error.args, 0, "")[:2]
            kind = GoneError if code in _UNKNOWN else HostError
            raise kind(f"{said} ({code})") from error

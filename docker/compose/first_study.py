"""Put a real chest radiograph into Orthanc, wait until its verdict is back, and say where to look at it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from pydicom.data import get_testdata_file

SAMPLE = "RG1_UNCR.dcm"  # of pydicom-data, which lies in the image
WAIT_S = 300.0
NOT_BACK = """\
No verdict came back within {wait_s:.0f} s. Look at:
  docker compose -f docker/compose.yml ps                  # is every service healthy?
  docker compose -f docker/compose.yml logs node orthanc   # what they say last"""


def main() -> int:
    """Send, wait, tell. Exit status 0 when report and overlay are back."""
    orthanc, viewer = os.environ["ORTHANC_URL"], os.environ["VIEWER_URL"]
    [(user, password)] = json.loads(Path(os.environ["ORTHANC_USERS"]).read_text())["RegisteredUsers"].items()
    sample = get_testdata_file(SAMPLE, download=False)
    if not isinstance(sample, str):
        print(f"{SAMPLE} is not in the image: pydicom-data is missing", file=sys.stderr)
        return 1
    try:
        with httpx.Client(base_url=orthanc, auth=(user, password), timeout=30) as client:
            uid, verdict = send(client, Path(sample))
    except httpx.HTTPError as error:
        print(f"{orthanc} does not answer as it should ({error}): is the service orthanc healthy?", file=sys.stderr)
        return 1
    if not verdict:
        print(NOT_BACK.format(wait_s=WAIT_S), file=sys.stderr)
        return 1
    print(f"Back in the study: {verdict}\n")
    print(f"Open      {viewer}/viewer?StudyInstanceUIDs={uid}")
    print(f"Log in as {user}, password {password}")
    return 0


def send(client: httpx.Client, sample: Path) -> tuple[str, str]:
    """Store the image; its study's UID and the verdict, which is empty when none came in time."""
    study = client.post("/instances", content=sample.read_bytes()).raise_for_status().json()["ParentStudy"]
    print("A chest radiograph is in Orthanc, which sends it to the node once its study is complete ...", flush=True)
    verdict = wait_for_verdict(client, study, WAIT_S)
    return client.get(f"/studies/{study}").raise_for_status().json()["MainDicomTags"]["StudyInstanceUID"], verdict


def wait_for_verdict(client: httpx.Client, study: str, wait_s: float) -> str:
    """The description of the report's series, once report and overlay are in the study; empty after `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        series: list[dict[str, Any]] = client.get(f"/studies/{study}/series").raise_for_status().json()
        described = {one["MainDicomTags"]["Modality"]: one["MainDicomTags"].get("SeriesDescription") for one in series}
        if {"SR", "OT"} <= described.keys():
            return described["SR"] or "a report and an overlay"
        if time.monotonic() > deadline:
            return ""
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())

"""Debian's Orthanc with the plugin, and a node that answers it, as a site would run them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cbook
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, generate_uid

from dicom_gam.config import load_settings
from dicom_gam.service.accounts import Accounts
from dicom_gam.service.store import open_store
from tests.end_to_end.peers import NodeProcess, Orthanc, free_port, sample

PLUGIN = Path(__file__).parents[2] / "plugins" / "orthanc"
LIBRARY = Path("/usr/share/orthanc/plugins/libOrthancPython.so")
VERDICT, SENT = "4300", "4301"
SECRET_NAME = "Secretname^Patient"  # must not show up in any log
OUTPUT = "[output]\noverlay_long_side = 256\n"  # small, as nobody looks at them
_SMALL = "receivers = 0\n[processing]\nbatch_wait_ms = 1\n[decoding]\nprocesses = 1\n"


@dataclass
class Hospital:
    """Orthanc and a node; `url` is Orthanc's, `token` one for the node's HTTP API."""

    orthanc: Orthanc
    node: NodeProcess
    folder: Path
    web_port: int
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.orthanc.http}"

    def log(self) -> str:
        return (self.folder / "orthanc" / "orthanc.log").read_text(errors="replace")

    def store(self, ds: Dataset) -> tuple[str, str]:
        """Store an image over REST; returns Orthanc's IDs of study and instance."""
        path = self.folder / f"image-{next(self.numbers)}.dcm"
        ds.save_as(path, enforce_file_format=True)
        said = json.loads(self.orthanc.call("/instances", path.read_bytes()))
        return said["ParentStudy"], said["ID"]

    def metadata(self, level: str, resource: str) -> dict[str, str]:
        return self.orthanc.get(f"/{level}/{resource}/metadata?expand")

    def verdict(self, level: str, resource: str) -> str:
        return self.metadata(level, resource).get(VERDICT, "")

    def panel(self, study: str) -> dict[str, Any]:
        return self.orthanc.get(f"/dicom-gam/studies/{study}.json")

    def page(self, study: str) -> str:
        return self.orthanc.call(f"/dicom-gam/studies/{study}").decode()

    def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        """POST, follow no redirection; returns status and body or address."""
        opener = urllib.request.build_opener(_NoRedirect())
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get("Location") or error.read().decode()

    def set_node(self, more: str) -> None:
        """Write more below the node's [output]; it counts from the next start."""
        with self.node.config.open("a") as config:
            config.write(more)

    def received(self) -> list[dict]:
        """The images that the node has taken in, by its audit log; repeats among them."""
        lines = (self.node.folder / "data" / "audit.jsonl").read_text().splitlines()
        return [item for item in map(json.loads, lines) if item["event"] in ("instance.stored", "instance.duplicate")]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_given):
        return None


@contextmanager
def hospital(folder: Path, output: str = OUTPUT, **plugin: Any) -> Iterator[Hospital]:
    """Both running; ended with the context. `output` is the node's, `plugin` goes over the plugin's settings."""
    assert LIBRARY.exists(), "orthanc-python is not installed: run tests/system-packages.sh"
    node_port, web_port = free_port(), free_port()
    token = folder / "token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch(mode=0o600)
    section = {"Modality": "node", "Url": f"http://127.0.0.1:{web_port}", "TokenFile": str(token)}
    section |= {"FirstPauseSeconds": 0.5, "LongestPauseSeconds": 1} | plugin
    more = {"Plugins": [str(LIBRARY)], "PythonScript": str(PLUGIN / "dicom_gam_plugin.py"), "DicomGam": section}
    orthanc = Orthanc(folder / "orthanc", node_port, StableAge=1, **more)
    node = NodeProcess(folder / "node", node_port, ("ORTHANC", orthanc.dicom), output)
    text = node.config.read_text().replace(
        "[[destinations]]", f"{_SMALL}[web]\nenabled = true\nport = {web_port}\n[[destinations]]", 1
    )
    node.config.write_text(text)
    token.write_text(_token(node))
    try:
        node.start()
        yield Hospital(orthanc, node, folder, web_port)
    finally:
        node.stop()
        orthanc.stop()


def _token(node: NodeProcess) -> str:
    """What `dicom-gam users add` and `users token` would print."""
    with open_store(load_settings(node.config), create=True) as store:
        accounts = Accounts(store.folder, store.audit)
        accounts.add("orthanc", ["operator"], by="test")
        made = accounts.make_token("orthanc", "orthanc", ["operator"], by="test")
        accounts.close()
    return f"{made}\n"


def radiograph(name: str, seed: str) -> Dataset:
    """A sample under identifiers of its own."""
    ds = dcmread(sample(name))
    _identify(ds, seed)
    return ds


def photograph(seed: str, modality: str = "CR") -> Dataset:
    """A real photograph as a scanning station stores it: a Secondary Capture that claims to be a radiograph."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        grey = np.asarray(Image.open(file).convert("L"))
    ds = _bare(SecondaryCaptureImageStorage, modality, grey)
    ds.ConversionType = "WSD"
    _identify(ds, seed)
    return ds


def ct_slice(seed: str, number: int) -> Dataset:
    """One small slice of a CT series."""
    ds = _bare(CTImageStorage, "CT", np.full((8, 8), number % 256, dtype=np.uint8))
    _identify(ds, seed)
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[seed, str(number)])
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _bare(sop_class: str, modality: str, grey: np.ndarray) -> Dataset:
    ds = dcmread(sample("RG3_UNCR.dcm"), stop_before_pixels=True)
    kept = Dataset()
    kept.file_meta = ds.file_meta
    kept.file_meta.MediaStorageSOPClassUID = kept.SOPClassUID = sop_class
    kept.Modality, kept.PatientBirthDate, kept.PatientSex = modality, "19400305", "F"
    kept.Rows, kept.Columns = grey.shape
    kept.SamplesPerPixel, kept.PhotometricInterpretation, kept.PixelRepresentation = 1, "MONOCHROME2", 0
    kept.BitsAllocated, kept.BitsStored, kept.HighBit = 8, 8, 7
    pixels = grey.tobytes()
    kept.PixelData = pixels + b"\0" * (len(pixels) % 2)
    return kept


def _identify(ds: Dataset, seed: str) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, generate_uid(entropy_srcs=["orthanc plugin", seed, keyword]))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.PatientName, ds.PatientID = SECRET_NAME, f"SECRET-{seed}"

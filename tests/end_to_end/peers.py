"""Real peers for the end-to-end tests: Orthanc as the PACS, the node as its own process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

NODE_AE = "GAM_TEST"
DICOMWEB = {  # the settings of an Orthanc that speaks DICOMweb too
    "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, timeout_s=60.0, what="condition"):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come true within {timeout_s} s")


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: run tests/system-packages.sh"
    return found


def sample(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), f"{name} is missing: pip install pydicom-data"
    return Path(found)


def with_new_uid(name: str, target: Path, seed: str) -> str:
    """Copy a sample under a new SOP Instance UID; returns the UID."""
    ds = pydicom.dcmread(sample(name))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[seed])
    ds.save_as(target)
    return str(ds.SOPInstanceUID)


class Orthanc:
    """Debian's Orthanc on loopback, with its storage in a folder of the test's; `more` goes over its settings.

    After `stop` it can be started again, on the same folder and ports.
    """

    def __init__(self, folder: Path, node_port: int, **more) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        for left in (2, 1, 0):  # somebody else may take a free port before Orthanc does
            self._configure(node_port, more)
            try:
                self.start()
                break
            except AssertionError:
                if not left or self._process.poll() is None:
                    raise

    def _configure(self, node_port: int, more) -> None:
        self.http, self.dicom = free_port(), free_port()
        folder = self._folder
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "DicomServerEnabled": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "Plugins": [],
            "DicomModalities": {"node": [NODE_AE, "127.0.0.1", node_port]},
        } | more
        (folder / "orthanc.json").write_text(json.dumps(settings))

    def start(self) -> None:
        command = [program("Orthanc"), str(self._folder / "orthanc.json")]
        with (self._folder / "orthanc.log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._is_up, what="Orthanc's start")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, "Orthanc ended at once; see orthanc.log"
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def call(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def get(self, path: str):
        return json.loads(self.call(path))

    def store(self, path: Path) -> str:
        return json.loads(self.call("/instances", path.read_bytes()))["ID"]

    def send_to_node(self, instance: str) -> None:
        self.call("/modalities/node/store", instance.encode())

    def instances(self) -> dict[str, dict]:
        return {i: self.get(f"/instances/{i}/simplified-tags") for i in self.get("/instances")}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


class NodeProcess:
    """`dicom-gam serve` as an administrator runs it."""

    def __init__(self, folder: Path, port: int, destination: tuple[str, int], more: str = "") -> None:
        self.folder, self.port = folder, port
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "node.toml"
        self.config.write_text(
            f'[node]\nae_title = "{NODE_AE}"\nport = {port}\nstorage = "data"\n'
            f'[[destinations]]\nname = "pacs"\nae_title = "{destination[0]}"\nhost = "127.0.0.1"\n'
            f"port = {destination[1]}\n"
            f"[delivery]\nfirst_retry_s = 0.5\nmaximum_retry_s = 2\n{more}"
        )
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it says so; receivers of a killed node may hold the port for a moment."""
        starts = self._starts()
        with (self.folder / "node.log").open("a") as log:
            command = [sys.executable, "-m", "dicom_gam", "serve", "--config", str(self.config)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_for(lambda: self._is_up(starts), timeout_s=120, what="the node's start")

    def _starts(self) -> int:
        log = self.folder / "node.log"
        return log.read_text().count(" node.started ") if log.exists() else 0

    def _is_up(self, starts: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "node.log").read_text()
        if self._starts() == starts:
            return False
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Kill -9, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self._process is None or self._process.poll() is not None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

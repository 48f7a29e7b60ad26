"""The receivers that the bench compares, each started on a folder of its own and ended with its process group."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.processes import listening, wait_until

ROOT = Path(__file__).parents[2]
RUN_NODE = ROOT / "tests" / "service" / "run_node.py"
AE_TITLE = "DICOM_GAM"
LARGEST_PDU = 131072
PAUSED_S = 1e6  # a worker that never comes back from its first batch: receiving alone is left
# Without NODELAY DCMTK and Orthanc wait for acknowledgements of TCP and look several times slower than they are.
QUICK = {"TCP_NODELAY": "1", "OMP_NUM_THREADS": "1"}


class NotStartedError(RuntimeError):
    """A receiver ended where it should have begun."""


def free_port() -> int:
    """A port that nothing listens on, and that the system gives to no client."""
    while True:
        port = _random.randrange(15000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and port not in _given:
                _given.add(port)
                return port


_random = random.Random(os.getpid())
_given: set[int] = set()


class Certificate:
    """A key and a certificate for 127.0.0.1 that is its own authority."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)


class Receiver(ABC):
    """A storage SCP that runs from `start` to `stop`; also a context manager, which removes what it received."""

    name = ""
    promise = ""
    speaks_tls = True

    def __init__(self, folder: Path, certificate: Certificate | None = None) -> None:
        self.folder, self.certificate = folder, certificate
        self.port = free_port()
        folder.mkdir(parents=True)

    @abstractmethod
    def command(self) -> list[str]:
        """How it is started."""

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.launch()
        wait_until(self._listens, f"{self.name}'s start", 60)

    def launch(self) -> None:
        """Start it and don't wait."""
        with (self.folder / "receiver.log").open("a") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=os.environ | QUICK, cwd=ROOT, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process that all its others descend from."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the whole group, at once; also what is left of it when its first process has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(20)

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            log = (self.folder / "receiver.log").read_text()[-2000:]
            raise NotStartedError(f"{self.name} ended at once:\n{log}")
        return bool(listening(self.pid, self.port))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Storescp(Receiver):
    """DCMTK's, a process for each association."""

    name = "storescp --fork"
    promise = "nothing synced"

    def command(self) -> list[str]:
        """Start it so that it writes into its folder."""
        command = ["storescp", "--fork", "--max-pdu", str(LARGEST_PDU), "-od", str(self.folder), *self.options()]
        if self.certificate:
            command += ["+tls", str(self.certificate.key), str(self.certificate.certificate), "-ic"]
        return [*command, str(self.port)]

    def options(self) -> list[str]:
        """More of its options."""
        return []


class Orthanc(Receiver):
    """Debian's, as it comes: every file synced, SQLite index."""

    name = "Orthanc"
    promise = "file synced, folder not"

    def command(self) -> list[str]:
        """Start it with a configuration that only opens ports and says who may come."""
        settings: dict[str, Any] = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": free_port(),
            "DicomPort": self.port,
            "DicomAet": AE_TITLE,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
        }
        if self.certificate:
            settings |= {
                "DicomTlsEnabled": True,
                "DicomTlsPrivateKey": str(self.certificate.key),
                "DicomTlsCertificate": str(self.certificate.certificate),
                "DicomTlsTrustedCertificates": str(self.certificate.certificate),
                "DicomTlsRemoteCertificateRequired": False,
            }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(path)]


class PynetdicomApp(Receiver):
    """`python -m pynetdicom storescp`, as it comes. It speaks no TLS."""

    name = "pynetdicom storescp"
    promise = "nothing synced"
    speaks_tls = False

    def command(self) -> list[str]:
        """Start it so that it writes into its folder."""
        return [sys.executable, "-m", "pynetdicom", "storescp", "-q", "-od", str(self.folder), str(self.port)]


class OurNode(Receiver):
    """This node, receiving alone: intake, queue and audit log as in service, its worker busy for ever."""

    name = "dicom_gam"
    promise = "file, folder, job and audit record synced"
    seconds_per_batch = PAUSED_S

    def command(self) -> list[str]:
        """Start it with durable storage in its folder."""
        path = self.folder / "settings.json"
        path.write_text(json.dumps(self.settings()))
        return [sys.executable, str(RUN_NODE), str(path), str(self.seconds_per_batch)]

    def launch(self) -> None:
        """Start it and don't wait."""
        log = self.folder / "receiver.log"
        self._told_before = log.stat().st_size if log.exists() else 0
        super().launch()

    def _listens(self) -> bool:
        """The port is open before anybody answers at it; it says its number when all is started."""
        with (self.folder / "receiver.log").open() as log:
            log.seek(self._told_before)
            return super()._listens() and f"{self.port}\n" in log.readlines()

    def settings(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        node = {"port": self.port, "storage": str(self.folder / "node"), "minimum_free_bytes": 0}
        table: dict[str, Any] = {"node": node}
        if self.certificate:
            table["tls"] = {"certificate": str(self.certificate.certificate), "key": str(self.certificate.key)}
        return table


class OurNodeAtWork(OurNode):
    """This node with the fake processor, which reads every image and makes two small objects of it."""

    name = "dicom_gam at work"
    seconds_per_batch = 0.0


class Sink(Storescp):
    """A stand-in for the archive: each object in a file of its own, also when one comes twice, or none kept."""

    name = "archive"

    def __init__(self, folder: Path, *, keep: bool = True) -> None:
        super().__init__(folder)
        self._keep = keep

    def options(self) -> list[str]:
        """Unique file names, so that a copy doesn't replace what came before."""
        return ["+uf"] if self._keep else ["--ignore"]

    def files(self) -> list[Path]:
        """Everything it has been sent."""
        return [path for path in self.folder.iterdir() if path.name != "receiver.log"]


RECEIVERS: tuple[type[Receiver], ...] = (Storescp, Orthanc, PynetdicomApp, OurNode, OurNodeAtWork)

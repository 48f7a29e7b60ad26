"""`dicom-gam serve`, as an administrator runs it, with the built-in bundle and the real decoders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dicom_gam.dicom.image.part10 import read_meta
from tests.faults.nodes import NodeProcess, table_of
from tests.faults.wire import Wire
from tests.service.fakes import free_port, until


class ServeProcess(NodeProcess):
    """The command itself; only how it is started differs."""

    def __init__(self, folder: Path, **changes: dict[str, Any]) -> None:
        port = free_port()
        changes["node"] = {"port": port, "receivers": 2, "pdu_timeout_s": 20.0} | changes.get("node", {})
        changes["processing"] = {"device": "cpu"} | changes.get("processing", {})
        super().__init__(folder, **changes)
        self.port = port
        self._config = folder / "node.toml"
        self._config.write_text(as_toml(table_of(self.storage, **changes)))

    def start(self, seconds_per_batch: float = 0.0) -> None:
        command = [sys.executable, "-m", "dicom_gam", "serve", "--config", str(self._config)]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        until(self._is_up, 90)

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def send(self, path: Path) -> tuple[str, int | None]:
        """Send the very data set of a Part 10 file; returns its SOP Instance UID and the status."""
        content = path.read_bytes()
        meta, start = read_meta(content)
        uid, sop_class = str(meta.MediaStorageSOPInstanceUID), str(meta.MediaStorageSOPClassUID)
        with Wire(self.port, timeout_s=60) as wire:
            wire.associate(contexts=[(sop_class, str(meta.TransferSyntaxUID))])
            status = wire.store(uid, content[start:], sop_class_uid=sop_class)
            if status is not None:
                wire.release()
        return uid, status


def as_toml(table: dict[str, Any]) -> str:
    """Tables of plain values; JSON writes those as TOML does."""
    lines = []
    for section, values in table.items():
        if isinstance(values, dict):
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"

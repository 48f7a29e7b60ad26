"""The whole road on loopback: a stand-in PACS, a node, real DICOM files in, reports and overlays back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file

from dicom_gam.bundle.bundle import load_bundle, select_device
from dicom_gam.config import NodeSettings, Settings
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.dicom.result.secondary_capture import overlay_png
from dicom_gam.dicom.scu.sender import Answer, send
from dicom_gam.dicom.scu.stand_in_pacs import AE_TITLE, StandInPacs
from dicom_gam.errors import ConfigError, DicomGamError
from dicom_gam.pipeline import Pipeline
from dicom_gam.sections import Destination
from dicom_gam.service.node import Node, verify_audit_log
from dicom_gam.service.store import AUDIT_FILE
from dicom_gam.storage.rows import Job

SENDER = "DEMO_MODALITY"
DEADLINE_S = 50.0
PARTS = ("pacs", "node", "overlays")
FILES = {  # all inside pydicom or pydicom-data: nothing is fetched
    "RG1_UNCR.dcm": "chest radiograph (CR)",
    "RG3_UNCR.dcm": "lower-leg radiograph (CR)",
    "CT_small.dcm": "CT slice",
    "MR_small.dcm": "MR slice",
    "US1_UNCR.dcm": "ultrasound",
}


@dataclass(frozen=True, slots=True)
class DemoLine:
    """One pushed file: what it is, what the node answered, and what became of it."""

    name: str
    what: str
    answer: Answer
    job: Job | None
    report: Path | None
    overlay: Path | None


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demonstration's outcome; `problems` is empty when everything that should be there is there."""

    lines: tuple[DemoLine, ...]
    audit_log: Path
    audit_records: int
    problems: tuple[str, ...]


def run_demonstration(folder: Path, tell: Callable[[str], None]) -> DemoReport:
    """Push the demo files through a real node in `folder`. `tell` hears each step. Ends all it started."""
    tell("loading the built-in bundle")
    with StandInPacs(folder / "pacs") as pacs:
        destination = Destination(name="pacs", ae_title=AE_TITLE, host="127.0.0.1", port=pacs.port)
        node_settings = NodeSettings(port=0, storage=folder / "node")
        settings = Settings(node=node_settings, destinations=(destination,))
        bundle = load_bundle(settings.processing.bundle, select_device(settings.processing.device))
        name = settings.processing.bundle
        about = {"bundle": bundle.identity.digest}
        with (
            DecoderPool(settings) as decode,
            Node(settings, Pipeline({name: bundle}, settings, decode), about=about) as node,
        ):
            answers = _push(node.port, settings.node.ae_title, tell)
            tell("waiting for results to come back to the PACS")
            idle = node.wait_idle(DEADLINE_S)
            jobs = {(job.instance.sop_instance_uid, job.instance.transfer_syntax_uid): job for job in node.jobs()}
    tell("checking the audit log")
    records = verify_audit_log(folder / "node")
    lines = _lines(answers, jobs, pacs, folder / "overlays")
    problems = _problems(lines) + ([] if idle else [f"the node was still busy after {DEADLINE_S:g} s"])
    return DemoReport(lines, folder / "node" / AUDIT_FILE, records, tuple(problems))


def _push(port: int, ae_title: str, tell: Callable[[str], None]) -> dict[str, Answer]:
    node = Destination(name="node", ae_title=ae_title, host="127.0.0.1", port=port)
    answers = {}
    for name, what in FILES.items():
        tell(f"sending {name}: {what}")
        [answers[name]] = send(node, SENDER, [_path(name).read_bytes()])
    return answers


def _path(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    if not isinstance(found, str):
        raise DicomGamError(
            f"demo file {name} is missing: reinstall the package pydicom-data (pip install pydicom-data)"
        )
    return Path(found)


def _lines(
    answers: dict[str, Answer], jobs: dict[tuple[str, str], Job], pacs: StandInPacs, pictures: Path
) -> tuple[DemoLine, ...]:
    pictures.mkdir(parents=True, exist_ok=True)
    arrived = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in pacs.files}
    lines = []
    for name, what in FILES.items():
        meta = pydicom.dcmread(_path(name), stop_before_pixels=True)
        job = jobs.get((str(meta.SOPInstanceUID), str(meta.file_meta.TransferSyntaxUID)))
        outputs = (
            {o["role"]: arrived.get(o["sop_instance_uid"]) for o in (job.result or {}).get("outputs", ())}
            if job
            else {}
        )
        overlay = outputs.get("overlay")
        picture = None
        if overlay is not None:
            picture = pictures / f"{Path(name).stem}.png"
            picture.write_bytes(overlay_png(overlay.read_bytes()))
        lines.append(DemoLine(name, what, answers[name], job, outputs.get("sr"), picture))
    return tuple(lines)


def _problems(lines: tuple[DemoLine, ...]) -> list[str]:
    problems = []
    for line in lines:
        if not line.answer.stored:
            problems.append(f"{line.name}: the node did not accept it: {line.answer.words}")
        elif line.job is None:
            problems.append(f"{line.name}: was accepted but has no job")
        elif line.job.outcome in ("PASS", "FAIL", "REJECT") and (line.report is None or line.overlay is None):
            problems.append(f"{line.name}: its report or overlay did not arrive at the PACS")
        elif line.job.outcome in ("", "ERROR") and line.job.state != "quarantined":
            problems.append(f"{line.name}: has no result ({line.job.state}: {line.job.message})")
    return problems


def clear_earlier(folder: Path) -> None:
    """Make the folder, empty of an earlier demonstration. Raises ConfigError when it holds anything else."""
    folder.mkdir(parents=True, exist_ok=True)
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in PARTS)
    if foreign:
        raise ConfigError(f"{folder} holds {foreign[0]}, which is no part of a demonstration: choose a new folder")
    for name in PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)


def temporary_folder() -> Path:
    """A new folder that stays, for the user to look at."""
    return Path(tempfile.mkdtemp(prefix="dicom-gam-demo-"))

"""Three real studies, one a verdict, with every object that the built-in bundle's pipeline makes of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from tests.end_to_end.peers import sample

ALL_OBJECTS = '[output]\nobjects = ["sr", "overlay", "region", "presentation", "rejection"]\n'


@dataclass(frozen=True, slots=True)
class Study:
    """A verified image: its file, its results' files by role, and what the bundle said."""

    verdict: str
    source: Path
    results: dict[str, Path]

    @property
    def uid(self) -> str:
        return str(dcmread(self.source, stop_before_pixels=True).StudyInstanceUID)


def make_studies(folder: Path) -> list[Study]:
    """Write the sources into `folder` and let `dicom-gam run` verify them; fails when a verdict isn't the one meant."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"PASS": _own_study("RG1_UNCR.dcm"), "FAIL": _hidden_middle(), "REJECT": _own_study("RG3_UNCR.dcm")}
    paths = {verdict: folder / f"{verdict.lower()}.dcm" for verdict in sources}
    for verdict, source in sources.items():
        source.save_as(paths[verdict])
    said = _verify(list(paths.values()), folder / "results")
    studies = []
    for number, (verdict, path) in enumerate(paths.items(), 1):
        found = sorted((folder / "results").glob(f"{number:04d}-*.dcm"))
        results = {file.suffixes[-2][1:]: file for file in found}
        assert "overlay" in results, said
        description = str(dcmread(results["overlay"], stop_before_pixels=True).SeriesDescription)
        assert description.endswith(f"- {verdict}"), f"{path.name} was to be {verdict}: {description}\n{said}"
        studies.append(Study(verdict, path, results))
    return studies


def _own_study(name: str, more: str = "") -> FileDataset:
    """A sample under identifiers of its own, so that no two stand in one study."""
    ds = dcmread(sample(name))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, generate_uid(entropy_srcs=["viewers", name, more, keyword]))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def _hidden_middle() -> FileDataset:
    """The chest with a disc over its middle: the network still says chest, but looks elsewhere than at a chest."""
    ds = _own_study("RG1_UNCR.dcm", "disc")
    pixels = ds.pixel_array.copy()
    rows, columns = pixels.shape
    y, x = np.mgrid[0:rows, 0:columns]
    pixels[(y - rows / 2) ** 2 + (x - columns / 2) ** 2 < (0.15 * columns) ** 2] = pixels.max()
    ds.PixelData = pixels.tobytes()
    return ds


def _verify(paths: list[Path], output: Path) -> str:
    config = output.with_suffix(".toml")
    config.write_text(ALL_OBJECTS)
    files = [str(path) for path in paths]
    command = [sys.executable, "-m", "dicom_gam", "run", *files, "--output", str(output), "--config", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return said.stdout + said.stderr

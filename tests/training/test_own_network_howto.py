"""conformance/OWN_NETWORK.md, every block of it, done in an empty folder by somebody with a classifier and 200 DICOMs.

The test supplies what is the reader's own: `classifier.pt`, the images, a PACS. It runs the blocks in their order; for
time's sake a `dicom-gam` command runs inside this process, `serve` and all other programs as processes of their own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
import torch.nn.functional as F
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from safetensors.torch import load_file

from dicom_gam.cli.main import app
from dicom_gam.core.preprocess import Preprocessing, to_content, to_input
from tests.end_to_end.peers import free_port, program, sample, wait_for
from tests.tiny_bundle import one_thread

pytestmark = [pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
HOWTO = (ROOT / "conformance" / "OWN_NETWORK.md").read_text(encoding="utf-8")
CLASSES = {"chest": "RG1_UNCR.dcm", "leg": "RG3_UNCR.dcm"}
FOREIGN = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "693_J2KI.dcm")
SPEC = Preprocessing(64, 64, (1.0, 99.0), 0.5, 0.25, 1)
SIDE = 128


@dataclass
class Reader:
    """Who follows the how-to: a folder, what was printed by each command, exit statuses, and what the PACS got."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    pacs: list[pydicom.Dataset] = field(default_factory=list)


def pictures(name: str, count: int, seed: int) -> Iterator[np.ndarray]:
    """A real radiograph as `count` patients would give it: moved, zoomed, with other contrast and noise."""
    pixels = pydicom.dcmread(sample(name)).pixel_array.astype(np.float32)
    rows, columns = (np.linspace(0, n - 1, 2 * SIDE).astype(int) for n in pixels.shape)
    whole = pixels[np.ix_(rows, columns)] / pixels.max()
    random = np.random.default_rng(seed)
    for _ in range(count):
        first, zoom = random.integers(0, 24, 2), random.uniform(0.8, 0.9)
        y, x = (np.clip(np.linspace(f, f + zoom * 2 * SIDE, SIDE), 0, 2 * SIDE - 1).astype(int) for f in first)
        image = whole[np.ix_(y, x)] ** random.uniform(0.8, 1.25) + random.normal(0, 0.02, (SIDE, SIDE))
        yield np.clip(image, 0, 1).astype(np.float32)


def radiograph() -> pydicom.Dataset:
    """A real radiograph's data set, with room for a small image."""
    ds = pydicom.dcmread(sample(CLASSES["chest"]), stop_before_pixels=True)
    for tag in [element.tag for element in ds if element.tag.group == 0x0028]:
        del ds[tag]
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = SIDE, SIDE, 16, 12, 11
    ds.BodyPartExamined = ""
    return ds


def save_radiograph(ds: pydicom.Dataset, image: np.ndarray, path: Path, patient: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(ds, keyword, generate_uid(entropy_srcs=[patient, keyword]))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.PatientID, ds.PatientName = patient, f"How^{patient}"
    ds.PixelData = (image * 4095).astype("<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)


def own_images(folder: Path) -> None:
    ds = radiograph()
    for seed, (label, name) in enumerate(CLASSES.items()):
        for i, image in enumerate(pictures(name, 100, seed)):
            save_radiograph(ds, image, folder / "images" / label / f"{i:03d}.dcm", f"{label}-{i}")
        for i, image in enumerate(pictures(name, 16, 10 + seed)):
            save_radiograph(ds, image, folder / "site" / f"{label}-{i}.dcm", f"site-{label}-{i}")
    (folder / "images" / "garbage" / "other").mkdir(parents=True)
    for name in FOREIGN:
        shutil.copy(sample(name), folder / "images" / "garbage" / "other")
    save_radiograph(ds, next(pictures(CLASSES["chest"], 1, 20)), folder / "new" / "chest.dcm", "new-chest")
    stripes = np.tile(np.arange(SIDE) // 8 % 2, (SIDE, 1)).astype(np.float32)
    save_radiograph(ds, stripes, folder / "new" / "foreign.dcm", "new-foreign")


def own_classifier(folder: Path) -> None:
    """Train the example's network on the two classes, in a loop of the user's own, and save it as users do."""
    sys.path.insert(0, str(ROOT / "plugins" / "example_architecture"))
    try:
        from example_architecture import build  # noqa: PLC0415 (it is installed for nobody)
    finally:
        sys.path.pop(0)
        del sys.modules["example_architecture"]
    images = [image for seed, name in enumerate(CLASSES.values()) for image in pictures(name, 30, 30 + seed)]
    contents = torch.stack([to_content(torch.from_numpy(image), SPEC) for image in images])
    x, y = to_input(contents, SPEC), torch.arange(2).repeat_interleave(30)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(2, width=8).train()
        for _ in range(30):
            rows = torch.randint(len(y), (24,))
            loss = F.cross_entropy(network(x[rows]), y[rows])
            with torch.no_grad():  # by hand: torch.optim would import a compiler
                for p, slope in zip(
                    network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
                ):
                    p -= 0.2 * slope
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, folder / "classifier.pt")


def environment(folder: Path) -> Path:
    """An environment of its own that sees this one's packages, with a pip that fetches nothing; its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    outside = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "outside.pth").write_text(f"import site; site.addsitedir({outside!r})\n")
    install = f"{sys.executable} -m uv pip --offline"
    options = f"--python {folder}/bin/python --no-deps --no-build-isolation"
    for name, line in {
        "pip": f'command=$1; shift; exec {install} "$command" {options} "$@"',
        "dicom-gam": f'exec {folder}/bin/python -m dicom_gam "$@"',
    }.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    return packages


def run_here(arguments: list[str]) -> tuple[int, str]:
    """A `dicom-gam` command, within this process, which has torch loaded already."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ended:
        app(arguments)
    return int(ended.value.code or 0), out.getvalue()


def follow(reader: Reader, port: int, pacs_port: int, node: list[subprocess.Popen[bytes]]) -> None:
    """Do what the page says, block by block; only the ports are others."""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", HOWTO, re.M | re.S):
        block = block.replace("11112", str(port)).replace("port = 104\n", f"port = {pacs_port}\n")
        if language == "toml":
            name = block.partition("\n")[0].removeprefix("# ")
            (reader.folder / name).write_text(block)
        elif language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(block, {})
            reader.said["python"] = out.getvalue()
        else:
            for line in block.splitlines():
                shell(reader, line, port, node)


def shell(reader: Reader, line: str, port: int, node: list[subprocess.Popen[bytes]]) -> None:
    words = shlex.split(line.replace("$SOURCES", str(ROOT)))
    key = " ".join(word for word in words[:3] if not word.startswith(("-", ".", "/")))
    if line.endswith("&"):
        with (reader.folder / "node.log").open("wb") as log:
            node.append(subprocess.Popen(words[:-1], stdout=log, stderr=log))
        log_file = reader.folder / "node.log"
        wait_for(lambda: " node.started " in log_file.read_text() and up(port), 240, "the node's start")
    elif words[0] == "dicom-gam":
        reader.status[key], reader.said[key] = run_here(words[1:])
    else:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def up(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("howto")
    packages = environment(folder / "environment")
    (folder / "pacs").mkdir()
    port, pacs_port, node = free_port(), free_port(), []
    pacs = subprocess.Popen([program("storescp"), "-aet", "PACS", "-od", folder / "pacs", str(pacs_port)])
    try:
        with pytest.MonkeyPatch.context() as patch, one_thread():
            patch.setenv("PATH", f"{folder}/environment/bin{os.pathsep}{os.environ['PATH']}")
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("COLUMNS", "200")
            patch.syspath_prepend(packages)
            patch.chdir(folder)
            own_images(folder)
            own_classifier(folder)
            found = Reader(folder)
            follow(found, port, pacs_port, node)
            wait_for(lambda: len(list((folder / "pacs").iterdir())) >= 4, 240, "results at the PACS")
        for process in node:
            process.terminate()
            assert process.wait(240) == 0
        found.pacs = [pydicom.dcmread(path) for path in sorted((folder / "pacs").iterdir())]
        yield found
    finally:
        for process in (*node, pacs):
            process.kill()
            process.wait()


@pytest.mark.requirement("OWN-01")
def test_every_command_of_the_how_to_does_its_work(reader: Reader) -> None:
    expected = {
        "dicom-gam suitability chest-or-leg": (0, 1, 2),
        "dicom-gam calibrate chest-or-leg": (2,),
        "dicom-gam run new": (10, 11),
    }
    wrong = {key: reader.said[key] for key, code in reader.status.items() if code not in expected.get(key, (0,))}
    assert wrong == {}
    assert len(reader.status) == 6


@pytest.mark.requirement("OWN-02")
def test_the_folders_are_listed_with_patients_as_numbers(reader: Reader) -> None:
    said = reader.said["dicom-gam bundle images"]
    assert "chest: 100 images of 100 patients" in said
    lines = (reader.folder / "images.csv").read_text().splitlines()
    assert lines[0] == "path,label,group,source,family,role"
    assert re.fullmatch(r"images/chest/000\.dcm,chest,p00001,own,,", lines[1])
    assert "images/garbage/other/CT_small.dcm,garbage,p00" in "\n".join(lines)
    assert not any(word in "\n".join(lines) for word in ("How^", "chest-0", "leg-0"))


@pytest.mark.requirement("OWN-03")
def test_the_weights_in_the_bundle_are_the_user_s_with_one_row_more(reader: Reader) -> None:
    given = load_file(reader.folder / "weights.safetensors")
    kept = load_file(reader.folder / "chest-or-leg" / "weights.safetensors")
    assert given.keys() == kept.keys()
    for name, values in given.items():
        assert torch.equal(kept[name][:2] if name.startswith("classifier") else kept[name], values)


@pytest.mark.requirement("OWN-05")
def test_the_card_says_how_the_garbage_output_came_to_be_and_prints_the_accuracy(reader: Reader) -> None:
    card = (reader.folder / "chest-or-leg" / "MODEL_CARD.md").read_text()
    for words in (
        "None of its values was changed.",
        "The output garbage was learned beside it: one row of layer `classifier`",
        "if it was trained on any of these images",
        "- chest: 100.0 %",
        "| garbage | other |",
    ):
        assert words in card
    assert "chest: 100.0 %" in reader.said["dicom-gam bundle make"]


def test_the_python_block_shows_the_layer_that_the_specification_names(reader: Reader) -> None:
    assert "features (1, 32, 8, 8)\n" in reader.said["python"]


@pytest.mark.requirement("OWN-01")
def test_the_node_passes_a_good_image_and_not_a_foreign_one(reader: Reader) -> None:
    verdicts = {}
    for ds in reader.pacs:
        verdicts.setdefault(str(ds.PatientID), set()).add(
            (str(ds.Modality), str(ds.SeriesDescription).split(" - ")[-1])
        )
    assert {modality for modality, _ in verdicts["new-chest"]} >= {"SR"}
    assert {verdict for _, verdict in verdicts["new-chest"]} == {"PASS"}
    assert "PASS" not in {verdict for _, verdict in verdicts["new-foreign"]}


@pytest.mark.requirement("OWN-01")
def test_calibrating_from_feedback_says_how_much_is_missing(reader: Reader) -> None:
    assert "too little feedback: chest has 0 patients and needs" in reader.said["dicom-gam calibrate chest-or-leg"]


@pytest.mark.requirement("OWN-07")
def test_the_installed_example_offers_its_architecture_and_less_than_sixty_lines(reader: Reader) -> None:
    (installed,) = (reader.folder / "environment").glob("lib/python*/site-packages/example_architecture-*.dist-info")
    assert "example_net = example_architecture:build" in (installed / "entry_points.txt").read_text()
    assert tomllib.loads((reader.folder / "chest-or-leg" / "bundle.toml").read_text())["architecture"] == "example_net"
    package = ROOT / "plugins" / "example_architecture"
    assert sum(len(path.read_text().splitlines()) for path in package.glob("*.py")) < 60

"""CPU time of each result object for one radiograph of 2500 x 2000 pixels, and where that time goes.

    python -m tests.benchmarks.bench_results [--rounds 20] [--json bench-results.json]

Every step takes its turn in every round, and all figures are CPU time of this process on one thread, so that whatever
else happens on the machine hardly meets them. Beside them stand, in the same rounds: the bare forward pass of the
built-in network on one image, and the same report built and encoded afresh by highdicom and pydicom.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from rich.console import Console
from rich.table import Table

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.config import BUILT_IN_BUNDLE, OutputSettings
from dicom_gam.core.preprocess import preprocess
from dicom_gam.dicom.checker.checker import check_results
from dicom_gam.dicom.result.reference import sanitised_reference
from dicom_gam.dicom.result.result_file import Origin
from dicom_gam.dicom.result.results import encode_results
from dicom_gam.dicom.result.sr import report_content
from dicom_gam.dicom.result.sr_tree import build_tree
from dicom_gam.records import Radiograph, ResultRole, Verdict
from tests.dicom.example_results import BUNDLE, CONCEPTS, CREATED, SETTINGS_DIGEST, dx_source, prediction, radiograph
from tests.dicom.example_results import verification as example_verification

ROWS, COLUMNS = 2500, 2000
BAR_MS, AIM_MS = 200.0, 100.0
ALL: tuple[ResultRole, ...] = ("sr", "overlay", "region", "presentation", "rejection")
BOTH: tuple[ResultRole, ...] = ("sr", "overlay")
Step = Callable[[], object]


def large_radiograph() -> Radiograph:
    """A noisy gradient of 16 bits, as a DX image's header describes it."""
    noise = np.random.default_rng(1).random((ROWS, COLUMNS), dtype=np.float32)
    pixels = (np.linspace(0, 1, COLUMNS, dtype=np.float32) + noise) / 2
    example = radiograph(dx_source())
    return Radiograph(example.instance, example.dataset, pixels, example.pixel_sha256)


def encoding(image: Radiograph, objects: tuple[ResultRole, ...], verdict: str = "REJECT") -> Step:
    """Make these objects, the source's header being new each time."""
    settings = OutputSettings(objects=objects)

    def step() -> object:
        return encode_results(
            image, prediction(), example_verification(verdict), bundle=BUNDLE, class_concepts=CONCEPTS,
            settings=settings, settings_digest=SETTINGS_DIGEST, created=CREATED,
        )  # fmt: skip

    return step


def afresh(image: Radiograph) -> Step:
    """The report's content tree by highdicom and pydicom alone, without our template."""

    reference = sanitised_reference(image)
    origin = Origin(reference, BUNDLE, OutputSettings(), SETTINGS_DIGEST, Verdict.REJECT, CREATED)

    def step() -> object:
        shape, values = report_content(origin, prediction(), example_verification("REJECT"), CONCEPTS, "2.25.1")
        tree = Dataset()
        tree.ContentSequence = build_tree(shape, values).ContentSequence
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        return write_dataset(buffer, tree)

    return step


def forward_pass(image: Radiograph) -> Step:
    """The built-in network alone, on one prepared image."""
    bundle = load_bundle(BUILT_IN_BUNDLE)
    x = preprocess(torch.from_numpy(image.pixels), bundle.manifest.preprocessing.record())

    def step() -> object:
        with torch.inference_mode():
            trunk = bundle.network.trunk(x)
            return bundle.network.head(trunk.activations, trunk.carried)

    return step


def measured(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of every step in every round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:
                times[name].append((time.process_time() - start) * 1000)
    return times


def profile(step: Step, repetitions: int = 10) -> list[tuple[str, float]]:
    """The functions that take most of the time themselves, with their share."""
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(repetitions):
        step()
    profiler.disable()
    rows = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    total = sum(own for _, (_, _, own, _, _) in rows)
    ranked = sorted(((own / total, where) for where, (_, _, own, _, _) in rows), reverse=True)[:12]
    return [(_place(*where), share) for share, where in ranked]


def _place(file: str, line: int, function: str) -> str:
    parts = Path(file).parts[-3:]
    return function if line == 0 else f"{'/'.join(parts)}:{function}"


def steps_of(image: Radiograph) -> dict[str, Step]:
    """What is compared, in the order in which it is shown."""
    written = [item.content for item in encoding(image, BOTH)()]  # type: ignore[attr-defined]
    steps = {"report + overlay": encoding(image, BOTH)}
    steps |= {f"report + overlay + {role}": encoding(image, (*BOTH, role)) for role in ALL[2:]}
    steps["all five"] = encoding(image, ALL)
    steps["checking report + overlay"] = lambda: check_results(written)
    steps["parsing report + overlay (pydicom)"] = lambda: [str(dcmread(io.BytesIO(one))) for one in written]
    steps["peer: the report's tree afresh (highdicom)"] = afresh(image)
    steps["peer: bare forward pass of the network"] = forward_pass(image)
    return steps


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image = large_radiograph()
    times = measured(steps_of(image), arguments.rounds)
    shares = profile(encoding(image, BOTH))
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["peer: bare forward pass of the network"]
    base = medians["report + overlay"]
    console = Console(width=120)
    table = Table(title=f"CPU time for one image of {ROWS} x {COLUMNS} x 16, median of {arguments.rounds} rounds")
    for heading in ("what", "ms", "quartiles", "x forward pass"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        ratio = f"{medians[name] / bare:.2f}"
        table.add_row(name, f"{medians[name]:.1f}", f"{low:.1f} - {high:.1f}", ratio)
    console.print(table)
    console.print(f"report + overlay: bar {BAR_MS:.0f} ms, aim {AIM_MS:.0f} ms: {_judged(base)}")
    where = Table(title="Where the time of report + overlay goes (own time, under the profiler)")
    where.add_column("function")
    where.add_column("share", justify="right")
    for place, share in shares:
        where.add_row(place, f"{share:.1%}")
    console.print(where)
    if arguments.json:
        arguments.json.write_text(json.dumps({"milliseconds": times, "profile": shares}, indent=1))
    return 0 if base <= BAR_MS else 1


def _judged(milliseconds: float) -> str:
    if milliseconds <= AIM_MS:
        return "aim met"
    return "bar met" if milliseconds <= BAR_MS else "bar missed"


if __name__ == "__main__":
    sys.exit(main())

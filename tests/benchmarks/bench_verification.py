"""Time and memory of a verified result against a bare forward pass and against three explanation libraries.

    python -m tests.benchmarks.bench_verification [--quick] [--methods] [--json bench.json]

Contenders take turns within a round (A B C D E, A B C D E, ...), and a ratio is taken within its round, so what else
happens on the machine meets all of them. The libraries get a fixed class and so needn't look for the most probable
one; ours finds it, makes every measurement and ends with the verdict.

--methods asks instead what each attention method costs: class, logits and map, without the checks. No memory is taken.

Unless --plain is given the process starts itself again with a heap that keeps freed memory and with threads that sleep
while they wait. With glibc's defaults every contender spends up to half of its time on page faults and, on a machine
that does anything else, several times its own time on spinning; both depend on what ran before and hide what is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tests.benchmarks.contenders import BARE, CONTENDERS, MODELS, OURS, Run, build, contender
from tests.benchmarks.method_costs import SLOW, method_runs
from tests.benchmarks.peak_memory import Peak, measure_peak

TIME_BAR, MEMORY_BAR = 1.10, 1.05
STEADY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024**3),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024**3),
    "OMP_WAIT_POLICY": "PASSIVE",
}
ROUND_SECONDS, FEWEST_ROUNDS, MOST_ROUNDS = 20.0, 5, 30


@dataclass(frozen=True)
class Result:
    """One contender in one configuration; ratios are to the bare forward pass. None where `reason` says why."""

    device: str
    model: str
    size: int
    batch: int
    contender: str
    milliseconds: float | None = None
    time_ratio: float | None = None
    time_ratio_quartiles: tuple[float, float] | None = None
    rounds: int = 0
    peak_megabytes: float | None = None
    memory_ratio: float | None = None
    reason: str = ""


def main() -> None:
    arguments = _arguments()
    if not arguments.plain and not STEADY.items() <= os.environ.items():  # both are read when a process starts
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], os.environ | STEADY)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    console = Console(width=max(Console().width, 130))
    models, sizes, batches = arguments.models.split(","), _numbers(arguments.sizes), _numbers(arguments.batches)
    if arguments.quick:
        models, sizes, batches = ["resnet18"], [224], [1, 8]
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [d for d in devices if arguments.device in ("all", d)]
    if "cuda" not in devices:
        console.print("no GPU is measured: PyTorch sees none, or --device left it out")
    configurations = list(product(devices, models, sizes, batches))
    results: list[Result] = []
    begin = time.monotonic()
    for i, (device, model, size, batch) in enumerate(configurations, 1):
        load = " ".join(f"{x:.1f}" for x in os.getloadavg())
        console.print(
            f"[{i}/{len(configurations)}] {device} {model} {size} px, batch {batch}; "
            f"{time.monotonic() - begin:.0f} s so far, load {load}"
        )
        if arguments.methods:
            new = methods(device, model, size, batch)
        else:
            new = configuration(device, model, size, batch, arguments.memory_gb)
        results += new
        console.print(_table(new))
        if arguments.json:
            _write(arguments.json, results)
    conclusion = [] if arguments.methods else _bars(results)
    console.print(_table(results), *conclusion, _machine(), sep="\n")


def configuration(device: str, model: str, size: int, batch: int, memory_gb: float) -> list[Result]:
    """Memory first: a contender that needs too much is shown as such and not timed."""
    peaks = {which: _typical_peak(which, model, size, batch, device, memory_gb) for which in CONTENDERS}
    able = [which for which, peak in peaks.items() if peak.bytes is not None]
    times = _take_turns(able, device, model, size, batch) if BARE in able else {}
    return [
        _result((device, model, size, batch), which, peaks, times.get(which), times.get(BARE)) for which in CONTENDERS
    ]


def methods(device: str, model: str, size: int, batch: int) -> list[Result]:
    """Every attention method; what takes minutes a round runs in the first round only."""
    where = torch.device(device)
    network = build(model, where)
    x = torch.rand(batch, 3, size, size, device=where)
    runs = {BARE: CONTENDERS[BARE](network, MODELS[model]), **method_runs(network, model, batch)}
    times = _rounds(runs, x, once=SLOW)
    return [_timed((device, model, size, batch), which, times[which], times[BARE]) for which in runs]


def _typical_peak(which: str, model: str, size: int, batch: int, device: str, memory_gb: float) -> Peak:
    """The median of three children where a batch is so small that a page more or less shows, else one child's."""
    children = 3 if batch == 1 else 1
    peaks = [measure_peak(which, model, size, batch, device, memory_gb) for _ in range(children)]
    failed = [peak for peak in peaks if peak.bytes is None]
    return failed[0] if failed else sorted(peaks, key=lambda peak: peak.bytes or 0)[children // 2]


def _take_turns(able: list[str], device: str, model: str, size: int, batch: int) -> dict[str, list[float]]:
    where = torch.device(device)
    network = build(model, where)
    runs = {which: contender(which, model, network, size) for which in able}
    return _rounds(runs, torch.rand(batch, 3, size, size, device=where))


def _rounds(runs: dict[str, Run], x: Tensor, once: tuple[str, ...] = ()) -> dict[str, list[float]]:
    """Seconds of each in each round; of those in `once` in the first round only."""
    quick = {which: run for which, run in runs.items() if which not in once}
    first = sum(_seconds(run, x) for run in quick.values() for _ in range(2)) / 2  # the first call builds caches
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(ROUND_SECONDS / first)))
    times: dict[str, list[float]] = {which: [] for which in runs}
    for i in range(rounds):
        for which, run in (quick if i else runs).items():
            times[which].append(_seconds(run, x))
    return times


def _seconds(run: Run, x: Tensor) -> float:
    _wait(x)
    begin = time.perf_counter()
    run(x)
    _wait(x)
    return time.perf_counter() - begin


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def _result(
    where: tuple[str, str, int, int],
    which: str,
    peaks: dict[str, Peak],
    seconds: list[float] | None,
    bare: list[float] | None,
) -> Result:
    peak, bare_peak = peaks[which].bytes, peaks[BARE].bytes
    if seconds is None or bare is None or peak is None or bare_peak is None:
        return Result(*where, which, reason=peaks[which].reason or f"{BARE} could not run: {peaks[BARE].reason}")
    return replace(
        _timed(where, which, seconds, bare), peak_megabytes=peak / 1e6, memory_ratio=peak / max(bare_peak, 1)
    )


def _timed(where: tuple[str, str, int, int], which: str, seconds: list[float], bare: list[float]) -> Result:
    if len(seconds) < len(bare):  # ran in the first round only, for longer than any round takes
        bare = [statistics.median(bare)] * len(seconds)
    ratios = [own / other for own, other in zip(seconds, bare, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Result(
        *where,
        which,
        milliseconds=1000 * statistics.median(seconds),
        time_ratio=statistics.median(ratios),
        time_ratio_quartiles=(low, high),
        rounds=len(ratios),
    )


def _table(results: list[Result]) -> Table:
    table = Table(title="ratios to the bare forward pass; median (quartiles) of paired rounds")
    for heading in ("device", "network", "px", "batch", "contender", "ms", "time", "MB", "memory", "rounds"):
        table.add_column(heading, justify="left" if heading in ("device", "network", "contender") else "right")
    for r in results:
        start = (r.device, r.model, str(r.size), str(r.batch), r.contender)
        if r.time_ratio is None or r.time_ratio_quartiles is None:
            table.add_row(*start, "-", r.reason, "-", "-", "-")
            continue
        low, high = r.time_ratio_quartiles
        time_text = f"{r.time_ratio:.3f} ({low:.2f}-{high:.2f})"
        numbers = (
            f"{r.milliseconds:.1f}",
            time_text,
            "-" if r.peak_megabytes is None else f"{r.peak_megabytes:.0f}",
            "-" if r.memory_ratio is None else f"{r.memory_ratio:.3f}",
            str(r.rounds),
        )
        table.add_row(*start, *numbers, style="bold" if r.contender == OURS else None)
    return table


def _bars(results: list[Result]) -> Iterator[str]:
    ours = [r for r in results if r.contender == OURS]
    done = [(r, r.time_ratio, r.memory_ratio) for r in ours if r.time_ratio is not None and r.memory_ratio is not None]
    over = [r for r, slower, larger in done if slower > TIME_BAR or larger > MEMORY_BAR]
    yield (
        f"{OURS}: {len(done) - len(over)} of {len(ours)} configurations within {TIME_BAR:.2f} of the bare time "
        f"and {MEMORY_BAR:.2f} of its memory"
    )
    for r in over:
        where = f"{r.device} {r.model} {r.size} px, batch {r.batch}"
        yield f"  over: {where}: time {r.time_ratio:.3f}, memory {r.memory_ratio:.3f}"


def _machine() -> str:
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"
    return f"{machine}, load {os.getloadavg()[0]:.1f}: another load makes the times worth less"


def _write(path: Path, results: list[Result]) -> None:
    machine = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "load": os.getloadavg(),
        "steady": STEADY.items() <= os.environ.items(),
    }
    path.write_text(json.dumps({"machine": machine, "results": [asdict(r) for r in results]}, indent=1) + "\n")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="resnet18 at 224 px, batch 1 and 8, only")
    parser.add_argument("--methods", action="store_true", help="each attention method instead of other libraries")
    parser.add_argument("--json", type=Path, help="write the figures here, after every configuration")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sizes", default="224,512")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--device", choices=("all", "cpu", "cuda"), default="all")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU; as many as it likes by default")
    parser.add_argument("--plain", action="store_true", help="leave heap and waiting threads as the system has them")
    parser.add_argument("--memory-gb", type=float, default=24.0, help="what one contender may take, on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()

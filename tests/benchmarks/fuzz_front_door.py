"""A million broken connections, association requests, command sets and data sets against the front door.

    python -m tests.benchmarks.fuzz_front_door [--cases 1000000] [--seed 1] [--processes 2] [--json fuzz.json]

Every case is made of the seed and its number alone. After each: it came back in time, raised nothing, the sender got an
answer or an end, and Success only for what was committed; every thousand: no descriptor, thread or file is left over.
A case that fails is kept as a file in tests/benchmarks/fuzz_seeds, which `tests/dicom/test_fuzz.py` replays for ever.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.benchmarks.fuzz_targets import Connections, Target, make, targets

SEEDS = Path(__file__).with_name("fuzz_seeds")
CASE_TIMEOUT_S = 10.0
ROUND = 1000
GROWTH_LIMIT_BYTES = 64 * 1024 * 1024
OUT_OF_TIME = 3


@dataclass
class Report:
    """What one process saw. Memory in bytes, after the first thousand cases and at the end."""

    cases: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    memory_before: int = 0
    memory_after: int = 0
    seconds: float = 0.0


def keep(target: str, content: bytes, seed: int, number: int) -> Path:
    """Keep a failing case for ever."""
    SEEDS.mkdir(exist_ok=True)
    path = SEEDS / f"{target}-{seed}-{number}.bin"
    path.write_bytes(content)
    return path


def attempt(run: Target, content: bytes) -> str | None:
    """Run one case; what is wrong, None when nothing is."""
    try:
        return run(content)
    except Exception:
        return traceback.format_exc(limit=-4)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def fuzz(seed: int, numbers: range, told: Queue[Any]) -> None:
    """Run the cases in this process; tells the queue of every thousand (an int) and at the end its Report."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    by_name, report = targets(), Report()
    connections = by_name["connection"]
    assert isinstance(connections, Connections)
    told.put(0)  # the queue has a thread from its first use on
    started, before = time.monotonic(), (descriptors(), threading.active_count())
    for count, number in enumerate(numbers, 1):
        target, content = make(number, seed)
        signal.signal(signal.SIGALRM, lambda *_, case=(target, content, number): give_up(seed, *case))
        signal.setitimer(signal.ITIMER_REAL, CASE_TIMEOUT_S)
        wrong = attempt(by_name[target], content)
        signal.setitimer(signal.ITIMER_REAL, 0)
        report.cases[target] = report.cases.get(target, 0) + 1
        if wrong:
            report.failures.append(f"{keep(target, content, seed, number).name}: {wrong}")
        if count % ROUND == 0 or count == len(numbers):
            told.put(count % ROUND or ROUND)
            wrong = left_over(before, connections)
            if wrong:
                report.failures.append(f"after case {number}: {wrong}")
        if count == min(ROUND, len(numbers)):
            report.memory_before = resident_bytes()
        if len(report.failures) >= 20:
            break
    report.memory_after, report.seconds = resident_bytes(), time.monotonic() - started
    if report.memory_after - report.memory_before > GROWTH_LIMIT_BYTES:
        report.failures.append(f"memory grew from {report.memory_before} to {report.memory_after} bytes")
    connections.real.close()
    told.put(report)


def give_up(seed: int, target: str, content: bytes, number: int) -> None:
    """The watchdog: the case has not come back."""
    path = keep(target, content, seed, number)
    os.write(2, f"\n{path.name} did not come back within {CASE_TIMEOUT_S:g} s\n".encode())
    traceback.print_stack(limit=12)
    os._exit(OUT_OF_TIME)


def left_over(before: tuple[int, int], connections: Connections) -> str | None:
    now = (descriptors(), threading.active_count())
    if now != before:
        return f"(descriptors, threads) were {before}, are {now}"
    try:
        connections.real.check()
    except AssertionError as error:
        return str(error)
    return None


def run(cases: int, seed: int, processes: int) -> tuple[list[Report], list[str]]:
    """Fuzz in several processes with a progress bar; the reports, and how processes ended that gave none."""
    context = multiprocessing.get_context("spawn")
    told: Queue[Any] = context.Queue()
    workers = [
        context.Process(target=fuzz, args=(seed, range(number, cases, processes), told)) for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    reports: list[Report] = []
    columns = (TextColumn("fuzzing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=cases)
        while len(reports) < processes:
            try:
                message = told.get(timeout=0.5)
            except Empty:
                if not any(worker.is_alive() for worker in workers) and told.empty():
                    break
                continue
            if isinstance(message, Report):
                reports.append(message)
            else:
                progress.advance(task, message)
    for worker in workers:
        worker.join()
    return reports, [f"a process ended with status {w.exitcode}" for w in workers if w.exitcode != 0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    reports, ended = run(arguments.cases, arguments.seed, arguments.processes)
    seconds = time.monotonic() - started
    failures = ended + [failure for report in reports for failure in report.failures]
    total: Counter[str] = sum((Counter(report.cases) for report in reports), Counter())
    table = Table("target", "cases", title=f"seed {arguments.seed}, {seconds:.0f} s")
    for name, count in sorted(total.items()):
        table.add_row(name, f"{count:,}")
    table.add_row("all", f"{total.total():,} ({total.total() / seconds:,.0f} a second)")
    Console(stderr=True).print(table)
    for failure in failures:
        print(failure, file=sys.stderr)
    if arguments.json:
        result = {
            "seed": arguments.seed,
            "cases": dict(total),
            "seconds": seconds,
            "cases_per_s": total.total() / seconds,
            "failures": failures,
            "processes": [asdict(report) for report in reports],
        }
        arguments.json.write_text(json.dumps(result, indent=2))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

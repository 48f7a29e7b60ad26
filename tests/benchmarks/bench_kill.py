"""SIGKILL at random moments while four senders push: is every acknowledged image answered, once?

    python -m tests.benchmarks.bench_kill [--kills 200] [--seed 1] [--json bench-kill.json]

Of every ten kills about five end the service's own process, two one receiver process, three all processes at once; a
fifth of them may hit while the node is still starting. The senders send again what was not acknowledged. The archive is
DCMTK's storescp, which keeps every copy of everything. Ends with status 1 when an image is lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import Progress

from dicom_gam.service.node import verify_audit_log
from dicom_gam.storage.states import JobState
from tests.benchmarks.pushing import Ledger, Outcome, Senders, outcome
from tests.benchmarks.receivers_under_test import NotStartedError, Sink
from tests.benchmarks.working_node import WorkingNode

SIDES = (16, 128, 512, 1024)  # 1 MiB takes long enough to be hit in the middle of a data set
KINDS = ("service",) * 5 + ("receiver",) * 2 + ("all processes",) * 3
WHILE_STARTING = 0.2
STARTS = 20


@dataclass(frozen=True)
class Run:
    """What a number of kills came to."""

    seed: int
    kills: dict[str, int]
    ended_by_itself: int
    failed_starts: list[str]
    orphaned: int
    outcome: Outcome
    images_sent_again: int
    broken_associations: int
    statuses: dict[str, int]
    jobs: dict[str, int]
    audit_records: int
    seconds: float

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing doubled, one job for each image and none that failed, no process left behind."""
        done = self.jobs.get(JobState.DONE, 0)
        return (
            self.outcome.sound and sum(self.jobs.values()) == done == self.outcome.images and not self.ended_by_itself
        )


class Killer:
    """Kills one node again and again, and starts it again where that is ours to do."""

    def __init__(self, node: WorkingNode, seed: int, ready_s: tuple[float, float]) -> None:
        self._node, self._random, self._ready_s = node, Random(seed), ready_s
        self.kills: Counter[str] = Counter()
        self.ended_by_itself = 0
        self.failed_starts: list[str] = []

    def kill_once(self) -> None:
        """Wait for a random moment, kill, start again."""
        time.sleep(self._random.uniform(*self._ready_s))
        if not self._node.running():
            self.ended_by_itself += 1
        kind = self._random.choice(KINDS)
        receivers = self._node.receivers() if self._node.running() else []
        if kind == "receiver" and receivers:
            self._kill(self._random.choice(receivers))
            self.kills[kind] += 1
            return  # to bring it back is the service's business
        self._kill_service("service" if kind == "receiver" else kind)
        if self._random.random() < WHILE_STARTING:
            self._node.launch()
            time.sleep(self._random.uniform(0, 1.5))
            self._kill_service("all processes while starting")
        self._start()

    def _start(self) -> None:
        """As a supervisor would: when it ends at once, again after a moment."""
        for _ in range(STARTS):
            try:
                return self._node.start()
            except NotStartedError as error:
                self.failed_starts.append(str(error).splitlines()[-1])
                time.sleep(0.5)
        return self._node.start()

    def _kill_service(self, kind: str) -> None:
        if kind == "service":
            self._node.kill_service()
        else:
            self._node.kill()
        self.kills[kind] += 1

    @staticmethod
    def _kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


def kill_and_count(
    folder: Path, kills: int, seed: int, *, ready_s: tuple[float, float] = (0.05, 1.5), pause_s: float = 0.08, told=None
) -> Run:
    """Push, kill so many times, let the node come to rest, count. `told` is called after each kill."""
    begin = time.monotonic()
    ledger = Ledger()
    with Sink(folder / "archive") as archive:
        node = WorkingNode(folder / "node", archive, seconds_per_batch=0.02, receivers=2)
        with node:
            with Senders(node.port, ledger, seed=seed, sides=SIDES, pause_s=pause_s) as senders:
                killer = Killer(node, seed, ready_s)
                while sum(killer.kills.values()) < kills:
                    killer.kill_once()
                    if told:
                        told(sum(killer.kills.values()), len(ledger.acknowledged))
                senders.finish(90)
            node.wait_idle(120 + len(ledger.acknowledged) / 20)
            jobs = {str(state): count for state, count in node.job_counts().items() if count}
            status = node.end()
            if status:
                msg = f"the node ended with status {status} after SIGTERM"
                raise RuntimeError(msg)
            return Run(
                seed=seed,
                kills=dict(killer.kills),
                ended_by_itself=killer.ended_by_itself,
                failed_starts=killer.failed_starts,
                orphaned=node.orphaned(),
                outcome=outcome(ledger.acknowledged, archive.files()),
                images_sent_again=ledger.sent_again,
                broken_associations=ledger.broken,
                statuses=dict(ledger.statuses),
                jobs=jobs,
                audit_records=verify_audit_log(node.storage),
                seconds=time.monotonic() - begin,
            )


def main() -> None:
    """Kill, count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-kill-"))
    try:
        with Progress() as progress:
            task = progress.add_task(f"kills, seed {arguments.seed}", total=arguments.kills)

            def told(kills: int, images: int) -> None:
                progress.update(task, completed=kills, description=f"kills, {images} images acknowledged")

            run = kill_and_count(folder, arguments.kills, arguments.seed, told=told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(run, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(run) | {"sound": run.sound}, indent=1) + "\n")
    sys.exit(not run.sound)


def report(run: Run, console: Console) -> None:
    """Print the counts."""
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(run.kills.items()))
    console.print(f"kills with seed {run.seed}: {kills}; took {run.seconds:.0f} s")
    console.print(str(run.outcome))
    console.print(
        f"{run.images_sent_again} images were sent more than once, over {run.broken_associations} broken associations; "
        f"statuses {run.statuses}; jobs {run.jobs}; audit log of {run.audit_records} records unbroken"
    )
    console.print(
        f"the node ended by itself {run.ended_by_itself} times; {run.orphaned} killed services left a process behind; "
        f"{len(run.failed_starts)} starts failed {sorted(set(run.failed_starts))}"
    )
    console.print("SOUND" if run.sound else "NOT SOUND")


if __name__ == "__main__":
    main()

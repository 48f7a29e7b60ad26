"""Many small images through the node at full speed: does it stay as quick, as small and as tidy as it began?

    python -m tests.benchmarks.bench_soak [--images 20000] [--json bench-soak.json]

Four senders push without a pause; the fake processor makes two small objects of each image, which go to DCMTK's
storescp. Time per image is taken twice, each time first against last tenth of a stretch under like conditions:
acknowledged images while all push (processing goes on beside), and delivered objects once all has been sent (only
processing and delivery are left; of the whole run where they keep up with the senders). Memory and descriptors of every
process are looked at once a second; growth is from the end of the first tenth of the samples to the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.benchmarks.modality import SUCCESS, Modality, encoded_image, new_uids
from tests.benchmarks.processes import Usage, usages
from tests.benchmarks.receivers_under_test import Sink
from tests.benchmarks.working_node import WorkingNode

SENDERS, SIDE, IMAGES_PER_STUDY = 4, 64, 4
TIME_BAR = 1.2
MEMORY_GROWTH_BAR, MEMORY_SLACK_BYTES, DESCRIPTOR_SLACK = 1.1, 16 * 1024**2, 8
WARM_UP = 200  # images before the clock starts: imports, caches, the first growth of every table
FEWEST_LEFT = 0.2  # a drain shorter than this share of the images says nothing


@dataclass(frozen=True)
class Growth:
    """One process from the first tenth of its samples to the last: medians."""

    what: str
    rss_bytes: tuple[float, float]
    descriptors: tuple[float, float]

    @property
    def flat(self) -> bool:
        """Whether neither memory nor descriptors grew beyond the bars."""
        before, after = self.rss_bytes
        memory = after <= max(before * MEMORY_GROWTH_BAR, before + MEMORY_SLACK_BYTES)
        return memory and self.descriptors[1] <= self.descriptors[0] + DESCRIPTOR_SLACK


@dataclass(frozen=True)
class Soak:
    """What a soak came to; times are seconds."""

    images: int
    receiving_s: float
    whole_s: float
    receiving_ratio: float
    delivering_ratio: float
    delivering_of: str
    most_waiting: int
    left_waiting: int
    objects_delivered: int
    database_bytes_per_image: float
    growth: list[Growth]
    load: tuple[float, float, float]

    @property
    def sound(self) -> bool:
        """Every bar is met."""
        quick = max(self.receiving_ratio, self.delivering_ratio) <= TIME_BAR
        whole = not self.left_waiting and self.objects_delivered == 2 * self.images
        return quick and whole and all(growth.flat for growth in self.growth)


class Sampler:
    """Looks at every process of the node and at its queue, until it is closed."""

    def __init__(self, node: WorkingNode, progress: Progress, images: int) -> None:
        self._node, self._progress = node, progress
        self._task = progress.add_task("queue", total=images * 2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.samples: dict[int, list[Usage]] = {}
        self.most_waiting = 0

    def _look(self) -> None:
        while not self._ended.wait(1.0):
            for usage in usages(self._node.pid):
                self.samples.setdefault(usage.pid, []).append(usage)
            waiting = self._node.waiting()
            self.most_waiting = max(self.most_waiting, waiting)
            self._progress.update(self._task, description=f"queue: {waiting} jobs and deliveries wait")

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def growth(self) -> list[Growth]:
        """Of every process that was there for at least half of the time."""
        longest = max(map(len, self.samples.values()))
        return [_growth(samples) for samples in self.samples.values() if len(samples) * 2 >= longest]


def _growth(samples: Sequence[Usage]) -> Growth:
    tenth = max(1, len(samples) // 10)
    ends = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    return Growth(
        what=_role(samples[0].what),
        rss_bytes=tuple(statistics.median(u.rss_bytes for u in end) for end in ends),
        descriptors=tuple(statistics.median(u.descriptors for u in end) for end in ends),
    )


def _role(command: str) -> str:
    if "run_node" in command:
        return "service"
    return next((word for word in ("receiver", "decoder") if word in command), command[:60])


def soak(folder: Path, images: int, progress: Progress) -> Soak:
    """Push, wait until all is delivered, measure."""
    with Sink(folder / "archive", keep=False) as archive, WorkingNode(folder / "node", archive) as node:
        _push(node.port, WARM_UP, "warm-up", None)
        node.wait_idle(120)
        with Sampler(node, progress, images) as sampler:
            load, begin, wall = os.getloadavg(), time.monotonic(), time.time()
            acknowledged = _push(node.port, images, "soak", progress)
            receiving_s, sent_by = time.monotonic() - begin, time.time()
            node.wait_idle(600 + images / 10)
            whole_s = time.monotonic() - begin
        delivered = [moment for moment in node.delivered_at() if moment >= wall]
        of, moments = _stretch(delivered, sent_by)
        left, size = node.waiting(), node.database_bytes()
        return Soak(
            images=images,
            receiving_s=receiving_s,
            whole_s=whole_s,
            receiving_ratio=slow_down(acknowledged),
            delivering_ratio=slow_down(moments),
            delivering_of=of,
            most_waiting=sampler.most_waiting,
            left_waiting=left,
            objects_delivered=len(delivered),
            database_bytes_per_image=size / (images + WARM_UP),
            growth=sampler.growth(),
            load=load,
        )


def _stretch(delivered: list[float], sent_by: float) -> tuple[str, list[float]]:
    drained = [moment for moment in delivered if moment > sent_by]
    if len(drained) >= FEWEST_LEFT * len(delivered):
        return "what was delivered after the last image was in", drained
    return "all deliveries, which kept up with the senders", delivered


def slow_down(moments: Sequence[float]) -> float:
    """How long the last tenth of ordered moments took to how long the first tenth took."""
    ordered = sorted(moments)
    tenth = len(ordered) // 10
    return (ordered[-1] - ordered[-1 - tenth]) / (ordered[tenth] - ordered[0])


def _push(port: int, images: int, seed: str, progress: Progress | None) -> list[float]:
    """Send so many images and return when each was acknowledged. Raises RuntimeError when one wasn't."""
    moments: list[float] = []
    failures: list[str] = []
    task = progress.add_task("images acknowledged", total=images) if progress else None

    def send(number: int) -> None:
        names = new_uids(images // SENDERS, f"{seed} {number}")
        studies = new_uids(len(names) // IMAGES_PER_STUDY + 1, f"{seed} studies {number}")
        try:
            with Modality(port) as association:
                for i, name in enumerate(names):
                    status = association.store(name, encoded_image(name, studies[i // IMAGES_PER_STUDY], SIDE))
                    if status != SUCCESS:
                        failures.append(f"status {status:04X}")
                        return
                    moments.append(time.monotonic())
                    if progress and task is not None and i % 50 == 0:
                        progress.update(task, completed=len(moments))
        except OSError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"the node did not take every image: {', '.join(failures)}")
    return moments


def report(found: Soak, console: Console) -> None:
    """Print the figures and whether the bars are met."""
    console.print(
        f"{found.images} images of {SIDE}x{SIDE} pixels by {SENDERS} senders, load before {found.load}: received in "
        f"{found.receiving_s:.0f} s ({found.images / found.receiving_s:.0f} images/s), all delivered after "
        f"{found.whole_s:.0f} s ({found.images / found.whole_s:.0f} images/s)"
    )
    for what, ratio in (("acknowledging", found.receiving_ratio), (found.delivering_of, found.delivering_ratio)):
        verdict = "met" if ratio <= TIME_BAR else "MISSED"
        console.print(f"time per image, last tenth / first tenth, {what}: {ratio:.2f}, bar {TIME_BAR} {verdict}")
    console.print(
        f"queue: at most {found.most_waiting} waiting, {found.left_waiting} at the end; {found.objects_delivered} "
        f"objects delivered of {2 * found.images}; database {found.database_bytes_per_image:.0f} bytes per image"
    )
    table = Table(title="Every process, after the first tenth and at the end")
    for column in ("process", "RSS MB", "descriptors", "flat"):
        table.add_column(column)
    for growth in found.growth:
        memory = " to ".join(f"{value / 1e6:.0f}" for value in growth.rss_bytes)
        descriptors = " to ".join(f"{value:.0f}" for value in growth.descriptors)
        table.add_row(growth.what, memory, descriptors, "yes" if growth.flat else "NO")
    console.print(table, "SOUND" if found.sound else "NOT SOUND")


def main() -> None:
    """Soak, print, write; ends with status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-soak-"))
    try:
        with Progress() as progress:
            found = soak(folder, arguments.images // SENDERS * SENDERS, progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(found, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(found) | {"sound": found.sound}, indent=1) + "\n")
    sys.exit(not found.sound)


if __name__ == "__main__":
    main()

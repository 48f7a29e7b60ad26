"""How much this node receives in a second, beside DCMTK's storescp, Orthanc and pynetdicom's storescp.

    python -m tests.benchmarks.bench_front_door [--quick] [--json bench-front-door.json]

One run holds every row. Receivers take turns within a round (A B C D E, A B C D E, ...), each started afresh on an
empty folder, so what else happens on the machine meets all of them; a ratio is taken within its round. The sender is
DCMTK's storescu, with TCP_NODELAY on both sides. Its start-up (a few hundredths of a second each) and the reading of
its file count in the seconds, for every receiver alike; sender and receiver share the machine's cores.

What a receiver acknowledges is counted; what it was refused is not. The last rows are what the machine can do at most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from blake3 import blake3
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine_limits import (
    digest_bytes_per_second,
    loopback_bytes_per_second,
    synced_files_per_second,
)
from tests.benchmarks.processes import Watch
from tests.benchmarks.receivers_under_test import (
    AE_TITLE,
    QUICK,
    RECEIVERS,
    Certificate,
    Orthanc,
    OurNode,
    Receiver,
    Storescp,
)
from tests.benchmarks.synthetic_radiographs import KINDS, make_radiograph

ASSOCIATIONS = (1, 4, 16, 64)
IMAGES = {"DX 10 MB": 64, "CR 0.5 MB": 768}  # of one cell, dealt to its associations
CELL_TIMEOUT_S = 180.0
ORTHANC_BAR, STORESCP_AIM = 1.0, 0.5


@dataclass(frozen=True)
class Cell:
    """What is measured at once."""

    kind: str
    tls: bool
    associations: int


@dataclass(frozen=True)
class Reading:
    """One receiver in one cell in one round. `refused` senders ended with anything but success."""

    receiver: str
    cell: Cell
    round: int
    seconds: float
    images: int
    size_bytes: int
    cpu_s: float
    peak_rss_bytes: int
    refused: int

    @property
    def megabytes_per_second(self) -> float:
        """Of acknowledged files, in 10^6 bytes."""
        return self.images * self.size_bytes / self.seconds / 1e6


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    console = Console(width=max(Console().width, 130))
    folder = Path(tempfile.mkdtemp(prefix="bench-front-door-", dir=arguments.folder))
    readings: list[Reading] = []
    try:
        cells = _cells(arguments)
        _run(cells, arguments, folder, console, readings)
        limits = _limits(folder, 0.3 if arguments.quick else 3.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for kind, tls in sorted({(cell.kind, cell.tls) for cell in cells}, reverse=True):
        console.print(_table(kind, tls, readings))
    console.print(_limits_table(limits), *_bars(readings), _machine(), sep="\n")
    if arguments.json:
        _write(arguments.json, readings, limits)


def _run(
    cells: Sequence[Cell], arguments: argparse.Namespace, folder: Path, console: Console, readings: list[Reading]
) -> None:
    images = {kind: make_radiograph(kind, folder) for kind in {cell.kind for cell in cells}}
    certificate = Certificate(folder)
    receivers = [r for r in RECEIVERS if arguments.receivers is None or r.name in arguments.receivers.split(",")]
    begin = time.monotonic()
    for number, (turn, cell) in enumerate(product(range(arguments.rounds), cells), 1):
        console.print(
            f"[{number}/{arguments.rounds * len(cells)}] {cell.kind}, {cell.associations} associations"
            f"{', TLS' * cell.tls}; {time.monotonic() - begin:.0f} s so far, load {_load()}"
        )
        for receiver in receivers:
            if cell.tls and (not receiver.speaks_tls or (arguments.quick and receiver is not OurNode)):
                continue
            if not arguments.quick:
                os.sync()  # what the one before left in memory is not this one's to write
            per_sender = 1 if arguments.quick else max(2, IMAGES[cell.kind] // cell.associations)
            reading = _measure(receiver, cell, turn, images[cell.kind], per_sender, folder, certificate)
            readings.append(reading)
            console.print(f"    {receiver.name:22} {reading.megabytes_per_second:8.0f} MB/s, refused {reading.refused}")


def _measure(
    kind: type[Receiver], cell: Cell, turn: int, image: Path, per_sender: int, folder: Path, certificate: Certificate
) -> Reading:
    made = kind(folder / "receiver", certificate if cell.tls else None)
    senders: list[subprocess.Popen[bytes]] = []
    with made as receiver:
        _finish([_sender(receiver, cell, image, 1, certificate)], CELL_TIMEOUT_S)  # what is loaded or made only once
        with Watch(receiver.pid) as watch:
            begin = time.perf_counter()
            try:
                senders += (_sender(receiver, cell, image, per_sender, certificate) for _ in range(cell.associations))
                refused = _finish(senders, CELL_TIMEOUT_S)
            finally:
                seconds = time.perf_counter() - begin
                for sender in senders:
                    sender.kill()
                    sender.wait()
        size = image.stat().st_size
        images = (cell.associations - refused) * per_sender
        return Reading(kind.name, cell, turn, seconds, images, size, watch.cpu_s, watch.peak_rss_bytes, refused)


def _sender(
    receiver: Receiver, cell: Cell, image: Path, repeat: int, certificate: Certificate
) -> subprocess.Popen[bytes]:
    command = ["storescu", "-R", "+C", "+II", "--repeat", str(repeat), "-aec", AE_TITLE]
    if cell.tls:
        command += ["+tla", "+cf", str(certificate.certificate)]
    command += ["127.0.0.1", str(receiver.port), str(image)]
    return subprocess.Popen(
        command, env=os.environ | QUICK, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _finish(senders: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> int:
    """Wait for all and count those that weren't content, or not done in time."""
    deadline = time.monotonic() + timeout_s
    unhappy = 0
    for sender in senders:
        try:
            unhappy += sender.wait(max(0.0, deadline - time.monotonic())) != 0
        except subprocess.TimeoutExpired:
            unhappy += 1
    return unhappy


def _limits(folder: Path, seconds: float) -> dict[str, float]:
    found = {"loopback copy, MB/s": loopback_bytes_per_second(seconds) / 1e6}
    for name, digest in (("BLAKE3", blake3), ("SHA-256", hashlib.sha256)):
        found[f"{name}, MB/s"] = digest_bytes_per_second(digest, seconds) / 1e6
    for kind, (_, rows, columns) in KINDS.items():
        size = rows * columns * 2
        files = synced_files_per_second(folder, size, seconds)
        found |= {f"write + fsync {kind}, MB/s": files * size / 1e6, f"write + fsync {kind}, files/s": files}
    return found


def _cells(arguments: argparse.Namespace) -> list[Cell]:
    if arguments.quick:
        return [Cell("CR 0.5 MB", tls, 4) for tls in (False, True)]
    counts = [int(n) for n in arguments.associations.split(",")]
    kinds = [kind for kind in KINDS if kind[:2] in arguments.kinds]
    return [Cell(*cell) for cell in product(kinds, [False] if arguments.no_tls else [False, True], counts)]


def _typical(readings: Sequence[Reading], receiver: str, cell: Cell) -> list[Reading]:
    """All rounds of one receiver in one cell, slowest first."""
    return sorted(
        (r for r in readings if r.receiver == receiver and r.cell == cell), key=lambda r: r.megabytes_per_second
    )


def _table(kind: str, tls: bool, readings: Sequence[Reading]) -> Table:
    table = Table(title=f"{kind}, {'TLS' if tls else 'plain'}: median (least to most) of the rounds")
    for column in ("receiver", "associations", "MB/s", "images/s", "CPU s per GB", "peak RSS MB", "refused senders"):
        table.add_column(column, justify="left" if column == "receiver" else "right")
    for receiver in RECEIVERS:
        for cell in sorted({r.cell for r in readings}, key=lambda cell: cell.associations):
            found = _typical(readings, receiver.name, cell)
            if (cell.kind, cell.tls) == (kind, tls) and found:
                table.add_row(f"{receiver.name} ({receiver.promise})", str(cell.associations), *_columns(found))
    return table


def _columns(found: Sequence[Reading]) -> Iterator[str]:
    speeds = [r.megabytes_per_second for r in found]
    yield f"{statistics.median(speeds):.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f})"
    yield f"{statistics.median(r.images / r.seconds for r in found):.0f}"
    got = [r.cpu_s / (r.images * r.size_bytes) * 1e9 for r in found if r.images]
    yield f"{statistics.median(got):.2f}" if got else "-"
    yield f"{statistics.median(r.peak_rss_bytes for r in found) / 1e6:.0f}"
    refused = [r.refused for r in found]
    yield f"{max(refused)} of {found[0].cell.associations}" if any(refused) else "0"


def _limits_table(limits: dict[str, float]) -> Table:
    table = Table(title="What this machine can do at most, in the same run")
    table.add_column("limit")
    table.add_column("value", justify="right")
    for name, value in limits.items():
        table.add_row(name, f"{value:.0f}")
    return table


def _ratios(readings: Sequence[Reading], other: type[Receiver], cell: Cell) -> list[float]:
    """Ours to another's speed, round by round; without the rounds in which either moved nothing."""
    theirs = {r.round: r.megabytes_per_second for r in _typical(readings, other.name, cell)}
    ours = {r.round: r.megabytes_per_second for r in _typical(readings, OurNode.name, cell)}
    return [ours[turn] / theirs[turn] for turn in ours if theirs.get(turn) and ours[turn]]


def _bars(readings: Sequence[Reading]) -> Iterator[str]:
    for cell in dict.fromkeys(r.cell for r in readings):
        where = f"{cell.kind}, {cell.associations:2} associations, {'TLS' if cell.tls else 'plain'}"
        for other, least, word in ((Orthanc, ORTHANC_BAR, "bar"), (Storescp, STORESCP_AIM, "aim")):
            ratios = _ratios(readings, other, cell)
            if ratios:
                ratio = statistics.median(ratios)
                asked = other is Storescp or cell.associations in (4, 16)
                verdict = f"{word} {least:.1f} {'met' if ratio >= least else 'MISSED'}" if asked else "no bar here"
                yield f"{where}: ours / {other.name} {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {verdict}"
        refused = sum(r.refused for r in readings if r.cell == cell and r.receiver == OurNode.name)
        if refused or cell.associations == max(ASSOCIATIONS):
            yield f"{where}: senders that we refused: {refused}, bar 0 {'MISSED' if refused else 'met'}"


def _load() -> str:
    return " ".join(f"{x:.1f}" for x in os.getloadavg())


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, load {_load()}"


def _write(path: Path, readings: Sequence[Reading], limits: dict[str, float]) -> None:
    rows = [asdict(r) | {"megabytes_per_second": r.megabytes_per_second} for r in readings]
    document = {"machine": _machine(), "readings": rows, "limits": limits, "bars": list(_bars(readings))}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one image per sender in two cells: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="DX,CR")
    parser.add_argument("--associations", default=",".join(map(str, ASSOCIATIONS)))
    parser.add_argument("--receivers", help="names, separated by commas; all unless given")
    parser.add_argument("--no-tls", action="store_true")
    parser.add_argument("--folder", type=Path, help="a folder on the disk that counts; else the system's temporary one")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    return arguments


if __name__ == "__main__":
    main()

"""How surely and how fast the audit log is verified, and what it costs to append to it.

    python -m tests.benchmarks.bench_audit [--mutations 1000] [--records 10000] [--json bench-audit.json]

Single mutations of a log over several signed files, taken in turn from `tests.storage.made_audit_log.MUTATIONS` with a
seed each: every one must be found, and the right record named. Verifying is compared with the bare SHA-256 over the
same lines by CPU time in the same rounds, appending with and without changes of files by the clock, in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dicom_gam.errors import AuditError
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.audit_signing import Signer
from dicom_gam.storage.sqlite import Database, SqliteAuditHead
from tests.storage.made_audit_log import MUTATIONS, MadeLog, event, make_log

BAR_PER_S = 50_000
FILES = 6
ROUNDS = 9
APPENDS = 200


def mutated(log: MadeLog, count: int, console: Console) -> tuple[dict[str, Counter[str]], list[dict[str, object]]]:
    """What became of each kind of mutation: found and named rightly, named wrongly, not found; the latter in full."""
    outcomes = {mutate.__name__: Counter[str]() for mutate in MUTATIONS}
    wrong: list[dict[str, object]] = []
    for seed in track(range(count), "mutations", console=console, transient=True):
        mutate = MUTATIONS[seed % len(MUTATIONS)]
        done = mutate(log, random.Random(seed))
        log.put(done.lines, done.gone)
        named: int | None = None
        try:
            log.verify(done.head)
            outcome = "not found"
        except AuditError as error:
            named = error.record
            outcome = "right record" if named == done.record else "wrong record"
        log.restore()
        outcomes[mutate.__name__][outcome] += 1
        if outcome != "right record":
            wrong.append({"seed": seed, "mutation": mutate.__name__, "record": done.record, "named": named})
    return outcomes, wrong


def bare_hashing(log: MadeLog) -> None:
    """What can't be saved: reading the files and hashing every line."""
    for name in dict.fromkeys(name for name, _ in log.lines):
        with log.path.with_name(name).open("rb", buffering=1024**2) as file:
            for line in file:
                hashlib.sha256(line)


def speeds(log: MadeLog, rounds: int) -> dict[str, list[float]]:
    """Records per CPU second of each in every round, after one to warm up."""
    steps: dict[str, Callable[[], object]] = {
        "verify": log.verify,
        "bare SHA-256": lambda: bare_hashing(log),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if number:
                found[name].append(len(log.lines) / (time.process_time() - began))
    return found


def append_rates(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Records per second, each synced before the next, without and with a change of files at every 50th or so."""
    kinds = {"one file": 10**9, "a new file at every 25 KiB": 25 * 1024}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds):
        for place, (name, segment_bytes) in enumerate(kinds.items()):
            own = folder / f"{number}-{place}"
            own.mkdir()
            rng = random.Random(number)
            events = [event(rng) for _ in range(APPENDS)]
            database = Database(own / "node.sqlite")
            log = AuditLog(own / "audit.jsonl", SqliteAuditHead(database))
            log.sign_with(Signer(Ed25519PrivateKey.generate()), segment_bytes)
            began = time.monotonic()
            for one in events:
                log.extend([one])
            found[name].append(APPENDS / (time.monotonic() - began))
            log.close()
            database.close()
    return found


def show(console: Console, outcomes: dict[str, Counter[str]], rates: dict[str, list[float]], title: str) -> None:
    """Two tables."""
    table = Table(title="What was done to the log, and what verify said")
    for heading in ("mutation", "done", "right record named", "wrong record", "not found"):
        table.add_column(heading, justify="left" if heading == "mutation" else "right")
    for name, counts in outcomes.items():
        words = (counts["right record"], counts["wrong record"], counts["not found"])
        table.add_row(name.replace("_", " "), str(sum(words)), *map(str, words))
    console.print(table)
    table = Table(title=title)
    for heading in ("what", "records/s", "lowest - highest"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, values in rates.items():
        table.add_row(name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f} - {max(values):,.0f}")
    console.print(table)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
        place = Path(folder) / "log"
        place.mkdir()
        records = arguments.records
        log = make_log(place, records, segment_bytes=records * 480 // FILES, signed_every=max(2, records // 20))
        size = sum(len(line) for _, line in log.lines)
        outcomes, wrong = mutated(log, arguments.mutations, console)
        rates = speeds(log, arguments.rounds)
        files = log.verify().files
        appended = append_rates(Path(folder), max(1, arguments.rounds // 3))
    ratio = statistics.median(v / b for v, b in zip(rates["verify"], rates["bare SHA-256"], strict=True))
    title = (
        f"{records:,} records of {size / records:.0f} bytes in {files} files; verify by CPU time, append by the clock"
    )
    show(console, outcomes, rates | {f"append: {name}": values for name, values in appended.items()}, title)
    speed = statistics.median(rates["verify"])
    console.print(
        f"verify: {ratio:.2f} of bare SHA-256; bar {BAR_PER_S:,}/s: {'met' if speed >= BAR_PER_S else 'missed'}"
    )
    for one in wrong:
        console.print(f"[red]{one}")
    if arguments.json:
        figures = {
            "records": records, "bytes": size, "files": files, "mutations": outcomes, "wrong": wrong,
            "records_per_s": rates, "verify_of_bare_sha256": ratio, "appends_per_s": appended,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0 if not wrong and speed >= BAR_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())

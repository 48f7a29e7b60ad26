"""An audit log over several signed files, and what can be done to it behind our back, with the record to be named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dicom_gam.errors import StorageError
from dicom_gam.storage.audit import AuditLog
from dicom_gam.storage.audit_chain import CHECKPOINT_START, GENESIS, digest, record_line
from dicom_gam.storage.audit_signing import PublicKeys, Signer
from dicom_gam.storage.audit_verification import Verified, verify_log
from dicom_gam.storage.rows import HeadMark

NOON = datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=UTC)


class MemoryHead:
    """The second place, for tests that need no database."""

    def __init__(self) -> None:
        self.mark: HeadMark | None = None
        self.broken = False

    def read(self) -> HeadMark | None:
        return self.mark

    def write(self, mark: HeadMark) -> None:
        if self.broken:
            raise StorageError("database is locked")
        self.mark = mark


class Ticking:
    """A clock that goes on by 10 ms at each look."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=10)
        return self.now


Line = tuple[str, bytes]  # the file's name, and one record with its line's end


@dataclass
class MadeLog:
    """A log as it was written, and its state in memory. `verify` looks at the files."""

    path: Path
    head: HeadMark
    key: Ed25519PrivateKey
    lines: list[Line] = field(default_factory=list)

    @property
    def trusted(self) -> PublicKeys:
        return PublicKeys([self.key.public_key()])

    def verify(self, head: HeadMark | None = None) -> Verified:
        return verify_log(self.path, head or self.head, self.trusted)

    def put(self, lines: list[Line], gone: frozenset[str] = frozenset()) -> None:
        """Write only the files that differ from what they were, remove those that are gone."""
        wanted, was = _by_file(lines), _by_file(self.lines)
        for name in was.keys() | wanted.keys():
            path = self.path.with_name(name)
            if name in gone:
                path.unlink()
            elif wanted.get(name, b"") != was.get(name):
                path.write_bytes(wanted.get(name, b""))

    def restore(self) -> None:
        """Bring every file back to what it was."""
        for name, content in _by_file(self.lines).items():
            path = self.path.with_name(name)
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def _by_file(lines: list[Line]) -> dict[str, bytes]:
    parts: dict[str, list[bytes]] = {}
    for name, line in lines:
        parts.setdefault(name, []).append(line)
    return {name: b"".join(part) for name, part in parts.items()}


def make_log(folder: Path, records: int, *, segment_bytes: int, signed_every: int, at_once: int = 20) -> MadeLog:
    """Write a log of exactly `records` records through AuditLog; the last is a signature, as after a stop."""
    head, rng = MemoryHead(), random.Random(records)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path = folder / "audit.jsonl"
    log = AuditLog(path, head, clock=Ticking())
    log.sign_with(Signer(key), segment_bytes)
    last, signed = 0, 0
    while last < records - 1:
        if last - signed >= signed_every:
            last = signed = log.checkpoint()
            continue
        # A signature and the change of files take a record each.
        count = max(1, min(at_once, records - 2 - last))
        last = log.extend([event(rng) for _ in range(count)])
    if last < records:
        last = log.checkpoint()
    log.close()
    assert (last, head.mark.number) == (records, records), (last, records)
    files = [*sorted(folder.glob("audit-*.jsonl")), path]
    lines = [(file.name, line) for file in files for line in file.read_bytes().splitlines(keepends=True)]
    return MadeLog(path, head.mark, key, lines)


def event(rng: random.Random) -> tuple[str, dict[str, object]]:
    """What a node records, of the usual lengths."""
    job = f"{rng.getrandbits(128):032x}"
    if rng.random() < 0.4:
        return "job.received", {
            "job_id": job,
            "calling_ae_title": "MODALITY",
            "digest": f"sha256:{rng.getrandbits(256):064x}",
        }
    checks = [
        {"name": f"attention.{n}", "value": rng.random(), "threshold": rng.random()} for n in range(rng.randint(1, 7))
    ]
    return "job.result", {
        "job_id": job,
        "verdict": rng.choice(["PASS", "FAIL"]),
        "checks": checks,
        "p_value": rng.random(),
    }


@dataclass
class Mutation:
    """What was done: the lines that are left, the files that are gone, the record that must be named."""

    lines: list[Line]
    record: int
    gone: frozenset[str] = frozenset()
    head: HeadMark | None = None


def _replaced(log: MadeLog, place: int, *lines: bytes) -> list[Line]:
    name = log.lines[place][0]
    return [*log.lines[:place], *((name, line) for line in lines), *log.lines[place + 1 :]]


def flip_a_bit(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines))
    line = bytearray(log.lines[place][1])
    line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
    return Mutation(_replaced(log, place, bytes(line)), place + 1)


def change_a_character(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines))
    line = bytearray(log.lines[place][1])
    inside = [at for at in range(line.index(b'"keys":') + 8, line.rindex(b',"number":')) if chr(line[at]).isalnum()]
    at = rng.choice(inside)
    line[at] = ord(rng.choice([c for c in "0123456789abcdef" if ord(c) != line[at]]))
    return Mutation(_replaced(log, place, bytes(line)), place + 1)


def delete_a_record(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines))
    return Mutation(_replaced(log, place), place + 1)


def repeat_a_record(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines))
    line = log.lines[place][1]
    return Mutation(_replaced(log, place, line, line), place + 2)


def insert_a_forged_record(log: MadeLog, rng: random.Random) -> Mutation:
    """With the number and the digest that belong there; at the beginning of a file, or at the end of the one before."""
    place = rng.randrange(len(log.lines))
    previous = digest(log.lines[place - 1][1][:-1]) if place else GENESIS
    time = json.loads(log.lines[place][1])["time"]
    name, keys = event(rng)
    forged = record_line(place + 1, time, name, previous, keys) + b"\n"
    file = log.lines[place - rng.randrange(2) if place else 0][0]
    return Mutation([*log.lines[:place], (file, forged), *log.lines[place:]], place + 1)


def _swapped(log: MadeLog, first: int, second: int) -> Mutation:
    lines = list(log.lines)
    lines[first] = (lines[first][0], log.lines[second][1])
    lines[second] = (lines[second][0], log.lines[first][1])
    return Mutation(lines, first + 1)


def swap_neighbours(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines) - 1)
    return _swapped(log, place, place + 1)


def swap_distant_records(log: MadeLog, rng: random.Random) -> Mutation:
    return _swapped(log, *sorted(rng.sample(range(len(log.lines)), 2)))


def move_a_record(log: MadeLog, rng: random.Random) -> Mutation:
    place, to = rng.sample(range(len(log.lines)), 2)
    texts = [line for _, line in log.lines]
    texts.insert(to, texts.pop(place))
    return Mutation([(name, text) for (name, _), text in zip(log.lines, texts, strict=True)], min(place, to) + 1)


def _gone(log: MadeLog, left: list[Line], rng: random.Random) -> frozenset[str]:
    """Files without a record are removed, or sometimes left empty."""
    empty = {name for name, _ in log.lines} - {name for name, _ in left}
    return frozenset(empty if rng.random() < 0.5 else empty - {log.path.name})


def cut_whole_records(log: MadeLog, rng: random.Random) -> Mutation:
    kept = rng.randrange(len(log.lines))
    left = log.lines[:kept]
    return Mutation(left, kept + 1, _gone(log, left, rng))


def cut_in_a_record(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines))
    name, line = log.lines[place]
    left = [*log.lines[:place], (name, line[: rng.randrange(1, len(line))])]
    return Mutation(left, place + 1, _gone(log, left, rng))


def remove_a_line_end(log: MadeLog, rng: random.Random) -> Mutation:
    place = rng.randrange(len(log.lines))
    return Mutation(_replaced(log, place, log.lines[place][1][:-1]), place + 1)


def _is_checkpoint(line: bytes) -> bool:
    return line.startswith(CHECKPOINT_START)


def rewrite_the_rest(log: MadeLog, rng: random.Random) -> Mutation:
    """Change a record, chain all after it anew, with the head too, and sign with a key of one's own or not at all."""
    place = rng.choice([at for at, (_, line) in enumerate(log.lines) if not _is_checkpoint(line)])
    forger, how = Signer(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))), rng.choice(["kept", "own", "posing"])
    fingerprint = Signer(log.key).fingerprint
    previous = digest(log.lines[place - 1][1][:-1]) if place else GENESIS
    lines, found = list(log.lines[:place]), 0
    for at in range(place, len(log.lines)):
        name, text = log.lines[at]
        record = json.loads(text)
        if at == place:
            record["keys"]["verdict"] = "FORGED"
        if _is_checkpoint(text):
            found = found or at + 1
            if how != "kept":
                record["keys"] = forger.keys(at, previous, record["time"])
            if how == "posing":
                record["keys"]["fingerprint"] = fingerprint
        line = record_line(at + 1, record["time"], record["event"], previous, record["keys"])
        previous = digest(line)
        lines.append((name, line + b"\n"))
    head = HeadMark(len(lines), previous, 0, 0) if rng.random() < 0.7 else None
    return Mutation(lines, found, head=head)


def delete_a_file(log: MadeLog, rng: random.Random) -> Mutation:
    names = list(dict.fromkeys(name for name, _ in log.lines))
    gone = rng.choice(names)
    first = next(at for at, (name, _) in enumerate(log.lines) if name == gone)
    return Mutation([line for line in log.lines if line[0] != gone], first + 1, frozenset({gone}))


MUTATIONS: tuple[Callable[[MadeLog, random.Random], Mutation], ...] = (
    flip_a_bit,
    change_a_character,
    delete_a_record,
    repeat_a_record,
    insert_a_forged_record,
    swap_neighbours,
    swap_distant_records,
    move_a_record,
    cut_whole_records,
    cut_in_a_record,
    remove_a_line_end,
    rewrite_the_rest,
    delete_a_file,
)

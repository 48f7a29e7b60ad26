"""Other processes that write the audit log: `append FOLDER COUNT [SEGMENT_BYTES]`, and `crash FOLDER`.

`crash` kills a writer before each of its steps while it changes files, and prints what the next writer found, as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dicom_gam.storage.audit import AuditLog, records
from dicom_gam.storage.audit_reader import START, AuditReader
from dicom_gam.storage.audit_signing import PublicKeys, Signer
from dicom_gam.storage.audit_verification import verify_log
from dicom_gam.storage.sqlite import Database, SqliteAuditHead

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STEPS = ("open", "write", "fsync", "link", "replace", "unlink", "ftruncate")


def append(folder: Path, count: int, segment_bytes: int = 0) -> None:
    """Append `count` events one by one."""
    with closing(Database(folder / "node.sqlite", 20.0)) as database:
        log = AuditLog(folder / "audit.jsonl", SqliteAuditHead(database))
        if segment_bytes:
            log.sign_with(Signer(KEY), segment_bytes)
        for number in range(count):
            log.append("event", process=os.getpid(), number=number)
        log.close()


def _die_at(step: int, half: bool) -> None:
    """End the process, as by `kill -9`, before call `step` of those that change the disk; `half`: within a write."""
    made = [0]

    def counted(name):
        real = getattr(os, name)

        def call(*arguments, **options):
            made[0] += 1
            if made[0] == step:
                if half:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(9)
            return real(*arguments, **options)

        return call

    for name in ("write",) if half else STEPS:
        setattr(os, name, counted(name))


def _writer(folder: Path, step: int, half: bool) -> None:
    told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT, 0o600)
    database = Database(folder / "node.sqlite")
    head = SqliteAuditHead(database)
    log = AuditLog(folder / "audit.jsonl", head)
    log.sign_with(Signer(KEY), 400)
    real_write, tell = head.write, os.write
    _die_at(step, half)
    fsync = os.fsync

    def write(mark):
        fsync(told)  # a step before and after the head, which SQLite writes without `os`
        real_write(mark)
        fsync(told)

    head.write = write  # type: ignore[method-assign]
    for number in range(2):
        tell(told, b"%d\n" % log.append("after", number=number))


def _look(folder: Path, step: int) -> dict[str, object]:
    told = [int(number) for number in (folder / "told").read_text().split()]
    path = folder / "audit.jsonl"
    with closing(Database(folder / "node.sqlite")) as database:
        head = SqliteAuditHead(database)
        before = verify_log(path, head.read(), PublicKeys([KEY.public_key()])).records
        log = AuditLog(path, head)
        log.append("found")
        log.sign_with(Signer(KEY), 400)
        last = log.append("later")
        log.close()
        found = verify_log(path, head.read(), PublicKeys([KEY.public_key()]))
        read, _ = AuditReader(path).read(START, 1000)
    kept = [record["number"] for record in records(path) if record["event"] == "after"]
    return {
        "step": step, "told": told, "kept": kept, "before": before, "records": found.records, "last": last,
        "read": [record.number for record in read] == list(range(1, found.records + 1)),
        "files": found.files, "left": sorted(p.name for p in folder.glob("*.next")),
    }  # fmt: skip


def crash(folder: Path) -> list[dict[str, object]]:
    """Kill a writer before each step in turn, until it comes to its end."""
    template = folder / "template"
    template.mkdir()
    append(template, 3)
    found: list[dict[str, object]] = []
    for half in (False, True):
        step, status = 0, 9
        while status:
            step += 1
            place = folder / f"{step}-{half}"
            shutil.copytree(template, place)
            child = os.fork()
            if child == 0:
                _writer(place, step, half)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            found.append(_look(place, step) | {"died": bool(status)})
            shutil.rmtree(place)
    return found


if __name__ == "__main__":
    if sys.argv[1] == "append":
        append(Path(sys.argv[2]), *(int(number) for number in sys.argv[3:]))
    else:
        sys.stdout.write(json.dumps(crash(Path(sys.argv[2]))))

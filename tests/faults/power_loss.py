"""Cut the power between any two steps of a store, and look at what is there afterwards. `python power_loss.py FOLDER`.

For every n a forked node dies at the n-th operation that is meant to last (write, fsync, rename, unlink, link, mkdir,
COMMIT) after the start of a store, until the store and its processing get through. It dies in two ways: as if killed
(everything the operating system has been given is there), and as if the power was cut (files keep only what was
fsynced, names only what their folder's fsync has made durable; a write in hand is torn). SQLite's own files are its
own affair (`synchronous=FULL`). Then a node starts on what is left. Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from blake3 import blake3

from dicom_gam.config import settings_from
from dicom_gam.service.node import Node, verify_audit_log
from dicom_gam.storage.states import JobState
from tests.faults.nodes import table_of
from tests.faults.wire import Wire, small_image
from tests.service.fakes import process, uids

DEAD = 77
MOST_POINTS = 200


class Cut:
    """Counts lasting operations from `armed` on and ends the process at number `point`, with or without its cache."""

    def __init__(self, point: int, cache_lost: bool) -> None:
        self._point, self._cache_lost = point, cache_lost
        self._count = 0
        self.armed = False
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}
        self._synced: dict[str, int] = {}  # how much of a written file is on the disk
        self._names: list[tuple[str, Callable[[], object]]] = []  # folder, and how its last change is undone
        self._real: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        for name in ("open", "write", "fsync", "rename", "replace", "unlink", "remove", "link", "mkdir"):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}", None) or self._counted(name))
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_trace_callback(lambda statement: self._step() if statement == "COMMIT" else None)
            return connection

        sqlite3.connect = traced  # type: ignore[assignment]

    def _step(self, torn: Callable[[], object] | None = None) -> None:
        with self._lock:
            if not self.armed:
                return
            self._count += 1
            if self._count < self._point:
                return
            if torn is not None:
                torn()
            if self._cache_lost:
                self._lose()
            os._exit(DEAD)

    def _lose(self) -> None:
        for path, size in self._synced.items():
            with suppress(OSError):
                os.truncate(path, size)
        for _, undo in reversed(self._names):
            with suppress(OSError):
                undo()

    def _counted(self, name: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self._step()
            return self._real[name](*arguments, **options)

        return run

    def _open(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        new = flags & os.O_CREAT and not Path(path).exists()
        if new:
            self._step()
        descriptor: int = self._real["open"](path, flags, *arguments, **options)
        with self._lock:
            self._paths[descriptor] = str(path)
            if flags & os.O_EXCL:
                self._synced[str(path)] = 0
            if new:
                self._names.append((str(Path(path).parent), lambda: self._real["unlink"](path)))
        return descriptor

    def _write(self, descriptor: int, content: Any) -> int:
        if descriptor in self._paths and self.armed:
            self._step(torn=lambda: self._real["write"](descriptor, memoryview(content)[: len(content) // 2]))
            self._synced.setdefault(self._paths[descriptor], os.fstat(descriptor).st_size)
        return int(self._real["write"](descriptor, content))

    def _fsync(self, descriptor: int) -> None:
        self._step()
        self._real["fsync"](descriptor)
        path = self._paths.get(descriptor)
        if path is not None:
            with self._lock:
                self._synced.pop(path, None)
                self._names = [change for change in self._names if change[0] != path]

    def _rename(self, source: Any, target: Any) -> None:
        self._step()
        self._real["rename"](source, target)
        with self._lock:
            if str(source) in self._synced:
                self._synced[str(target)] = self._synced.pop(str(source))
            undo = lambda: self._real["rename"](target, source)  # noqa: E731
            self._names.append((str(Path(target).parent), undo))

    def _link(self, source: Any, target: Any) -> None:
        self._step()
        self._real["link"](source, target)
        with self._lock:
            self._names.append((str(Path(target).parent), lambda: self._real["unlink"](target)))

    def _mkdir(self, path: Any, *arguments: Any, **options: Any) -> None:
        self._step()
        self._real["mkdir"](path, *arguments, **options)
        with self._lock:
            self._names.append((str(Path(path).parent), lambda: shutil.rmtree(path)))


def forked(run: Callable[[int], None]) -> tuple[int, list[str]]:
    """Run in a child process that may write lines into the pipe it is given; its exit status and the lines."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            run(writing)
        except BaseException:
            logging.exception("child failed")
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


def settings_of(storage: Path) -> Any:
    return settings_from(table_of(storage, processing={"batch_wait_ms": 0}))


def die(storage: Path, uid: str, point: int, cache_lost: bool) -> tuple[int, bool]:
    """Let a node die at its n-th operation; the exit status and whether Success was seen before."""

    def run(pipe: int) -> None:
        cut = Cut(point, cache_lost)
        real_write = os.write
        cut.install()
        node = Node(settings_of(storage), process)
        node.start()
        with Wire(node.port) as wire:
            wire.associate()
            cut.armed = True
            status = wire.store(uid, small_image(uid))
            real_write(pipe, f"{status}\n".encode())
            node.wait_idle(20)

    code, lines = forked(run)
    return code, lines == ["0"]


def look(storage: Path, uid: str) -> dict[str, Any]:
    """Start a node on what is left, send the image once more, and say what there is."""

    def run(pipe: int) -> None:
        node = Node(settings_of(storage), process)
        node.start()
        jobs = node.jobs()
        node.wait_idle(20)
        before = [(str(job.state), whole(job)) for job in jobs]
        with Wire(node.port) as wire:
            wire.associate()
            again = wire.store(uid, small_image(uid))
        node.wait_idle(20)
        jobs = node.jobs()
        found = {
            "before": before,
            "again": again,
            "states": [str(job.state) for job in jobs],
            "whole": all(whole(job) for job in jobs),
            "files": sum(path.is_file() for path in (storage / "inbox").rglob("*")),
        }
        found["audited"] = verify_audit_log(storage) > 0
        os.write(pipe, json.dumps(found).encode())
        os._exit(0)  # without its stop, which takes its time

    code, lines = forked(run)
    return {"code": code} | (json.loads(lines[0]) if lines else {})


def whole(job: Any) -> bool:
    """Whether the file is there, and is what came."""
    try:
        return blake3(job.instance.path.read_bytes()).hexdigest() == job.instance.digest
    except OSError:
        return False


def faults_of(found: dict[str, Any], acknowledged: bool) -> list[str]:
    """What is wrong with what was found."""
    wrong = []
    if found["code"] != 0:
        return [f"the node did not start or end (exit status {found['code']})"]
    if acknowledged and not found["before"]:
        wrong.append("acknowledged, and no longer there")
    if not all(is_whole for _, is_whole in found["before"]):
        wrong.append("a job whose file is half-written or gone")
    if found["again"] != 0:
        wrong.append(f"sent again it is answered {found['again']}")
    if found["states"] != [JobState.DONE.value] or not found["whole"] or found["files"] != 1:
        wrong.append(f"jobs {found['states']}, {found['files']} files, whole: {found['whole']}")
    if not found["audited"]:
        wrong.append("the audit log does not verify")
    return wrong


def main(folder: Path) -> dict[str, Any]:
    """Try every point, each in both ways."""
    (uid,) = uids(1, "power")
    seen: dict[str, Any] = {"points": 0, "cuts": 0, "acknowledged": 0, "wrong": []}
    for point in range(1, MOST_POINTS):
        codes = []
        for cache_lost in (False, True):
            storage = folder / f"{point}-{cache_lost}"
            code, acknowledged = die(storage, uid, point, cache_lost)
            codes.append(code)
            seen["cuts"] += code == DEAD
            seen["acknowledged"] += acknowledged and code == DEAD
            wrong = faults_of(look(storage, uid), acknowledged)
            if code not in (0, DEAD):
                wrong.append(f"the node failed by itself (exit status {code})")
            seen["wrong"] += [f"operation {point}, cache lost: {cache_lost}: {what}" for what in wrong]
            shutil.rmtree(storage)
        if codes == [0, 0]:
            break
        seen["points"] = point
    else:
        seen["wrong"].append(f"the store did not get through within {MOST_POINTS} operations")
    return seen


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    print(json.dumps(main(Path(sys.argv[1]))))

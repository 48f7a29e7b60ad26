"""Peak memory of one contender in a process of its own; run as a module, prints one line of JSON.

On the CPU it is the highest resident set while the contender runs, less the resident set before it, when the network
and the batch are there, a small image has loaded the code and one image has passed the network. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TOO_MUCH = 3  # exit code: the contender asked for more than the budget


@dataclass(frozen=True)
class Peak:
    """Bytes above the baseline, or None and the reason."""

    bytes: int | None
    reason: str = ""


def measure_peak(which: str, model: str, size: int, batch: int, device: str, budget_gb: float) -> Peak:
    """Run the contender once in a child process."""
    command = [sys.executable, "-m", __spec__.name if __name__ != "__main__" else "tests.benchmarks.peak_memory"]
    command += [which, model, str(size), str(batch), device, str(budget_gb)]
    # With fixed thresholds a freed tensor goes back at once, so the resident set is what is really in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if child.returncode == TOO_MUCH:
        return Peak(None, f"needs more than {budget_gb:g} GB")
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"ended with code {child.returncode}"]
        return Peak(None, lines[-1][:160])
    return Peak(int(json.loads(child.stdout.splitlines()[-1])["peak"]))


def _status(key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert match is not None
    return 1024 * int(match[1])


def _run(which: str, model: str, size: int, batch: int, device_name: str, budget_gb: float) -> int:
    import torch  # noqa: PLC0415 (the parent only starts children)

    from tests.benchmarks.contenders import build, contender  # noqa: PLC0415

    device = torch.device(device_name)
    network = build(model, device)
    run = contender(which, model, network, size)
    del network
    x = torch.rand(batch, 3, size, size, device=device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(x)
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    resource.setrlimit(resource.RLIMIT_DATA, (int(budget_gb * 1e9), resource.RLIM_INFINITY))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    run(x)
    return _status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("which", str), ("model", str), ("size", int), ("batch", int), ("device", str), ("gb", float)):
        parser.add_argument(name, type=kind)
    a = parser.parse_args()
    try:
        peak = _run(a.which, a.model, a.size, a.batch, a.device, a.gb)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory|bad_alloc", str(error)):
            sys.exit(TOO_MUCH)
        raise
    print(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main()

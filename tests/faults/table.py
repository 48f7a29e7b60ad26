"""The fault matrix: what is demanded, and the table of what was observed.

`python -m tests.faults.table > conformance/FAULTS.md` runs the tests of this folder and writes the table; it fails
when a test does, or when a demand has no test. The demands are those of the design's fault matrix, row by row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import MappingProxyType

import pytest

ROWS_FILE = "DICOM_GAM_FAULT_ROWS"  # environment variable: where the tests write what they observed, a JSON line a test
_CAPPED = "capped before it is read, A-ABORT, memory flat"
_SILENT = "an unnegotiated socket takes no association away; it ends at a deadline"
_DEADLINE = "a deadline for the PDU as a whole"
_REFUSED_UID = "refused; file names are never taken from the wire"
_QUARANTINED = "stored, quarantined with the reason, no result"
_COMMITTED = "nothing visible half-written; everything acknowledged is there"
_RECOVERS = "A700, nothing lost; the service recovers by itself"
_DELIVERY = "a state for each destination and object; tried again; delivered once it can be"

DEMANDS = MappingProxyType(
    {
        "a PDU that says it has 4 GiB": _CAPPED,
        "a PDU above the maximum that was offered": _CAPPED,
        "an association request that says it has 4 GiB": _CAPPED,
        "connect and close, 12 times": _SILENT,
        "12 TCP connections that say nothing": _SILENT,
        "1,100 TCP connections that say nothing": _SILENT + "; more descriptors than select() can do",
        "more silent connections of one address than it may have": "a limit for each address; others are served",
        "half a PDU, then silence": _DEADLINE,
        "an association request, one byte at a time": _DEADLINE,
        "a PDU of data, one byte at a time": _DEADLINE,
        "an association that falls silent": "ended at the network timeout",
        "a sender that never reads its answers": "ended; nobody else waits for it",
        "a TLS handshake that stalls": "waits alone, with a timeout; others are served",
        "a wrong called AE title": "rejected, audited",
        "an unknown calling AE title": "rejected, audited",
        "a known calling AE title from another address": "rejected, audited",
        "SOP Instance UID `../../x`": _REFUSED_UID,
        "SOP Instance UID `/etc/x`": _REFUSED_UID,
        "an empty SOP Instance UID": _REFUSED_UID,
        "UIDs that differ between command and data set": "A900",
        "a data set of garbage": "C000 to CFFF or quarantine, never classified",
        "pixels cut short": _QUARANTINED,
        "no bytes of pixels": _QUARANTINED,
        "no Pixel Data element": _QUARANTINED,
        "65,535 Rows and Columns for few pixels": _QUARANTINED + "; capped before memory is allocated",
        "2,147,483,647 Frames": _QUARANTINED + "; capped before memory is allocated",
        "an unknown character set": _QUARANTINED,
        "a deflate bomb, 2.3 MB that become 1.1 GB": _QUARANTINED + "; the memory of a decoder is limited",
        "sequences nested 5,000 deep": _QUARANTINED,
        "JPEG 2000 of 65,535 × 65,535 in the code stream": _QUARANTINED + "; capped before memory is allocated",
        "JPEG 2000 of 65,535 × 65,535 in header and code stream": _QUARANTINED + "; capped before memory is allocated",
        "the same instance again, the same bytes": "Success, not processed twice",
        "the same SOP Instance UID, other bytes": "kept apart, quarantined, alarm",
        "abort in mid-store": _COMMITTED,
        "a connection torn in mid-store": _COMMITTED,
        "kill -9 of the whole service": _COMMITTED,
        "kill -9 of a receiver": _COMMITTED + "; another one takes its place",
        "power lost between any two steps": _COMMITTED,
        "the disk is full": _RECOVERS,
        "the disk is below its watermark": _RECOVERS,
        "the database is locked": _RECOVERS,
        "the clock jumps back a day": "nothing lost, nothing twice; the service recovers by itself",
        "the clock jumps ahead a day": "nothing lost, nothing twice; the service recovers by itself",
        "the PACS is down": _DELIVERY,
        "the PACS is slow": _DELIVERY,
        "the PACS does not answer in time": _DELIVERY,
        "the PACS refuses one SOP class": _DELIVERY + "; the other class arrives; the cause in plain words",
        "the PACS refuses the transfer syntax": _DELIVERY + "; the cause in plain words",
        "the PACS answers with a warning": "counts as stored, the warning is kept",
        "the PACS refuses one instance": "a dead letter after N tries with the cause in plain words; others arrive",
        "a PACS that is always broken": "exponential backoff with jitter, capped",
        "one of two destinations is broken": "the other is not held up",
    }
)


def fault(name: str) -> pytest.MarkDecorator:
    """Mark a test as the one that shows what the node does at a fault of `DEMANDS`."""
    if name not in DEMANDS:
        msg = f"{name!r} is no fault of tests.faults.table.DEMANDS: add it there"
        raise KeyError(msg)
    return pytest.mark.fault(name, demand=DEMANDS[name])


def render(rows: list[dict[str, str]]) -> str:
    """The whole document. Raises ValueError when a demand has no row."""
    by_fault: dict[str, list[dict[str, str]]] = {name: [] for name in DEMANDS}
    for row in rows:
        by_fault[row["fault"]].append(row)
    short = [name for name, found in by_fault.items() if not found]
    if short:
        raise ValueError("no test shows: " + "; ".join(short))
    lines = [
        "# What the node does at each fault",
        "",
        "Written by `python -m tests.faults.table > conformance/FAULTS.md`, from the tests named in the last column,",
        "against the running service. Never edited by hand.",
        "",
        "| fault | demanded | observed | shown by |",
        "|---|---|---|---|",
    ]
    for name, found in by_fault.items():
        observed = "; ".join(dict.fromkeys(row["observed"] for row in found))
        shown = ", ".join(dict.fromkeys(f"`{row['test']}`" for row in found))
        lines.append(f"| {name} | {DEMANDS[name]} | {observed} | {shown} |")
    return "\n".join(lines) + "\n"


def observe() -> list[dict[str, str]]:
    """Run the tests and return what they observed. Raises SystemExit when one fails."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        folder_of_tests = Path(__file__).parent
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder_of_tests)]
        command.append(f"--ignore={folder_of_tests / 'test_matrix.py'}")  # it looks at the table that is being made
        run = subprocess.run(command, cwd=root, env=os.environ | {ROWS_FILE: str(rows)}, stdout=sys.stderr, check=False)
        if run.returncode != 0:
            sys.exit(f"the tests failed (exit status {run.returncode}): no table is written")
        return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.stdout.write(render(observe()))

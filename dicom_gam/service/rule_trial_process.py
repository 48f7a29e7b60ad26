"""The process that reads one handed-in file for `rule_trial`, within limits: python -m ...rule_trial_process PARENT.

It gets the request as JSON on its standard input and answers on its standard output; the file is an open descriptor.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

from dicom_gam.config import Settings
from dicom_gam.service.rule_trial import Trial, as_message, explain_file

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer one request, then end."""
    _end_with_parent(int(sys.argv[1]))
    request = json.load(sys.stdin)
    settings = Settings.model_validate(request["settings"])
    _limit(settings)
    path = Path(f"/proc/self/fd/{int(request['descriptor'])}")
    try:
        trial = explain_file(settings, path, request["calling"], request["called"])
    except MemoryError:
        trial = Trial(unreadable=f"The file needs more than {settings.decoding.memory_bytes} bytes of memory to read.")
    sys.stdout.write(as_message(trial))


def _end_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before that
        sys.exit(1)


def _limit(settings: Settings) -> None:
    """Memory and time as for a decoder; no file is written, nor a core dump, which would be a patient's image."""
    for what, most in (
        (resource.RLIMIT_AS, settings.decoding.memory_bytes),
        (resource.RLIMIT_CPU, int(settings.decoding.timeout_s) + 10),  # seconds, its own start among them
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()

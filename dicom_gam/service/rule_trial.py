"""Trying the rules on a file that somebody hands in: nothing of it is kept.

A stranger's bytes are parsed in a process of their own, within limits, that ends with its one file
(`rule_trial_process`). Only as much of the file goes there as may come before the pixels, in memory without a name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_gam.dicom.image.acceptance import Refused, refuse_unaccepted
from dicom_gam.dicom.image.decode import read_instance
from dicom_gam.dicom.image.part10 import HEADER_LIMIT, read_part10
from dicom_gam.dicom.image.rules import decide, explain
from dicom_gam.errors import DicomGamError
from dicom_gam.records import Rejection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from dicom_gam.config import Settings
    from dicom_gam.dicom.image.rules import RuleExplanation
    from dicom_gam.records import Decision

COMMAND = (sys.executable, "-P", "-m", "dicom_gam.service.rule_trial_process")
LONGEST_START = HEADER_LIMIT + 2 * 1024**2  # bytes: what comes before the pixels, and file meta information
_START_S = 60.0  # imports, on a machine that may be very busy
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class KeyTrial:
    """How one key of a rule's condition fared; `found` is empty for what the image does not say."""

    key: str
    found: tuple[str, ...]
    patterns: tuple[str, ...]
    matched: bool


@dataclass(frozen=True, slots=True)
class RuleTrial:
    """How one rule fared. `counts`: it is the first that matches, so it decides."""

    name: str
    matched: bool
    counts: bool
    keys: tuple[KeyTrial, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What would be done with a file. `unreadable` says why nothing can be told; else `why_not` why no result is made.

    `bundle` and `destinations` are empty when it would not be processed.
    """

    unreadable: str = ""
    why_not: str = ""
    rule: str = ""
    bundle: str = ""
    destinations: tuple[str, ...] = ()
    sop_instance_uid: str = ""
    rules: tuple[RuleTrial, ...] = ()


def try_rules(
    settings: Settings, file: BinaryIO, calling: str = "", called: str = "", command: Sequence[str] = COMMAND
) -> Trial:
    """Say what the rules do with a file that would come from `calling` to `called` (empty: this node's own title).

    Raises DicomGamError when no process can be started for it.
    """
    descriptor = os.memfd_create("rule-trial", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as memory:
            memory.write(file.read(LONGEST_START))
        request = {"calling": calling, "called": called or settings.node.ae_title, "descriptor": descriptor}
        answer = _ask(settings, request, command)
    finally:
        os.close(descriptor)
    return _trial(answer)


def explain_file(settings: Settings, path: Path, calling: str, called: str) -> Trial:
    """What the rules do with a file of the disk; parses it in this very process."""
    instance = read_instance(path, calling_ae_title=calling, called_ae_title=called)
    if isinstance(instance, Rejection):
        return Trial(unreadable=instance.message)
    try:
        part10 = read_part10(path.read_bytes())
    except Refused as refused:
        return Trial(unreadable=refused.rejection.message)
    decision = decide(settings.rules, part10.dataset, instance, "", settings.processing.bundle)
    why_not = decision.skipped or ""
    if not why_not:
        try:
            refuse_unaccepted(part10.dataset, part10.transfer_syntax_uid, settings.intake)
        except Refused as refused:
            why_not = refused.rejection.message
    return Trial(
        why_not=why_not,
        rule=decision.rule,
        bundle="" if why_not else decision.bundle,
        destinations=() if why_not else _destinations(decision, settings),
        sop_instance_uid=instance.sop_instance_uid,
        rules=tuple(_rules(explain(settings.rules, part10.dataset, instance))),
    )


def as_message(trial: Trial) -> str:
    """A trial as JSON, for the process that asked for it."""
    return json.dumps(asdict(trial))


def _ask(settings: Settings, request: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    question = json.dumps(request | {"settings": settings.model_dump(mode="json", exclude_unset=True)})
    wait_s = _START_S + settings.decoding.timeout_s
    try:
        done = subprocess.run(
            [*command, str(os.getpid())], input=question, capture_output=True, text=True, timeout=wait_s, check=False,
            pass_fds=(request["descriptor"],), env={**os.environ, **_ONE_THREAD},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"unreadable": f"The file takes longer than {wait_s:g} s to read, so that was given up."}
    except OSError as error:
        msg = f"no process can be started to read the file in ({error.strerror}): see the limits on processes"
        raise DicomGamError(msg) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {"unreadable": _died(done.returncode)}
    return answer if isinstance(answer, dict) else {"unreadable": _died(done.returncode)}


def _died(code: int) -> str:
    if code < 0:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    else:
        how = f"exit status {code}"
    return f"The file can't be read: the process that read it ended ({how}). It may need too much memory."


def _trial(answer: dict[str, Any]) -> Trial:
    rules = tuple(
        RuleTrial(
            rule["name"],
            rule["matched"],
            rule["counts"],
            tuple(
                KeyTrial(key["key"], tuple(key["found"]), tuple(key["patterns"]), key["matched"])
                for key in rule["keys"]
            ),
        )
        for rule in answer.get("rules", ())
    )
    return Trial(**answer | {"destinations": tuple(answer.get("destinations", ())), "rules": rules})


def _destinations(decision: Decision, settings: Settings) -> tuple[str, ...]:
    if decision.destinations is not None:
        return decision.destinations
    return tuple(destination.name for destination in settings.destinations)


def _rules(explained: Sequence[RuleExplanation]) -> list[RuleTrial]:
    first = next((rule for rule in explained if rule.matched), None)
    return [
        RuleTrial(
            item.rule.name,
            item.matched,
            item is first,
            tuple(KeyTrial(key.key, key.values, key.patterns, key.matched) for key in item.keys),
        )
        for item in explained
    ]

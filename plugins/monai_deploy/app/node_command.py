"""Asks the node's own command, `dicom-gam run`, for verdicts; knows nothing of the App SDK.

The command runs in a process of its own: the model, and the decoders that damaged images may harm, stay out of the
application's process, and the two may even live in different Python environments.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASS = "PASS"  # noqa: S105 (a verdict)
# Exit statuses of `dicom-gam run` that are answers: the worst of what it says of the images.
STATUSES = {PASS: 0, "FAIL": 10, "REJECT": 11}
UNUSABLE = 12  # and skipped by a rule, and not processed
# A PACS would keep the results of one of them, and show them with the image of either.
CONTESTED = {
    "reason": "contested-uid",
    "message": "Another file of this run has the same SOP Instance UID and other content. Send the right one alone.",
}
TOLD = 2  # the command told its reason in one sentence on its last line


class NodeCommandError(Exception):
    """`dicom-gam run` gave no answer that can be trusted; no result was written."""


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """How to call the node: the command, and its options."""

    command: Sequence[str] = ("dicom-gam",)
    node_config: str = ""  # path of a node.toml; the node's defaults without
    bundle: str = ""  # name or path of a bundle; the configuration's without
    timeout_s: float = 3600.0

    def verify(self, files: Sequence[Path], output: Path) -> list[dict[str, Any]]:
        """Verify `files`, put the DICOM results into the folder `output`, return a record a file, in their order.

        A record has `file`, `outcome`, `finding` (null unless the outcome is PASS), `why`, the UIDs, the bundle and
        the names of the results. Raises NodeCommandError, and then no result has been put into `output`; or OSError
        when the disk fails, and then some of them may have been.
        """
        if not files:
            return []
        with tempfile.TemporaryDirectory(prefix="dicom-gam-") as name:
            work = Path(name).resolve()
            linked = _linked(files, work / "in")
            answers = self._ask(linked, work)
            contested = _contested(answers.values())
            records = [_record(file, answers[link], work / "out", contested) for link, file in linked.items()]
            output.mkdir(parents=True, exist_ok=True)
            for record in records:
                record["written"] = [_copied(work / "out" / name, output / then) for name, then in record["written"]]
        return records

    def _ask(self, linked: Mapping[str, Path], work: Path) -> dict[str, Any]:
        """What the command says of each link; checked for being whole and for agreeing with its exit status."""
        options = [*_option("--config", self.node_config), *_option("--bundle", self.bundle)]
        call = [*self.command, "run", work / "in", "--output", work / "out", "--json", *options]
        call = [str(part) for part in call]  # the SDK reads a name like "2024" as a number, quoted or not
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=self.timeout_s, check=False)
        except FileNotFoundError as error:
            raise NodeCommandError(
                f"{self.command[0]}: there is no such command. Install dicom_gam where the application runs, or name "
                "the command's full path in app.yaml (verification: command)."
            ) from error
        except OSError as error:
            raise NodeCommandError(f"{self.command[0]} can't be started: {error.strerror}.") from error
        except subprocess.TimeoutExpired:
            raise NodeCommandError(
                f"dicom-gam run was stopped after {self.timeout_s:g} s with {len(linked)} files. Give it more time in "
                "app.yaml (verification: timeout_s), or fewer files."
            ) from None
        if done.returncode not in (*STATUSES.values(), UNUSABLE):
            raise NodeCommandError(_failure(done))
        return _answers(done, linked)


def _linked(files: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Numbered links to the files: no name of theirs, which may be a patient's, reaches a command line or a message."""
    folder.mkdir()
    linked = {}
    for number, file in enumerate(files, 1):
        link = folder / f"{number:06d}.dcm"
        link.symlink_to(file.resolve())
        linked[str(link)] = file
    return linked


def _option(name: str, value: str) -> list[str]:
    return [name, value] if value else []


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    """Why the command failed. Its own sentence is repeated; of a crash only the kind, as the rest may hold anything."""
    if done.returncode < 0:
        return (
            f"dicom-gam run was ended by {signal.Signals(-done.returncode).name}. With SIGKILL it was most likely "
            "out of memory: give the application more (app.yaml, resources: memory)."
        )
    last = (done.stderr.strip().splitlines() or ["no message"])[-1].strip()
    if done.returncode == TOLD:
        return f"dicom-gam run refused: {last.removeprefix('error:').strip()}"
    kind = last.split(":", 1)[0].split(" ", 1)[0]
    return f"dicom-gam run broke off with status {done.returncode} ({kind}). Run it by hand on the same input."


def _answers(done: subprocess.CompletedProcess[str], linked: Mapping[str, Path]) -> dict[str, Any]:
    try:
        answers = {item["file"]: item for item in json.loads(done.stdout)}
        worst = max(STATUSES.get(item["outcome"], UNUSABLE) for item in answers.values())
    except (ValueError, TypeError, KeyError) as error:
        raise NodeCommandError("dicom-gam run's answer is not the JSON that this plugin knows.") from error
    if answers.keys() != linked.keys():
        raise NodeCommandError(f"dicom-gam run answered for {len(answers)} of {len(linked)} files.")
    if worst != done.returncode:
        raise NodeCommandError(f"dicom-gam run's status {done.returncode} and its verdicts (worst {worst}) disagree.")
    return answers


def _contested(answers: Iterable[Mapping[str, Any]]) -> set[str]:
    """SOP Instance UIDs under which results were made from files that differ."""
    sources = [answer["input"] for answer in answers if answer.get("outputs")]
    digests: dict[str, set[str]] = {}
    for source in sources:
        digests.setdefault(source["sop_instance_uid"], set()).add(source["file_blake3"])
    return {uid for uid, found in digests.items() if len(found) > 1}


def _record(file: Path, answer: Mapping[str, Any], results: Path, contested: Container[str]) -> dict[str, Any]:
    """The record of a file: of everything that the command says, what may leave the application."""
    if answer.get("outputs") and answer["input"]["sop_instance_uid"] in contested:
        answer = {**answer, "outcome": "UNUSABLE", "rejection": CONTESTED, "written": []}
    try:
        objects = {item["role"]: item for item in answer.get("outputs", [])}
        source = answer.get("input", {})
        return {
            "file": str(file),
            "outcome": str(answer["outcome"]),
            "finding": _finding(answer),
            "why": _why(answer),
            "study_instance_uid": source.get("study_instance_uid", ""),
            "sop_instance_uid": source.get("sop_instance_uid", ""),
            "bundle": answer.get("bundle"),
            "made_with": answer.get("made_with", ""),
            "written": [_checked(results / Path(name).name, objects) for name in _dicom(answer)],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise NodeCommandError("dicom-gam run's answer is not the JSON that this plugin knows.") from error


def _finding(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the network found; nothing unless the image passed every check."""
    if answer["outcome"] != PASS:
        return None
    if answer["verification"]["verdict"] != PASS:
        raise NodeCommandError("dicom-gam run calls an image passed whose verification did not pass.")
    label = answer["prediction"]["label"]
    return {"label": label, "probability": answer["prediction"]["probabilities"][label]}


def _why(answer: Mapping[str, Any]) -> list[str]:
    """The reasons, or the notes of a pass."""
    if "rejection" in answer:
        return ["{reason}: {message}".format_map(answer["rejection"])]
    if "skipped" in answer:
        return [answer["skipped"]]
    if "verification" not in answer:
        return [answer.get("error") or "The image could not be processed."]
    verification = answer["verification"]
    return list(verification["reasons"] or verification["notes"])


def _dicom(answer: Mapping[str, Any]) -> list[str]:
    """The DICOM files among what was written; the pictures are for people at a command line."""
    return [name for name in answer.get("written", []) if name.endswith(".dcm")]


def _checked(path: Path, objects: Mapping[str, Any]) -> tuple[str, str]:
    """The file's name now, and the one that it gets: what it is and its UID. Its content must be as announced."""
    role = path.name.split(".")[-2]
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != objects[role]["sha256"]:
        raise NodeCommandError(f"A result ({role}) is not on disk as dicom-gam run wrote it. Is the disk full?")
    return path.name, f"{role}-{objects[role]['sop_instance_uid']}.dcm"


def _copied(source: Path, target: Path) -> str:
    """Put a result into the output folder, under its name only when it is whole."""
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
    return target.name

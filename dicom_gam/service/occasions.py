"""Which records of the audit log a person should hear of, and in what words: the thing, the reason, the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicom_gam.oversight_sections import Occasion
    from dicom_gam.storage.audit_reader import AuditRecord

UNREACHABLE_TRIES = 3  # archives are restarted; only what stays away is worth a message
_RETRY = "remove the cause, then send again: page Attention, or dicom-gam destinations retry {destination}"


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that needs a person. `time` is ISO 8601 in UTC."""

    occasion: Occasion
    time: str
    what: str
    why: str
    remedy: str


def happening_of(record: AuditRecord) -> Happening | None:
    """What a record tells that a person should hear of; None for nothing."""
    words = _WORDS.get(record.event)
    if words is None:
        return None
    keys = _Said(record.keys)
    if record.event == "destination.unreachable" and record.keys.get("attempt") != UNREACHABLE_TRIES:
        return None
    if record.event == "audit.verified" and record.keys.get("whole") is not False:
        return None
    occasion, what, why, remedy = words
    return Happening(occasion, record.time, what.format_map(keys), why(record.keys), remedy.format_map(keys))


def unreadable_log(why: str) -> Happening:
    """That the audit log can't be read."""
    return Happening("audit-broken", "", "the audit log is broken", why, _VERIFY)


class _Said(dict[str, Any]):
    """A record's keys for `format_map`; what is missing or None is unknown."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        super().__init__({name: "unknown" if value is None else value for name, value in keys.items()})

    def __missing__(self, key: str) -> str:
        return "unknown"


def _key(name: str, otherwise: str = "") -> Callable[[Mapping[str, Any]], str]:
    return lambda keys: str(keys.get(name) or otherwise)


def _always(words: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _: words


_VERIFY = "run dicom-gam audit verify, which names the record, and compare with a backup of the log"
_WORDS: Mapping[str, tuple[Occasion, str, Callable[[Mapping[str, Any]], str], str]] = MappingProxyType(
    {
        "delivery.dead": (
            "dead-letter",
            "a result could not be delivered to {destination} (job {job_id}, {role})",
            _key("words", "no reason was given"),
            _RETRY,
        ),
        "destination.unreachable": (
            "destination-unreachable",
            "{destination} can't be reached after {attempt} tries; {waiting} results wait for it",
            _key("words", "no reason was given"),
            "see to it, or to the network; what waits is sent by itself when it answers again",
        ),
        "job.failed": (
            "job-failed",
            "an image has no result (job {job_id}, after {attempts} attempts)",
            _key("message", "the worker ended each time, without a word"),
            "see the node's log for the job, remove the cause, then: dicom-gam reprocess",
        ),
        "instance.quarantined": (
            "quarantined",
            "an image of {calling_ae_title} is in quarantine (job {job_id}, SOP Instance UID {sop_instance_uid})",
            _always("other content had come under the same SOP Instance UID before"),
            "find out at the sender which of the two is right; the first has been processed, this one has not",
        ),
        "drift-alarm": (
            "drift",
            "the images of {sender} have drifted away from those that {bundle} {version} was calibrated on",
            _always("their p-values are no longer uniform; the evidence is on the page Quality"),
            "look at recent images of this sender; then dicom-gam drift, and dicom-gam suitability",
        ),
        "retention.no_room": (
            "disk-low",
            "the disk is full, and nothing is left that may be deleted",
            _always("every delivered image is gone already; the rest waits for delivery or is to be kept"),
            "free space, have the destinations take their results, or dismiss dead letters",
        ),
        "audit.verified": (
            "audit-broken",
            "the audit log is broken: it was verified, and record {bad_record} is the first that is bad",
            _always("it was edited, or a part of it is gone; the page Audit and dicom-gam audit verify say more"),
            "find out who could write to it, and compare with a backup of the log",
        ),
        "audit.recovered": (
            "audit-broken",
            "the audit log was repaired after a crash or power cut",
            _always("its last record was half written, or not yet noted as written"),
            "run dicom-gam audit verify to be sure; see to the power supply when this comes again",
        ),
    }
)

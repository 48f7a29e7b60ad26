"""The audit log in plain words, for a reader who has never seen the software."""

from __future__ import annotations

import re
import unicodedata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dicom_gam.storage.states import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.storage.audit_reader import AuditRecord

_PLACE = re.compile(r"\{([a-z_.]+)\}")

# A record's event: words with the names of its keys in braces; what a record lacks is left out.
_SAID: Mapping[str, str] = MappingProxyType(
    {
        "instance.stored": "Image received from {calling_ae_title} at {peer_address} and stored ({size_bytes} bytes)",
        "instance.duplicate": "{calling_ae_title} sent the very same image once more; nothing new was made of it",
        "instance.quarantined": "{calling_ae_title} sent another image under the same UID; kept apart, not processed",
        "instance.refused": "An image from {calling_ae_title} was refused: {why}",
        "job.started": "Processing began (attempt {attempt})",
        "job.result": "Verdict {outcome}: {verification.reasons}",
        "job.rejected": "Could not be used: {rejection.message}",
        "job.skipped": "Not processed, as the node's rules say: {skipped}",
        "job.failed": "Processing failed for good after {attempts} attempts: {message}",
        "job.retried": "Attempt {attempts} failed and is to be repeated: {message}",
        "job.recovered": "Taken back after an interruption (attempt {attempts}): {message}",
        "job.lease_lost": "The result of attempt {attempt} was dropped: another worker had taken the job over",
        "job.reprocess_requested": "Queued to be processed again (it was job {predecessor})",
        "job.reprocess_ordered": "Ordered to be processed again: {why}",
        "delivery.sent": "{role} delivered to {destination}: {words}",
        "delivery.stored": "{role} stored by {destination}, its confirmation is awaited: {words}",
        "delivery.postponed": "{role} not delivered to {destination} at attempt {attempt}, to be repeated: {words}",
        "delivery.dead": "{role} could NOT be delivered to {destination}: {words}",
        "destination.unreachable": "{destination} could not be reached (attempt {attempt}): {words}",
        "destination.reached": "{destination} could be reached again",
        "destination.paused": "Sending to {destination} was paused: {why}",
        "destination.resumed": "Sending to {destination} was resumed",
        "destination.retried": "What {destination} had not taken was ordered to be sent again",
        "destination.dismissed": "What {destination} had not taken was given up for good: {why}",
        "commitment.asked": "{destination} was asked to answer for {objects} stored objects",
        "commitment.answered": "{destination} answers for {committed} objects and declines {failed}",
        "commitment.unknown": "A storage commitment came that nobody had asked for",
        "result.reviewed": "Reader's opinion: {kind}: {class_name}: {words}",
        "result.dismissed": "Taken off the list of what needs attention: {why}",
        "result.overridden": "Reader's own judgement counts instead: {class_name}: {why}",
        "result.reproduced": "Result computed again from the kept input: {outcome} {why}",
        "access.looked": "Looked at: {what}",
        "access.password_changed": "{user} chose a new password",
        "access.password_reset": "{user} was given a password for one log-in",
        "access.roles_changed": "{user} was given other roles: {roles}",
        "access.user_added": "The user {user} was added, with the roles {roles}",
        "access.user_disabled": "The user {user} was shut out",
        "access.user_enabled": "The user {user} was let in again",
        "access.sessions_revoked": "{user} was logged out everywhere",
        "access.token_made": "A token {label} was made for {user}, with the roles {roles}",
        "access.token_revoked": "The token {label} of {user} was revoked",
        "connection.dropped": "A connection from {peer_address} was dropped: {why}",
        "connection.refused": "A connection from {peer_address} was refused: {why}",
        "drift-alarm": "The images of {sender} have drifted away from those that {bundle} {version} was calibrated on",
        "drift-reset": "The watch over the drift of {sender} was begun anew",
        "tls.reload_failed": "A changed certificate can't be used, the earlier one goes on: {why}",
        "audit.searched": "Searched the audit log, {found} records shown",
        "audit.exported": "Exported a dossier ({what})",
        "audit.verified": "Checked the audit log: {records} records, whole: {whole}",
        "audit.recovered": "The log was repaired after a crash",
        "audit.checkpoint": "The log was signed up to here",
        "audit.clock_went_back": "The node's clock went back by {by_s} s",
        "audit.key_changed": "The log is signed by another key from here on ({fingerprint})",
        "access.logged_in": "Logged in",
        "access.logged_out": "Logged out",
        "access.refused": "Access refused: {why}",
        "destination.greeted": "{destination} was greeted by hand",
        "destination.tested": "A test object was sent to {destination} by hand",
        "feedback.exported": "Readers' opinions on {images} images were exported",
        "node.started": "The node started (version {version})",
        "node.stopped": "The node stopped",
        "receiver.lost": "A receiving process was lost and replaced",
        "retention.purged": "Kept files were deleted: {count} {what} ({why})",
        "association.accepted": "{calling_ae_title} at {peer_address} connected",
        "association.released": "{calling_ae_title} at {peer_address} disconnected",
        "association.rejected": "{calling_ae_title} at {peer_address} was not let in: {why}",
        "association.aborted": "The connection of {calling_ae_title} at {peer_address} broke off: {why}",
        "echo.answered": "{calling_ae_title} at {peer_address} tested the connection",
    }
)

OUTCOMES: Mapping[str, str] = MappingProxyType(
    {
        "PASS": "Every check that counts was passed. The AI's class was reported, with the evidence.",
        "FAIL": "A check was failed: the AI's class must not be used. No class was reported.",
        "REJECT": "The image is not of the kind the AI was made for. No class was reported.",
        "UNUSABLE": "The data that came can't be read as a radiograph. The AI did not look at it.",
        "SKIPPED": "The node's rules say that this image is not for the AI.",
        "ERROR": "The software failed on this image. There is no result.",
    }
)

DELIVERY_STATES: Mapping[DeliveryState, str] = MappingProxyType(
    {
        DeliveryState.PENDING: "waits to be sent",
        DeliveryState.RETRY: "failed, will be tried again",
        DeliveryState.UNCONFIRMED: "stored there, its confirmation is awaited",
        DeliveryState.SENT: "delivered",
        DeliveryState.DEAD: "NOT delivered, given up until an operator decides",
        DeliveryState.DISMISSED: "NOT delivered, an operator does without it",
    }
)

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "sr": "report (structured report)",
        "overlay": "overlay picture",
        "rejection": "rejection note",
        "segmentation": "segmentation",
        "presentation": "presentation state",
    }
)

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "input": "Input: is the image of the kind the AI was made for?",
        "attention": "Attention: did the network look where it looks on known good images of this class?",
        "early": "Early features: do its first layers respond as on known good images of this class?",
        "authenticity": "Authenticity: does the image show the fine structure of a real radiograph?",
    }
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    *OUTCOMES.items(),
    ("check", "One question that is put to each result. It comes to a score of its own, which is held against a "
     "threshold. An advisory check is shown and never changes the verdict."),
    ("p-value", "Of the known good images of this class, the share that is at least as odd as this image. 0.5 is "
     "ordinary; 0.02 means that only 2 in 100 are as odd. Below alpha the image does not pass."),
    ("alpha", "How many of 100 good images are knowingly refused as the price of catching bad ones; 0.05 means 5."),
    ("score", "How odd the oddest measurement of a check is, in units of the usual spread. A combined score of a "
     "million or more marks an image that could not pass whatever its other scores."),
    ("threshold", "The limit that was fixed by calibration before the image came. 'At least' and 'at most' say on "
     "which side of it a good value lies."),
    ("similarity (IoU, Dice, soft IoU, SSIM, cosine, Pearson)", "How alike two maps are: the image's own, and the "
     "reference of its class. The higher, the more alike; 1 is the same."),
    ("distance (KL, Wasserstein, feature, channel and frequency distance)", "How far the image is from the reference. "
     "The lower, the more alike; 0 is the same."),
    ("garbage class", "The class for images that are none of the AI's classes."),
    ("bundle", "The AI with everything that belongs to it: network, references, calibration. Its digest names exactly "
     "one content."),
    ("settings digest", "Names exactly the settings under which a result was made. Their text is in this dossier."),
    ("SHA-256, BLAKE3", "Fingerprints of data: whoever has the file can compute them again and compare."),
    ("AE title", "The name by which a DICOM device calls itself."),
    ("storage commitment", "A destination's later promise that it keeps an object for good."),
    ("job", "One image on its way through the node. The same image processed again is another job."),
)  # fmt: skip


def said(record: AuditRecord) -> str:
    """A record in one sentence."""
    pattern = _SAID.get(record.event)
    if pattern is None:
        shown = ", ".join(
            f"{key} {_short(value)}" for key, value in sorted(record.keys.items()) if value not in ("", None)
        )
        return f"{record.event}: {shown}" if shown else record.event
    flat = dict(record.keys)
    rejection = record.keys.get("rejection")
    flat["rejection.message"] = rejection.get("message") if isinstance(rejection, dict) else None
    verification = record.keys.get("verification")
    reasons = verification.get("reasons") if isinstance(verification, dict) else None
    flat["verification.reasons"] = "; ".join(map(str, reasons)) if isinstance(reasons, list) else None
    flat["role"] = ROLES.get(str(flat.get("role")), flat.get("role"))

    def value_of(place: re.Match[str]) -> str:
        value = flat.get(place[1])
        return "" if value is None or value == "" else _short(value)

    words = _PLACE.sub(value_of, pattern)  # in one go: what a value says is never taken for a place
    words = " ".join(words.replace(": :", ":").replace(": :", ":").split()).rstrip(" :")
    return words[:1].upper() + words[1:]


def plain(text: object) -> str:
    """Text on one line that shows what it is: line ends as arrows, other control and format characters as U+FFFD."""
    words = str(text)
    if words.isprintable():
        return words
    words = words.replace("\r\n", "\n").replace("\r", "\n").replace("\n", " ↵ ").replace("\t", " ")
    return "".join("\ufffd" if unicodedata.category(character)[0] == "C" else character for character in words)


def number(value: object) -> str:
    """A figure for people, to four significant digits; the JSON holds all of them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "none" if value is None else str(value)
    if 1e5 <= abs(value) < 1e9:
        return f"{value:.1f}"
    return f"{value:.4g}" if value == 0 or 1e-4 <= abs(value) < 1e9 else f"{value:.3e}"


def measure_name(name: str) -> str:
    """`attention.soft_iou` as `soft IoU`."""
    words = name.partition(".")[2] or name
    special = {"iou": "IoU", "dice": "Dice", "soft_iou": "soft IoU", "ssim": "SSIM", "kl": "KL distance",
               "wasserstein": "Wasserstein distance", "pearson": "Pearson"}  # fmt: skip
    return special.get(words, words.replace("_", " "))


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words if len(words) <= 600 else words[:600] + " …"

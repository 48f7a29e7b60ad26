"""One image of a dossier: what came, what was decided on which figures, what was sent where."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dicom_gam.service.dossier import outcome_of, why_of
from dicom_gam.service.dossier_blocks import Facts, Heading, Table, Words
from dicom_gam.service.dossier_words import CHECKS, DELIVERY_STATES, OUTCOMES, ROLES, measure_name, number, plain, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_gam.service.dossier import ImageStory
    from dicom_gam.service.dossier_blocks import Document, Tone
    from dicom_gam.storage.audit_reader import AuditRecord
    from dicom_gam.storage.rows import Delivery

_ALARM = 1e6  # core.verdict.ALARMED_SCORE


def image_section(story: ImageStory, place: int, count: int) -> Document:
    """What came, what was decided, what was sent: image `place` of `count`."""
    yield Heading(f"Image {place} of {count}" if count > 1 else "The image", new_page=count > 1)
    yield Heading("What came", 3)
    yield Facts(_arrival(story))
    yield Heading("What was decided", 3)
    conclusion = story.conclusion
    if conclusion is None:
        yield Words("Nothing is on record yet: the image waits, or is being processed.", "warn")
    else:
        yield from _decision(conclusion)
    yield from story.pictures
    yield Heading("What was sent where, and what came back", 3)
    yield from _deliveries(story)
    yield Heading("Step by step", 3)
    yield timeline("Every record of this job", story.records)
    if story.reviews:
        yield Table(
            "What readers said about the result, in their own words",
            (("when", 2.8), ("who", 1.5), ("what", 1.5), ("class seen", 1.5), ("words", 5)),
            [
                [moment(review.reviewed_at), plain(review.reviewer), review.kind.value, plain(review.class_name),
                 plain(review.words)]
                for review in story.reviews
            ],
        )  # fmt: skip


def _arrival(story: ImageStory) -> list[tuple[str, str]]:
    job, keys = story.job, story.arrival.keys if story.arrival else {}
    source = story.conclusion.keys.get("input", {}) if story.conclusion else {}
    study = source.get("study_instance_uid") or (job.study_instance_uid if job else "")
    instance = job.instance if job else None
    facts = [
        ("job", story.job_id),
        ("received", f"{time_of(story.arrival)} (record {story.arrival.number})" if story.arrival else ""),
        ("from", f"{keys.get('calling_ae_title') or (instance.calling_ae_title if instance else '')} at "
         f"{keys.get('peer_address') or (instance.peer_address if instance else '')}"),
        ("called as", keys.get("called_ae_title") or (instance.called_ae_title if instance else "")),
        ("predecessor", f"job {keys['predecessor']} of the same image" if keys.get("predecessor") else ""),
        ("Study Instance UID", study),
        ("SOP Instance UID", keys.get("sop_instance_uid") or source.get("sop_instance_uid")),
        ("SOP Class UID", keys.get("sop_class_uid") or source.get("sop_class_uid")),
        ("file", f"{keys['size_bytes']} bytes" if "size_bytes" in keys else ""),
        ("file's BLAKE3", keys.get("file_blake3") or source.get("file_blake3")),
        ("pixels' SHA-256", source.get("pixel_sha256")),
        ("image deleted here", moment(job.purged_at) if job and job.purged_at is not None else ""),
    ]  # fmt: skip
    return [(name, plain(value)) for name, value in facts if value]


def _decision(conclusion: AuditRecord) -> Document:
    keys, outcome = conclusion.keys, outcome_of(conclusion)
    yield Words(f"{outcome}: {OUTCOMES.get(outcome, '')}", tone_of(conclusion))
    why = plain(why_of(conclusion))
    if why:
        yield Words(f"Why: {why}")
    bundle, verification = keys.get("bundle") or {}, keys.get("verification")
    facts = [
        ("decided", f"{time_of(conclusion)} (record {conclusion.number})"),
        ("by the bundle", f"{bundle.get('name')} {bundle.get('version')}" if bundle.get("name") else ""),
        ("bundle's digest", bundle.get("digest")),
        ("settings' digest", keys.get("settings_digest")),
        ("made with", keys.get("made_with")),
        ("rule", keys.get("rule")),
        ("unchanged since job", keys.get("unchanged_since_job")),
    ]
    yield Facts([(name, plain(value)) for name, value in facts if value])
    if isinstance(keys.get("prediction"), dict):
        yield _prediction(keys["prediction"], outcome)
    if isinstance(verification, dict):
        yield from _verification(verification)


def _prediction(prediction: dict[str, Any], outcome: str) -> Table:
    withheld = "" if outcome == "PASS" else " – WITHHELD: it was not sent and must not be used"
    ranked = sorted(prediction.get("probabilities", {}).items(), key=lambda item: -_float(item[1]))
    marks = {prediction.get("label"): "most probable", prediction.get("garbage_class"): "garbage class"}
    if prediction.get("label") == prediction.get("garbage_class"):
        marks = {prediction.get("label"): "most probable, and the garbage class"}
    return Table(
        f"What the network said{withheld}",
        (("class", 4), ("probability", 2), ("", 4)),
        [[plain(name), number(value), marks.get(name, "")] for name, value in ranked],
    )


def _verification(verification: dict[str, Any]) -> Document:
    rank = verification.get("rank") or {}
    yield Facts(
        [
            ("p-value", f"{number(verification.get('p_value'))} (alpha {number(verification.get('alpha'))})"),
            ("combined score", _combined(verification.get("score"))),
            ("compared with", f"{rank.get('size')} known good images of the class {plain(rank.get('class_name'))}: "
             f"{rank.get('odder')} are odder, {rank.get('equal')} as odd"),
            ("attention", plain(f"by {verification.get('attention_method')}: {verification.get('attention_status')}")),
            *(("note", plain(note)) for note in verification.get("notes", [])),
        ]
    )  # fmt: skip
    checks = verification.get("checks", [])
    yield Table(
        "The checks",
        (("check", 4), ("result", 1.7), ("score", 1.3), ("threshold", 1.3), ("p-value", 1.1), ("reason", 4)),
        [
            [CHECKS.get(check["name"], plain(check["name"])), _result(check), number(check["score"]),
             f"at most {number(check['threshold'])}", number(check["p_value"]), plain(check["reason"])]
            for check in checks
        ],
        [_tone_of_check(check) for check in checks],
    )  # fmt: skip
    measured = [(check, measurement) for check in checks for measurement in check["measurements"]]
    yield Table(
        "Every measurement",
        (("check", 1.7), ("measurement", 3), ("value", 1.5), ("threshold", 2.2), ("p-value", 1.2), ("within", 1)),
        [
            [plain(check["name"]), plain(measure_name(measurement["name"])), number(measurement["value"]),
             f"{'at least' if measurement['bound'] == 'min' else 'at most'} {number(measurement['threshold'])}",
             number(measurement["p_value"]), "yes" if measurement["passed"] else "NO"]
            for check, measurement in measured
        ],
        ["plain" if measurement["passed"] else _tone_of_check(check, failed=True) for check, measurement in measured],
    )  # fmt: skip


def _result(check: dict[str, Any]) -> str:
    return ("passed" if check["passed"] else "FAILED") + (" (advisory)" if check.get("advisory") else "")


def _tone_of_check(check: dict[str, Any], *, failed: bool = False) -> Tone:
    if check["passed"] and not failed:
        return "plain"
    return "warn" if check.get("advisory") else "bad"


def _deliveries(story: ImageStory) -> Document:
    outputs = story.conclusion.keys.get("outputs", []) if story.conclusion else []
    if outputs:
        yield Table(
            "Objects that were made",
            (("object", 2), ("SOP Instance UID", 4.5), ("SHA-256 of the file", 4.5), ("bytes", 1.2)),
            [
                [ROLES.get(output.get("role"), plain(output.get("role"))), plain(output.get("sop_instance_uid")),
                 plain(output.get("sha256")), plain(output.get("size_bytes"))]
                for output in outputs
            ],
        )  # fmt: skip
    if not story.deliveries:
        yield Words("Nothing was to be sent: no destination is meant for this image, or there is no result.")
        return
    yield Table(
        "Deliveries, as they stand when this dossier is made",
        (("object", 2), ("to", 1.4), ("state", 2.2), ("tries", 0.7), ("last record", 3), ("what came back", 5)),
        [_delivery(delivery, story.records) for delivery in story.deliveries],
        [_tone_of_delivery(delivery) for delivery in story.deliveries],
    )


def _delivery(delivery: Delivery, records: Sequence[AuditRecord]) -> list[str]:
    what = delivery.what
    latest = next(
        (
            record
            for record in reversed(records)
            if record.event.startswith("delivery.")
            and record.keys.get("destination") == what.destination
            and record.keys.get("sop_instance_uid") == what.sop_instance_uid
        ),
        None,
    )
    commitment = f" Storage commitment: Transaction UID {delivery.transaction_uid}." if delivery.transaction_uid else ""
    return [
        ROLES.get(what.role, what.role),
        plain(what.destination),
        DELIVERY_STATES[delivery.state],
        str(delivery.attempts),
        "" if latest is None else f"{time_of(latest)} (record {latest.number})",
        plain(delivery.cause or "nothing yet") + commitment,
    ]


def _tone_of_delivery(delivery: Delivery) -> Tone:
    words = DELIVERY_STATES[delivery.state]
    return "bad" if words.startswith("NOT") else "plain" if words == "delivered" else "warn"


def timeline(caption: str, records: Sequence[AuditRecord]) -> Table:
    """Records, one sentence each."""
    return Table(
        caption,
        (("record", 1), ("time (UTC)", 2.4), ("what happened", 8)),
        [[str(record.number), time_of(record), plain(said(record))] for record in records],
    )


def tone_of(conclusion: AuditRecord | None) -> Tone:
    """The colour of a verdict."""
    tones: dict[str, Tone] = {"PASS": "good", "FAIL": "bad", "ERROR": "bad"}
    return "plain" if conclusion is None else tones.get(outcome_of(conclusion), "warn")


def time_of(record: AuditRecord) -> str:
    """A record's time for people."""
    return time_shown(record.time)


def time_shown(time: str) -> str:
    """The same for the time alone."""
    return plain(time.replace("T", " ").replace("Z", ""))


def moment(seconds: float) -> str:
    """Seconds since the epoch for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else -1.0


def _combined(score: object) -> str:
    alarm = isinstance(score, int | float) and score >= _ALARM
    return number(score) + (" (a million is added where an image can't pass whatever its scores)" if alarm else "")

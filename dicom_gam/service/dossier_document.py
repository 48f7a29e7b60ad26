"""A dossier as a document: what is said in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.service.dossier import ScopeKind, outcome_of, why_of
from dicom_gam.service.dossier_blocks import Code, Facts, Heading, Table, Words
from dicom_gam.service.dossier_image import image_section, moment, time_of, time_shown, timeline, tone_of
from dicom_gam.service.dossier_words import DELIVERY_STATES, GLOSSARY, OUTCOMES, plain, said

if TYPE_CHECKING:
    from dicom_gam.service.dossier import Dossier, ImageStory, JobLine
    from dicom_gam.service.dossier_blocks import Document
    from dicom_gam.storage.audit_reader import AuditRecord

RECORDS_SHOWN = 1000  # of a study, in the list of all records; the tables hold all of them
JOBS_SHOWN = 3000  # of a span of time; the JSON holds all of them
NOT_LISTED = frozenset({"association.accepted", "association.released"})


def title_of(dossier: Dossier) -> str:
    """What the dossier is about, in one line."""
    scope = dossier.scope
    if scope.kind is ScopeKind.PERIOD:
        return f"Audit dossier of the time {_span(scope.since, scope.until)}"
    return f"Audit dossier of the {scope.kind.value} {plain(scope.name)}"


def document(dossier: Dossier) -> Document:
    """The whole document, block by block."""
    yield from _front(dossier)
    if dossier.scope.kind is ScopeKind.PERIOD:
        yield from _period(dossier)
    for place, story in enumerate(dossier.images, 1):
        yield from image_section(story, place, len(dossier.images))
    yield from _afterwards(dossier)
    if dossier.scope.kind is not ScopeKind.PERIOD:
        yield from _all_records(dossier)
    yield from _settings(dossier)
    yield from _integrity(dossier)
    yield Heading("What the words mean", new_page=True)
    yield Facts([(name, words) for name, words in GLOSSARY])


def _front(dossier: Dossier) -> Document:
    yield Heading(title_of(dossier), 1)
    yield Words(
        "This dossier says what came, what was decided on which figures, what was sent where, and who did what "
        "afterwards. It is made from the node's audit log and needs no software to be read. It names no patient: "
        "studies and images are named by their UIDs. Overlay pictures show the image with whatever was burnt into it."
    )
    chain = dossier.chain
    if chain.whole:
        yield Words(f"The audit log is whole. {chain.words}", "good")
    else:
        yield Words(f"THE AUDIT LOG IS BROKEN: do not rely on this dossier. {plain(chain.words)}", "bad")
    yield Facts(
        [
            ("made", f"{moment(dossier.made_at)} by {plain(dossier.made_by)}, with dicom_gam {dossier.version}"),
            ("records", f"{dossier.count} of the log's {chain.records or 'unknown number of'}: "
             f"from number {dossier.first} to {dossier.last}"),
            ("times", "are in UTC, as the node's clock gave them"),
        ]
    )  # fmt: skip
    if dossier.images:
        yield Table(
            "In short",
            (("no.", 0.5), ("received", 2.2), ("from", 2.6), ("verdict", 1.6), ("why", 4.4), ("deliveries", 2.2)),
            [_in_short(place, story) for place, story in enumerate(dossier.images, 1)],
            [tone_of(story.conclusion) for story in dossier.images],
        )


def _in_short(place: int, story: ImageStory) -> list[str]:
    arrival, conclusion = story.arrival, story.conclusion
    counts: dict[str, int] = {}
    for delivery in story.deliveries:
        words = DELIVERY_STATES[delivery.state].partition(",")[0]
        counts[words] = counts.get(words, 0) + 1
    return [
        str(place),
        "" if arrival is None else time_of(arrival),
        "" if arrival is None else plain(arrival.keys.get("calling_ae_title", "")),
        ("none yet" if conclusion is None else outcome_of(conclusion)) + _overridden(story),
        "" if conclusion is None else plain(why_of(conclusion)) or "every check passed",
        "; ".join(f"{count} {words}" for words, count in counts.items()) or "none",
    ]


def _afterwards(dossier: Dossier) -> Document:
    yield Heading("Who did what")
    if not dossier.acts:
        yield Words("No act of a person is on record.")
        return
    yield Table(
        "What people did: looks, repeated deliveries, dismissals, overrides, opinions, exports",
        (("record", 1), ("time (UTC)", 2.4), ("who", 1.8), ("what", 6)),
        [
            [str(record.number), time_of(record), plain(record.keys.get("by") or record.keys.get("user") or ""),
             plain(said(record)) + _where(record)]
            for record in dossier.acts
        ],
    )  # fmt: skip
    if dossier.acts_left_out:
        yield Words(f"{dossier.acts_left_out} more are in the CSV and JSON of this dossier.", "warn")


def _where(record: AuditRecord) -> str:
    parts = [
        f"{words} {record.keys[key]}" for key, words in (("job_id", "job"), ("address", "from")) if record.keys.get(key)
    ]
    return plain(f" ({', '.join(parts)})") if parts else ""


def _all_records(dossier: Dossier) -> Document:
    yield Heading("All records of this dossier in their order")
    listed = [record for record in dossier.records() if record.event not in NOT_LISTED]
    yield timeline("In short; in full in the CSV and JSON of this dossier", listed[:RECORDS_SHOWN])
    if len(listed) > RECORDS_SHOWN:
        yield Words(f"{len(listed) - RECORDS_SHOWN} more are in the CSV and JSON of this dossier.", "warn")


def _why(line: JobLine) -> str:
    return plain(line.why) or ("every check passed" if line.outcome == "PASS" else "")


def _overridden(story: ImageStory) -> str:
    by = [str(record.keys.get("by")) for record in story.records if record.event == "result.overridden"]
    return f" – overridden by {plain(by[-1])}, who judged it by hand" if by else ""


def _period(dossier: Dossier) -> Document:
    outcomes: dict[str, int] = {}
    for line in dossier.lines:
        outcomes[line.outcome or "none yet"] = outcomes.get(line.outcome or "none yet", 0) + 1
    yield Heading("In short")
    yield Table(
        "Images by verdict",
        (("verdict", 2), ("images", 1), ("what it means", 8)),
        [
            [name, str(count), OUTCOMES.get(name, "no verdict within this time")]
            for name, count in sorted(outcomes.items())
        ],
    )
    yield Table(
        "Records by kind",
        (("kind", 4), ("records", 1)),
        [[plain(k), str(v)] for k, v in sorted(dossier.events.items())],
    )
    shown = dossier.lines[:JOBS_SHOWN]
    yield Heading("The images", new_page=True)
    yield Table(
        "One row for each job, as far as it fell into this time",
        (("received (UTC)", 2.3), ("from", 2.4), ("job and image", 4.2), ("verdict", 1.7), ("why", 4), ("sent", 0.9),
         ("given up", 0.9)),
        [
            [time_shown(line.received), plain(line.sender), f"{line.job_id} {plain(line.sop_instance_uid)}",
             line.outcome or "none yet", _why(line), str(line.sent), str(line.failed)]
            for line in shown
        ],
        ["bad" if line.failed or line.outcome in ("FAIL", "ERROR") else "plain" for line in shown],
    )  # fmt: skip
    if len(dossier.lines) > JOBS_SHOWN:
        yield Words(f"{len(dossier.lines) - JOBS_SHOWN} more are in the JSON of this dossier.", "warn")


def _settings(dossier: Dossier) -> Document:
    if dossier.settings:
        yield Heading("Settings under which the results were made")
    for digest, text in dossier.settings.items():
        yield Words(f"The SHA-256 of the following text, as it was kept with the results, is {digest}.")
        yield Code(text)


def _integrity(dossier: Dossier) -> Document:
    yield Heading("How to check this dossier independently")
    chain = dossier.chain
    yield Words(
        "Every record of the log holds the SHA-256 of the record before it, so no record can be changed, taken out or "
        "put in without breaking all that follow. The node's database holds the digest of the last record, and the "
        "node signs the log with its Ed25519 key from time to time. Keep a copy of audit-key.pub.pem elsewhere: by it "
        "a log that was rewritten as a whole is told, too."
    )
    yield Facts(
        [
            ("the log's state", plain(chain.words)),
            ("its signatures", plain(chain.signatures) or "none"),
            *(("signed by the key", f"with the SHA-256 {name} (DER)") for name in chain.fingerprints),
            ("last record's SHA-256", chain.head),
            ("records in this dossier", f"{dossier.count}, numbers {dossier.first} to {dossier.last}"),
        ]
    )
    yield Words(
        "On the node's machine: dicom-gam audit verify FOLDER --public-key FILE. Without the software, with the JSON "
        "of this dossier and Python:"
    )
    yield Code(CHECK_PROGRAM)
    yield Words(
        "It computes each record's SHA-256 anew and, where records follow each other, holds it against the next one's. "
        "Files that are kept elsewhere (the image, the report, the overlay) can be held against their digests above "
        "with sha256sum and b3sum."
    )


CHECK_PROGRAM = """import hashlib, json, sys
before = None
for line in open(sys.argv[1], "rb"):
    if not line.startswith(b'{"sha256":"'):
        continue
    entry = json.loads(line.rstrip(b"\\r\\n,"))
    text = line[line.index(b'"record":') + 9 :].rstrip(b"\\r\\n,")[:-1]
    assert hashlib.sha256(text).hexdigest() == entry["sha256"], entry["record"]["number"]
    record = entry["record"]
    if before and before["record"]["number"] + 1 == record["number"]:
        assert record["previous"] == before["sha256"], record["number"]
    before = entry
print("every record is as its digest says")"""


def _span(since: float | None, until: float | None) -> str:
    begin = "from the beginning" if since is None else f"from {moment(since)}"
    return begin + (" until now" if until is None else f" to {moment(until)}")

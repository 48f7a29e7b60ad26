"""Which event of our audit log becomes which DICOM audit message (PS3.15 A.5.3), and which becomes none."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dicom_gam.service.atna import message as m
from dicom_gam.service.atna.message import Instances, Message, Participant, Thing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicom_gam.service.atna.known import Known
    from dicom_gam.service.atna.message import Code
    from dicom_gam.storage.audit_reader import AuditRecord

    Recipe = Callable[[AuditRecord, Known], Message]


def message_of(record: AuditRecord, known: Known) -> Message | None:
    """The audit message for a record; None for an event that has none."""
    recipe = RECIPES.get(record.event)
    return None if recipe is None else recipe(record, known)


def _activity(kind: Code) -> Recipe:
    """Application Activity (A.5.3.1)."""

    def recipe(record: AuditRecord, known: Known) -> Message:
        participants = [known.here(requestor=False, roles=(m.APPLICATION,))]
        if record.keys.get("by"):
            participants.append(_person(record))
        return Message(m.APPLICATION_ACTIVITY, m.EXECUTE, record.time, tuple(participants), types=(kind,))

    return recipe


def _received(action: str, outcome: str = m.SUCCESS, description: str = "") -> Recipe:
    """DICOM Instances Transferred (A.5.3.7), towards us. `action` is R for what we had already."""

    def recipe(record: AuditRecord, known: Known) -> Message:
        keys = record.keys
        sender = _caller(record, requestor=True, roles=(m.SOURCE_ROLE,))
        study = known.study_of(_said(keys, "job_id"))
        return Message(
            m.INSTANCES_TRANSFERRED,
            action,
            record.time,
            (sender, known.here(requestor=False, roles=(m.DESTINATION_ROLE,))),
            (_images(study, _said(keys, "sop_class_uid"), _said(keys, "sop_instance_uid")),),
            outcome=outcome,
            description=description or _said(keys, "why"),
        )

    return recipe


def _sent(outcome: str) -> Recipe:
    """DICOM Instances Transferred (A.5.3.7), from us. 4: it is tried again; 8: it was given up."""

    def recipe(record: AuditRecord, known: Known) -> Message:
        uid = _said(record.keys, "sop_instance_uid")
        study, sop_class = known.sent(_said(record.keys, "job_id"), uid)
        return Message(
            m.INSTANCES_TRANSFERRED,
            m.CREATE,
            record.time,
            (
                known.here(requestor=True, roles=(m.SOURCE_ROLE,)),
                known.peer(_said(record.keys, "destination"), requestor=False, roles=(m.DESTINATION_ROLE,)),
            ),
            (_images(study, sop_class, uid),),
            outcome=outcome,
            description="" if outcome == m.SUCCESS else _said(record.keys, "words"),
        )

    return recipe


def _fetched(outcome: str) -> Recipe:
    """Query (A.5.3.10): we ask a source for a study. The images that come have messages of their own."""

    def recipe(record: AuditRecord, known: Known) -> Message:
        study = _said(record.keys, "study_instance_uid")
        return Message(
            m.QUERY,
            m.EXECUTE,
            record.time,
            (
                known.here(requestor=True, roles=(m.SOURCE_ROLE,)),
                known.peer(_said(record.keys, "source"), requestor=False, roles=(m.DESTINATION_ROLE,)),
            ),
            (Thing(study, m.STUDY_UID, "24", query=f"StudyInstanceUID={study}"),),
            outcome=outcome,
            description="" if outcome == m.SUCCESS else _said(record.keys, "why"),
        )

    return recipe


def _processed(record: AuditRecord, known: Known) -> Message:
    """DICOM Instances Accessed (A.5.3.6) by the node itself, which thereby names the study of what it received."""
    image: Mapping[str, Any] = record.keys.get("input") or {}
    thing = _images(_said(image, "study_instance_uid"), _said(image, "sop_class_uid"), _said(image, "sop_instance_uid"))
    here = known.here(requestor=True, roles=(m.APPLICATION,))
    return Message(m.INSTANCES_ACCESSED, m.READ, record.time, (here,), (thing,))


def _touched(record: AuditRecord, known: Known) -> Message:
    """DICOM Instances Accessed (A.5.3.6) by a person; a look at no single study is a Query (A.5.3.10)."""
    keys = record.keys
    study = _said(keys, "study_instance_uid") or known.study_of(_said(keys, "job_id"))
    what = _said(keys, "what") or record.event
    people = _person(record), known.here(requestor=False, roles=(m.APPLICATION,))
    if not study:
        asked = Thing(what, m.SEARCH_CRITERIA, "24", query=what, details=_job(keys))
        return Message(m.QUERY, m.EXECUTE, record.time, people, (asked,))
    thing = Thing(study, m.STUDY_UID, "3", details=(("what", what), *_job(keys)))
    return Message(m.INSTANCES_ACCESSED, m.READ, record.time, people, (thing,))


def _alert(kind: Code, outcome: str = m.MINOR_FAILURE, about: str = "") -> Recipe:
    """Security Alert (A.5.3.11). Its subject is the stranger, or `about`, what of ours is concerned."""

    def recipe(record: AuditRecord, known: Known) -> Message:
        keys = record.keys
        stranger = _said(keys, "address") or _said(keys, "peer_address") or _said(keys, "by") or "unknown"
        why = _said(keys, "why") or _said(keys, "message") or record.event
        subject = Thing(
            about or stranger,
            m.URI if about else m.NODE_ID,
            "13",
            details=(("Alert Description", f"{record.event}: {why}"),),
        )
        participants = [known.here(requestor=False, roles=(m.APPLICATION,))]
        if "peer_address" in keys or "calling_ae_title" in keys:
            participants.append(_caller(record, requestor=True))
        elif "by" in keys or "address" in keys:
            participants.append(_person(record))
        return Message(
            m.SECURITY_ALERT,
            m.EXECUTE,
            record.time,
            tuple(participants),
            (subject,),
            (kind,),
            outcome,
            "" if outcome == m.SUCCESS else why,
        )

    return recipe


def _authentication(kind: Code, outcome: str = m.SUCCESS) -> Recipe:
    """User Authentication (A.5.3.12), whether it succeeded or not."""

    def recipe(record: AuditRecord, known: Known) -> Message:
        people = _person(record), known.here(requestor=False, roles=(m.APPLICATION,))
        why = "" if outcome == m.SUCCESS else _said(record.keys, "why")
        return Message(
            m.USER_AUTHENTICATION, m.EXECUTE, record.time, people, types=(kind,), outcome=outcome, description=why
        )

    return recipe


def _refused(record: AuditRecord, known: Known) -> Message:
    """A refused request: a failed log-in is a User Authentication (A.5.3.12), anything else a Security Alert."""
    if not _said(record.keys, "at").startswith("login."):
        return _alert(m.NODE_AUTHENTICATION)(record, known)
    return _authentication(m.LOGIN, m.MINOR_FAILURE)(record, known)


def _account(record: AuditRecord, known: Known) -> Message:
    """Security Alert (A.5.3.11): somebody may do more or less than before."""
    user = Thing(_said(record.keys, "user") or "unknown", m.USER_IDENTIFIER, "6",
                 details=(("Alert Description", record.event),))  # fmt: skip
    people = _person(record), known.here(requestor=False, roles=(m.APPLICATION,))
    return Message(m.SECURITY_ALERT, m.EXECUTE, record.time, people, (user,), (m.USER_SECURITY_CHANGED,))


def _log_used(record: AuditRecord, known: Known) -> Message:
    """Audit Log Used (A.5.3.2)."""
    log = Thing("audit.jsonl", m.URI, "13", name="Security Audit Log", details=(("what", record.event),))
    people = _person(record), known.here(requestor=False, roles=(m.APPLICATION,))
    outcome, why = m.SUCCESS, ""
    if record.keys.get("whole") is False:
        outcome, why = m.SERIOUS_FAILURE, f"the log is broken at record {_said(record.keys, 'bad_record') or 'unknown'}"
    return Message(m.AUDIT_LOG_USED, m.READ, record.time, people, (log,), outcome=outcome, description=why)


def _images(study: str, sop_class: str, uid: str) -> Thing:
    """The study with the one instance that it is about; the instance's SOP class while the study is not known."""
    instances = (Instances(sop_class, 1, (uid,) if uid else ()),)
    if study:
        return Thing(study, m.STUDY_UID, "3", instances=instances)
    return Thing(sop_class or "unknown", m.SOP_CLASS_UID, "3", instances=instances)


def _caller(record: AuditRecord, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
    title, address = _said(record.keys, "calling_ae_title"), _said(record.keys, "peer_address")
    return Participant(_said(record.keys, "by") or title or address, requestor, roles, title, address)


def _person(record: AuditRecord) -> Participant:
    keys = record.keys
    return Participant(_said(keys, "by") or _said(keys, "user"), requestor=True, address=_said(keys, "address"))


def _job(keys: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    job_id = _said(keys, "job_id")
    return (("job_id", job_id),) if job_id else ()


def _said(keys: Mapping[str, Any], name: str) -> str:
    value = keys.get(name)
    return "" if value is None else str(value)


_LOG = "audit.jsonl"
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "node.started": _activity(m.APPLICATION_START),
        "node.stopped": _activity(m.APPLICATION_STOP),
        "instance.stored": _received(m.CREATE),
        "instance.duplicate": _received(m.READ),
        "instance.quarantined": _received(
            m.CREATE, m.MINOR_FAILURE, "other content had come under the same SOP Instance UID: it is kept aside"
        ),
        "instance.refused": _received(m.CREATE, m.SERIOUS_FAILURE),
        "delivery.sent": _sent(m.SUCCESS),
        "delivery.postponed": _sent(m.MINOR_FAILURE),
        "delivery.dead": _sent(m.SERIOUS_FAILURE),
        "fetch.started": _fetched(m.SUCCESS),
        "fetch.failed": _fetched(m.SERIOUS_FAILURE),
        "job.result": _processed,
        "job.rejected": _processed,
        "access.looked": _touched,
        "result.reviewed": _touched,
        "result.overridden": _touched,
        "result.dismissed": _touched,
        "result.reproduced": _touched,
        "job.reprocess_ordered": _touched,
        "access.logged_in": _authentication(m.LOGIN),
        "access.logged_out": _authentication(m.LOGOUT),
        "access.refused": _refused,
        "access.user_added": _account,
        "access.user_disabled": _account,
        "access.user_enabled": _account,
        "access.roles_changed": _account,
        "access.password_reset": _account,
        "access.password_changed": _account,
        "access.sessions_revoked": _account,
        "access.token_made": _account,
        "access.token_revoked": _account,
        "audit.searched": _log_used,
        "audit.exported": _log_used,
        "audit.verified": _log_used,
        "association.rejected": _alert(m.NODE_AUTHENTICATION),
        "connection.refused": _alert(m.NODE_AUTHENTICATION),
        "commitment.unknown": _alert(m.RESTRICTED_FUNCTION),
        "tls.reload_failed": _alert(m.SECURITY_CONFIGURATION, about="tls.certificate"),
        "audit.key_changed": _alert(m.SECURITY_CONFIGURATION, m.SUCCESS, about=_LOG),
        "audit.recovered": _alert(m.RECORDING_STARTED, m.SUCCESS, about=_LOG),
    }
)

_WITHIN = "a step within the node, which neither moves nor shows instances"
_OPERATED = "running the node; it gives nobody access to anything"
# Events of the audit log that mean nothing to a repository of audit messages, and why.
LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "association.accepted": "the transfers within an association have messages of their own",
        "association.released": "the transfers within an association have messages of their own",
        "association.aborted": "what was transferred before has messages of its own; the rest was not",
        "connection.dropped": "someone was too slow or went away: nothing was asked for",
        "echo.answered": "nothing is transferred by an echo",
        "delivery.stored": "`delivery.sent` follows when the destination answers for it",
        "commitment.asked": "`delivery.sent` follows for each object that is answered for",
        "commitment.answered": "`delivery.sent` follows for each object that is answered for",
        "fetch.finished": "each image that came has a message of its own",
        "job.started": _WITHIN,
        "job.skipped": _WITHIN,
        "job.recovered": _WITHIN,
        "job.retried": _WITHIN,
        "job.failed": _WITHIN,
        "job.lease_lost": _WITHIN,
        "job.reprocess_requested": _WITHIN,
        "drift-alarm": _WITHIN,
        "drift-reset": _OPERATED,
        "destination.paused": _OPERATED,
        "destination.resumed": _OPERATED,
        "destination.retried": _OPERATED,
        "destination.dismissed": _OPERATED,
        "destination.reached": _WITHIN,
        "destination.greeted": "nothing of a patient is sent to try a connection",
        "destination.tested": "nothing of a patient is sent to try a connection",
        "destination.test_answered": "nothing of a patient is sent to try a connection",
        "feedback.exported": "it holds labels and file names, nothing of a patient",
        "feedback.calibrated": _WITHIN,
        "audit.checkpoint": _WITHIN,
        "audit.clock_went_back": _WITHIN,
        "destination.unreachable": "`delivery.sent` or `delivery.dead` follows for each object",
        "receiver.lost": _WITHIN,
        "storage.recovered": _WITHIN,
        "retention.purged": "our own copies are deleted: the study stays with whom it came from",
        "retention.clock_jumped": _WITHIN,
        "retention.no_room": _WITHIN,
    }
)

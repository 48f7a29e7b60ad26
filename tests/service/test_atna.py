from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from pydicom.sr.codedict import codes

from dicom_gam.service.atna import message as parts
from dicom_gam.service.atna.events import LEFT_OUT, RECIPES, message_of
from dicom_gam.service.atna.message import Code, Origin, Participant, to_xml
from dicom_gam.service.atna.syslog import framed
from dicom_gam.storage.audit_reader import START, AuditRecord
from tests.service.recorded_events import recorded_events

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).with_name("atna.rng")))
STUDY, IMAGE, CR = "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.1.1.1", "1.2.840.10008.5.1.4.1.1.1"
PEER = {"calling_ae_title": "CT1", "called_ae_title": "DICOM_GAM", "peer_address": "10.0.0.7"}
RECEIVED = PEER | {"job_id": "a1", "sop_class_uid": CR, "sop_instance_uid": IMAGE, "status": "0000"}
DELIVERED = {"job_id": "a1", "destination": "PACS", "role": "sr", "sop_instance_uid": f"{IMAGE}.9", "words": "refused"}
IMAGE_READ = {"sop_class_uid": CR, "sop_instance_uid": IMAGE, "study_instance_uid": STUDY}
PERSON = {"by": "radiographer", "address": "10.0.0.9"}
TRUE_KEYS: dict[str, dict[str, Any]] = {
    "node.started": {"version": "0.1", "ae_title": "DICOM_GAM", "host": "127.0.0.1", "port": 11112},
    "node.stopped": {"waiting": 0},
    "instance.stored": RECEIVED,
    "instance.duplicate": RECEIVED,
    "instance.quarantined": RECEIVED,
    "instance.refused": PEER | {"sop_instance_uid": "invalid", "status": "A700", "why": "the disk is full"},
    "delivery.sent": DELIVERED,
    "delivery.postponed": DELIVERED,
    "delivery.dead": DELIVERED,
    "fetch.started": {"source": "PACS", "study_instance_uid": STUDY},
    "fetch.failed": {"source": "gone", "study_instance_uid": "invalid", "why": "no answer"},
    "job.result": {"job_id": "a1", "input": IMAGE_READ},
    "job.rejected": {"job_id": "a1", "input": IMAGE_READ | {"study_instance_uid": ""}},
    "access.looked": PERSON | {"what": "job", "job_id": "a1"},
    "access.refused": {"why": "wrong name or password", "at": "login.enter", "address": "10.0.0.9"},
    "association.rejected": PEER | {"why": "its AE title is not known"},
    "connection.refused": {"peer_address": "10.0.0.8", "why": "no TLS handshake"},
    "commitment.unknown": {"transaction_uid": "2.25.1", "calling_ae_title": "PACS", "peer_address": "10.0.0.2"},
}


class Known:
    """A node that knows one study and one archive."""

    def here(self, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
        return Participant("dicom_gam", requestor, roles, "DICOM_GAM", "node-1")

    def peer(self, name: str, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
        return Participant(name, requestor, roles, name, "10.0.0.2")

    def study_of(self, job_id: str) -> str:
        return STUDY if job_id == "a1" else ""

    def sent(self, job_id: str, sop_instance_uid: str) -> tuple[str, str]:
        return self.study_of(job_id), "1.2.840.10008.5.1.4.1.1.88.34"


def record(event: str, keys: dict[str, Any]) -> AuditRecord:
    return AuditRecord(1, "2026-03-01T10:20:30.456Z", event, keys, START, 100)


def xml_of(event: str, keys: dict[str, Any]) -> etree._Element:
    message = message_of(record(event, keys), Known())
    assert message is not None
    tree = etree.fromstring(to_xml(message, Origin("dicom_gam", "Radiology")).encode())
    SCHEMA.assertValid(tree)
    return tree


def codes_in(tree: etree._Element, path: str) -> list[str]:
    return [element.get("csd-code") for element in tree.findall(path)]


@pytest.mark.requirement("ATN-02")
def test_every_event_of_the_source_has_an_audit_message_or_is_left_out_by_name() -> None:
    found, known = recorded_events(), {*RECIPES, *LEFT_OUT}
    assert found - known == set(), "say in service/atna/events.py what becomes of these"
    assert known - found == set(), "these are written nowhere any more"
    assert not RECIPES.keys() & LEFT_OUT.keys()


@pytest.mark.parametrize("event", sorted(RECIPES))
@pytest.mark.requirement("ATN-03")
def test_the_message_of_every_event_fits_the_schema(event: str) -> None:
    for keys in (TRUE_KEYS.get(event, PERSON | {"job_id": "a1", "user": "jane"}), {}, {"by": None, "job_id": None}):
        tree = xml_of(event, keys)
        assert tree.find("EventIdentification").get("EventDateTime") == "2026-03-01T10:20:30.456Z"
        assert tree.find("AuditSourceIdentification").get("AuditSourceID") == "dicom_gam"


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.remove(tree.find("AuditSourceIdentification")),
        lambda tree: [tree.remove(element) for element in tree.findall("ActiveParticipant")],
        lambda tree: tree.find("EventIdentification").set("EventOutcomeIndicator", "1"),
        lambda tree: tree.find("EventIdentification").set("EventDateTime", "yesterday"),
        lambda tree: tree.find("EventIdentification/EventID").attrib.pop("originalText"),
        lambda tree: tree.find("ActiveParticipant").set("UserIsRequestor", "perhaps"),
        lambda tree: tree.find("ActiveParticipant").set("PatientName", "Doe^Jane"),
        lambda tree: tree.find(".//ParticipantObjectName").getparent().remove(tree.find(".//ParticipantObjectName")),
        lambda tree: tree.find(".//SOPClass").set("NumberOfInstances", "one"),
        lambda tree: tree.find(".//Instance").set("UID", "invalid"),
        lambda tree: tree.insert(0, tree.find("AuditSourceIdentification")),
    ],
)
def test_the_schema_finds_broken_messages(damage: Any) -> None:
    tree = xml_of("instance.stored", RECEIVED)
    damage(tree)
    assert not SCHEMA.validate(tree)


def test_every_code_has_the_meaning_that_dicom_gives_it() -> None:
    used = [value for value in vars(parts).values() if isinstance(value, Code) and value.system == "DCM"]
    dictionary = [getattr(codes.DCM, name) for name in dir(codes.DCM) if name[0].isupper()]
    theirs = {code.value: code.meaning for code in dictionary}
    assert len(used) > 15
    assert {code.value: code.meaning for code in used} == {code.value: theirs[code.value] for code in used}


@pytest.mark.requirement("ATN-04")
def test_an_image_that_came_is_a_transfer_from_its_sender_to_us() -> None:
    tree = xml_of("instance.stored", RECEIVED)
    assert codes_in(tree, "EventIdentification/EventID") == ["110104"]
    assert tree.find("EventIdentification").attrib["EventActionCode"] == "C"
    source, destination = tree.findall("ActiveParticipant")
    assert (codes_in(source, "RoleIDCode"), source.get("AlternativeUserID")) == (["110153"], "AETITLES=CT1")
    assert (source.get("NetworkAccessPointID"), source.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")
    assert (codes_in(destination, "RoleIDCode"), destination.get("AlternativeUserID")) == (
        ["110152"],
        "AETITLES=DICOM_GAM",
    )
    assert destination.get("NetworkAccessPointTypeCode") == "1"
    study = tree.find("ParticipantObjectIdentification")
    assert (study.get("ParticipantObjectID"), codes_in(study, "ParticipantObjectIDTypeCode")) == (STUDY, ["110180"])
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert (sop_class.get("UID"), sop_class.get("NumberOfInstances")) == (CR, "1")
    assert sop_class.find("Instance").get("UID") == IMAGE


def test_an_image_whose_study_is_not_known_yet_is_named_by_its_class_and_uid() -> None:
    tree = xml_of("instance.stored", RECEIVED | {"job_id": "b2"})
    thing = tree.find("ParticipantObjectIdentification")
    assert (thing.get("ParticipantObjectID"), codes_in(thing, "ParticipantObjectIDTypeCode")) == (CR, ["110181"])
    assert thing.find(".//Instance").get("UID") == IMAGE


@pytest.mark.parametrize(
    ("event", "event_id", "action", "outcome"),
    [
        ("node.started", "110100", "E", "0"),
        ("instance.duplicate", "110104", "R", "0"),
        ("instance.quarantined", "110104", "C", "4"),
        ("instance.refused", "110104", "C", "8"),
        ("delivery.sent", "110104", "C", "0"),
        ("delivery.postponed", "110104", "C", "4"),
        ("delivery.dead", "110104", "C", "8"),
        ("access.looked", "110103", "R", "0"),
        ("access.refused", "110114", "E", "4"),
        ("access.logged_in", "110114", "E", "0"),
        ("access.roles_changed", "110113", "E", "0"),
        ("association.rejected", "110113", "E", "4"),
        ("connection.refused", "110113", "E", "4"),
        ("audit.exported", "110101", "R", "0"),
    ],
)
@pytest.mark.requirement("ATN-04")
def test_events_have_their_identity_action_and_outcome(event: str, event_id: str, action: str, outcome: str) -> None:
    tree = xml_of(event, TRUE_KEYS.get(event, PERSON))
    identified = tree.find("EventIdentification")
    assert codes_in(identified, "EventID") == [event_id]
    assert (identified.get("EventActionCode"), identified.get("EventOutcomeIndicator")) == (action, outcome)


def test_a_start_and_a_stop_are_told_apart() -> None:
    kinds = [
        codes_in(xml_of(event, {}), "EventIdentification/EventTypeCode") for event in ("node.started", "node.stopped")
    ]
    assert kinds == [["110120"], ["110121"]]


@pytest.mark.requirement("ATN-04")
def test_who_looks_at_a_study_is_named_with_their_address() -> None:
    tree = xml_of("access.looked", PERSON | {"what": "study", "study_instance_uid": STUDY})
    person, node = tree.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("NetworkAccessPointID"), person.get("UserIsRequestor")) == (
        "radiographer", "10.0.0.9", "true"
    )  # fmt: skip
    assert node.get("UserIsRequestor") == "false"
    assert tree.find("ParticipantObjectIdentification").get("ParticipantObjectID") == STUDY


def test_a_look_at_a_list_is_a_query() -> None:
    tree = xml_of("access.looked", PERSON | {"what": "list"})
    assert codes_in(tree, "EventIdentification/EventID") == ["110112"]
    assert base64.b64decode(tree.find(".//ParticipantObjectQuery").text) == b"list"


def test_a_refused_post_is_a_security_alert_but_a_failed_log_in_is_not() -> None:
    alert = xml_of("access.refused", {"why": "cross-site post", "at": "attention.settle", "address": "10.0.0.9"})
    assert codes_in(alert, "EventIdentification/EventID") == ["110113"]
    detail = alert.find(".//ParticipantObjectDetail")
    assert detail.get("type") == "Alert Description"
    assert b"cross-site post" in base64.b64decode(detail.get("value"))


def test_a_log_that_is_found_broken_is_a_serious_failure() -> None:
    found = [xml_of("audit.verified", PERSON | {"whole": whole, "bad_record": 17}) for whole in (True, False)]
    outcomes = [tree.find("EventIdentification").get("EventOutcomeIndicator") for tree in found]
    assert outcomes == ["0", "8"]
    assert found[1].findtext(".//EventOutcomeDescription") == "the log is broken at record 17"


def test_an_event_that_is_left_out_or_not_known_has_no_message() -> None:
    assert all(message_of(record(event, {}), Known()) is None for event in (*LEFT_OUT, "something.new"))


@pytest.mark.parametrize(
    "hostile",
    ["\x00\x07\x1b[31m", '<AuditMessage a="', "&amp;]]>", "\ud800", "\ufffe", "a\nb\r\n<34>1 forged", "é漢🩻" * 2000],
    ids=["control", "markup", "entity", "half a character", "no character", "lines", "long"],
)
@pytest.mark.requirement("ATN-05")
def test_no_text_breaks_the_message_or_the_line(hostile: str) -> None:
    keys = {name: hostile for keys in TRUE_KEYS.values() for name in keys} | {"input": {"study_instance_uid": hostile}}
    keys = json.loads(json.dumps(keys))
    for event in RECIPES:
        message = message_of(record(event, keys | {"sop_instance_uid": IMAGE, "sop_class_uid": CR}), Known())
        assert message is not None
        line = framed(message.time, to_xml(message, Origin("dicom_gam")), "node-1")
        assert b"\n" not in line
        assert len(line) < 32_768
        header, _, xml = line.partition(b"\xef\xbb\xbf")
        assert header.startswith(b"<85>1 2026-03-01T10:20:30.456Z node-1 dicom_gam ")
        assert header.endswith(b" DICOM+RFC3881 - ")
        SCHEMA.assertValid(etree.fromstring(xml))

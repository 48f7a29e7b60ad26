"""The parts of a DICOM audit message (PS3.15 A.5.1) and their form as XML."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from dicom_gam.dicom.identity import is_uid

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_TEXT = 1024  # a destination's own words; a message must fit into what every repository takes (A.6)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value."""

    value: str
    meaning: str
    system: str = "DCM"


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")

APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
RECORDING_STOPPED = Code("110133", "Audit Recording Stopped")
RECORDING_STARTED = Code("110134", "Audit Recording Started")
OBJECT_SECURITY_CHANGED = Code("110135", "Object Security Attributes Changed")
USER_SECURITY_CHANGED = Code("110137", "User Security Attributes Changed")

APPLICATION = Code("110150", "Application")
DESTINATION_ROLE = Code("110152", "Destination Role ID")
SOURCE_ROLE = Code("110153", "Source Role ID")

STUDY_UID = Code("110180", "Study Instance UID")
SOP_CLASS_UID = Code("110181", "SOP Class UID")
NODE_ID = Code("110182", "Node ID")
SEARCH_CRITERIA = Code("10", "Search Criteria", "RFC-3881")
USER_IDENTIFIER = Code("11", "User Identifier", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
CREATE, READ, UPDATE, DELETE, EXECUTE = "C", "R", "U", "D", "E"


@dataclass(frozen=True, slots=True)
class Participant:
    """Who or what took part: a person, or a process. `address` is an IP address or a machine's name."""

    user_id: str
    requestor: bool
    roles: tuple[Code, ...] = ()
    ae_title: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Instances:
    """Instances of one SOP class that an object holds; named singly as far as they are known."""

    sop_class_uid: str
    count: int
    uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thing:
    """A participant object: always a system object (type 2), as no patient is ever named. `role` is of A.5.1.2.2."""

    identifier: str
    kind: Code
    role: str
    name: str = ""
    query: str = ""
    details: tuple[tuple[str, str], ...] = ()
    instances: tuple[Instances, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """What happened. `time` is ISO 8601 in UTC."""

    event: Code
    action: str
    time: str
    participants: tuple[Participant, ...]
    things: tuple[Thing, ...] = ()
    types: tuple[Code, ...] = ()
    outcome: str = SUCCESS
    description: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who reports: AuditSourceID, and the hospital's own name for the place, which may be empty."""

    source_id: str
    enterprise_site: str = ""


def to_xml(message: Message, origin: Origin) -> str:
    """Return the message as one line of XML. What XML can't hold is left out of texts, and long ones are cut."""
    root = ElementTree.Element("AuditMessage")
    identified = {
        "EventActionCode": message.action,
        "EventDateTime": message.time,
        "EventOutcomeIndicator": message.outcome,
    }
    event = _add(root, "EventIdentification", identified)
    _coded(event, "EventID", message.event)
    for code in message.types:
        _coded(event, "EventTypeCode", code)
    if message.description:
        ElementTree.SubElement(event, "EventOutcomeDescription").text = _text(message.description)
    for participant in message.participants:
        _participant(root, participant)
    site = {"AuditEnterpriseSiteID": origin.enterprise_site} if origin.enterprise_site else {}
    source = _add(root, "AuditSourceIdentification", site | {"AuditSourceID": origin.source_id})
    _add(source, "AuditSourceTypeCode", {"csd-code": "4"})  # an application server process
    for thing in message.things:
        _thing(root, thing)
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")


def _participant(root: ElementTree.Element, participant: Participant) -> None:
    attributes = {"UserID": _text(participant.user_id) or "unknown"}
    if participant.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={participant.ae_title}"  # A.5.2.2
    attributes["UserIsRequestor"] = "true" if participant.requestor else "false"
    if participant.address:
        attributes["NetworkAccessPointID"] = participant.address
        attributes["NetworkAccessPointTypeCode"] = "2" if _is_ip(participant.address) else "1"
    element = _add(root, "ActiveParticipant", attributes)
    for role in participant.roles:
        _coded(element, "RoleIDCode", role)


def _thing(root: ElementTree.Element, thing: Thing) -> None:
    attributes = {
        "ParticipantObjectID": _text(thing.identifier) or "unknown",
        "ParticipantObjectTypeCode": "2",
        "ParticipantObjectTypeCodeRole": thing.role,
    }
    element = _add(root, "ParticipantObjectIdentification", attributes)
    _coded(element, "ParticipantObjectIDTypeCode", thing.kind)
    if thing.query:
        ElementTree.SubElement(element, "ParticipantObjectQuery").text = _base64(thing.query)
    else:
        ElementTree.SubElement(element, "ParticipantObjectName").text = (
            _text(thing.name or thing.identifier) or "unknown"
        )
    for name, value in thing.details:
        _add(element, "ParticipantObjectDetail", {"type": name}).set("value", _base64(value))
    if thing.instances:
        description = _add(element, "ParticipantObjectDescription", {})
        for instances in thing.instances:
            counted = {"UID": instances.sop_class_uid} if is_uid(instances.sop_class_uid) else {}
            sop_class = _add(description, "SOPClass", counted | {"NumberOfInstances": str(instances.count)})
            for uid in filter(is_uid, instances.uids):
                _add(sop_class, "Instance", {"UID": uid})


def _coded(parent: ElementTree.Element, tag: str, code: Code) -> None:
    _add(parent, tag, {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning})


def _add(parent: ElementTree.Element, tag: str, attributes: Mapping[str, str]) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {name: _text(value) for name, value in attributes.items()})


def _text(value: str) -> str:
    return " ".join(_NOT_XML.sub("", value).split())[:LONGEST_TEXT]


def _base64(value: str) -> str:
    return base64.b64encode(_text(value).encode("utf-8")).decode("ascii")


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True

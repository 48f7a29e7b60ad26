"""The tables of services: what is accepted, proposed and answered, taken from the code or from its own answers."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping

from pydicom.charset import python_encoding
from pydicom.uid import UID

from conformance.statement.markdown import code, listed, table
from conformance.statement.on_the_wire import Proposal
from dicom_gam.config import Settings, settings_table
from dicom_gam.dicom import commitment, statuses, tls
from dicom_gam.dicom.image import acceptance
from dicom_gam.dicom.result.result_file import IMPLEMENTATION_VERSION_NAME
from dicom_gam.dicom.scp import acceptor, access, associate, event_report, listener, upper_layer
from dicom_gam.dicom.scp.command_set import CommandField, Request
from dicom_gam.dicom.scp.listener_options import OTHER_CLASSES, ListenerOptions
from dicom_gam.dicom.scp.notices import Notices
from dicom_gam.dicom.scp.slots import Slots
from dicom_gam.dicom.scu import dicomweb_source, dimse_source, multipart, stow
from dicom_gam.dicom.uids import IMPLEMENTATION_CLASS_UID
from dicom_gam.errors import DeliveryError, StorageError
from dicom_gam.records import Reason
from dicom_gam.sections import AccessSettings, Caller
from dicom_gam.service import notary, outbox
from dicom_gam.service.atna import events

_PEER = {"calling_ae_title": "SENDER", "called_ae_title": "DICOM_GAM", "peer_address": "192.0.2.10"}
_CLASS, _SYNTAX = acceptance.ACCEPTED_SOP_CLASSES[0], acceptance.ACCEPTED_TRANSFER_SYNTAXES[0]
_DEFAULTS = Settings()
_REJECTION_RESULTS = {1: "permanent", 2: "transient"}
_REJECTION_SOURCES = {1: "service user", 2: "service provider (ACSE)", 3: "service provider (presentation)"}


def sop_classes_processed() -> str:
    """What becomes a result."""
    rows = []
    for uid in acceptance.ACCEPTED_SOP_CLASSES:
        secondary = uid in acceptance.SECONDARY_CAPTURE_SOP_CLASSES
        condition = f"when Modality is {listed(acceptance.RADIOGRAPHIC_MODALITIES, 'or')}" if secondary else "always"
        rows.append((UID(uid).name, code(uid), condition))
    return table(("SOP class", "UID", "taken as a radiograph"), rows)


def sop_classes_kept() -> str:
    """What is taken in, and then refused by name."""
    return table(("SOP class", "UID"), [(UID(uid).name, code(uid)) for uid in OTHER_CLASSES])


def transfer_syntaxes() -> str:
    """In the order in which the acceptor prefers them."""
    rows = [(n, UID(uid).name, code(uid)) for n, uid in enumerate(acceptance.ACCEPTED_TRANSFER_SYNTAXES, 1)]
    return table(("order", "transfer syntax", "UID"), rows)


def syntaxes(uids: tuple[str, ...]) -> str:
    """Names with their UIDs."""
    return ", ".join(f"{UID(uid).name} {code(uid)}" for uid in uids)


def rejections() -> str:
    """What an association request is refused for, by asking."""
    only = AccessSettings(callers=(Caller(ae_title="SENDER", hosts=("192.0.2.10",)),))
    asked = [
        access.refusal("SENDER", "ANOTHER", "192.0.2.10", "DICOM_GAM", only),
        access.refusal("\\", "DICOM_GAM", "192.0.2.10", "DICOM_GAM", only),
        access.refusal("SENDER", "DICOM_GAM", "192.0.2.10", "DICOM_GAM", AccessSettings()),
        access.refusal("STRANGER", "DICOM_GAM", "192.0.2.10", "DICOM_GAM", only),
        access.refusal("SENDER", "DICOM_GAM", "192.0.2.99", "DICOM_GAM", only),
        access.WRONG_APPLICATION_CONTEXT,
        access.WRONG_PROTOCOL_VERSION,
        access.too_many("maximum_associations_per_host"),
        access.too_many("maximum_associations"),
    ]
    rows = [
        (
            f"{one.result} ({_REJECTION_RESULTS[one.result]})",
            f"{one.source} ({_REJECTION_SOURCES[one.source]})",
            one.reason,
            one.why,
        )
        for one in asked
        if one is not None
    ]
    return table(("result", "source", "reason", "why, as it stands in the log"), rows)


def responses() -> str:
    """What requests are answered with, by making them: service, status, and the Error Comment."""
    logging.disable(logging.CRITICAL)  # it would log each of them
    try:
        answers = _answers()
    finally:
        logging.disable(logging.NOTSET)
    rows = [(service, cause, code(f"{status:04X}"), comment) for service, cause, status, comment in answers]
    return table(("request", "cause", "status", "Error Comment (0000,0902)"), rows)


def _answers() -> list[tuple[str, str, int, str]]:
    store = Request(CommandField.C_STORE_RQ, 1, True, _CLASS, "1.2.3.4")
    odd_uid = Request(CommandField.C_STORE_RQ, 1, True, _CLASS, "../x")
    other_class = Request(CommandField.C_STORE_RQ, 1, True, OTHER_CLASSES[0], "1.2.3.4")
    empty = Request(CommandField.C_STORE_RQ, 1, False, _CLASS, "1.2.3.4")
    echo = Request(CommandField.C_ECHO_RQ, 1, False, acceptor.ECHO, "")
    find = Request(0x0020, 1, True, _CLASS, "")
    event = Request(CommandField.N_EVENT_REPORT_RQ, 1, True, event_report.STORAGE_COMMITMENT, "1.2.3", 1)
    odd_event = Request(CommandField.N_EVENT_REPORT_RQ, 1, True, event_report.STORAGE_COMMITMENT, "1.2.3", 3)
    foreign_event = Request(CommandField.N_EVENT_REPORT_RQ, 1, True, _CLASS, "1.2.3", 1)
    report = b"\x08\x00\x95\x11UI\x06\x001.2.3\x00"  # Transaction UID, and no objects
    commit = event_report.STORAGE_COMMITMENT
    disk = StorageError("(what failed, and what to do about it)")
    unasked = DeliveryError("no storage commitment was asked for under this Transaction UID")
    identity = _element(0x16, _CLASS) + _element(0x18, "1.2.3.4")
    return [
        ("C-STORE", "file, job and audit record are durable", *_answer(_CLASS, store, identity)),
        ("C-STORE", "the same SOP Instance UID again", *_answer(_CLASS, store, identity)),
        ("C-STORE", "disk full or short, audit log not writable", *_answer(_CLASS, store, identity, error=disk)),
        ("C-STORE", "the node is about to stop", *_answer(_CLASS, store, identity, stopping=True)),
        (
            "C-STORE",
            "larger than `node.maximum_instance_bytes`",
            *_answer(_CLASS, store, identity, maximum_bytes=len(identity) - 2),
        ),
        ("C-STORE", "SOP Instance UID of the command", *_answer(_CLASS, odd_uid, identity)),
        ("C-STORE", "SOP class of the command", *_answer(_CLASS, other_class, identity)),
        ("C-STORE", "SOP class of the data set", *_answer(_CLASS, store, _element(0x16, OTHER_CLASSES[0]))),
        ("C-STORE", "SOP Instance UID of the data set", *_answer(_CLASS, store, _element(0x18, "1.2.3.5"))),
        ("C-STORE", "no data set", *_answer(_CLASS, empty, b"")),
        ("C-STORE", "a fault of our own", *_answer(_CLASS, store, identity, error=RuntimeError())),
        ("C-ECHO", "in the Verification context", *_answer(acceptor.ECHO, echo, b"")),
        ("C-ECHO", "in another context", *_answer(_CLASS, echo, b"")),
        ("any other", "no service of this SOP class here", *_answer(_CLASS, find, b"")),
        ("N-EVENT-REPORT", "recorded", *_answer(commit, event, report)),
        ("N-EVENT-REPORT", "event type", *_answer(commit, odd_event, report)),
        ("N-EVENT-REPORT", "SOP class", *_answer(commit, foreign_event, report)),
        ("N-EVENT-REPORT", "malformed event information", *_answer(commit, event, b"\xff\xff\xff")),
        (
            "N-EVENT-REPORT",
            "nobody asked for it, or it can't be recorded",
            *_answer(commit, event, report, error=unasked),
        ),
    ]


def _element(element: int, uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x08\x00" + bytes([element, 0]) + b"UI" + len(value).to_bytes(2, "little") + value


class _Kept:
    """A reception that takes everything."""

    def write(self, part: memoryview) -> None:
        """Take a part."""

    def commit(self) -> None:
        """Make it durable."""

    def abandon(self) -> None:
        """Forget it."""


def _answer(
    abstract_syntax: str,
    request: Request,
    data_set: bytes,
    *,
    error: Exception | None = None,
    stopping: bool = False,
    maximum_bytes: int = 1024,
) -> tuple[int, str]:
    def take(_: object) -> _Kept:
        if error is not None:
            raise error
        return _Kept()

    options = ListenerOptions(ae_title="DICOM_GAM", host="", port=0, maximum_instance_bytes=maximum_bytes)
    notices = Notices(lambda _name, _keys: None)
    door = acceptor.Door(options=options, receive=take, notices=notices, slots=Slots(None), report=take)
    if stopping:
        door.stopping.set()
    association = acceptor.Association(None, door, dict(_PEER), {}, 0)  # type: ignore[arg-type]
    hand = association._hand(associate.Granted(1, abstract_syntax, _SYNTAX), request)
    if request.has_data_set:
        hand.write(memoryview(data_set))
    status, comment = hand.finish()
    return int(status), comment


def reasons() -> str:
    """Why an image that was taken in gets no result."""
    return listed([code(reason) for reason in Reason])


def store_statuses() -> str:
    """What a destination's answer to C-STORE means, and what is done."""
    known = [(f"{status:04X}", status) for status in statuses._WORDS]
    ranges = [(f"{low:04X} - {high:04X}", low) for low, high, _ in statuses._RANGES]
    rows = []
    for shown, status in sorted(known + ranges):
        if "-" in shown:
            words = next(words for low, _, words in statuses._RANGES if low == status)
            stored = False
        else:
            words, stored = statuses.explain(status).rpartition(" (")[0], statuses.is_stored(status)
        rows.append((code(shown), words, "delivered" if stored else "tried again"))
    rows.append(("any other", statuses.explain(0x1234).rpartition(" (")[0], "tried again"))
    return table(("status", "what the log says", "what is done"), rows)


def stow_statuses() -> str:
    """What a STOW-RS server's answer means, and what is done."""
    rows = [(listed([str(s) for s in sorted(stow._ANSWERED)]), "the answer names the object", "as by C-STORE's status")]
    rows += [
        (str(status), f"the destination {words}", "the destination is held") for status, words in stow._CLOSED.items()
    ]
    rows += [("3xx", f"the destination {stow._redirected(300)}".replace(" (300)", ""), "the destination is held")]
    rows += [(str(status), f"the destination {words}", "tried again") for status, words in stow._REFUSED.items()]
    rows += [("any other", "the destination answers with another HTTP status", "tried again")]
    return table(("HTTP status", "what the log says", "what is done"), rows)


def commitment_reasons() -> str:
    """What an N-EVENT-REPORT's Failure Reasons mean."""
    rows = [(code(f"{reason:04X}"), words) for reason, words in sorted(commitment._FAILURE_REASONS.items())]
    return table(("Failure Reason (0008,1197)", "what the log says"), rows)


def retrieve_statuses() -> str:
    """What a source's answer to C-FIND, C-GET and C-MOVE means."""
    rows = [(code(f"{status:04X}"), words) for status, words in sorted(dimse_source._WORDS.items())]
    rows += [(code("Cxxx"), dimse_source._explained(0xC001).rpartition(" (")[0]), ("any other", "look at its log")]
    return table(("status", "what the operator is told"), rows)


def web_statuses() -> str:
    """What a source's answer to QIDO-RS and WADO-RS means."""
    return table(("HTTP status", "what the operator is told: the source ..."), sorted(dicomweb_source._WORDS.items()))


def named(uids: Iterable[str]) -> str:
    """Names alone."""
    return ", ".join(UID(uid).name for uid in uids)


def contexts(proposal: Proposal) -> str:
    """The presentation contexts of one request."""
    rows = [(UID(uid).name, code(uid), syntaxes(offered)) for uid, offered in proposal.contexts]
    return table(("SOP class", "UID", "transfer syntax, each in a context of its own"), rows)


def compressed(plain: Proposal, compressing: Proposal) -> str:
    """What a destination that takes JPEG-LS is offered besides."""
    more = [one for one in compressing.contexts if one not in plain.contexts]
    return "; ".join(f"{UID(uid).name} in {syntaxes(offered)}" for uid, offered in more)


def proposed(proposals: Mapping[str, Proposal]) -> str:
    """The contexts of each of our requests but those that store."""
    rows = []
    for operation, name in {"C-ECHO": "echo", "N-ACTION": "commitment", "C-FIND": "find", "C-MOVE": "move"}.items():
        [(uid, offered)] = proposals[name].contexts
        rows.append((operation, UID(uid).name, code(uid), named(offered), "SCU"))
    (model, offered), *storage = proposals["get"].contexts
    rows.append(("C-GET", UID(model).name, code(model), named(offered), "SCU"))
    classes = dict.fromkeys(uid for uid, _ in storage)
    single = [syntax for _, (syntax,) in storage]
    assert {proposals["get"].request.roles[uid] for uid in classes} == {(False, True)}
    assert set(single) == set(acceptance.ACCEPTED_TRANSFER_SYNTAXES)
    most = dimse_source.CLASSES_PER_ASSOCIATION
    words = f"up to {most} of the storage SOP classes that are asked for", "those of 3.4"
    rows.append(
        ("", *words, f"each of the {len(set(single))} of 3.4, in a context of its own", "SCP, by role selection")
    )
    return table(("operation", "SOP class", "UID", "transfer syntaxes", "role"), rows)


def implementation(proposals: Mapping[str, Proposal]) -> str:
    """Who we say we are, where."""
    asked = proposals["store"]
    accepted = associate.encode_acceptance(b" " * 32, asked.request, {}, {}, [], 16384)
    name = accepted[accepted.rindex(b"DICOM_GAM") :].decode("ascii").strip("\0 ")
    ours = asked.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    library = "that of pynetdicom, the library"
    rows = [
        ("accepting an association", code(IMPLEMENTATION_CLASS_UID), code(name)),
        (
            "requesting an association",
            code(asked.implementation_class_uid) if ours else library,
            code(asked.implementation_version_name) if ours else library,
        ),
        ("in files", code(IMPLEMENTATION_CLASS_UID), code(IMPLEMENTATION_VERSION_NAME)),
    ]
    return table(("where", "Implementation Class UID", "Implementation Version Name"), rows)


def limits(proposals: Mapping[str, Proposal]) -> str:
    """Every limit, with its setting where it has one."""
    node, delivery, intake, decoding = _DEFAULTS.node, _DEFAULTS.delivery, _DEFAULTS.intake, _DEFAULTS.decoding
    asked = proposals["store"].request
    rows: list[tuple[str, object, str]] = [
        ("associations at once", node.maximum_associations, "node.maximum_associations"),
        (
            "associations of one address at once",
            node.maximum_associations_per_host,
            "node.maximum_associations_per_host",
        ),
        ("connections without an association", listener.MAXIMUM_WAITING, ""),
        ("asynchronous operations", "none negotiated, one at a time", ""),
        ("presentation contexts accepted in one request", associate._MAXIMUM_CONTEXTS, ""),
        ("bytes of an association request", upper_layer.MAXIMUM_ASSOCIATE_BYTES, ""),
        ("bytes of a PDU, received", node.maximum_pdu_size, "node.maximum_pdu_size"),
        ("bytes of a PDU, received on associations that we ask for", asked.maximum_length, ""),
        ("bytes of a data set", node.maximum_instance_bytes, "node.maximum_instance_bytes"),
        ("bytes of the event information of an N-EVENT-REPORT", event_report.MAXIMUM_BYTES, ""),
        (
            "seconds to an established association, TLS included",
            node.negotiation_timeout_s,
            "node.negotiation_timeout_s",
        ),
        ("seconds for a PDU to arrive whole", node.pdu_timeout_s, "node.pdu_timeout_s"),
        ("seconds of silence on an association", node.network_timeout_s, "node.network_timeout_s"),
        ("pixels of an image", intake.maximum_pixels, "intake.maximum_pixels"),
        ("pixels of an image's shorter side, at least", intake.minimum_side, "intake.minimum_side"),
        ("seconds to decode one image", decoding.timeout_s, "decoding.timeout_s"),
        ("bytes of memory to decode one image", decoding.memory_bytes, "decoding.memory_bytes"),
        ("objects sent over one association", outbox.OBJECTS_PER_ASSOCIATION, ""),
        ("objects in one request for storage commitment", notary.OBJECTS_PER_REQUEST, ""),
        ("tries of an object that is refused", delivery.attempts, "delivery.attempts"),
        ("seconds to the first retry", delivery.first_retry_s, "delivery.first_retry_s"),
        ("seconds between retries, at most", delivery.maximum_retry_s, "delivery.maximum_retry_s"),
        ("bytes of an answer to STOW-RS", stow.MAXIMUM_ANSWER_BYTES, ""),
        ("matches of one C-FIND", dimse_source.MAXIMUM_MATCHES, ""),
        ("instances of one C-GET or C-MOVE request", dimse_source.UIDS_PER_REQUEST, ""),
        ("SOP classes proposed on one association for C-GET", dimse_source.CLASSES_PER_ASSOCIATION, ""),
        ("instances of one page of QIDO-RS", dicomweb_source.PAGE, ""),
        ("pages of QIDO-RS", dicomweb_source.MAXIMUM_PAGES, ""),
        ("bytes of an answer to QIDO-RS", dicomweb_source.MAXIMUM_ANSWER_BYTES, ""),
        ("bytes of the headers of a part of WADO-RS", multipart.MAXIMUM_HEAD_BYTES, ""),
    ]
    shown = [(what, f"{value:,}" if isinstance(value, int) else value, code(key)) for what, value, key in rows]
    return table(("what", "limit", "setting (the limit is its default)"), shown)


def settings(*sections: str) -> str:
    """The rows of some sections from the table of all settings."""
    rows = [row for row in settings_table().splitlines() if row.removeprefix("| `").startswith(sections)]
    rows = [row for row in rows if "`output.labels." not in row]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def character_sets() -> str:
    """The defined terms that are understood."""
    return listed([code(term) for term in sorted(python_encoding) if term.startswith(("ISO", "GB"))])


def ciphers() -> str:
    """The cipher suites of TLS, in the order of their names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls._harden(context)
    rows = sorted((cipher["protocol"], cipher["name"]) for cipher in context.get_ciphers())
    return table(("since", "cipher suite"), [(protocol.replace("TLSv", "TLS "), code(name)) for protocol, name in rows])


def tls_versions() -> str:
    """The versions of TLS that are spoken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls._harden(context)
    newer = [
        one for one in ssl.TLSVersion if one.value >= context.minimum_version.value > 0 and one.name.startswith("TLS")
    ]
    return listed([one.name.replace("TLSv", "").replace("_", ".") for one in newer])


def audit_events() -> str:
    """Every event that the code records; a test of the audit messages holds their table against the source."""
    return listed([code(name) for name in sorted({*events.RECIPES, *events.LEFT_OUT})])

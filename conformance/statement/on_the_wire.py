"""What our own requests for an association look like: they are made to a listener that writes them down and rejects."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES
from dicom_gam.dicom.scp.associate import AssociateRequest, decode_associate_request
from dicom_gam.dicom.scp.upper_layer import encode_rejection
from dicom_gam.dicom.scu import commitment_request, sender
from dicom_gam.dicom.scu.dimse_source import DimseSource
from dicom_gam.dicom.scu.retrieve import Listed, RetrieveError, Station
from dicom_gam.errors import DeliveryError
from dicom_gam.records import ResultRole
from dicom_gam.sections import Destination, Source

_USER_INFORMATION, _IMPLEMENTATION_CLASS, _IMPLEMENTATION_VERSION = 0x50, 0x52, 0x55
_FIXED_BYTES = 68
_TITLE = "STATEMENT"
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Proposal:
    """One association request of ours."""

    request: AssociateRequest
    implementation_class_uid: str
    implementation_version_name: str

    @property
    def contexts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Abstract syntax and transfer syntaxes of each presentation context."""
        return [(context.abstract_syntax, context.transfer_syntaxes) for context in self.request.contexts]


def proposals(files: Mapping[ResultRole, bytes]) -> dict[str, Proposal]:
    """What is proposed by each kind of request; for `store` and `store compressed`, of these files together."""
    found: dict[str, Proposal] = {}
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        peer = {"name": "peer", "ae_title": _TITLE, "host": "127.0.0.1", "port": port, "timeout_s": 5.0}
        destination, source = Destination.model_validate(peer), Source.model_validate(peer)
        compressing = Destination.model_validate(peer | {"jpeg_ls": True})
        every = list(files.values())
        found["store"] = _recorded(server, lambda: list(sender.send(destination, _TITLE, every)))
        found["store compressed"] = _recorded(server, lambda: list(sender.send(compressing, _TITLE, every)))
        found["echo"] = _recorded(server, lambda: sender.echo(destination, _TITLE))
        found["commitment"] = _recorded(
            server, lambda: commitment_request.ask(destination, _TITLE, "1.2.3", [], lambda _: None, lambda: True)
        )
        archive = DimseSource(source, _station())
        found["find"] = _recorded(server, lambda: archive.find("1.2.3"))
        listed = [Listed("1.2.3", "1.2.4", f"1.2.5.{n}", uid) for n, uid in enumerate(ACCEPTED_SOP_CLASSES)]
        found["get"] = _recorded(server, lambda: archive.get(listed, lambda _: None))
        found["move"] = _recorded(server, lambda: archive.move(listed, lambda _: None))
    return found


def _station() -> Station:
    def refuse(_: object) -> object:
        raise NotImplementedError

    return Station(
        ae_title=_TITLE,
        calling_ae_title=_TITLE,
        peer_address="127.0.0.1",
        sop_classes=ACCEPTED_SOP_CLASSES,
        maximum_instance_bytes=1,
        receive=refuse,
    )


def _recorded(server: socket.socket, request: Callable[[], object]) -> Proposal:
    bodies: list[bytes] = []
    thread = threading.Thread(target=_reject_one, args=(server, bodies))
    thread.start()
    with suppress(DeliveryError, RetrieveError):
        request()
    thread.join()
    [body] = bodies
    return _proposal(body)


def _reject_one(server: socket.socket, bodies: list[bytes]) -> None:
    server.settimeout(_PATIENCE_S)
    while not bodies:
        connection, _ = server.accept()
        with closing(connection):
            connection.settimeout(_PATIENCE_S)
            stream = connection.makefile("rb")
            head = stream.read(6)
            if len(head) < 6:  # a look whether anyone is there, after an answer that took too long
                continue
            bodies.append(stream.read(struct.unpack(">BxL", head)[1]))
            connection.sendall(encode_rejection(1, 1, 1))
            stream.read(1)


def _proposal(body: bytes) -> Proposal:
    user = dict(_items(dict(_items(body[_FIXED_BYTES:]))[_USER_INFORMATION]))
    kinds = (_IMPLEMENTATION_CLASS, _IMPLEMENTATION_VERSION)
    class_uid, version_name = (user.get(kind, b"").decode("ascii").strip("\0 ") for kind in kinds)
    return Proposal(decode_associate_request(memoryview(body)), class_uid, version_name)


def _items(data: bytes) -> Sequence[tuple[int, bytes]]:
    items, place = [], 0
    while place < len(data):
        kind, length = struct.unpack_from(">BxH", data, place)
        items.append((kind, data[place + 4 : place + 4 + length]))
        place += 4 + length
    return items

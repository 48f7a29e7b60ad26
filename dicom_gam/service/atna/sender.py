"""Audit records on their way to the audit record repository: made into messages, framed, sent in order."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from dicom_gam.service.atna.events import message_of
from dicom_gam.service.atna.known import KnownToNode
from dicom_gam.service.atna.message import Origin, to_xml
from dicom_gam.service.atna.syslog import framed, line_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store
    from dicom_gam.storage.audit_reader import AuditRecord


class AtnaSender:
    """Sends the audit messages of a node. Raises ConfigError when the certificates of the settings can't be used."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._known = KnownToNode(settings, store)
        self._origin = Origin(settings.atna.source_id, settings.atna.enterprise_site)
        self._host = socket.gethostname()
        self._line = line_to(settings.atna)

    def send(self, records: Sequence[AuditRecord]) -> None:
        """Send a message for each record that has one. Raises DeliveryError; then all of them have to come again."""
        framed_messages = [
            framed(message.time, to_xml(message, self._origin), self._host)
            for message in (message_of(record, self._known) for record in records)
            if message is not None
        ]
        if framed_messages:
            self._line.send(framed_messages)

    def tend(self) -> None:
        """Look after the connection. Raises DeliveryError."""
        self._line.tend()

    def close(self) -> None:
        """Close the connection."""
        self._line.close()

"""What a record of the audit log does not say and an audit message wants: studies, SOP classes, addresses."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from dicom_gam.service.atna.message import Participant

if TYPE_CHECKING:
    from dicom_gam.config import Settings
    from dicom_gam.sections import Peer
    from dicom_gam.service.atna.message import Code
    from dicom_gam.service.store import Store


class Known(Protocol):
    """What is known about a node's jobs and neighbours."""

    def here(self, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
        """This node."""

    def peer(self, name: str, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
        """The destination or source that the settings call so."""

    def study_of(self, job_id: str) -> str:
        """The Study Instance UID of a job's image; empty while it has not been read, or when it is not known."""

    def sent(self, job_id: str, sop_instance_uid: str) -> tuple[str, str]:
        """The Study Instance UID and the SOP class UID of a result object; empty where not known."""


class KnownToNode:
    """What a node's settings and store know."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._host = socket.gethostname()

    def here(self, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
        """This node, by its AuditSourceID."""
        return Participant(
            self._settings.atna.source_id, requestor, roles, self._settings.node.ae_title, address=self._host
        )

    def peer(self, name: str, *, requestor: bool, roles: tuple[Code, ...] = ()) -> Participant:
        """A destination or source; only by its name when the settings don't have it (any more)."""
        peers: tuple[Peer, ...] = (*self._settings.destinations, *self._settings.sources)
        found = next((peer for peer in peers if peer.name == name), None)
        if found is None:
            return Participant(name, requestor, roles)
        address = found.host or urlsplit(found.url or "").hostname or ""
        return Participant(found.ae_title or found.url or name, requestor, roles, found.ae_title or "", address)

    def study_of(self, job_id: str) -> str:
        """From the job's row."""
        job = self._store.jobs.get(job_id) if job_id else None
        return "" if job is None else job.study_instance_uid

    def sent(self, job_id: str, sop_instance_uid: str) -> tuple[str, str]:
        """From the outbox, as long as it keeps the delivery; then the study from the job's row."""
        for delivery in self._store.outbox.deliveries(job_id):
            if delivery.what.sop_instance_uid == sop_instance_uid:
                return delivery.what.study_instance_uid or self.study_of(job_id), delivery.what.sop_class_uid
        return self.study_of(job_id), ""

"""The listener as the settings want it, over an open storage folder; in the node's own process or in a receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES
from dicom_gam.dicom.scp.access import wide_open
from dicom_gam.dicom.scp.listener import OTHER_CLASSES, Listener, ListenerOptions
from dicom_gam.errors import ConfigError
from dicom_gam.service.commitment import settle_report
from dicom_gam.service.intake import Intake

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dicom_gam.config import Settings
    from dicom_gam.service.store import Store

SLOTS_FILE = "associations.lock"


def refuse_wide_open(settings: Settings) -> None:
    """Raise ConfigError when the door would be open beyond this machine, and nobody has said so in words."""
    refusal = wide_open(settings.node.host, settings.access)
    if refusal:
        raise ConfigError(refusal)


def make_listener(
    settings: Settings, store: Store, came: Callable[[], None], listening: socket.socket | None = None
) -> Listener:
    """Make a listener that takes images into the store; `came` is called when there may be a new job."""
    node = settings.node
    options = ListenerOptions(
        ae_title=node.ae_title,
        host=node.host,
        port=node.port,
        maximum_associations=node.maximum_associations,
        maximum_associations_per_host=node.maximum_associations_per_host,
        maximum_pdu_size=node.maximum_pdu_size,
        maximum_instance_bytes=node.maximum_instance_bytes,
        negotiation_timeout_s=node.negotiation_timeout_s,
        pdu_timeout_s=node.pdu_timeout_s,
        network_timeout_s=node.network_timeout_s,
        access=settings.access,
        tls=settings.tls,
        sop_classes=(*ACCEPTED_SOP_CLASSES, *settings.intake.extra_sop_classes, *OTHER_CLASSES),
        slots_file=store.folder / SLOTS_FILE,
    )
    intake = Intake(store.inbox, store.jobs, store.audit, came)
    return Listener(
        options,
        intake.receive,
        lambda event, keys: store.audit.append(event, **keys),
        lambda report: settle_report(store.outbox, store.audit, settings.delivery, report),
        listening,
    )
